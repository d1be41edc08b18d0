//! Several answers to one prompt: each is what it is alone, and the prompt is
//! computed once.
#![forbid(unsafe_code)]

use serde_json::{Value, json};
use ternion_client::proto::{FinishReason, Sampling};
use ternion_client::{Client, Error, Event, Generate, SessionEvent, StreamExt};
use ternion_tests::{Ran, Server, fixture, greedy, http_get, ternion};

const SEED: u64 = u64::MAX - 1;
const MAX_TOKENS: u32 = 20;

fn serve(more: &[&str]) -> Server {
    let model = fixture("hf-bitnet/model");
    let model = model.to_str().expect("paths of tests are UTF-8");
    Server::start(&[&["--model", model, "--max-draft-tokens", "0"], more].concat())
}

fn request(prompt_len: u32, seed: u64) -> Generate {
    let prompt: Vec<u32> = (0..prompt_len).map(|i| (17 + 7 * i) % 500).collect();
    let mut request = greedy(&prompt, MAX_TOKENS).sampling(Sampling {
        temperature: Some(0.9),
        seed: Some(seed),
        repetition_penalty: Some(1.1),
        ..Sampling::default()
    });
    request.request.logprobs = Some(2);
    request
}

/// All that is said of one sample, but for how its tokens come in deltas.
#[derive(Debug, Default, Clone, PartialEq)]
struct Sample {
    text: String,
    token_ids: Vec<u32>,
    /// Bits of what came with them.
    logprobs: Vec<(u32, u32)>,
    reason: Option<FinishReason>,
}

#[derive(Debug)]
struct Told {
    samples: Vec<Sample>,
    seed: u64,
    usage: ternion_client::proto::Usage,
}

async fn told(client: &Client, request: Generate) -> Told {
    let count = request.request.n.unwrap_or(1) as usize;
    let mut samples = vec![Sample::default(); count];
    let (mut seed, mut usage, mut remaining) = (None, None, count as u32);
    let mut events = client.generate(request).await.expect("it starts");
    while let Some(event) = events.next().await {
        match event.expect("it goes on") {
            Event::Queued(_) => {}
            Event::Started(started) => assert_eq!(seed.replace(started.seed), None),
            Event::Delta(delta) => {
                let sample = &mut samples[delta.index as usize];
                assert_eq!(sample.reason, None, "it has ended");
                sample.text.push_str(&delta.text);
                sample.token_ids.extend(&delta.token_ids);
                let all = delta.logprobs.iter().flat_map(|token| {
                    let top = token.top.iter().map(|top| (top.token_id, top.logprob));
                    top.chain([(token.token_id, token.logprob)])
                });
                sample.logprobs.extend(all.map(|(id, p)| (id, p.to_bits())));
            }
            Event::Finished(finished) => {
                remaining -= 1;
                assert_eq!(finished.remaining, remaining);
                samples[finished.index as usize].reason = Some(finished.reason());
                assert_eq!(finished.usage.is_some(), remaining == 0);
                usage = finished.usage;
            }
        }
    }
    Told {
        samples,
        seed: seed.expect("it started"),
        usage: usage.expect("it ended"),
    }
}

async fn computed_tokens(server: &Server) -> u64 {
    let metrics = http_get(server.operations(), "/metrics").await;
    let metrics = metrics.expect("it is up").body;
    let mut lines = metrics.lines();
    let line = lines.find(|line| line.starts_with("ternion_computed_tokens_total{"));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value.expect("there is one").parse().expect("a number")
}

#[tokio::test]
async fn each_sample_is_what_it_is_alone_and_the_prompt_is_computed_once() {
    for more in [&["--prefix-cache", "off"][..], &[]] {
        let server = serve(more);
        let client = server.client().await;
        // Whole pages and not, and the shortest.
        for (prompt_len, count) in [(1, 2), (50, 4), (48, 3), (100, 16)] {
            let before = computed_tokens(&server).await;
            let together = told(&client, request(prompt_len, SEED).samples(count)).await;
            Server::idle(&client).await;
            let computed = computed_tokens(&server).await - before;
            assert_eq!(together.seed, SEED);
            let usage = together.usage;
            let all: usize = together.samples.iter().map(|s| s.token_ids.len()).sum();
            assert_eq!(usage.prompt_tokens, prompt_len);
            assert_eq!(usage.completion_tokens as usize, all);
            // The last token of each is never computed.
            let own = all as u64 - u64::from(count);
            let prompt = u64::from(prompt_len - usage.cached_tokens);
            assert_eq!(computed, own + prompt, "{count} of {prompt_len}, {more:?}");
            for (index, sample) in together.samples.iter().enumerate() {
                let seed = SEED.wrapping_add(index as u64);
                let alone = told(&client, request(prompt_len, seed)).await;
                assert_eq!(alone.samples[0], *sample, "{index} of {prompt_len}");
            }
            assert_ne!(together.samples[0], together.samples[1]);
        }
    }
}

