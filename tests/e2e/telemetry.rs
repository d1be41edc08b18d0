//! What a collector, a Prometheus and a log pipeline get from the server.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use ternion_client::Generate;
use ternion_proto::v1::generate_response::Frame;
use ternion_proto::v1::inference_service_client::InferenceServiceClient;
use ternion_proto::v1::{FinishReason, GenerateRequest, GenerateResponse, Sampling};
use ternion_tests::{
    Collector, Exported, Powercap, Prometheus, Server, Span, StallingKernel, check_metrics, greedy,
    http_get, misbehaving_kernel,
};
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

type Inference = InferenceServiceClient<Channel>;

const MANY_TOKENS: u32 = 1000;
/// Two requests of that many tokens don't fit.
const FEW_PAGES: &str = "66";

async fn inference(server: &Server) -> Inference {
    InferenceServiceClient::connect(server.endpoint().to_owned())
        .await
        .expect("it is up")
}

/// A request in a trace whose ids are made of one byte.
fn traced(generate: Generate, byte: u8) -> Request<GenerateRequest> {
    let mut request = Request::new(generate.request);
    let parent = format!("00-{}-{}-01", id(byte, 16), id(byte, 8));
    let parent = parent.parse().expect("it is ASCII");
    request.metadata_mut().insert("traceparent", parent);
    request
}

fn id(byte: u8, bytes: usize) -> String {
    format!("{byte:02x}").repeat(bytes)
}

/// No two share what they compute.
fn long(byte: u8) -> Generate {
    greedy(&[1016, 591, byte.into()], MANY_TOKENS)
}

type Frames = Streaming<GenerateResponse>;

/// Reads to the end: why it finished, and its status if that is not OK.
async fn read(mut frames: Frames) -> (Option<FinishReason>, Option<Status>) {
    let mut reason = None;
    loop {
        match frames.message().await {
            Ok(Some(message)) => {
                if let Some(Frame::Finished(finished)) = message.frame {
                    reason = Some(finished.reason());
                }
            }
            Ok(None) => return (reason, None),
            Err(status) => return (reason, Some(status)),
        }
    }
}

async fn until_first_delta(frames: &mut Frames) {
    while let Some(message) = frames.message().await.expect("it goes on") {
        if let Some(Frame::Delta(_)) = message.frame {
            return;
        }
    }
    panic!("it ended before its first token");
}

const FINISHED: u8 = 0xa1;
const REFUSED: u8 = 0xb2;
const LONG: [u8; 2] = [0xc3, 0xc4];
const QUEUED: u8 = 0xd5;
const ABANDONED: u8 = 0xe6;
const FAILED: u8 = 0xf7;
const CANCELLED: u8 = 0x18;
const UNSAMPLED: u8 = 0x29;

/// One request that never begins, two that take each other's pages, one whose
/// deadline passes in the queue behind them, one that ends well, one whose
/// client hangs up.
async fn send_all(server: &Server, kernel: &StallingKernel) {
    let mut inference = inference(server).await;
    let refused = inference.generate(traced(Generate::token_ids([]), REFUSED));
    let refused = refused.await.expect_err("no tokens");
    assert_eq!(refused.code(), Code::InvalidArgument);

    kernel.slow();
    let mut running = Vec::new();
    for byte in LONG {
        let frames = inference.generate(traced(long(byte), byte)).await;
        let mut frames = frames.expect("a good request").into_inner();
        until_first_delta(&mut frames).await;
        running.push(tokio::spawn(read(frames)));
    }
    // Too long to be let in between, and taken since nobody knows yet how long answers are.
    let mut queued = traced(greedy(&[1016; 100], 5), QUEUED);
    queued.set_timeout(Duration::from_secs(2));
    let queued = inference.generate(queued).await;
    let (reason, status) = read(queued.expect("it may wait").into_inner()).await;
    assert_eq!(reason, Some(FinishReason::DeadlineExceeded));
    assert_eq!(status.map(|s| s.code()), Some(Code::DeadlineExceeded));
    kernel.release();
    for read in running {
        let (reason, _) = read.await.expect("it is read");
        assert_eq!(reason, Some(FinishReason::Length));
    }

    let finished = inference.generate(traced(greedy(&[1016, 591], 5), FINISHED));
    let finished = finished.await.expect("a good request").into_inner();
    assert_eq!(read(finished).await.0, Some(FinishReason::Length));

    kernel.slow();
    let abandoned = inference.generate(traced(long(ABANDONED), ABANDONED)).await;
    let mut abandoned = abandoned.expect("a good request").into_inner();
    until_first_delta(&mut abandoned).await;
    drop(abandoned);
    let client = server.client().await;
    Server::idle(&client).await;
    kernel.release();

    let mut unsampled = traced(greedy(&[1016], 2), UNSAMPLED);
    let parent = format!("00-{}-{}-00", id(UNSAMPLED, 16), id(UNSAMPLED, 8));
    let parent = parent.parse().expect("it is ASCII");
    unsampled.metadata_mut().insert("traceparent", parent);
    let unsampled = inference.generate(unsampled).await.expect("a good request");
    assert_eq!(
        read(unsampled.into_inner()).await.0,
        Some(FinishReason::Length)
    );
    Server::idle(&client).await;
}

