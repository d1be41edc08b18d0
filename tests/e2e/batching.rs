//! A request's answer does not depend on what else the server does.
#![forbid(unsafe_code)]

use std::time::Duration;

use ternion_client::Generate;
use ternion_client::proto::{Sampling, Stopping};
use ternion_tests::{Answer, Server, StallingKernel, answer, answers, fixture, greedy, http_get};
use tonic::Code;

/// Of 16 tokens each. The longest request takes seven, so any one fits and
/// three never do.
const FEW_PAGES: &str = "12";

#[tokio::test]
async fn fourteen_at_once_answer_as_each_alone() {
    let model = fixture("hf-bitnet/model");
    let model = model.to_str().expect("paths of tests are UTF-8");

    let roomy = Server::start(&["--model", model]);
    let client = roomy.client().await;
    let mut alone = Vec::new();
    for request in requests() {
        alone.push(answer(&client, request).await);
    }
    assert_eq!(client.load().await.expect("it is up").preemptions, 0);

    // With guesses, where the other has none.
    let tight = ["--kv-pages", FEW_PAGES, "--max-draft-tokens", "8"];
    let tight = Server::start(&[&["--model", model], &tight[..]].concat());
    let client = tight.client().await;
    let together = answers(&client, requests()).await;
    let load = client.load().await.expect("it is up");
    assert!(load.preemptions > 0, "{load:?}");
    assert_eq!(load.kv_pages_free, load.kv_pages, "{load:?}");

    for (i, (alone, together)) in alone.iter().zip(&together).enumerate() {
        assert_eq!(together.token_ids, alone.token_ids, "request {i}");
        assert_eq!(together.text, alone.text, "request {i}");
        // Bit for bit: sums have an order that batch mates do not change.
        assert_eq!(together.logprobs, alone.logprobs, "request {i}");
        assert_eq!(together.finished().reason(), alone.finished().reason());
        assert_eq!(together.finished().matched, alone.finished().matched);
    }
    let preempted: u32 = together
        .iter()
        .filter_map(|answer| answer.finished().timings)
        .map(|timings| timings.preemptions)
        .sum();
    assert_eq!(u64::from(preempted), load.preemptions);
}

/// Greedy and sampled, short and long, with and without penalties.
fn requests() -> Vec<Generate> {
    (0..14_u32)
        .map(|i| {
            let prompt = (0..5 + 4 * i).map(|j| (17 + 31 * i + 7 * j) % 500);
            let mut request =
                Generate::token_ids(prompt)
                    .sampling(sampling(i))
                    .stopping(Stopping {
                        max_tokens: Some(24 + 2 * i),
                        ignore_eos: Some(i % 4 != 3),
                        ..Stopping::default()
                    });
            request.request.logprobs = Some(i % 3);
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
        temperature: Some(0.6 + 0.1 * i as f32),
        seed: Some(u64::from(i) << 40 | 7),
        ..Sampling::default()
    };
    match i % 5 {
        0 => greedy,
        1 => sampled,
        2 => Sampling {
            top_k: Some(20),
            top_p: Some(0.9),
            ..sampled
        },
        3 => Sampling {
            min_p: Some(0.05),
            repetition_penalty: Some(1.3),
            ..sampled
        },
        _ => Sampling {
            presence_penalty: Some(0.5),
            frequency_penalty: Some(0.2),
            ..greedy
        },
    }
}

#[tokio::test]
async fn a_request_that_the_kernel_fails_at_ends_alone() {
    const POISON: u32 = 3;
    let kernel = StallingKernel::build();
    let server = kernel.serve(&[]);
    let client = server.client().await;
    let prompts = [[1016, 591], [1016, 580], [591, 580]];
    let mut alone = Vec::new();
    for prompt in prompts {
        let answer = answer(&client, greedy(&prompt, 40)).await;
        assert!(!answer.token_ids.contains(&POISON), "choose another");
        alone.push(answer.token_ids);
    }
    kernel.poison_next();
    answer(&client, greedy(&[POISON], 1)).await;

    // Until they were in a batch together: that they are depends on how fast
    // they arrive while the step before hangs.
    let mut rounds = 0;
    while reruns(&server).await == 0.0 {
        rounds += 1;
        assert!(rounds < 100, "they never meet");
        kernel.stall();
        let first = client.generate(greedy(&[1016], 1)).await;
        let asked = |request: Generate| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut answer = Answer::default();
                let mut events = client.generate(request).await.expect("a good request");
                (answer.read(&mut events).await, answer.token_ids)
            })
        };
        let culprit = asked(greedy(&[1016, POISON], 40));
        let others = prompts.map(|prompt| asked(greedy(&prompt, 40)));
        tokio::time::sleep(Duration::from_millis(100)).await;
        kernel.release();
        let (failed, _) = culprit.await.expect("it is answered");
        let error = failed.expect_err("the kernel fails at it");
        assert_eq!(error.code(), Code::Internal, "{error:?}");
        for (other, alone) in others.into_iter().zip(&alone) {
            let (read, tokens) = other.await.expect("it is answered");
            read.expect("it is not its fault");
            assert_eq!(&tokens, alone);
        }
        drop(first);
    }
    assert_eq!(Server::idle(&client).await.running, 0);
}

async fn reruns(server: &Server) -> f64 {
    let scrape = http_get(server.operations(), "/metrics").await;
    let page = scrape.expect("it is up").body;
    let line = page
        .lines()
        .find(|line| line.starts_with("ternion_reruns_total"));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value.expect("it is there").parse().expect("a number")
}
