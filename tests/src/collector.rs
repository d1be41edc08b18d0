use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::free_address;

const START_TIMEOUT: Duration = Duration::from_secs(60);
const END_TIMEOUT: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A running OpenTelemetry Collector that writes down what it is sent. Killed
/// when dropped.
#[derive(Debug)]
pub struct Collector {
    process: Child,
    address: SocketAddr,
    written: PathBuf,
    _directory: tempfile::TempDir,
}

/// What a collector was sent.
#[derive(Debug)]
pub struct Exported {
    pub spans: Vec<Span>,
    /// Names of metrics, once for each time that one came.
    pub metrics: Vec<String>,
    /// `service.name` of each batch.
    pub services: Vec<String>,
}

/// A span as OTLP has it, ids in hexadecimal.
#[derive(Debug)]
pub struct Span {
    pub trace_id: String,
    pub span_id: String,
    pub parent_span_id: String,
    pub name: String,
    /// 1 internal, 2 server.
    pub kind: u64,
    /// Nanoseconds of Unix time.
    pub start: u64,
    pub end: u64,
    /// 2 error.
    pub status: u64,
    attributes: Vec<Value>,
}

impl Collector {
    pub async fn start() -> Collector {
        let program = ternion_tasks::collector::collector().expect("a collector can be built");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let written = directory.path().join("exported.json");
        let address = free_address();
        let config = directory.path().join("collector.yaml");
        let text = format!(
            "receivers:\n\
            \x20 otlp: {{protocols: {{grpc: {{endpoint: '{address}'}}}}}}\n\
             exporters:\n\
            \x20 file: {{path: '{}'}}\n\
             service:\n\
            \x20 telemetry: {{metrics: {{level: none}}, logs: {{level: warn}}}}\n\
            \x20 pipelines:\n\
            \x20   traces: {{receivers: [otlp], exporters: [file]}}\n\
            \x20   metrics: {{receivers: [otlp], exporters: [file]}}\n",
            written.display(),
        );
        std::fs::write(&config, text).expect("a writable directory");
        let process = Command::new(program)
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("the collector can be run");
        let mut collector = Collector {
            process,
            address,
            written,
            _directory: directory,
        };
        collector.await_start().await;
        collector
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn await_start(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            let ended = self.process.try_wait().expect("it can be waited for");
            assert!(ended.is_none(), "the collector ended: {ended:?}");
            assert!(Instant::now() < deadline, "the collector does not start");
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Ends it, so that all is written, and reads that.
    pub async fn stop(mut self) -> Exported {
        let killed = Command::new("kill")
            .arg(self.process.id().to_string())
            .status();
        assert!(killed.is_ok_and(|status| status.success()), "kill failed");
        let deadline = Instant::now() + END_TIMEOUT;
        while self
            .process
            .try_wait()
            .expect("it can be waited for")
            .is_none()
        {
            assert!(Instant::now() < deadline, "the collector does not end");
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        let text = std::fs::read_to_string(&self.written).expect("it was sent something");
        exported(&text)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One export a line, in OTLP's JSON form.
fn exported(text: &str) -> Exported {
    let mut exported = Exported {
        spans: Vec::new(),
        metrics: Vec::new(),
        services: Vec::new(),
    };
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("a line is JSON");
        for (resources, scopes, items) in [
            ("resourceSpans", "scopeSpans", "spans"),
            ("resourceMetrics", "scopeMetrics", "metrics"),
        ] {
            for resource in list(&line[resources]) {
                let service = attribute(list(&resource["resource"]["attributes"]), "service.name");
                exported
                    .services
                    .extend(service.as_str().map(str::to_owned));
                for item in list(&resource[scopes]).iter().flat_map(|s| list(&s[items])) {
                    match items {
                        "spans" => exported.spans.push(Span::read(item)),
                        _ => exported.metrics.push(text_of(&item["name"])),
                    }
                }
            }
        }
    }
    exported
}

impl Span {
    fn read(span: &Value) -> Span {
        Span {
            trace_id: text_of(&span["traceId"]),
            span_id: text_of(&span["spanId"]),
            parent_span_id: text_of(&span["parentSpanId"]),
            name: text_of(&span["name"]),
            kind: span["kind"].as_u64().expect("a span has a kind"),
            start: number(&span["startTimeUnixNano"]),
            end: number(&span["endTimeUnixNano"]),
            status: span["status"]["code"].as_u64().unwrap_or(0),
            attributes: list(&span["attributes"]).to_vec(),
        }
    }

    /// The value of an attribute, `null` if it has none.
    pub fn attribute(&self, key: &str) -> Value {
        attribute(&self.attributes, key)
    }

    pub fn attribute_names(&self) -> impl Iterator<Item = &str> {
        self.attributes.iter().filter_map(|a| a["key"].as_str())
    }
}

fn attribute(attributes: &[Value], key: &str) -> Value {
    let found = attributes.iter().find(|a| a["key"] == key);
    found.map_or(Value::Null, |found| plain(&found["value"]))
}

/// `{"intValue": "5"}` as 5.
fn plain(value: &Value) -> Value {
    let Some((kind, value)) = value.as_object().and_then(|typed| typed.iter().next()) else {
        return Value::Null;
    };
    match kind.as_str() {
        "intValue" => text_of(value)
            .parse::<i64>()
            .expect("an integer, written as a text")
            .into(),
        "arrayValue" => list(&value["values"]).iter().map(plain).collect(),
        _ => value.clone(),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> u64 {
    text_of(value).parse().expect("a number, written as a text")
}
