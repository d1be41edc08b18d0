//! A request that nobody waits for any more gives its pages back within a
//! step.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use ternion_client::proto::{FinishReason, LoadResponse};
use ternion_client::{Client, Error, Event, Events, Generate, Session, SessionEvent, StreamExt};
use ternion_tests::{Answer, Server, StallingKernel, greedy, ternion};

/// Most of the demo's context; on a slow kernel, half a minute.
const MANY_TOKENS: u32 = 1000;

/// By far too short for that, and long enough to be accepted in.
const DEADLINE: Duration = Duration::from_secs(2);

/// A server that is busy with such a request for as long as it may be.
fn slow_server(more: &[&str]) -> (StallingKernel, Server) {
    let kernel = StallingKernel::build();
    let server = kernel.serve(more);
    kernel.slow();
    (kernel, server)
}

fn long_request() -> Generate {
    greedy(&[1016, 591, 580, 256], MANY_TOKENS)
}

#[tokio::test]
async fn a_cancelled_request_has_no_pages_once_it_says_so() {
    let (_kernel, server) = slow_server(&[]);
    let client = server.client().await;
    let mut session = client.session().await.expect("a session opens");
    session
        .start("a", long_request())
        .await
        .expect("it is open");
    session
        .start("b", greedy(&[1016], 3))
        .await
        .expect("it is open");
    let mut cancelled = Answer::default();
    await_tokens(&mut session, &mut cancelled).await;
    session.cancel("a").await.expect("it is open");
    session
        .cancel("nobody")
        .await
        .expect("unknown ids are ignored");
    while cancelled.finished.is_none() {
        add_event(&mut session, &mut cancelled).await;
    }
    assert_all_pages_free(&client.load().await.expect("it is up"));
    assert_eq!(cancelled.finished().reason(), FinishReason::Cancelled);
    let usage = cancelled.finished().usage.expect("every ending has it");
    assert_eq!(usage.prompt_tokens, 4);
    assert!(
        (1..MANY_TOKENS).contains(&usage.completion_tokens),
        "{usage:?}"
    );
    assert!(cancelled.finished().timings.is_some());

    // The id and the stream are good for another one.
    session
        .start("a", greedy(&[1016], 3))
        .await
        .expect("it is open");
    let mut again = Answer::default();
    while again.finished.is_none() {
        add_event(&mut session, &mut again).await;
    }
    assert_eq!(again.finished().reason(), FinishReason::Length);
}

/// Until both requests are past their first token, so that the cancel comes
/// while one runs and none waits.
async fn await_tokens(session: &mut Session, a: &mut Answer) {
    let mut b = Answer::default();
    while a.token_ids.is_empty() || b.finished.is_none() {
        match session
            .next()
            .await
            .expect("it goes on")
            .expect("it goes on")
        {
            SessionEvent::Event { id, event } if id == "a" => a.add(event),
            SessionEvent::Event { id, event } if id == "b" => b.add(event),
            event => panic!("{event:?}"),
        }
    }
}

async fn add_event(session: &mut Session, answer: &mut Answer) {
    match session
        .next()
        .await
        .expect("it goes on")
        .expect("it goes on")
    {
        SessionEvent::Event { id, event } if id == "a" => answer.add(event),
        event => panic!("{event:?}"),
    }
}

#[tokio::test]
async fn a_dropped_call_is_cancelled() {
    let (_kernel, server) = slow_server(&[]);
    let watcher = server.client().await;
    let client = server.client().await;
    let mut events = client
        .generate(long_request())
        .await
        .expect("a good request");
    await_first_delta(&mut events).await;
    drop(events);
    assert_cancelled(&Server::idle(&watcher).await);
}