/// A step that fails, on a server of its own.
async fn send_to_fail(endpoint: &str) {
    let kernel = StallingKernel::build();
    let server = kernel.serve(&["--otlp-endpoint", endpoint, "--service-name", "failing"]);
    kernel.fail();
    let mut inference = inference(&server).await;
    let failed = inference.generate(traced(greedy(&[1016], 5), FAILED)).await;
    let (_, status) = read(failed.expect("it may try").into_inner()).await;
    assert_eq!(status.map(|s| s.code()), Some(Code::Internal));
    kernel.recover();
    end(server).await;
}

async fn end(server: Server) {
    server.terminate();
    assert_eq!(server.wait().await.code(), Some(0));
}

#[tokio::test]
async fn a_collector_gets_a_tree_for_each_request_and_the_metrics() {
    let collector = Collector::start().await;
    let endpoint = collector.endpoint();
    let kernel = StallingKernel::build();
    let server = kernel.serve(&[
        "--otlp-endpoint",
        &endpoint,
        "--otlp-metrics-interval",
        "300ms",
        "--kv-pages",
        FEW_PAGES,
        "--max-num-seqs",
        "2",
    ]);
    send_all(&server, &kernel).await;
    kernel.slow();
    cancel_one(&server).await;
    end(server).await;
    send_to_fail(&endpoint).await;
    let exported = collector.stop().await;

    for service in ["ternion", "failing"] {
        assert!(
            exported.services.iter().any(|s| s == service),
            "{service} is not in {:?}",
            exported.services
        );
    }
    for metric in ["ternion.steps", "gen_ai.server.request.duration"] {
        let count = exported.metrics.iter().filter(|m| *m == metric).count();
        assert!(count > 1, "{metric} came {count} times");
    }
    let everything = ["admission", "queue", "prefill", "decode", "stream-out"];
    let finished = tree(&exported, FINISHED, &everything);
    assert_finished_attributes(finished);
    assert_eq!(tree(&exported, REFUSED, &everything[..1]).status, 0);
    let preempted: i64 = LONG
        .iter()
        .map(|byte| tree(&exported, *byte, &everything))
        .filter_map(|request| request.attribute("ternion.preemptions").as_i64())
        .sum();
    assert!(preempted > 0, "two that don't fit take each other's pages");
    ended(&exported, QUEUED, &everything[..2], "deadline_exceeded", 2);
    ended(&exported, ABANDONED, &everything, "abandoned", 0);
    ended(&exported, CANCELLED, &everything, "cancelled", 0);
    ended(&exported, FAILED, &everything[..3], "error", 2);
    let unsampled = exported
        .spans
        .iter()
        .find(|s| s.trace_id == id(UNSAMPLED, 16));
    assert!(unsampled.is_none(), "its caller wants no trace");
    let mut names = exported.spans.iter().flat_map(Span::attribute_names);
    assert!(
        names.all(|name| !name.contains("prompt") && !name.contains("messages")),
        "nothing tells the prompt: {:?}",
        exported.spans
    );
}

