//! Many streams over real connections, with a model that costs nothing.
//!
//! As a test it says that every stream gets all of its own. With
//! `TERNION_MEASURE` set it does more of it and prints what that took: see
//! `service/BENCHMARKS.md`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ternion_engine::Limits;
use ternion_proto::v1::{self, inference_service_client::InferenceServiceClient};
use tokio::{runtime::Runtime, task::JoinSet};
use tonic::transport::Channel;

use super::*;
use crate::{
    fake_model::{self, GOES_ON, RETENTION, served_within},
    setting_list::SETTINGS,
    settings::Sources,
};

/// Connections that the streams share, as those of some front ends.
const NUM_CONNECTIONS: usize = 8;

struct Bench {
    served: Arc<Served>,
    engine: EngineThread,
    _server: Runtime,
    client: Runtime,
    channels: Vec<Channel>,
}

impl Bench {
    fn start(max_num_seqs: usize, max_queued: usize) -> Bench {
        let limits = Limits {
            num_blocks: max_num_seqs * 64,
            block_size: 16,
            max_num_seqs,
            max_num_batched_tokens: 4 * max_num_seqs,
            step_budget: None,
            max_draft_tokens: 0,
            max_queued,
            max_queued_tokens: usize::MAX,
            max_model_len: 1024,
        };
        let (served, engine) = served_within(limits, 64, RETENTION, None);
        let (server, client) = (runtime("bench-server"), runtime("bench-client"));
        let settings = Sources {
            flags: vec![(
                SETTINGS
                    .iter()
                    .find(|setting| setting.key == "limits.max_concurrent_streams")
                    .expect("it is a setting"),
                vec!["4096".to_owned()],
            )],
            ..Sources::default()
        };
        let settings = settings.resolve().expect("the defaults are good").settings;
        let address = server.block_on(listen(settings, served.clone()));
        let connect = || {
            let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
            client.block_on(endpoint.connect()).expect("it is up")
        };
        Bench {
            channels: (0..NUM_CONNECTIONS).map(|_| connect()).collect(),
            served,
            engine,
            _server: server,
            client,
        }
    }

    /// Runs so many streams at once. Returns all of their tokens and frames,
    /// and the time that they took.
    fn run(&self, num_streams: usize, max_tokens: u32) -> (u64, u64, Duration) {
        let begin = Instant::now();
        let counts = self.client.block_on(async {
            let mut streams = JoinSet::new();
            for n in 0..num_streams {
                let channel = self.channels[n % NUM_CONNECTIONS].clone();
                streams.spawn(stream(channel, GOES_ON + n as u32 % 900, max_tokens));
            }
            streams.join_all().await
        });
        let (tokens, frames) = counts
            .into_iter()
            .fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
        (tokens, frames, begin.elapsed())
    }
}

fn runtime(name: &str) -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(name)
        .enable_all()
        .build()
        .expect("threads")
}

async fn listen(settings: Settings, served: Arc<Served>) -> SocketAddr {
    let any = "127.0.0.1:0".parse().expect("an address");
    let listener = connection::listen("listen", any)
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let (_, router) = router(&settings, &served).expect("the defaults are good");
    tokio::spawn(connection_life::serve(
        connection::accept(listener, None, None),
        None,
        served.drain.clone(),
        move |connection, leave| {
            router
                .clone()
                .serve_with_incoming_shutdown(connection, leave)
        },
    ));
    address
}

/// One request. Its tokens are checked, and counted with its frames.
async fn stream(channel: Channel, first: u32, max_tokens: u32) -> (u64, u64) {
    let ids = v1::TokenIds { ids: vec![first] };
    let request = v1::GenerateRequest {
        input: Some(v1::generate_request::Input::TokenIds(ids)),
        sampling: Some(v1::Sampling {
            temperature: Some(0.0),
            ..v1::Sampling::default()
        }),
        stopping: Some(v1::Stopping {
            max_tokens: Some(max_tokens),
            ignore_eos: Some(true),
            ..v1::Stopping::default()
        }),
        ..v1::GenerateRequest::default()
    };
    let mut client = InferenceServiceClient::new(channel);
    let mut frames = client
        .generate(request)
        .await
        .expect("accepted")
        .into_inner();
    let (mut next, mut num_frames, mut has_ended) = (first, 0, false);
    while let Some(response) = frames.message().await.expect("it goes on") {
        num_frames += 1;
        match response.frame.expect("no frame is empty") {
            v1::generate_response::Frame::Delta(delta) => {
                for token in delta.token_ids {
                    next = fake_model::next(next, 1024);
                    assert_eq!(token, next);
                }
            }
            v1::generate_response::Frame::Finished(finished) => {
                let usage = finished.usage.expect("it has one");
                assert_eq!(usage.completion_tokens, max_tokens);
                has_ended = true;
            }
            _ => {}
        }
    }
    assert!(has_ended);
    (max_tokens.into(), num_frames)
}

/// Seconds that threads have run, by name.
fn thread_seconds() -> BTreeMap<String, f64> {
    let mut seconds = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten() {
        let path = task.expect("it is there").path();
        let read = |name| std::fs::read_to_string(path.join(name)).unwrap_or_default();
        let nanoseconds = read("schedstat");
        let nanoseconds = nanoseconds.split(' ').next().and_then(|n| n.parse().ok());
        let name = read("comm").trim().to_owned();
        *seconds.entry(name).or_insert(0.0) += nanoseconds.unwrap_or(0.0_f64) / 1e9;
    }
    seconds
}

fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

#[test]
fn every_stream_gets_all_of_its_own() {
    let measured = std::env::var_os("TERNION_MEASURE").is_some();
    let bench = Bench::start(256, 2000);
    let (streams, max_tokens) = if measured { (256, 1000) } else { (256, 20) };
    bench.run(streams, max_tokens.min(100));
    let before = thread_seconds();
    let (tokens, frames, took) = bench.run(streams, max_tokens);
    let after = thread_seconds();
    assert_eq!(tokens, streams as u64 * u64::from(max_tokens));
    if measured {
        let rate = tokens as f64 / took.as_secs_f64();
        println!("{streams} streams: {rate:.0} tokens/s, {frames} frames, {took:?}");
        for (name, seconds) in after {
            let used = seconds - before.get(&name).copied().unwrap_or(0.0);
            println!("  {name:15} {:.2} us a token", used * 1e6 / tokens as f64);
        }
    }

    // More than run at once. All of them are answered, and leave nothing.
    let rounds = if measured { 5 } else { 1 };
    for round in 0..rounds {
        let (tokens, _, took) = bench.run(2000, max_tokens.min(200));
        assert_eq!(tokens, 2000 * u64::from(max_tokens.min(200)));
        if measured {
            println!(
                "2000 requests, round {round}: {took:?}, {} MiB",
                memory_mib()
            );
        }
    }
    let load = bench.served.engine.load();
    assert_eq!(load.kv_pages, load.kv_pages_free);
    bench.engine.stop();
}
