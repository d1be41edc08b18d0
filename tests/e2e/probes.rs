//! What a platform learns from the operations listener.
#![forbid(unsafe_code)]

use std::net::TcpListener;
use std::time::{Duration, Instant};

use ternion_client::{Client, Error, Event, Events, StreamExt};
use ternion_tests::{Answer, Server, StallingKernel, greedy, http_get, server_tool};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const STALL_TIMEOUT: &str = "3s";
/// Until a condition is told: the timeout, the look at it, and a busy machine.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// The status of a page, and what it says.
async fn page(server: &Server, path: &str) -> (u16, String) {
    let page = http_get(server.operations(), path).await;
    let page = page.expect("it is up");
    (page.status, page.body.trim().to_owned())
}

async fn health(address: &str, service: &str) -> ServingStatus {
    let channel = Channel::from_shared(format!("http://{address}")).expect("an address");
    let channel = channel.connect().await.expect("it is up");
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let checked = HealthClient::new(channel).check(request).await;
    checked.expect("the name is known").into_inner().status()
}

/// Everything that tells about liveness or readiness, once it tells this.
async fn await_told(server: &Server, live: bool, ready: bool) {
    let deadline = Instant::now() + TOLD_WITHIN;
    loop {
        let told = told(server).await;
        let expected = (vec![live; 2], vec![ready; 4]);
        if told == expected {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "(live, ready) is told {told:?} instead of {expected:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn told(server: &Server) -> (Vec<bool>, Vec<bool>) {
    let operations = server.operations();
    let serving = |status| status == ServingStatus::Serving;
    let live = vec![
        page(server, "/livez").await.0 == 200,
        serving(health(operations, "liveness").await),
    ];
    let ready = vec![
        page(server, "/readyz").await.0 == 200,
        serving(health(operations, "readiness").await),
        serving(health(operations, "").await),
        serving(health(server.address(), "").await),
    ];
    (live, ready)
}

async fn start(client: &Client, max_tokens: u32) -> Events {
    let request = greedy(&[1016, 591, 580], max_tokens);
    client.generate(request).await.expect("a good request")
}

#[tokio::test]
async fn a_stalled_step_is_not_live_until_it_ends() {
    let kernel = StallingKernel::build();
    let server = kernel.serve(&["--stall-timeout", STALL_TIMEOUT]);
    await_told(&server, true, true).await;
    assert_eq!(page(&server, "/livez").await, (200, "serving".to_owned()));

    kernel.stall();
    let client = server.client().await;
    let mut events = start(&client, 5).await;
    await_told(&server, false, false).await;
    assert_eq!(page(&server, "/livez").await, (503, "stalled".to_owned()));

    kernel.release();
    await_told(&server, true, true).await;
    let mut answer = Answer::default();
    answer.read(&mut events).await.expect("it goes on");
    assert_eq!(answer.token_ids.len(), 5);
    // An idle engine is live as well, for longer than a step may take.
    let idle = Instant::now();
    while idle.elapsed() < Duration::from_secs(4) {
        assert_eq!(page(&server, "/livez").await.0, 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_server_that_is_full_is_live_and_ready() {
    let kernel = StallingKernel::build();
    let server = kernel.serve(&[
        "--max-num-seqs",
        "1",
        "--max-queued",
        "29",
        "--stall-timeout",
        STALL_TIMEOUT,
    ]);
    kernel.slow();
    let client = server.client().await;
    let mut running = Vec::new();
    for _ in 0..30 {
        running.push(start(&client, 1000).await);
    }
    let refused = client.generate(greedy(&[1016], 1)).await;
    let refused = refused.expect_err("it is full");
    assert!(
        matches!(refused, Error::ResourceExhausted { .. }),
        "{refused:?}"
    );
    // Longer than a step may take.
    let full = Instant::now();
    while full.elapsed() < Duration::from_secs(4) {
        assert_eq!(told(&server).await, (vec![true; 2], vec![true; 4]));
    }
    let load = client.load().await.expect("it is up");
    assert!(load.running + load.waiting > 0, "too short: {load:?}");
    let scrape = http_get(server.operations(), "/metrics").await;
    let scrape = scrape.expect("it is up").body;
    let full = r#"ternion_requests_refused_total{model="ternion-demo",reason="QUEUE_FULL"} 1"#;
    assert!(scrape.contains(full), "{scrape}");
}

#[tokio::test]
async fn a_draining_server_is_live_and_not_ready() {
    let kernel = StallingKernel::build();
    let server = kernel.serve(&[]);
    kernel.slow();
    let client = server.client().await;
    let mut events = start(&client, 1000).await;
    while !matches!(events.next().await, Some(Ok(Event::Started(_)))) {}
    server.terminate();
    let deadline = Instant::now() + TOLD_WITHIN;
    while page(&server, "/readyz").await != (503, "draining".to_owned()) {
        assert!(Instant::now() < deadline, "the drain is not told");
    }
    assert_eq!(page(&server, "/livez").await, (200, "draining".to_owned()));
    let health = health(server.operations(), "liveness").await;
    assert_eq!(health, ServingStatus::Serving);
    let scrape = http_get(server.operations(), "/metrics").await;
    assert!(
        scrape
            .expect("it is up")
            .body
            .contains("\nternion_drain_phase 2")
    );
    kernel.release();
    let mut answer = Answer::default();
    answer.read(&mut events).await.expect("it may finish");
    assert_eq!(server.wait().await.code(), Some(0));
}

#[tokio::test]
async fn a_mistyped_probe_finds_nothing() {
    let server = Server::start(&[]);
    assert_eq!(page(&server, "/healthz").await.0, 404);
}

#[tokio::test]
async fn operations_can_be_off() {
    let server = Server::start(&["--operations-listen", "off"]);
    assert!(!server.banner().contains("metrics"), "{}", server.banner());
    let client = server.client().await;
    client.load().await.expect("it is up");
}

#[test]
fn an_address_that_is_taken_is_told_with_its_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    for setting in ["listen", "operations.listen"] {
        let flag = format!("--{}", setting.replace('.', "-"));
        let other = match setting {
            "listen" => ["--operations-listen", "127.0.0.1:0"],
            _ => ["--listen", "127.0.0.1:0"],
        };
        let ran = server_tool(&["serve", &flag, &address, other[0], other[1]]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let expected = format!("{setting}: can't listen on {address}");
        assert!(ran.stderr.contains(&expected), "{ran:?}");
    }
}