#[tokio::test]
async fn a_request_of_samples_tells_why_each_of_them_ended() {
    let collector = Collector::start().await;
    let server = Server::start(&["--otlp-endpoint", &collector.endpoint()]);
    let mut several = greedy(&[1016, 591], 12).sampling(Sampling {
        temperature: Some(1.5),
        seed: Some(1),
        ..Sampling::default()
    });
    several.request.n = Some(8);
    // Some of the samples end early by one of them.
    let stopping = several.request.stopping.get_or_insert_default();
    stopping.stop_token_ids = (0..64).collect();
    let mut inference = inference(&server).await;
    let frames = inference.generate(traced(several, FINISHED)).await;
    let mut frames = frames.expect("a good request").into_inner();
    let mut reasons = [FinishReason::Unspecified; 8];
    while let Some(message) = frames.message().await.expect("it goes on") {
        if let Some(Frame::Finished(finished)) = message.frame {
            reasons[finished.index as usize] = finished.reason();
        }
    }
    assert!(reasons.contains(&FinishReason::Stop), "{reasons:?}");
    assert!(reasons.contains(&FinishReason::Length), "{reasons:?}");
    let text = scrape(&server).await;
    end(server).await;
    let labels = r#"code="OK",finish_reason="length",model="ternion-demo""#;
    let requests = format!("ternion_requests_total{{{labels}}}");
    assert_eq!(value(&text, &requests), 1.0, "that of the worst");
    let exported = collector.stop().await;
    let spans = &exported.spans;
    let of_trace = |span: &&Span| span.trace_id == id(FINISHED, 16) && span.name.contains("demo");
    let request = spans.iter().find(of_trace).expect("it is traced");
    let names = reasons.map(|reason| match reason {
        FinishReason::Stop => "stop",
        _ => "length",
    });
    let told = request.attribute("gen_ai.response.finish_reasons");
    assert_eq!(told, json!(names));
}

/// Sends a Cancel in a session, all of whose requests are in the session's trace.
async fn cancel_one(server: &Server) {
    use ternion_proto::v1::session_request::Frame as To;
    use ternion_proto::v1::session_response::Frame as From;
    use ternion_proto::v1::{Cancel, SessionRequest, Start};
    let (send, requests) = tokio::sync::mpsc::channel(4);
    let frame = |frame| SessionRequest {
        request_id: "cancelled".to_owned(),
        frame: Some(frame),
    };
    let start = Start {
        request: Some(long(CANCELLED).request),
        timeout_ms: None,
    };
    send.send(frame(To::Start(start)))
        .await
        .expect("it is open");
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut call = Request::new(requests);
    *call.metadata_mut() = traced(long(CANCELLED), CANCELLED).metadata().clone();
    let session = inference(server).await.session(call).await;
    let mut session = session.expect("a session opens").into_inner();
    let mut cancelled = false;
    while let Some(message) = session.message().await.expect("it goes on") {
        match message.frame {
            Some(From::Delta(_)) if !cancelled => {
                cancelled = true;
                let cancel = frame(To::Cancel(Cancel {}));
                send.send(cancel).await.expect("it is open");
            }
            Some(From::Finished(finished)) => {
                assert_eq!(finished.reason(), FinishReason::Cancelled);
                return;
            }
            _ => {}
        }
    }
    panic!("it did not end");
}

/// The request's span of a trace, once its tree is as it has to be: under the
/// caller's span, with these children and no others, one after the other.
#[track_caller]
fn tree<'a>(exported: &'a Exported, byte: u8, children: &[&str]) -> &'a Span {
    let spans: Vec<&Span> = exported
        .spans
        .iter()
        .filter(|span| span.trace_id == id(byte, 16))
        .collect();
    let servers: Vec<_> = spans.iter().filter(|span| span.kind == 2).collect();
    let [request] = servers[..] else {
        panic!("{byte:x}: {spans:?}");
    };
    assert_eq!(request.parent_span_id, id(byte, 8));
    assert_eq!(request.name, "text_completion ternion-demo");
    let mut below: Vec<_> = spans.iter().filter(|span| span.kind != 2).collect();
    below.sort_by_key(|span| (span.start, place(&span.name)));
    let names: Vec<&str> = below.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, children, "{byte:x}: {spans:?}");
    let mut last_end = request.start;
    for child in below {
        assert_eq!(child.parent_span_id, request.span_id);
        assert_eq!(child.kind, 1);
        assert!(
            request.start <= child.start && child.start <= child.end && child.end <= request.end,
            "{child:?} is not within {request:?}"
        );
        // The stream goes out while tokens come.
        if child.name != "stream-out" {
            assert!(last_end <= child.start, "{child:?} begins too early");
            last_end = child.end;
        }
    }
    request
}