/// Too few pages for all of them, one place after the other, guesses.
#[tokio::test]
async fn pressure_changes_no_sample() {
    let tight = serve(&[
        "--prefix-cache",
        "off",
        "--kv-pages",
        "12",
        "--max-num-seqs",
        "6",
    ]);
    let roomy = serve(&[]);
    let (tight, roomy) = (tight.client().await, roomy.client().await);
    let wanted = told(&roomy, request(100, 5).samples(8)).await;
    let (one, other) = tokio::join!(
        told(&tight, request(100, 5).samples(8)),
        told(&tight, request(100, 5).samples(8)),
    );
    assert_eq!(one.samples, wanted.samples);
    assert_eq!(other.samples, wanted.samples);
    let load = Server::idle(&tight).await;
    assert!(load.preemptions > 0, "{load:?}");
}

#[tokio::test]
async fn a_bad_number_is_named_and_one_too_many_comes_later() {
    let server = serve(&[
        "--max-num-seqs",
        "2",
        "--max-queued",
        "2",
        "--max-samples",
        "3",
    ]);
    let client = server.client().await;
    for count in [0, 4] {
        let refused = client.generate(request(9, 0).samples(count)).await;
        let error = refused.map(|_| ()).expect_err("from 1 to 3");
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
        assert_eq!(error.violations()[0].field, "n");
    }
    let mut session = client.session().await.expect("it opens");
    let long = |count| request(9, 0).samples(count);
    session.start("three", long(3)).await.expect("it is open");
    // What comes on one stream is not taken in its order.
    loop {
        let event = session.next().await.expect("it goes on");
        match event.expect("it is taken") {
            SessionEvent::Event {
                event: Event::Queued(_),
                ..
            } => {}
            SessionEvent::Event {
                event: Event::Started(_),
                ..
            } => break,
            other => panic!("{other:?}"),
        }
    }
    session.start("two", long(2)).await.expect("it is open");
    session.close();
    let (mut refused, mut endings) = (0, 0);
    while let Some(event) = session.next().await {
        match event.expect("it goes on") {
            SessionEvent::Failed { id, error, .. } => {
                assert_eq!(id, "two", "{error}");
                assert!(error.retry_after().is_some(), "{error}");
                refused += 1;
            }
            SessionEvent::Event { id, event } => {
                // They may have ended before the other one came.
                endings += usize::from(id == "three" && matches!(event, Event::Finished(_)));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(refused <= 1);
    assert_eq!(endings, 3);
}

#[test]
fn the_command_prints_answers_in_order_and_tells_whose_a_line_is() {
    let server = serve(&[]);
    let generate = |more: &[&str]| {
        let arguments = [
            "generate",
            "--endpoint",
            server.endpoint(),
            "--token-ids",
            "1,2,3,4,5",
            "--max-tokens",
            "12",
            "--ignore-eos",
            "--temperature",
            "0.9",
        ];
        let output = ternion().args([&arguments[..], more].concat()).output();
        Ran::from(output.expect("it can be run")).succeeded()
    };
    let tokens = |lines: &[Value], index: usize| -> Vec<Value> {
        let of_one = |line: &&Value| line["event"] == "delta" && line["index"] == index;
        let deltas = lines.iter().filter(of_one);
        let ids = deltas.flat_map(|delta| delta["token_ids"].as_array().expect("a list"));
        ids.cloned().collect()
    };
    let together = generate(&["-n", "4", "--seed", "7", "--json"]).json_lines();
    for index in 0..4 {
        let seed = (7 + index).to_string();
        let alone = generate(&["--seed", &seed, "--json"]).json_lines();
        assert_eq!(tokens(&together, index), tokens(&alone, 0));
    }
    let last = together.last().expect("it ended");
    let usage = json!({"prompt_tokens": 5, "completion_tokens": 48, "cached_tokens": 0});
    assert_eq!(last["usage"], usage);

    let text = generate(&["-n", "3", "--seed", "7"]).stdout;
    let headings: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("--- "))
        .collect();
    assert_eq!(
        headings,
        [
            "--- 1 of 3, seed 7",
            "--- 2 of 3, seed 8",
            "--- 3 of 3, seed 9"
        ]
    );
}
