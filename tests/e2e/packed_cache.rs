//! Weights that one server packed, as the next one finds them.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ternion_client::Generate;
use ternion_client::proto::{Sampling, Stopping, TokenLogprob};
use ternion_tests::{Answer, Server, http_get, ternion_server};

const PROMPT: [u32; 4] = [1016, 17, 300, 5];

/// Beyond what a start takes on a machine with nothing else to do.
const LATEST_KILL: Duration = Duration::from_millis(400);
const KILLS: u32 = 25;

fn start(cache: &Path) -> Server {
    Server::start(&["--cache-dir", cache.to_str().expect("UTF-8")])
}

/// Ids, and their logits' traces to the bit.
async fn answer(server: &Server) -> (Vec<u32>, Vec<TokenLogprob>) {
    let mut request = Generate::token_ids(PROMPT)
        .sampling(Sampling {
            temperature: Some(0.0),
            ..Sampling::default()
        })
        .stopping(Stopping {
            max_tokens: Some(24),
            ignore_eos: Some(true),
            ..Stopping::default()
        });
    request.request.logprobs = Some(4);
    let client = server.client().await;
    let mut events = client.generate(request).await.expect("it is taken");
    let mut answer = Answer::default();
    answer.read(&mut events).await.expect("it ends well");
    assert_eq!(answer.logprobs.len(), 24);
    (answer.token_ids, answer.logprobs)
}

/// The files of packed weights, unfinished ones included.
fn files(cache: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache).expect("the server made it");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let packed = |path: &PathBuf| path.to_string_lossy().contains("packed-");
    paths.filter(packed).collect()
}

async fn metric(server: &Server, cache: &str) {
    let page = http_get(server.operations(), "/metrics")
        .await
        .expect("it is up");
    let name = "ternion_weights_packed_bytes{";
    let line = page.body.lines().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{}", page.body));
    assert!(line.contains(&format!("cache=\"{cache}\"")), "{line}");
}

#[tokio::test]
async fn a_second_start_finds_what_the_first_packed() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let cache = root.path().join("cache");
    let first = start(&cache);
    assert!(
        first.banner().contains("packed and put into the cache"),
        "{}",
        first.banner()
    );
    metric(&first, "written").await;
    let want = answer(&first).await;
    let [file] = &files(&cache)[..] else {
        panic!("{:?}", files(&cache))
    };
    let whole = fs::read(file).expect("readable");

    // Beside the first: they share it.
    let second = start(&cache);
    assert!(
        second.banner().contains("from the cache"),
        "{}",
        second.banner()
    );
    metric(&second, "hit").await;
    assert_eq!(answer(&second).await, want);
    drop((first, second));

    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(file, damaged).expect("writable");
    let mut third = start(&cache);
    let log = third.log_with(|log| log.contains("packed weights in the cache were not used"));
    let log = log.await;
    assert!(log.contains("is damaged: part"), "{log}");
    metric(&third, "written").await;
    assert_eq!(answer(&third).await, want);
    assert!(fs::read(file).expect("readable") == whole);
    drop(third);

    let without = Server::start(&["--cache-dir", "off"]);
    metric(&without, "off").await;
    assert_eq!(answer(&without).await, want);
    let small = Server::start(&[
        "--cache-dir",
        cache.to_str().expect("UTF-8"),
        "--packed-cache",
        "0",
    ]);
    metric(&small, "hit").await;
}

/// At any moment of its start, those included in which it writes.
#[tokio::test]
async fn a_server_that_is_killed_leaves_nothing_in_the_way() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let cache = root.path().join("cache");
    for kill in 0..KILLS {
        let mut process = ternion_server()
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--operations-listen",
                "off",
            ])
            .args(["--cache-dir".as_ref(), cache.as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it can be run");
        tokio::time::sleep(LATEST_KILL * kill / KILLS).await;
        process.kill().expect("it runs");
        process.wait().expect("it was killed");
        // Every time, what is there is whole or is not used.
        if kill % 5 == 4 {
            for file in files(&cache) {
                fs::remove_file(file).expect("it is there");
            }
        }
    }
    let server = start(&cache);
    let got = answer(&server).await;
    let left = files(&cache);
    assert_eq!(left.len(), 1, "{left:?}");
    drop(server);
    let again = start(&cache);
    metric(&again, "hit").await;
    assert_eq!(answer(&again).await, got);
}
