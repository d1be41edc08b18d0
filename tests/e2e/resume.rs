//! A request whose connection broke is read on, and one that is sent twice is
//! generated once.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use ternion_client::proto::{FinishReason, GenerateRequest, Resume};
use ternion_client::{Client, Error, Event, Generate, Retry, SessionEvent, StreamExt};
use ternion_tests::{Answer, Relay, Server, StallingKernel, answer, greedy, ternion};

const PROMPT: [u32; 4] = [1016, 591, 580, 256];

/// Most of the demo's context.
const MANY_TOKENS: u32 = 1000;

const SMALL_OUTBOX: [&str; 2] = ["--outbox-capacity", "4"];

/// Of large frames, some 300 KB in all: more than goes through before a cut.
fn long_request() -> Generate {
    let mut request = greedy(&PROMPT, MANY_TOKENS);
    request.request.logprobs = Some(20);
    request
}

async fn through(relay: &Relay) -> Client {
    let connecting = Client::builder(relay.endpoint()).retry(Retry::NEVER);
    connecting.connect().await.expect("the relay is up")
}

async fn assert_generated_once(client: &Client, requests: u64) {
    let load = Server::idle(client).await;
    assert!(load.steps <= requests * u64::from(MANY_TOKENS), "{load:?}");
}

#[tokio::test]
async fn a_call_goes_on_over_another_connection() {
    let server = Server::start(&SMALL_OUTBOX);
    let direct = server.client().await;
    let whole = answer(&direct, long_request()).await;
    let relay = Relay::cutting(server.address(), &[20_000, 60_000]).await;
    let client = through(&relay).await;
    let mut events = client
        .generate(long_request().resumable())
        .await
        .expect("it is up");
    let mut got = Answer::default();
    while let Some(event) = events.next().await {
        got.add(event.expect("it goes on"));
    }
    assert_eq!((got.token_ids, got.text), (whole.token_ids, whole.text));
    assert_eq!(
        got.finished.expect("it ended").usage,
        whole.finished.expect("it ended").usage
    );
    assert_eq!(relay.num_connections(), 3);
    assert_generated_once(&direct, 2).await;
}

