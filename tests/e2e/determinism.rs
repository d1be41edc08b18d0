//! The same request and seed are answered alike by servers that are set up
//! differently in everything that may not matter. What a step can meet is
//! drawn at random below, in `service/compute/tests/determinism.rs`.
#![forbid(unsafe_code)]

use ternion_client::Generate;
use ternion_client::proto::{Sampling, Stopping};
use ternion_tests::{Answer, Server, answer, answers};

const NUM_REQUESTS: u32 = 64;

/// Of page sizes, pools, budgets, threads, plugins, heads and guesses. The
/// longest request fits the smallest pool, and three do not.
const SET_UP: [&[&str]; 4] = [
    &[
        "--threads",
        "2",
        "--kernel",
        "tl2",
        "--head",
        "screened",
        "--max-draft-tokens",
        "15",
    ],
    &[
        "--threads",
        "3",
        "--kernel",
        "i2s",
        "--kv-block-size",
        "4",
        "--max-num-batched-tokens",
        "70",
    ],
    &[
        "--threads",
        "1",
        "--kernel",
        "tl1",
        "--kv-pages",
        "16",
        "--max-draft-tokens",
        "3",
    ],
    &[
        "--threads",
        "2",
        "--kernel",
        "tl2",
        "--kv-block-size",
        "32",
        "--max-num-seqs",
        "5",
        "--max-num-batched-tokens",
        "9",
        "--head",
        "screened",
    ],
];

#[tokio::test]
async fn servers_set_up_differently_answer_alike() {
    for (kv, set_ups) in [("f16", &SET_UP[..3]), ("int8", &SET_UP[3..])] {
        let plain = Server::start(&[
            "--threads",
            "1",
            "--kernel",
            "i2s",
            "--head",
            "f16",
            "--kv",
            kv,
        ]);
        let client = plain.client().await;
        let mut alone = Vec::new();
        for i in 0..NUM_REQUESTS {
            alone.push(answer(&client, request(i)).await);
        }
        drop(plain);
        for set_up in set_ups {
            let server = Server::start(&[*set_up, &["--kv", kv]].concat());
            let client = server.client().await;
            // The second time what they begin with is in the prefix cache.
            for _ in 0..2 {
                let together = answers(&client, (0..NUM_REQUESTS).map(request).collect()).await;
                for (i, (alone, together)) in alone.iter().zip(&together).enumerate() {
                    assert_same(together, alone, &format!("request {i}, {kv}, {set_up:?}"));
                }
            }
        }
    }
}

#[track_caller]
fn assert_same(got: &Answer, want: &Answer, how: &str) {
    assert_eq!(got.token_ids, want.token_ids, "{how}");
    assert_eq!(got.text, want.text, "{how}");
    // Bit for bit.
    assert_eq!(got.logprobs, want.logprobs, "{how}");
    assert_eq!(got.finished().reason(), want.finished().reason(), "{how}");
}

/// Some begin alike, some repeat themselves; greedy and sampled, with
/// log-probabilities and without.
fn request(i: u32) -> Generate {
    let animal = ["fox", "hen", "cow", "dog"][i as usize % 4];
    let text = format!("Once upon a time there was a {animal}. ").repeat(1 + i as usize % 3);
    let greedy = Sampling {
        temperature: Some(0.0),
        ..Sampling::default()
    };
    let sampling = match i % 3 {
        0 => greedy,
        1 => Sampling {
            temperature: Some(0.9),
            seed: Some(u64::from(i)),
            ..Sampling::default()
        },
        _ => Sampling {
            temperature: Some(0.7),
            top_k: Some(20),
            repetition_penalty: Some(1.1),
            seed: Some(u64::from(i)),
            ..Sampling::default()
        },
    };
    let mut request = Generate::text(text).sampling(sampling).stopping(Stopping {
        max_tokens: Some(8 + i % 16),
        ignore_eos: Some(i.is_multiple_of(2)),
        ..Stopping::default()
    });
    request.request.logprobs = (i % 4 == 1).then_some(2);
    request
}