fn place(name: &str) -> usize {
    let places = ["admission", "queue", "prefill", "decode", "stream-out"];
    places.iter().position(|place| *place == name).unwrap_or(9)
}

#[track_caller]
fn ended(exported: &Exported, byte: u8, children: &[&str], reason: &str, status: u64) {
    let request = tree(exported, byte, children);
    let reasons = request.attribute("gen_ai.response.finish_reasons");
    assert_eq!(reasons, json!([reason]), "{byte:x}");
    assert_eq!(request.status, status, "{request:?}");
}

#[track_caller]
fn assert_finished_attributes(request: &Span) {
    for (name, value) in [
        ("gen_ai.operation.name", json!("text_completion")),
        ("gen_ai.provider.name", json!("ternion")),
        ("gen_ai.request.model", json!("ternion-demo")),
        ("gen_ai.request.max_tokens", json!(5)),
        ("gen_ai.usage.input_tokens", json!(2)),
        ("gen_ai.usage.output_tokens", json!(5)),
        ("gen_ai.response.finish_reasons", json!(["length"])),
        ("rpc.system.name", json!("grpc")),
        ("rpc.method", json!("ternion.v1.InferenceService/Generate")),
        ("rpc.status_code", json!("OK")),
        ("ternion.preemptions", json!(0)),
        ("error.type", Value::Null),
    ] {
        assert_eq!(request.attribute(name), value, "{name}");
    }
    let seconds = |name: &str| {
        let value = request.attribute(&format!("gen_ai.latency.{name}"));
        value
            .as_f64()
            .unwrap_or_else(|| panic!("{name}: {request:?}"))
    };
    let [queue, prefill, decode] = [
        "time_in_queue",
        "time_in_model_prefill",
        "time_in_model_decode",
    ]
    .map(seconds);
    let inference = seconds("time_in_model_inference");
    assert!((prefill + decode - inference).abs() < 1e-6, "{request:?}");
    assert!(queue + inference <= seconds("e2e"), "{request:?}");
    assert!(
        seconds("time_to_first_token") <= seconds("e2e"),
        "{request:?}"
    );
    assert!(prefill > 0.0 && decode > 0.0, "{request:?}");
}

/// The page on which users look.
const LIST: &str = include_str!("../../service/server/METRICS.md");

#[derive(Debug, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
}

type Metrics = BTreeMap<String, Metric>;

/// Metrics of the list's table below a heading.
fn listed(heading: &str) -> Metrics {
    let (_, section) = LIST.split_once(heading).expect("the heading is there");
    let section = section.split("\n## ").next().unwrap_or(section);
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(|c| c.trim().trim_matches('`')).collect();
        let labels = cells[3].split(", ").map(|label| label.trim_matches('`'));
        let metric = Metric {
            kind: cells[1].to_owned(),
            labels: labels
                .filter(|label| !label.is_empty())
                .map(str::to_owned)
                .collect(),
        };
        (cells[0].to_owned(), metric)
    })
    .collect()
}

/// Metrics of a scrape.
fn exposed(scrape: &str) -> Metrics {
    let mut metrics = Metrics::new();
    for line in scrape.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a name and a type");
            let metric = Metric {
                kind: kind.to_owned(),
                labels: BTreeSet::new(),
            };
            metrics.insert(name.to_owned(), metric);
        }
    }
    for line in scrape.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).expect("a sample has a value"));
        let metric = ["", "_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|part| name.strip_suffix(part))
            .find(|name| metrics.contains_key(*name));
        let metric = metric.and_then(|name| metrics.get_mut(name));
        let metric = metric.unwrap_or_else(|| panic!("{name} has no type"));
        let labels = rest
            .strip_prefix('{')
            .and_then(|rest| rest.rsplit_once('}'));
        for label in labels.map_or("", |(labels, _)| labels).split("\",") {
            if let Some((label, _)) = label.split_once('=').filter(|(label, _)| *label != "le") {
                metric.labels.insert(label.to_owned());
            }
        }
    }
    metrics
}

