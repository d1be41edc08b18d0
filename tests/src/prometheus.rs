use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use ternion_tasks::tools::debian_program;

use crate::{free_address, http_get};

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// It scrapes five times a second.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A running Prometheus that scrapes one server. Killed when dropped.
#[derive(Debug)]
pub struct Prometheus {
    process: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    /// Scrapes `target`, such as `127.0.0.1:9464`.
    pub async fn start(target: &str) -> Prometheus {
        let program = debian_program("prometheus", "prometheus").expect("Debian has Prometheus");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = directory.path().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 200ms}}\n\
             scrape_configs:\n\
             - job_name: ternion\n\
            \x20 static_configs: [{{targets: ['{target}']}}]\n"
        );
        std::fs::write(&config, text).expect("a writable directory");
        let address = free_address();
        let process = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("Prometheus can be run");
        let mut prometheus = Prometheus {
            process,
            address,
            _directory: directory,
        };
        prometheus.await_start().await;
        prometheus
    }

    async fn await_start(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let ready = http_get(&self.address.to_string(), "/-/ready").await;
            if ready.is_ok_and(|page| page.status == 200) {
                return;
            }
            let ended = self.process.try_wait().expect("it can be waited for");
            assert!(ended.is_none(), "Prometheus ended: {ended:?}");
            assert!(Instant::now() < deadline, "Prometheus does not start");
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// The value of a query with one result, once there is one that fits.
    pub async fn value(&self, query: &str, fits: impl Fn(f64) -> bool) -> f64 {
        let deadline = Instant::now() + SCRAPE_TIMEOUT;
        loop {
            let answer = self.query(query).await;
            let value = &answer["data"]["result"][0]["value"][1];
            let value = value.as_str().and_then(|value| value.parse().ok());
            if let Some(value) = value.filter(|value| fits(*value)) {
                return value;
            }
            assert!(Instant::now() < deadline, "{query}: {answer}");
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    async fn query(&self, query: &str) -> Value {
        let escaped: String = query
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
                byte => format!("%{byte:02X}"),
            })
            .collect();
        let path = format!("/api/v1/query?query={escaped}");
        let page = http_get(&self.address.to_string(), &path).await;
        let page = page.expect("Prometheus is up");
        assert_eq!(page.status, 200, "{query}: {page:?}");
        serde_json::from_str(&page.body).expect("its answers are JSON")
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What Prometheus' own checker finds wrong with a scrape.
pub fn check_metrics(scrape: &str) -> Output {
    let program = debian_program("promtool", "prometheus").expect("Debian has promtool");
    let mut process = Command::new(program)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool can be run");
    let mut input = process.stdin.take().expect("piped above");
    input
        .write_all(scrape.as_bytes())
        .expect("promtool reads to the end");
    drop(input);
    process.wait_with_output().expect("it can be waited for")
}