#[tokio::test]
async fn a_session_is_told_on_what_is_resumable_and_loses_the_rest() {
    let server = Server::start(&SMALL_OUTBOX);
    let direct = server.client().await;
    let whole = answer(&direct, long_request()).await;
    let relay = Relay::cutting(server.address(), &[60_000, 120_000]).await;
    let client = through(&relay).await;
    let mut session = client.session().await.expect("it is up");
    for id in ["a", "b"] {
        session
            .start(id, long_request().resumable())
            .await
            .expect("it is open");
    }
    session
        .start("lost", long_request())
        .await
        .expect("it is open");
    let mut got = [Answer::default(), Answer::default()];
    let mut breaks = 0;
    while got.iter().any(|answer| answer.finished.is_none()) {
        match session.next().await.expect("it is not closed") {
            Ok(SessionEvent::Event { id, event }) => match id.as_str() {
                "a" => got[0].add(event),
                "b" => got[1].add(event),
                _ => assert_eq!(breaks, 0, "{event:?} of one that is lost"),
            },
            Err(Error::Transport { .. }) => {
                session.reconnect().await.expect("it is up");
                breaks += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(breaks, 2);
    for answer in got {
        assert_eq!(
            (answer.token_ids, answer.text),
            (whole.token_ids.clone(), whole.text.clone())
        );
    }
    assert_generated_once(&direct, 4).await;
}

#[tokio::test]
async fn the_command_line_survives_a_cut() {
    let server = Server::start(&SMALL_OUTBOX);
    let direct = server.client().await;
    let whole = answer(&direct, long_request()).await;
    let relay = Relay::cutting(server.address(), &[20_000]).await;
    let max_tokens = MANY_TOKENS.to_string();
    let mut process = ternion()
        .args([
            "generate",
            "--token-ids",
            "1016,591,580,256",
            "--ignore-eos",
            "--logprobs",
            "20",
        ])
        .args(["--temperature", "0", "--json", "--max-tokens", &max_tokens])
        .args(["--endpoint", relay.endpoint()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("ternion can be run");
    let stdout = BufReader::new(process.stdout.take().expect("piped above"));
    let reading = tokio::task::spawn_blocking(move || {
        let mut tokens = Vec::new();
        for line in stdout.lines() {
            let line: Value = serde_json::from_str(&line.expect("UTF-8")).expect("JSON");
            let ids = line["token_ids"].as_array().cloned().unwrap_or_default();
            tokens.extend(ids.iter().map(|id| id.as_u64().expect("an id") as u32));
        }
        (tokens, relay.num_connections())
    });
    let (tokens, num_connections) = reading.await.expect("it can be read");
    assert_eq!(process.wait().expect("it ends").code(), Some(0));
    assert_eq!(tokens, whole.token_ids);
    assert_eq!(num_connections, 2);
    assert_generated_once(&direct, 2).await;
}

#[tokio::test]
async fn nobody_is_waited_for_longer_than_the_grace() {
    let kernel = StallingKernel::build();
    let server = kernel.serve(&["--resume-grace", "100ms"]);
    kernel.slow();
    let direct = server.client().await;
    let client = server.client().await;
    let mut request = long_request().resumable();
    request.request.request_id = "one".to_owned();
    let mut session = client.session().await.expect("it is up");
    session.start("one", request).await.expect("it is open");
    loop {
        let event = session
            .next()
            .await
            .expect("it goes on")
            .expect("it goes on");
        if matches!(
            event,
            SessionEvent::Event {
                event: Event::Delta(_),
                ..
            }
        ) {
            break;
        }
    }
    drop((session, client));
    // Given up, and not through.
    let load = Server::idle(&direct).await;
    assert!(load.steps < u64::from(MANY_TOKENS), "{load:?}");
    let resume = GenerateRequest {
        resume: Some(Resume {
            request_id: "one".to_owned(),
            last_seq: Some(1),
        }),
        ..GenerateRequest::default()
    };
    let late = direct.generate(resume).await.expect_err("its time is over");
    assert!(matches!(late, Error::NotFound { .. }), "{late:?}");
}

/// Of one token, under a name.
fn named(id: &str) -> Generate {
    let mut request = greedy(&PROMPT, 1).resumable();
    request.request.request_id = id.to_owned();
    request
}

#[tokio::test]
async fn a_reader_that_has_all_there_is_is_not_too_slow() {
    let kernel = StallingKernel::build();
    let server = kernel.serve(&["--read-timeout", "100ms"]);
    let client = server.client().await;
    kernel.stall();
    let mut events = client.generate(named("one")).await.expect("it is up");
    let queued = events.next().await.expect("it goes on");
    assert!(matches!(queued, Ok(Event::Queued(_))), "{queued:?}");
    // Nothing more is said, for longer than a reader has.
    tokio::time::sleep(Duration::from_secs(1)).await;
    kernel.release();
    let mut got = Answer::default();
    while let Some(event) = events.next().await {
        got.add(event.expect("it was always read"));
    }
    assert_eq!(got.finished().reason(), FinishReason::Length);
}

#[tokio::test]
async fn a_client_that_goes_is_missed_though_there_is_nothing_to_tell_it() {
    for by_session in [false, true] {
        let kernel = StallingKernel::build();
        let server = kernel.serve(&["--resume-grace", "100ms"]);
        let direct = server.client().await;
        let client = server.client().await;
        kernel.stall();
        if by_session {
            let mut session = client.session().await.expect("it is up");
            let started = session.start("one", named("one")).await;
            started.expect("it is open");
            session.next().await.expect("it goes on").expect("it waits");
        } else {
            let mut events = client.generate(named("one")).await.expect("it is up");
            events.next().await.expect("it goes on").expect("it waits");
        }
        drop(client);
        let mut tries = 0..60;
        let late = loop {
            // A try that comes within the grace begins another.
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(tries.next().is_some(), "it is kept for ever");
            let resume = GenerateRequest {
                resume: Some(Resume {
                    request_id: "one".to_owned(),
                    last_seq: Some(0),
                }),
                ..GenerateRequest::default()
            };
            let resumed = direct.generate(resume);
            let resumed = tokio::time::timeout(Duration::from_secs(60), resumed).await;
            if let Err(late) = resumed.expect("it is kept or not") {
                break late;
            }
        };
        assert!(matches!(late, Error::NotFound { .. }), "{late:?}");
    }
}

#[tokio::test]
async fn the_same_key_generates_once_whatever_became_of_the_first_call() {
    let server = Server::start(&SMALL_OUTBOX);
    let client = server.client().await;
    let request = || long_request().idempotency_key("order 17");
    let mut first = client.generate(request()).await.expect("it is up");
    for _ in 0..3 {
        first.next().await.expect("an event").expect("it goes on");
    }
    drop(first);
    let second = answer(&client, request()).await;
    assert_eq!(second.token_ids.len(), MANY_TOKENS as usize);
    assert_eq!(second.finished().reason(), FinishReason::Length);
    assert_eq!(answer(&client, request()).await, second);
    assert_generated_once(&client, 1).await;

    let mut other = long_request().idempotency_key("order 17");
    other.request.stopping.as_mut().expect("set").max_tokens = Some(3);
    let error = client.generate(other).await.expect_err("another request");
    let fields: Vec<_> = error
        .violations()
        .iter()
        .map(|v| v.field.as_str())
        .collect();
    assert_eq!(fields, ["stopping"]);
}
