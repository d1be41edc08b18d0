//! A screened output head gives the answers of the whole one.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use ternion_client::Generate;
use ternion_client::proto::{Sampling, Stopping};
use ternion_tests::{Answer, Server, answer, answers, server_tool};

#[tokio::test]
async fn a_screened_head_answers_as_the_whole_one() {
    let mut whole = Server::start(&["--head", "f16"]);
    whole.log_with(|log| log.contains("head=f16")).await;
    let client = whole.client().await;
    let mut alone = Vec::new();
    for request in requests() {
        alone.push(answer(&client, request).await);
    }

    let mut screened = Server::start(&["--head", "screened"]);
    screened.log_with(|log| log.contains("head=screened")).await;
    let together = answers(&screened.client().await, requests()).await;

    same(&together, &alone);
}

/// The demo with rows of 16 MiB, most of which no token has: its answers are
/// the demo's.
fn large_vocabulary(to: &Path) {
    const ROWS: usize = 32 << 10;
    const ROW_BYTES: usize = 256 * 2;
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../service/server/demo");
    fs::create_dir(to).expect("new");
    for name in [
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        fs::copy(demo.join(name), to.join(name)).expect("copies");
    }
    let config = fs::read(demo.join("config.json")).expect("readable");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    config["vocab_size"] = json!(ROWS);
    fs::write(to.join("config.json"), config.to_string()).expect("writable");

    let weights = fs::read(demo.join("model.safetensors")).expect("readable");
    let (len, rest) = weights.split_first_chunk().expect("eight bytes");
    let (header, data) = rest.split_at(u64::from_le_bytes(*len) as usize);
    let mut header: Value = serde_json::from_slice(header).expect("JSON");
    let old = header["model.embed_tokens.weight"]["data_offsets"].take();
    let old = |i: usize| old[i].as_u64().expect("a number") as usize;
    let (start, end) = (old(0), old(1));
    // At the end, behind what lies where it did; nothing may be left between.
    assert_eq!(start, 0, "the embedding is first");
    for (name, tensor) in header.as_object_mut().expect("an object") {
        if name != "__metadata__" && name != "model.embed_tokens.weight" {
            for i in 0..2 {
                let moved = tensor["data_offsets"][i].as_u64().expect("a number") as usize - end;
                tensor["data_offsets"][i] = json!(moved);
            }
        }
    }
    let begin = data.len() - end;
    header["model.embed_tokens.weight"]["data_offsets"] = json!([begin, begin + ROWS * ROW_BYTES]);
    header["model.embed_tokens.weight"]["shape"] = json!([ROWS, 256]);
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(&data[end..]);
    bytes.extend(&data[..end]);
    let mut state = 1_u32;
    let numbers = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Either sign, a fraction, 1/64 to 1/16.
        ((state >> 16) as u16 & 0x80ff | 0x3c00).to_le_bytes()
    });
    bytes.extend(numbers.take((ROWS * ROW_BYTES - end) / 2).flatten());
    fs::write(to.join("model.safetensors"), bytes).expect("writable");
}

/// A file of rounded heads in a cache, if there is one.
fn head_file(cache: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(cache).expect("the server made it");
    let mut paths = entries.map(|entry| entry.expect("readable").path());
    paths.find(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("packed-head-"))
    })
}

/// Requests one by one and together, with `auto` before its head is ready,
/// while it becomes so, and afterwards.
#[tokio::test]
async fn a_head_that_is_made_behind_requests_changes_no_answer() {
    #[cfg(target_arch = "x86_64")]
    if !is_x86_feature_detected!("avx2") {
        // Then nothing is made.
        return;
    }
    let root = tempfile::tempdir().expect("a temporary directory");
    let (model, cache) = (root.path().join("model"), root.path().join("cache"));
    large_vocabulary(&model);
    let start = |more: &[&str]| {
        let mut arguments = vec!["--model", model.to_str().expect("UTF-8")];
        arguments.extend(["--cache-dir", cache.to_str().expect("UTF-8")]);
        arguments.extend(more);
        Server::start(&arguments)
    };
    let ready = |log: &str| log.contains("output head is ready");

    let whole = start(&["--head", "f16"]);
    let want = answers(&whole.client().await, requests()).await;
    drop(whole);
    assert_eq!(head_file(&cache), None);
    let demo = Server::start(&["--cache-dir", "off"]);
    same(&answers(&demo.client().await, requests()).await, &want);
    drop(demo);

    // The name that the file will have, and what another process would hold
    // that is writing it.
    let mut first = start(&[]);
    assert!(first.log_with(ready).await.contains("head=screened"));
    drop(first);
    let file = head_file(&cache).expect("it was put there");
    fs::remove_file(&file).expect("it is there");
    let name = file.file_name().expect("it has one").to_string_lossy();
    let unfinished = cache.join(format!(".{name}"));
    let mut held = File::options();
    held.write(true).create_new(true).mode(0o600);
    let held = held.open(&unfinished).expect("writable");
    held.lock().expect("nobody else has it");

    let mut server = start(&[]);
    let client = server.client().await;
    same(&answers(&client, requests()).await, &want);
    let log = server.log_with(|log| log.contains("serving")).await;
    assert!(!ready(log), "{log}");
    drop(held);
    // Some of these see both heads.
    same(&answers(&client, requests()).await, &want);
    let log = server.log_with(ready).await;
    assert!(log.contains("head=screened"), "{log}");
    same(&answers(&client, requests()).await, &want);
    drop(server);

    let mut again = start(&[]);
    let log = again.log_with(|log| ready(log) && log.contains("model loaded"));
    let (before, _) = log.await.split_once("model loaded").expect("waited for");
    assert!(
        ready(before) && before.contains("head=screened"),
        "{before}"
    );
    same(&answers(&again.client().await, requests()).await, &want);
}

#[track_caller]
fn same(got: &[Answer], want: &[Answer]) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got.token_ids, want.token_ids, "request {i}");
        assert_eq!(got.text, want.text, "request {i}");
        assert_eq!(got.logprobs, want.logprobs, "request {i}");
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

#[test]
fn bench_tells_how_much_memory_it_took() {
    let arguments = ["bench", "--pp", "16", "--tg", "8", "--repeat", "1"];
    let rows = server_tool(&[&arguments[..], &["--json"]].concat());
    for row in rows.succeeded().json_lines() {
        let bytes = |name: &str| row["memory"][name].as_u64().expect("a number");
        let (own, files) = (bytes("anonymous_bytes"), bytes("file_bytes"));
        // The packed weights alone are 1.1 MiB, and the program is a file.
        assert!(own > 1 << 20 && files > 1 << 20, "{row}");
        assert!(bytes("peak_bytes") >= own.max(files), "{row}");
    }
    let text = server_tool(&arguments).succeeded().stdout;
    let last = text.lines().last().expect("a line");
    assert!(last.starts_with("memory   at most "), "{last}");
}
