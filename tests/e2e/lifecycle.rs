//! From start to end of a server: what an orchestrator and an operator see.
#![forbid(unsafe_code)]

use ternion_client::proto::{FinishReason, KernelState};
use ternion_client::{Error, Event, Session, SessionEvent};
use ternion_tests::{Answer, Server, StallingKernel, greedy};
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const NUM_RUNNING: usize = 8;
const MANY_TOKENS: u32 = 300;

#[tokio::test]
async fn sigterm_lets_running_requests_finish() {
    drains(Drain::Signal).await;
}

#[tokio::test]
async fn so_does_a_drain_by_an_operator() {
    drains(Drain::Call).await;
}

/// As a pod ends: a hook that calls, then the signal that always comes.
#[tokio::test]
async fn a_signal_after_a_drain_cuts_nobody_off() {
    drains(Drain::CallThenSignal).await;
}

enum Drain {
    Signal,
    Call,
    CallThenSignal,
}

async fn drains(drain: Drain) {
    let kernel = StallingKernel::build();
    // More than it takes on a machine that has much else to do.
    let server = kernel.serve(&["--drain-timeout", "5m"]);
    let client = server.client().await;
    let mut health = watch_health(&server).await;
    assert_eq!(next_health(&mut health).await, ServingStatus::Serving);
    let mut session = client.session().await.expect("a session opens");
    kernel.slow();
    start_many(&mut session).await;
    // Nothing ends before all of it has been looked at.
    kernel.stall();

    match drain {
        Drain::Signal => server.terminate(),
        Drain::CallThenSignal => {
            client.drain().await.expect("it is up");
            server.terminate();
        }
        Drain::Call => {
            let drained = client.drain().await.expect("it is up");
            assert_eq!(drained.in_flight as usize, NUM_RUNNING);
            let again = client.drain().await.expect("a second call changes nothing");
            assert_eq!(again.in_flight as usize, NUM_RUNNING);
        }
    }
    // Health tells first, so nothing below races with the signal.
    assert_eq!(next_health(&mut health).await, ServingStatus::NotServing);
    assert!(client.load().await.expect("it still drains").draining);
    let refused = client.generate(greedy(&[1016], 1)).await;
    let refused = refused.expect_err("nothing new is taken");
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
    assert!(refused.retry_after().is_some(), "{refused:?}");

    kernel.release();
    let mut finished = 0;
    while finished < NUM_RUNNING {
        let event = session
            .next()
            .await
            .expect("it goes on")
            .expect("it goes on");
        match event {
            SessionEvent::Event {
                event: Event::Finished(end),
                ..
            } => {
                assert_eq!(end.reason(), FinishReason::Length);
                let usage = end.usage.expect("every ending has it");
                assert_eq!(usage.completion_tokens, MANY_TOKENS);
                finished += 1;
            }
            SessionEvent::Event { .. } => {}
            failed => panic!("{failed:?}"),
        }
    }
    // Connections that are open, and a stream that never ends by itself, hold
    // nothing up.
    assert_eq!(server.wait().await.code(), Some(0));
    drop((session, health));
}

/// Until all of them run.
async fn start_many(session: &mut Session) {
    for id in 0..NUM_RUNNING {
        let request = greedy(&[1016, 591, 580], MANY_TOKENS);
        session
            .start(id.to_string(), request)
            .await
            .expect("it is open");
    }
    let mut started = 0;
    while started < NUM_RUNNING {
        let event = session
            .next()
            .await
            .expect("it goes on")
            .expect("it goes on");
        if let SessionEvent::Event {
            event: Event::Started(_),
            ..
        } = event
        {
            started += 1;
        }
    }
}

#[tokio::test]
async fn a_drain_that_takes_too_long_ends_what_runs() {
    let kernel = StallingKernel::build();
    let server = kernel.serve(&["--drain-timeout", "50ms"]);
    kernel.slow();
    let client = server.client().await;
    let mut session = client.session().await.expect("a session opens");
    start_many(&mut session).await;
    server.terminate();
    let mut ended = 0;
    while ended < NUM_RUNNING {
        match session
            .next()
            .await
            .expect("it goes on")
            .expect("every request is told")
        {
            SessionEvent::Event {
                event: Event::Finished(end),
                ..
            } => {
                assert_eq!(end.reason(), FinishReason::Drained);
                assert!(end.usage.is_some());
                ended += 1;
            }
            SessionEvent::Event { .. } => {}
            failed => panic!("{failed:?}"),
        }
    }
    drop((session, client));
    assert_eq!(server.wait().await.code(), Some(0));
}

/// As when somebody presses ctrl-C twice.
#[tokio::test]
async fn a_second_signal_ends_it_at_once_and_says_so() {
    let kernel = StallingKernel::build();
    // Longer than any test waits, so it can only be the signal that ends it.
    let server = kernel.serve(&["--drain-timeout", "10m"]);
    kernel.slow();
    let client = server.client().await;
    let mut health = watch_health(&server).await;
    assert_eq!(next_health(&mut health).await, ServingStatus::Serving);
    let mut session = client.session().await.expect("a session opens");
    start_many(&mut session).await;
    server.terminate();
    // The first has been taken: two at once would be one.
    assert_eq!(next_health(&mut health).await, ServingStatus::NotServing);
    server.terminate();
    assert_eq!(server.wait().await.code(), Some(1));
    drop((session, client));
}