async fn scrape(server: &Server) -> String {
    let page = http_get(server.operations(), "/metrics").await;
    let page = page.expect("it is up");
    assert_eq!(page.status, 200, "{page:?}");
    assert!(
        page.head.contains("text/plain; version=0.0.4"),
        "{}",
        page.head
    );
    page.body
}

/// The value of a series, whose labels are written as they are exposed.
fn value(scrape: &str, series: &str) -> f64 {
    let line = scrape
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = line.unwrap_or_else(|| panic!("no {series} in\n{scrape}"));
    value.parse().expect("a number")
}

#[tokio::test]
async fn what_is_exposed_is_what_is_listed() {
    // Where there is a choice among kernels, what it is made by is seen as well.
    let kernel = StallingKernel::build();
    misbehaving_kernel(kernel.plugins(), "other", &[("AT_GEMM", "usleep(200)")]);
    misbehaving_kernel(kernel.plugins(), "bad", &[("AT_LOAD", "abort()")]);
    let powercap = Powercap::new();
    let server = kernel.serve(&[
        "--kv-pages",
        FEW_PAGES,
        "--max-num-seqs",
        "2",
        "--threads",
        "2",
        "--powercap-dir",
        powercap.path().to_str().expect("UTF-8"),
    ]);
    powercap.set_microjoules(1_500_000);
    send_all(&server, &kernel).await;
    let mut unknown = tonic::client::Grpc::new(
        Channel::from_shared(server.endpoint().to_owned())
            .expect("it is one")
            .connect()
            .await
            .expect("it is up"),
    );
    unknown.ready().await.expect("it is up");
    let unknown: Result<tonic::Response<GenerateResponse>, Status> = unknown
        .unary(
            Request::new(GenerateRequest::default()),
            "/a.client/MadeThisUp".parse().expect("a path"),
            tonic_prost::ProstCodec::default(),
        )
        .await;
    assert_eq!(
        unknown.expect_err("there is none").code(),
        Code::PermissionDenied
    );

    let text = scrape(&server).await;
    assert_eq!(exposed(&text), listed("## Metrics"), "{text}");
    assert!(!text.contains("MadeThisUp"), "{text}");
    let model = r#"model="ternion-demo""#;
    let energy = r#"ternion_energy_joules_total{domain="package-0"}"#;
    assert_eq!(value(&text, energy), 1.5);
    let threads = r#"ternion_compute_threads{limited_by="setting",pinned="false"}"#;
    assert_eq!(value(&text, threads), 2.0);
    for (state, count) in [
        ("selected", 1.0),
        ("usable", 1.0),
        ("refused", 1.0),
        ("failed", 0.0),
    ] {
        let series = format!("ternion_kernel_plugins{{state=\"{state}\"}}");
        assert_eq!(value(&text, &series), count, "{state}");
    }
    let layer = |kernel: &str| {
        let labels = format!(r#"batch="1",kernel="{kernel}",{model}"#);
        value(
            &text,
            &format!("ternion_kernel_layer_time_seconds{{{labels}}}"),
        )
    };
    assert!(0.0 < layer("stalling") && layer("stalling") < layer("other"));
    // 5 of the first, all of the two long ones, some of the one abandoned, and 2.
    let tokens = value(&text, &format!("ternion_output_tokens_total{{{model}}}"));
    let told = f64::from(5 + 2 * MANY_TOKENS + 2);
    assert!(
        tokens > told && tokens < told + f64::from(MANY_TOKENS),
        "{tokens}"
    );
    let requests = |code: &str, reason: &str| {
        let labels = format!(r#"code="{code}",finish_reason="{reason}",{model}"#);
        value(&text, &format!("ternion_requests_total{{{labels}}}"))
    };
    assert_eq!(requests("OK", "length"), 4.0);
    assert_eq!(requests("DEADLINE_EXCEEDED", "deadline_exceeded"), 1.0);
    assert_eq!(requests("CANCELLED", "abandoned"), 1.0);
    let refused = format!(r#"ternion_requests_refused_total{{{model},reason="INVALID_ARGUMENT"}}"#);
    assert_eq!(value(&text, &refused), 1.0);
    let preemptions = format!("ternion_preemptions_total{{{model}}}");
    assert!(value(&text, &preemptions) > 0.0);
    let calls = |labels: &str| {
        let generate = r#"rpc_method="ternion.v1.InferenceService/Generate""#;
        let labels = format!(r#"{generate},{labels},rpc_system_name="grpc""#);
        value(
            &text,
            &format!("rpc_server_call_duration_seconds_count{{{labels}}}"),
        )
    };
    assert_eq!(calls(r#"rpc_status_code="OK""#), 4.0);
    assert_eq!(calls(r#"rpc_status_code="CANCELLED""#), 1.0);
    assert_eq!(calls(r#"rpc_status_code="INVALID_ARGUMENT""#), 1.0);
    // Each token but a request's first comes some time after another.
    let gaps = format!("ternion_inter_token_time_seconds_count{{{model}}}");
    assert_eq!(value(&text, &gaps), tokens - 5.0);

    let checked = check_metrics(&text);
    assert!(checked.status.success(), "{checked:?}");
}

#[tokio::test]
async fn vllm_names_are_there_on_demand() {
    let server = Server::start(&["--vllm-metric-names", "on"]);
    let client = server.client().await;
    ternion_tests::answer(&client, greedy(&[1016, 591], 5)).await;
    let text = scrape(&server).await;
    let mut exposed = exposed(&text);
    exposed.retain(|name, _| name.starts_with("vllm:"));
    assert_eq!(exposed, listed("## vLLM's names"), "{text}");
    let generated = r#"vllm:generation_tokens_total{model_name="ternion-demo"}"#;
    assert_eq!(value(&text, generated), 5.0);
}

#[tokio::test]
async fn prometheus_scrapes_it() {
    let kernel = StallingKernel::build();
    let server = kernel.serve(&[]);
    let prometheus = Prometheus::start(server.operations()).await;
    let client = server.client().await;
    ternion_tests::answer(&client, greedy(&[1016, 591], 5)).await;
    let model = r#"{job="ternion",model="ternion-demo"}"#;
    let is = |expected: f64| move |value: f64| value == expected;
    prometheus.value("up", is(1.0)).await;
    for (name, expected) in [
        ("ternion_output_tokens_total", 5.0),
        ("ternion_input_tokens_total", 2.0),
        ("ternion_time_to_first_token_seconds_count", 1.0),
        ("ternion_requests_running", 0.0),
    ] {
        prometheus
            .value(&format!("{name}{model}"), is(expected))
            .await;
    }
    let info = r#"ternion_kernel_info{kernel="stalling"}"#;
    prometheus.value(info, is(1.0)).await;
    let slowest = "histogram_quantile(1, sum by (le) (ternion_request_duration_seconds_bucket))";
    assert!(prometheus.value(slowest, |_| true).await > 0.0);

    kernel.slow();
    let mut running = inference(&server).await;
    let running = running.generate(long(LONG[0]).request).await;
    let mut running = running.expect("a good request").into_inner();
    until_first_delta(&mut running).await;
    kernel.stall();
    let name = format!("ternion_requests_running{model}");
    prometheus.value(&name, is(1.0)).await;
    let used = "ternion_kv_usage_ratio";
    prometheus.value(used, |used| used > 0.0).await;
}

#[tokio::test]
async fn json_logs_tell_the_trace_and_no_prompt() {
    let mut server = Server::start(&[
        "--log-format",
        "json",
        "--log-filter",
        "ternion_server=debug",
    ]);
    let mut inference = inference(&server).await;
    let secret = "xylophone marmalade";
    let mut request = Generate::text(secret);
    request.request.request_id = "mine".to_owned();
    let frames = inference.generate(traced(request, FINISHED)).await;
    read(frames.expect("a good request").into_inner()).await;
    let log = server.log_with(|log| log.contains("request ended")).await;
    assert!(!log.contains("xylophone"), "{log}");
    let line = log.lines().find(|line| line.contains("request ended"));
    let line: Value = serde_json::from_str(line.expect("it was seen")).expect("JSON");
    assert_eq!(line["trace_id"], id(FINISHED, 16));
    assert_eq!(line["request_id"], "mine");
    let span_id = line["span_id"].as_str().expect("it has one");
    assert_eq!(span_id.len(), 16);
    assert_ne!(span_id, id(FINISHED, 8), "the span is the server's own");
    let outside = log.lines().find(|line| line.contains("\"serving\""));
    let outside: Value = serde_json::from_str(outside.expect("it is logged")).expect("JSON");
    assert_eq!(outside["trace_id"], Value::Null);
}
