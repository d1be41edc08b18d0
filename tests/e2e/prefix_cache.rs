//! Prompts that begin as earlier ones did: what is computed, told and answered.
#![forbid(unsafe_code)]

use ternion_client::Generate;
use ternion_client::proto::Sampling;
use ternion_tests::{Answer, Server, answer, answers, fixture, greedy, http_get};

/// Tokens of a page, which is what is shared.
const PAGE: u32 = 16;

fn serve(more: &[&str]) -> Server {
    let model = fixture("hf-bitnet/model");
    let model = model.to_str().expect("paths of tests are UTF-8");
    Server::start(&[&["--model", model], more].concat())
}

/// Tokens that depend on `kind` from the first on.
fn prompt(kind: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| (17 + 31 * kind + 7 * i) % 500).collect()
}

fn cached(answer: &Answer) -> u32 {
    answer.finished().usage.expect("it ran").cached_tokens
}

/// Greedy, sampled and penalised, with log-probabilities to compare by.
fn request(kind: u32, prompt_len: u32, max_tokens: u32) -> Generate {
    let mut request = greedy(&prompt(kind, prompt_len), max_tokens);
    if kind % 2 == 1 {
        request = request.sampling(Sampling {
            temperature: Some(0.9),
            seed: Some(u64::from(kind)),
            repetition_penalty: Some(1.1),
            ..Sampling::default()
        });
    }
    request.request.logprobs = Some(2);
    request
}

#[tokio::test]
async fn a_hit_changes_when_an_answer_comes_and_not_a_bit_of_it() {
    let off = serve(&["--prefix-cache", "off"]);
    let on = serve(&[]);
    let (off, on) = (off.client().await, on.client().await);
    for kind in 0..4 {
        // Whole pages and not, and the shortest that has one to share.
        for len in [1, 16, 17, 48, 50, 100] {
            let request = || request(kind, len, 20);
            let without = answer(&off, request()).await;
            let first = answer(&on, request()).await;
            let second = answer(&on, request()).await;
            assert_eq!(cached(&without), 0);
            assert_eq!(cached(&second), (len - 1) / PAGE * PAGE, "{len} tokens");
            for answer in [first, second] {
                assert_eq!(answer.token_ids, without.token_ids, "{len} tokens");
                assert_eq!(answer.text, without.text);
                assert_eq!(answer.logprobs, without.logprobs);
            }
        }
    }
    let again = answer(&off, request(0, 100, 20)).await;
    assert_eq!(cached(&again), 0, "off is off");
}

#[tokio::test]
async fn a_conversation_goes_on_from_the_last_answer() {
    let server = serve(&[]);
    let client = server.client().await;
    let mut tokens = prompt(2, 40);
    for turn in 1..4 {
        let answer = answer(&client, greedy(&tokens, 30)).await;
        tokens.extend(answer.token_ids);
        tokens.extend(prompt(turn, 5));
        let next = answer_of_one(&client, &tokens).await;
        // All but what was just said, and the last token of the answer, which
        // was never computed.
        let computed = tokens.len() as u32 - 5 - 1;
        assert_eq!(cached(&next), computed / PAGE * PAGE);
    }
}

async fn answer_of_one(client: &ternion_client::Client, tokens: &[u32]) -> Answer {
    answer(client, greedy(tokens, 1)).await
}

/// Many begin alike and arrive together, and there are too few pages for all.
#[tokio::test]
async fn what_is_shared_under_pressure_answers_as_each_alone() {
    let off = serve(&["--prefix-cache", "off"]);
    let off = off.client().await;
    // The longest takes ten.
    let tight = serve(&["--kv-pages", "14", "--max-draft-tokens", "8"]);
    let tight = tight.client().await;
    let requests = || -> Vec<Generate> {
        (0..16_u32)
            .map(|i| {
                let mut request = request(i % 3, 40, 60 + i);
                let v1_tokens = prompt(i % 3, 40 + 2 * i);
                let with_other_end = Generate::token_ids(v1_tokens);
                request.request.input = with_other_end.request.input;
                request
            })
            .collect()
    };
    let mut alone = Vec::new();
    for request in requests() {
        alone.push(answer(&off, request).await);
    }
    let together = answers(&tight, requests()).await;
    for (i, (alone, together)) in alone.iter().zip(&together).enumerate() {
        assert_eq!(together.token_ids, alone.token_ids, "request {i}");
        assert_eq!(together.logprobs, alone.logprobs, "request {i}");
    }
    let load = Server::idle(&tight).await;
    assert!(load.preemptions > 0, "{load:?}");
    let shared: u32 = together.iter().map(cached).sum();
    assert!(shared > 0, "nothing was shared");
}

#[tokio::test]
async fn what_the_cache_does_is_counted() {
    // Two requests of six pages fill it.
    let server = serve(&["--kv-pages", "12", "--vllm-metric-names", "on"]);
    let client = server.client().await;
    for kind in [0, 0, 1, 2] {
        answer(&client, greedy(&prompt(kind, 90), 1)).await;
    }
    Server::idle(&client).await;
    let metrics = http_get(server.operations(), "/metrics")
        .await
        .expect("it is up")
        .body;
    let value = |name: &str| -> u64 {
        let line = metrics.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name}"));
        let value = line.rsplit(' ').next().expect("a value");
        value.parse().expect("a whole number")
    };
    assert_eq!(value("ternion_prefix_cache_prompt_tokens_total{"), 360);
    assert_eq!(value("ternion_prefix_cache_cached_tokens_total{"), 80);
    assert_eq!(value("vllm:prefix_cache_hits_total{"), 80);
    assert_eq!(value("ternion_prefix_cache_hits_total{"), 1);
    // Five pages of each are full: of the first, three had to go.
    assert_eq!(value("ternion_prefix_cache_pages{"), 12 - 1);
    assert!(value("ternion_prefix_cache_evictions_total{") > 0);
    assert_eq!(value("ternion_kv_pages_used{"), 0);
}