#[tokio::test]
async fn a_dropped_connection_cancels_everything_on_it() {
    let (_kernel, server) = slow_server(&[]);
    let watcher = server.client().await;
    let client = server.client().await;
    let mut session = client.session().await.expect("a session opens");
    for id in ["a", "b", "c"] {
        session.start(id, long_request()).await.expect("it is open");
    }
    let mut begun = 0;
    while begun < 3 {
        if let Some(Ok(SessionEvent::Event { event, .. })) = session.next().await {
            begun += u32::from(matches!(event, Event::Started(_)));
        }
    }
    drop((session, client));
    assert_cancelled(&Server::idle(&watcher).await);
}

#[tokio::test]
async fn a_dropped_connection_frees_a_place_in_the_queue() {
    let (kernel, server) = slow_server(&["--max-num-seqs", "1"]);
    let watcher = server.client().await;
    let client = server.client().await;
    let mut running = watcher.generate(long_request()).await.expect("it runs");
    await_first_delta(&mut running).await;
    let waiting = client.generate(long_request()).await;
    drop((waiting.expect("it may wait"), client));
    let load = await_load(&watcher, |load| load.waiting == 0).await;
    kernel.release();
    let mut answer = Answer::default();
    answer.read(&mut running).await.expect("it goes on");
    // That it had run as well would have taken as many steps again.
    let load = (load, watcher.load().await.expect("it is up"));
    assert!(load.1.steps < u64::from(2 * MANY_TOKENS), "{load:?}");
    assert_all_pages_free(&load.1);
}

#[tokio::test]
async fn a_dropped_connection_ends_a_prompt_within_the_step_that_runs() {
    let kernel = StallingKernel::build();
    let mut server = kernel.serve(&[
        "--max-num-batched-tokens",
        "16",
        "--log-filter",
        "ternion_server=debug",
    ]);
    let watcher = server.client().await;
    let client = server.client().await;
    kernel.stall();
    // Some sixty steps of prompt.
    let prompt: Vec<u32> = (0..900).map(|n| 500 + n % 100).collect();
    let events = client.generate(greedy(&prompt, 1)).await;
    drop((events.expect("it is accepted"), client));
    server.log_with(|log| log.contains("reader has gone")).await;
    kernel.release();
    let load = Server::idle(&watcher).await;
    assert!(load.steps <= 1, "{load:?}");
    assert_all_pages_free(&load);
}

