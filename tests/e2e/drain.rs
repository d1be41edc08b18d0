//! Replicas that go and come under load: what an orchestrator does in a
//! roll-out, and what the clients see of it.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use ternion_client::proto::FinishReason;
use ternion_client::{Client, Error, Event, Retry};
use ternion_proto::v1::generate_response::Frame;
use ternion_proto::v1::inference_service_client::InferenceServiceClient;
use ternion_tests::{
    HEALTH_INTERVAL, Load, LoadReport, Relay, Server, StallingKernel, Traefik, greedy, signal,
};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Replicas have an address each that no other program's connections take
/// while one is replaced by the next.
const ADDRESSES: [&str; 2] = ["127.0.0.2:0", "127.0.0.3:0"];

/// How long anything takes that does not depend on the length of requests.
const SOON: Duration = Duration::from_secs(120);

/// Arrivals that both replicas can serve, and one alone too, on a small busy
/// machine. Requests run long enough to be in the way of a drain.
const LOAD: [&str; 6] = [
    "--rate",
    "10",
    "--prompt-tokens",
    "16",
    "--max-tokens",
    "100",
];

/// Two compute threads for each of two replicas are more than there are
/// processors.
const REPLICA: [&str; 2] = ["--threads", "1"];

fn replica(address: &str, arguments: &[&str]) -> Server {
    Server::start_at(address, &[&REPLICA, arguments].concat())
}

/// Replaces each of two replicas by another at its address, one after the
/// other, while both have requests.
async fn roll_out(mut replicas: Vec<Server>, arguments: &[&str]) -> Vec<Server> {
    for i in 0..replicas.len() {
        for replica in &replicas {
            has_run(replica).await;
        }
        is_running(&replicas[i]).await;
        let old = replicas.remove(i);
        let address = old.address().to_owned();
        old.terminate();
        assert_eq!(old.wait().await.code(), Some(0));
        let new = replica(&address, arguments);
        has_run(&new).await;
        replicas.insert(i, new);
    }
    replicas
}

/// Until the load has reached this server.
async fn has_run(server: &Server) {
    let client = server.client().await;
    until(async || client.load().await.expect("it is up").steps > 0).await;
}

/// Until it has requests that a drain must wait for.
async fn is_running(server: &Server) {
    let client = server.client().await;
    until(async || client.load().await.expect("it is up").running > 0).await;
}

