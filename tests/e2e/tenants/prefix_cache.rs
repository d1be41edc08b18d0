//! Whose prompts are found in the prefix cache, and by whom.

use super::*;

/// Tokens of the prompt that were not computed.
async fn cached(client: &Client) -> u32 {
    let prompt: Vec<u32> = (0..50).map(|i| (17 + 7 * i) % 500).collect();
    let answer = answer(client, greedy(&prompt, 2)).await;
    answer.finished().usage.expect("it ran").cached_tokens
}

#[tokio::test]
async fn tenants_find_their_own_prompts_and_those_of_their_group() {
    let keys = [(); 4].map(|()| keygen());
    let [alone, other, first, second] = &keys;
    // Tables end at the next one: what is said of a tenant comes before its keys.
    let in_group = |name: &str, key: &Key| {
        let hash = &key.hash;
        format!(
            "[[tenants]]\nname = '{name}'\ncache_group = 'both'\n\
             keys = [{{ id = '1', hash = '{hash}' }}]\n"
        )
    };
    let mut tenants = Tenants::new()
        .with("alone", "'inference'", alone, "")
        // Named like the group, and no part of it.
        .with("both", "'inference'", other, "");
    tenants.text += &in_group("first", first);
    tenants.text += &in_group("second", second);
    tenants.write();
    let server = tenants.serve(&[]);
    let mut clients = Vec::new();
    for key in [alone, other, first, second] {
        clients.push(client(&server, key).await);
    }
    let mut found = Vec::new();
    for client in clients.iter().chain(&clients) {
        found.push(cached(client).await);
    }
    // Each for the first time, and then again.
    assert_eq!(found, [0, 0, 0, 48, 48, 48, 48, 48]);
}