#[tokio::test]
async fn an_idle_server_ends_at_once() {
    let server = Server::start(&[]);
    let client = server.client().await;
    server.terminate();
    assert_eq!(server.wait().await.code(), Some(0));
    let error = client.load().await.expect_err("it is gone");
    assert!(matches!(error, Error::Transport { .. }), "{error:?}");
}

type Health = tonic::Streaming<tonic_health::pb::HealthCheckResponse>;

async fn watch_health(server: &Server) -> Health {
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let mut health = HealthClient::new(channel(server).await);
    health.watch(request).await.expect("it is up").into_inner()
}

async fn next_health(health: &mut Health) -> ServingStatus {
    health
        .message()
        .await
        .expect("it goes on")
        .expect("it goes on")
        .status()
}

async fn channel(server: &Server) -> Channel {
    let endpoint = Channel::from_shared(server.endpoint().to_owned()).expect("it is one");
    endpoint.connect().await.expect("it is up")
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let server = Server::start(&[]);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel(&server).await);
    let responses = reflection
        .server_reflection_info(tokio_stream::once(request))
        .await
        .expect("it is up");
    let response = responses.into_inner().next().await.expect("an answer");
    let Some(MessageResponse::ListServicesResponse(list)) =
        response.expect("no error").message_response
    else {
        panic!("not a list");
    };
    let names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for service in ["InferenceService", "ModelService", "AdminService"] {
        let service = format!("ternion.v1.{service}");
        assert!(names.contains(&service), "{service} is not in {names:?}");
    }
    assert!(
        names.iter().any(|name| name == "grpc.health.v1.Health"),
        "{names:?}"
    );
}

#[tokio::test]
async fn the_selected_kernel_is_told() {
    let server = Server::start(&[]);
    let client = server.client().await;
    let kernels = client.kernels().await.expect("it is up");
    let selected: Vec<_> = kernels
        .iter()
        .filter(|kernel| kernel.state() == KernelState::Selected)
        .collect();
    let [selected] = selected[..] else {
        panic!("{kernels:?}");
    };
    assert!(!selected.reason.is_empty(), "{selected:?}");
    let models = client.models().await.expect("it is up");
    assert!(models[0].kernel.starts_with(&selected.name), "{models:?}");
}

#[tokio::test]
async fn a_collector_that_is_down_stops_nobody() {
    let server = Server::start(&["--otlp-endpoint", "http://127.0.0.1:1"]);
    let client = server.client().await;
    let answer: Answer = ternion_tests::answer(&client, greedy(&[1016, 591], 5)).await;
    assert_eq!(answer.token_ids.len(), 5);
}

#[test]
fn every_mistake_in_the_configuration_is_told_at_once() {
    let ran = ternion_tests::server_tool(&[
        "serve",
        "--listen",
        "nowhere",
        "--max-num-seqs",
        "0",
        "--threads",
        "many",
    ]);
    assert_eq!(ran.code, Some(64), "{ran:?}");
    for setting in ["listen", "max_num_seqs", "threads"] {
        assert!(
            ran.stderr.contains(setting),
            "{setting} is not named: {ran:?}"
        );
    }
}

#[test]
fn a_kv_cache_that_cannot_fit_is_refused_with_the_numbers() {
    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--operations-listen",
        "off",
    ];
    for (setting, value, named) in [
        (
            "--kv-pages",
            "2000000000",
            "kv.pages: 2000000000 KV pages of",
        ),
        ("--kv-memory", "90TiB", "kv.memory_bytes: "),
    ] {
        let ran = ternion_tests::server_tool(&[&serve[..], &[setting, value]].concat());
        assert_eq!(ran.code, Some(1), "{ran:?}");
        for said in [named, "weights, output head and buffers", " are a"] {
            assert!(ran.stderr.contains(said), "{said:?} is not in {ran:?}");
        }
    }
}

/// It is there before anybody needs it, whatever is served meanwhile.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_kv_cache_becomes_resident() {
    const PAGES: u64 = 512;
    let mut server = Server::start(&["--kv-pages", "512"]);
    let client = server.client().await;
    let want = ternion_tests::answer(&client, greedy(&[1016, 591], 200)).await;
    let log = server
        .log_with(|log| log.contains("the KV cache "))
        .await
        .to_owned();
    let again = ternion_tests::answer(&client, greedy(&[1016, 591], 200)).await;
    assert_eq!(again.token_ids, want.token_ids);
    if log.contains("becomes resident as it is used") {
        // A system that can't be told to.
        return;
    }
    assert!(log.contains("the KV cache is resident"), "{log}");
    // Keys and values in f32: six layers, two heads of 32 elements.
    let bytes = PAGES * 16 * 6 * 2 * 2 * 32 * 4;
    let resident = server.anonymous_bytes();
    assert!(resident >= bytes, "{resident} of {bytes}");
}