/// What the server does, once it does that.
async fn await_load(client: &Client, what: impl Fn(&LoadResponse) -> bool) -> LoadResponse {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let load = client.load().await.expect("it is up");
        if what(&load) {
            return load;
        }
        assert!(Instant::now() < deadline, "{load:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_for_too_long_fails_and_is_told_so() {
    const REQUESTS: usize = 32;
    let server = Server::start(&["--outbox-capacity", "4", "--read-timeout", "200ms"]);
    let watcher = server.client().await;
    let slow = server.client().await;
    let mut session = slow.session().await.expect("a session opens");
    // Of large frames, some 10 MB in all: a client takes 2 MiB of a stream
    // ahead of its reader.
    let mut request = long_request();
    request.request.logprobs = Some(20);
    for n in 0..REQUESTS {
        let id = n.to_string();
        session
            .start(id, request.clone())
            .await
            .expect("it is open");
    }
    let load = await_load(&watcher, |load| {
        load.steps > 0 && load.running + load.waiting == 0
    });
    assert_all_pages_free(&load.await);
    let answer = ternion_tests::answer(&watcher, greedy(&[1016], 20)).await;
    assert_eq!(answer.token_ids.len(), 20, "others are served");

    let (mut finished, mut failed) = (0, 0);
    while finished + failed < REQUESTS {
        match session
            .next()
            .await
            .expect("it goes on")
            .expect("it goes on")
        {
            SessionEvent::Event {
                event: Event::Finished(_),
                ..
            } => finished += 1,
            SessionEvent::Failed { error, usage, .. } => {
                assert!(
                    matches!(error, Error::ResourceExhausted { .. }),
                    "{error:?}"
                );
                assert!(usage.is_some(), "it ran");
                failed += 1;
            }
            _ => {}
        }
    }
    assert!(
        failed > REQUESTS / 4,
        "{failed} failed, {finished} finished"
    );
    // Whoever is slow, but reads, gets all of it.
    let whole = slow.generate(greedy(&[1016], 600)).await;
    let mut events = whole.expect("a good request");
    let mut count = 0;
    while let Some(event) = events.next().await {
        if let Event::Delta(delta) = event.expect("it goes on") {
            count += delta.token_ids.len();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(count, 600);
}

#[tokio::test]
async fn a_killed_client_is_noticed() {
    let (_kernel, server) = slow_server(&[]);
    let watcher = server.client().await;
    let mut process = ternion()
        .args([
            "generate",
            "--token-ids",
            "1016,591,580,256",
            "--ignore-eos",
            "--no-resume",
        ])
        .args([
            "--max-tokens",
            &MANY_TOKENS.to_string(),
            "--temperature",
            "0",
        ])
        .args(["--json", "--endpoint", server.endpoint()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("ternion can be run");
    let lines = BufReader::new(process.stdout.take().expect("piped above")).lines();
    let delta = lines
        .map_while(Result::ok)
        .find(|line| line.contains(r#""event":"delta""#));
    assert!(delta.is_some(), "it ended before its first token");
    process.kill().expect("it runs");
    process.wait().expect("it was killed");
    assert_cancelled(&Server::idle(&watcher).await);
}

#[tokio::test]
async fn a_deadline_ends_a_call_with_its_usage() {
    let (_kernel, server) = slow_server(&[]);
    let client = server.client().await;
    let request = long_request().timeout(DEADLINE);
    let mut answer = Answer::default();
    let mut events = client.generate(request).await.expect("a good request");
    let error = answer.read(&mut events).await.expect_err("it takes longer");
    assert_all_pages_free(&client.load().await.expect("it is up"));
    assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error:?}");
    assert_eq!(answer.finished().reason(), FinishReason::DeadlineExceeded);
    let usage = answer.finished().usage.expect("every ending has it");
    assert_eq!(usage.prompt_tokens, 4);
    assert!(usage.completion_tokens < MANY_TOKENS, "{usage:?}");
}

#[tokio::test]
async fn a_deadline_ends_one_request_of_a_session() {
    let (_kernel, server) = slow_server(&[]);
    let client = server.client().await;
    let mut session = client.session().await.expect("a session opens");
    let request = long_request().timeout(DEADLINE);
    session.start("a", request).await.expect("it is open");
    let mut answer = Answer::default();
    while answer.finished.is_none() {
        add_event(&mut session, &mut answer).await;
    }
    assert_all_pages_free(&client.load().await.expect("it is up"));
    assert_eq!(answer.finished().reason(), FinishReason::DeadlineExceeded);
}

async fn await_first_delta(events: &mut Events) {
    while let Some(event) = events.next().await {
        if matches!(event.expect("it goes on"), Event::Delta(_)) {
            return;
        }
    }
    panic!("it ended before its first token");
}

fn assert_all_pages_free(load: &LoadResponse) {
    assert_eq!(load.kv_pages_free, load.kv_pages, "{load:?}");
    assert_eq!((load.running, load.waiting), (0, 0), "{load:?}");
}

/// Pages are back, and not because the requests ran to their end, which takes
/// a step for each token.
#[track_caller]
fn assert_cancelled(load: &LoadResponse) {
    assert!(load.steps < u64::from(MANY_TOKENS), "{load:?}");
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_its_own_request_only() {
    let server = Server::start(&["--outbox-capacity", "4"]);
    let slow = server.client().await;
    let _unread = slow.generate(long_request()).await.expect("a good request");
    let client: Client = server.client().await;
    let answer = ternion_tests::answer(&client, greedy(&[1016], 20)).await;
    assert_eq!(answer.token_ids.len(), 20);
}
