//! Requests that wait, and those that may not.
#![forbid(unsafe_code)]

use std::time::Duration;

use ternion_client::proto::{FinishReason, Queued};
use ternion_client::{Client, Error, Event, Events, StreamExt};
use ternion_tests::{StallingKernel, greedy};
use tonic_types::StatusExt;

/// On a slow kernel, five seconds and more.
const MANY_TOKENS: u32 = 200;

async fn start(client: &Client, max_tokens: u32) -> Events {
    let events = client.generate(greedy(&[1016], max_tokens)).await;
    events.expect("there is room")
}

async fn next(events: &mut Events) -> Event {
    let event = events.next().await;
    event.expect("it goes on").expect("it is served")
}

async fn queued(events: &mut Events) -> Queued {
    match next(events).await {
        Event::Queued(queued) => queued,
        other => panic!("{other:?}"),
    }
}

/// Reads to the end, and passes on how far it was from being started.
async fn finish(mut events: Events) -> (Vec<Queued>, FinishReason) {
    let mut told = Vec::new();
    loop {
        match next(&mut events).await {
            Event::Queued(queued) => told.push(queued),
            Event::Finished(finished) => return (told, finished.reason()),
            Event::Started(_) | Event::Delta(_) => {}
        }
    }
}

fn reason(error: &Error) -> String {
    let status = error.status().expect("the server answered");
    status.get_details_error_info().expect("a reason").reason
}

#[tokio::test]
async fn who_waits_is_told_how_far_it_has_come() {
    let kernel = StallingKernel::build();
    let server = kernel.serve(&["--max-num-seqs", "1"]);
    let client = server.client().await;
    let mut first = start(&client, MANY_TOKENS).await;
    assert_eq!(
        queued(&mut first).await.wait_seconds,
        None,
        "nothing ended yet"
    );
    finish(first).await;

    let many = 10;
    kernel.slow();
    let mut running = Vec::new();
    for _ in 0..many {
        running.push(tokio::spawn(finish(start(&client, MANY_TOKENS).await)));
    }
    let mut last = start(&client, 1).await;
    let begin = queued(&mut last).await;
    assert!(begin.ahead + 2 >= many, "{begin:?}");
    let wait = begin.wait_seconds.expect("an answer has ended");
    assert!(wait > 0.0 && wait < 600.0, "{begin:?}");
    let moved = queued(&mut last).await;
    kernel.release();
    let (told, reason) = finish(last).await;
    assert_eq!(reason, FinishReason::Length);
    let ahead: Vec<u32> = [begin, moved]
        .iter()
        .chain(&told)
        .map(|queued| queued.ahead)
        .collect();
    assert!(ahead.windows(2).all(|pair| pair[1] < pair[0]), "{ahead:?}");
    for finished in running {
        assert_eq!(finished.await.expect("it is read").1, FinishReason::Length);
    }
}

#[tokio::test]
async fn a_full_queue_refuses_while_a_step_runs() {
    let kernel = StallingKernel::build();
    let server = kernel.serve(&[
        "--max-num-seqs",
        "1",
        "--max-queued",
        "2",
        "--max-queued-tokens",
        "100",
    ]);
    let client = server.client().await;
    kernel.slow();
    let mut running = start(&client, MANY_TOKENS).await;
    while !matches!(next(&mut running).await, Event::Delta(_)) {}
    let mut waiting = client.generate(greedy(&[1016; 50], 1)).await;
    assert_eq!(
        queued(waiting.as_mut().expect("there is room")).await.ahead,
        0
    );
    kernel.stall();
    let refused = client.generate(greedy(&[1016; 60], 1));
    let refused = tokio::time::timeout(Duration::from_secs(30), refused).await;
    let refused = refused.expect("no step ends before it is refused");
    let refused = refused.expect_err("50 and 60 tokens are more than 100");
    assert_eq!(reason(&refused), "QUEUE_FULL");
    let Error::ResourceExhausted { retry_after, .. } = &refused else {
        panic!("{refused:?}");
    };
    assert!(retry_after.is_some(), "{refused:?}");
    // What can never be served doesn't wait for the step either.
    let refused = client.generate(greedy(&[1016], 100_000));
    let refused = tokio::time::timeout(Duration::from_secs(30), refused).await;
    let refused = refused.expect("no step ends before it is refused");
    assert!(
        matches!(refused, Err(Error::InvalidArgument { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_deadline_that_cannot_be_met_is_refused() {
    let kernel = StallingKernel::build();
    let server = kernel.serve(&["--max-num-seqs", "1"]);
    let client = server.client().await;
    kernel.slow();
    finish(start(&client, MANY_TOKENS).await).await;
    let mut running = Vec::new();
    for _ in 0..12 {
        running.push(start(&client, MANY_TOKENS).await);
    }
    let hopeless = greedy(&[1016], 1).timeout(Duration::from_secs(10));
    let refused = client.generate(hopeless).await.expect_err("too late");
    assert!(
        matches!(refused, Error::DeadlineExceeded { .. }),
        "{refused:?}"
    );
    assert_eq!(reason(&refused), "DEADLINE_UNREACHABLE");
    // Among those that are not in a hurry there is room.
    start(&client, 1).await;
}
