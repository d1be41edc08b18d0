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

#[tokio::test]
async fn what_the_operator_says_is_computed_once_for_all_tenants() {
    let keys = [keygen(), keygen()];
    let tenants = Tenants::new()
        .with("one", "'inference'", &keys[0], "")
        .with("other", "'inference'", &keys[1], "");
    tenants.write();
    let public = "You answer questions about the capitals of the world. ".repeat(4);
    let file = tenants.dir.path().join("public.jsonl");
    let line = serde_json::json!({ "system": public });
    std::fs::write(&file, format!("{line}\n")).expect("it is written");
    let server = tenants.serve(&["--public-prompts", path(&file)]);

    let mut found = Vec::new();
    for (key, question) in [(0, "Japan"), (1, "Italy"), (1, "Japan"), (0, "Japan")] {
        let client = client(&server, &keys[key]).await;
        let secret = format!(
            "{public} {}",
            "And now about all else, at some length. ".repeat(4)
        );
        let mut cached = Vec::new();
        for system in [&public, &secret] {
            let request = Generate::chat([ternion_client::system(system.as_str()), user(question)]);
            let answer = answer(&client, request.stopping(one_token())).await;
            let usage = answer.finished().usage.expect("it ran");
            cached.push((usage.cached_tokens, usage.prompt_tokens));
        }
        found.push(cached);
    }
    let cached = |call: usize, which: usize| found[call][which].0;
    // Nothing was there; then the other tenant finds the operator's words, in
    // whole pages and whatever comes behind, and nothing of what does.
    assert_eq!(cached(0, 0), 0);
    assert!(cached(1, 0) >= 32, "{found:?}");
    assert_eq!(cached(1, 0) % 16, 0);
    assert!(cached(1, 1).abs_diff(cached(1, 0)) <= 16, "{found:?}");
    assert!(cached(1, 1) + 32 < found[1][1].1, "{found:?}");
    // What it sent itself it finds to the last page.
    assert!(cached(2, 1) > cached(1, 1) + 16, "{found:?}");
    assert!(cached(3, 1) + 17 >= found[3][1].1, "{found:?}");
}

fn one_token() -> ternion_client::proto::Stopping {
    ternion_client::proto::Stopping {
        max_tokens: Some(1),
        ..Default::default()
    }
}