async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition().await {
        assert!(Instant::now() < deadline, "it does not come to that");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Every request finished, but for those that a draining server refused in
/// the way it should.
fn assert_explained(load: &LoadReport) {
    assert_eq!(load.ran.code, Some(0), "{load:?}");
    assert_eq!(load.requests("errors"), 0, "{load:?}");
    let refused = load.requests("refused");
    assert_eq!(load.requests("drained"), 0, "nothing was cut off: {load:?}");
    assert_eq!(load.requests("complete") + refused, load.requests("sent"));
    for refusal in load.rows("refusals") {
        assert_eq!(refusal["code"], "UNAVAILABLE", "{load:?}");
        assert_eq!(refusal["reason"], "DRAINING", "{load:?}");
        assert_eq!(refusal["count"], refusal["with_retry_after"], "{load:?}");
    }
}

#[tokio::test]
async fn a_roll_out_behind_a_balancer_fails_no_request() {
    // Long enough for the balancer to notice, on a machine that does a lot.
    let delay = format!("{}ms", (HEALTH_INTERVAL * 30).as_millis());
    let delay = ["--drain-delay", delay.as_str()];
    let replicas = ADDRESSES.map(|address| replica(address, &delay));
    let balancer = Traefik::start(&[replicas[0].endpoint(), replicas[1].endpoint()]).await;
    let calls = Load::start(&[balancer.endpoint()], &LOAD);
    let sessions = [&LOAD[..], &["--sessions", "2", "--connections", "2"]].concat();
    let sessions = Load::start(&[balancer.endpoint()], &sessions);
    let _replicas = roll_out(replicas.into(), &delay).await;
    let calls = calls.stop().await;
    assert_explained(&calls);
    assert_explained(&sessions.stop().await);
    // The delay is there so that the balancer sends nobody to a server that
    // refuses.
    assert_eq!(calls.requests("refused"), 0, "{calls:?}");
}

#[tokio::test]
async fn so_does_one_with_a_client_that_balances() {
    let replicas = ADDRESSES.map(|address| replica(address, &[]));
    let endpoints = [replicas[0].endpoint(), replicas[1].endpoint()].map(str::to_owned);
    let endpoints = endpoints.each_ref().map(String::as_str);
    let load = Load::start(&endpoints, &[&LOAD[..], &["--attempts", "3"]].concat());
    let _replicas = roll_out(replicas.into(), &[]).await;
    let load = load.stop().await;
    assert_explained(&load);
    // What one refuses the other takes.
    assert_eq!(load.requests("refused"), 0, "{load:?}");
}

#[tokio::test]
async fn a_killed_replica_costs_what_ran_on_it_and_no_more() {
    let kernel = StallingKernel::build();
    let [killed, other] = ADDRESSES.map(|address| replica(address, &kernel.flags()));
    let endpoints = [killed.endpoint(), other.endpoint()];
    let load = Load::start(&endpoints, &[&LOAD[..], &["--attempts", "3"]].concat());
    has_run(&other).await;
    // So that it has not ended what it has by then.
    kernel.slow();
    is_running(&killed).await;
    killed.kill();
    kernel.release();
    let client = other.client().await;
    let steps = client.load().await.expect("it is up").steps;
    until(async || client.load().await.expect("it is up").steps > steps + 200).await;
    let load = load.stop().await;
    let errors = load.requests("errors");
    assert!((1..=LOAD_AT_ONCE).contains(&errors), "{load:?}");
    assert_eq!(load.ran.code, Some(1), "{load:?}");
    for error in load.rows("errors") {
        assert_eq!(error["kind"], "transport", "{load:?}");
    }
    // Those that had not begun were tried again, and nobody was turned away.
    assert_eq!(load.requests("refused"), 0, "{load:?}");
    assert_eq!(load.requests("complete") + errors, load.requests("sent"));
}

/// Far more than ten a second can pile up on one replica while one looks
/// whether it has any.
const LOAD_AT_ONCE: u64 = 60;

#[tokio::test]
async fn a_client_that_is_stopped_does_not_hold_up_the_exit() {
    let server = Server::start(&["--drain-timeout", "1s"]);
    let arguments = ["--concurrency", "4", "--prompt-tokens", "16"];
    let load = Load::start(&[server.endpoint()], &arguments);
    is_running(&server).await;
    signal(load.id(), "STOP");
    ends_in_time(server).await;
    signal(load.id(), "CONT");
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_hold_up_the_exit() {
    let server = Server::start(&["--drain-timeout", "1s", "--outbox-capacity", "4"]);
    let mut unread = InferenceServiceClient::new(narrow(server.endpoint()).await)
        .generate(greedy(&[1016, 591], 900).request)
        .await
        .expect("a good request")
        .into_inner();
    unread.message().await.expect("it is accepted");
    ends_in_time(server).await;
}

/// Asks the server to end, and waits no longer than its drain timeout of a
/// second and the two graces together allow, and a machine that is busy.
async fn ends_in_time(server: Server) {
    server.terminate();
    let start = Instant::now();
    assert_eq!(server.wait().await.code(), Some(0));
    let took = start.elapsed();
    assert!(took < SOON, "{took:?}");
}

/// A connection whose streams get no further than a few frames until they
/// are read.
async fn narrow(endpoint: &str) -> Channel {
    let endpoint = Channel::from_shared(endpoint.to_owned()).expect("it is one");
    let narrow = endpoint.initial_stream_window_size(Some(512));
    narrow.connect().await.expect("it is up")
}

#[tokio::test]
async fn a_slow_reader_gets_all_of_its_answer_from_a_server_that_drains() {
    let server = Server::start(&["--outbox-capacity", "4"]);
    let relay = Relay::to(server.address()).await;
    let channel = narrow(relay.endpoint()).await;
    let running = begun(&channel).await;
    let mut health = HealthClient::new(channel.clone())
        .watch(HealthCheckRequest::default())
        .await
        .expect("it is up")
        .into_inner();
    server.terminate();
    loop {
        let health = health.message().await.expect("it goes on");
        if health.expect("it goes on").status() == ServingStatus::NotServing {
            break;
        }
    }
    drop(health);
    // The client is told to connect again, and on its new connection that it
    // is at the wrong door.
    until(async || {
        let refused = InferenceServiceClient::new(channel.clone())
            .generate(greedy(&[1016], 1).request)
            .await;
        assert!(refused.is_err(), "nothing new is taken");
        relay.num_connections() > 1
    })
    .await;
    assert_complete(running).await;
    assert_eq!(server.wait().await.code(), Some(0));
}

#[tokio::test]
async fn an_old_connection_is_told_to_go_and_its_streams_go_on() {
    let server = Server::start(&["--max-connection-age", "1s", "--outbox-capacity", "4"]);
    let relay = Relay::to(server.address()).await;
    let channel = narrow(relay.endpoint()).await;
    let running = begun(&channel).await;
    // Twice: the next connection ages as well.
    until(async || {
        let again = InferenceServiceClient::new(channel.clone())
            .generate(greedy(&[1016], 1).request)
            .await;
        // A call on a connection that just closes may be lost, which a
        // client with more than one attempt does not notice.
        if let Err(status) = again {
            let error = Error::from(status);
            assert!(matches!(error, Error::Transport { .. }), "{error:?}");
        }
        relay.num_connections() > 2
    })
    .await;
    assert_complete(running).await;
}

#[tokio::test]
async fn a_client_notices_no_old_connection() {
    let server = Server::start(&["--max-connection-age", "1s"]);
    let relay = Relay::to(server.address()).await;
    let client = Client::connect(relay.endpoint()).await.expect("it is up");
    until(async || {
        let answer = ternion_tests::answer(&client, greedy(&[1016], 2)).await;
        assert_eq!(answer.token_ids.len(), 2);
        relay.num_connections() > 2
    })
    .await;
}

type Frames = tonic::Streaming<ternion_proto::v1::GenerateResponse>;

/// A request that has begun and that nobody reads on from.
async fn begun(channel: &Channel) -> Frames {
    let mut frames = InferenceServiceClient::new(channel.clone())
        .generate(greedy(&[1016, 591], MANY_TOKENS).request)
        .await
        .expect("a good request")
        .into_inner();
    loop {
        let frame = frames.message().await.expect("it goes on");
        if let Some(Frame::Delta(_)) = frame.expect("it goes on").frame {
            return frames;
        }
    }
}

const MANY_TOKENS: u32 = 900;

async fn assert_complete(mut frames: Frames) {
    while let Some(response) = frames.message().await.expect("nobody cuts it off") {
        if let Some(Frame::Finished(finished)) = response.frame {
            assert_eq!(finished.reason(), FinishReason::Length);
            let usage = finished.usage.expect("every ending has it");
            assert_eq!(usage.completion_tokens, MANY_TOKENS);
            return;
        }
    }
    panic!("it ended without Finished");
}

#[tokio::test]
async fn before_it_drains_a_server_that_leaves_serves_those_that_have_not_noticed() {
    let server = Server::start(&["--drain-delay", "1h"]);
    let client = server.client().await;
    let mut health = HealthClient::new(narrow(server.endpoint()).await)
        .watch(HealthCheckRequest::default())
        .await
        .expect("it is up")
        .into_inner();
    server.terminate();
    loop {
        let health = health.message().await.expect("it goes on");
        if health.expect("it goes on").status() == ServingStatus::NotServing {
            break;
        }
    }
    assert!(client.load().await.expect("it is up").draining);
    let answer = ternion_tests::answer(&client, greedy(&[1016], 3)).await;
    assert_eq!(answer.finished().reason(), FinishReason::Length);
    // A second signal is for those who can't wait.
    server.terminate();
    assert_eq!(server.wait().await.code(), Some(1));
}

#[tokio::test]
async fn after_that_an_idle_session_is_ended_with_a_reason() {
    let server = Server::start(&["--drain-delay", "100ms"]);
    let client = server.client().await;
    let mut session = client.session().await.expect("a session opens");
    server.terminate();
    let ended = session
        .next()
        .await
        .expect("it is told")
        .expect_err("it ends");
    assert!(matches!(ended, Error::Unavailable { .. }), "{ended:?}");
    assert!(ended.retry_after().is_some(), "{ended:?}");
    assert_eq!(server.wait().await.code(), Some(0));
}

#[tokio::test]
async fn a_request_refused_by_one_replica_is_accepted_by_the_other() {
    let [draining, other] = ADDRESSES.map(|address| replica(address, &["--outbox-capacity", "4"]));
    // Holds the drain up, so that it refuses.
    let channel = narrow(draining.endpoint()).await;
    let running = begun(&channel).await;
    let direct = draining.client().await;
    direct.drain().await.expect("it is up");
    until(async || match direct.generate(greedy(&[1016], 1)).await {
        Ok(_) => false,
        Err(error) => matches!(error, Error::Unavailable { .. }),
    })
    .await;
    let client = Client::balanced([draining.endpoint(), other.endpoint()]).await;
    let client = client.expect("both are up");
    for _ in 0..4 {
        let answer = ternion_tests::answer(&client, greedy(&[1016], 2)).await;
        assert_eq!(answer.token_ids.len(), 2);
    }
    // Without a second attempt, every other request fails.
    let impatient = Client::builder(draining.endpoint())
        .endpoint(other.endpoint())
        .retry(Retry::NEVER);
    let impatient = impatient.connect().await.expect("both are up");
    let refused = impatient.generate(greedy(&[1016], 2)).await;
    let refused = refused.expect_err("the first in turn drains");
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
    assert_complete(running).await;
    assert_eq!(draining.wait().await.code(), Some(0));
}

#[tokio::test]
async fn a_session_on_a_killed_replica_ends_as_a_broken_connection() {
    let kernel = StallingKernel::build();
    let server = kernel.serve(&[]);
    kernel.slow();
    let client = server.client().await;
    let mut session = client.session().await.expect("a session opens");
    session
        .start("a", greedy(&[1016, 591], MANY_TOKENS))
        .await
        .expect("it is open");
    let mut events = client
        .generate(greedy(&[1016, 591], MANY_TOKENS))
        .await
        .expect("a good request");
    let first = ternion_client::StreamExt::next(&mut events).await;
    assert!(matches!(first, Some(Ok(Event::Queued(_)))), "{first:?}");
    server.kill();
    let broken = loop {
        match ternion_client::StreamExt::next(&mut events).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("a stream that is cut off must not look complete"),
        }
    };
    assert!(matches!(broken, Error::Transport { .. }), "{broken:?}");
    let broken = loop {
        match session.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("a stream that is cut off must not look complete"),
        }
    };
    assert!(matches!(broken, Error::Transport { .. }), "{broken:?}");
}
