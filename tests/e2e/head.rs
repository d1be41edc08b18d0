//! A screened output head gives the answers of the whole one.
#![forbid(unsafe_code)]

use serde_json::Value;
use ternion_client::Generate;
use ternion_client::proto::{Sampling, Stopping};
use ternion_tests::{Server, answer, answers, server_tool};

#[tokio::test]
async fn a_screened_head_answers_as_the_whole_one() {
    let whole = Server::start(&["--head", "f16"]);
    assert!(whole.banner().contains("head=f16"), "{}", whole.banner());
    let client = whole.client().await;
    let mut alone = Vec::new();
    for request in requests() {
        alone.push(answer(&client, request).await);
    }

    let screened = Server::start(&["--head", "screened"]);
    assert!(
        screened.banner().contains("head=screened"),
        "{}",
        screened.banner()
    );
    let together = answers(&screened.client().await, requests()).await;

    for (i, (alone, together)) in alone.iter().zip(&together).enumerate() {
        assert_eq!(together.token_ids, alone.token_ids, "request {i}");
        assert_eq!(together.text, alone.text, "request {i}");
        assert_eq!(together.logprobs, alone.logprobs, "request {i}");
    }
}

/// Those that need few logits and those that need all, side by side.
fn requests() -> Vec<Generate> {
    (0..18_u32)
        .map(|i| {
            let prompt = (0..4 + i).map(|j| (11 + 37 * i + 5 * j) % 1000);
            let mut request =
                Generate::token_ids(prompt)
                    .sampling(sampling(i))
                    .stopping(Stopping {
                        max_tokens: Some(40),
                        min_tokens: (i % 4 == 1).then_some(30),
                        ignore_eos: Some(i % 4 == 3),
                        ..Stopping::default()
                    });
            request.request.logprobs = (i % 6 == 5).then_some(2);
            request
        })
        .collect()
}

fn sampling(i: u32) -> Sampling {
    let greedy = Sampling {
        temperature: Some(0.0),
        ..Sampling::default()
    };
    let sampled = Sampling {
        temperature: Some(0.7 + 0.1 * i as f32),
        seed: Some(u64::from(i) << 33 | 5),
        ..Sampling::default()
    };
    match i % 6 {
        0 => greedy,
        1 => Sampling {
            top_k: Some(40),
            ..sampled
        },
        2 => Sampling {
            top_k: Some(8),
            top_p: Some(0.9),
            min_p: Some(0.02),
            ..sampled
        },
        3 => Sampling {
            repetition_penalty: Some(1.3),
            presence_penalty: Some(-0.5),
            ..greedy
        },
        4 => Sampling {
            top_k: Some(20),
            frequency_penalty: Some(0.4),
            ..sampled
        },
        // All logits are needed.
        _ => Sampling {
            top_p: Some(0.95),
            ..sampled
        },
    }
}

#[test]
fn score_continues_alike_with_either_head() {
    let greedy = |head| {
        let arguments = [
            "score",
            "--tokens",
            "1,17,300,4",
            "--greedy",
            "200",
            "--head",
            head,
            "--json",
        ];
        server_tool(&arguments).succeeded().json()["greedy"].clone()
    };
    let whole = greedy("f16");
    assert_eq!(whole.as_array().map(Vec::len), Some(200));
    assert_eq!(greedy("screened"), whole);
}

#[test]
fn bench_tells_how_much_of_the_head_is_computed() {
    let bench = |head| {
        let arguments = [
            "bench", "--pp", "0", "--tg", "32", "--repeat", "1", "--head", head, "--json",
        ];
        let mut rows = server_tool(&arguments).succeeded().json_lines();
        rows.remove(0)
    };
    let screened = bench("screened");
    let candidates = screened["candidates"].as_f64().expect("a number");
    assert!((1.0..512.0).contains(&candidates), "{candidates} of 1024");
    // Half a byte for each of 1024 x 256 weights, and what bounds the rows.
    let state = screened["head_state_bytes"].as_u64().expect("a number");
    assert!((128 << 10..192 << 10).contains(&state), "{state}");
    for (head, bytes) in [("f16", 0), ("auto", 0), ("int8", 256 << 10)] {
        let row = bench(head);
        assert_eq!(row["candidates"], Value::Null, "{head}");
        let state = row["head_state_bytes"].as_u64().expect("a number");
        assert!(
            (bytes..=bytes + (64 << 10)).contains(&state),
            "{head}: {state}"
        );
    }
}
