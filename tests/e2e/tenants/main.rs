//! Who may call, what, and how much: keys, certificates, roles, limits and
//! the audit log, as clients and operators see them.
#![forbid(unsafe_code)]

mod credentials;
mod fairness;
mod limits;
mod prefix_cache;
mod reload;
mod requests;

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prost::Message;
use prost_types::FileDescriptorSet;
use serde_json::Value;
use ternion_client::proto::{DetokenizeRequest, FinishReason};
use ternion_client::{Client, Error, Event, Events, Generate, Session, SessionEvent, user};
use ternion_tests::{
    Answer, Authority, Certificate, Server, StallingKernel, answer, greedy, server_tool, ternion,
};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

/// An API key and its hash, as an operator makes them.
struct Key {
    key: String,
    hash: String,
}

fn keygen() -> Key {
    let made = server_tool(&["keygen", "--json"]).succeeded().json();
    let text = |name: &str| made[name].as_str().expect("a text").to_owned();
    Key {
        key: text("key"),
        hash: text("hash"),
    }
}

/// A directory with a tenants file, which may be rewritten.
struct Tenants {
    dir: tempfile::TempDir,
    text: String,
}

impl Tenants {
    fn new() -> Tenants {
        Tenants {
            dir: tempfile::tempdir().expect("a temporary directory"),
            text: String::new(),
        }
    }

    /// Adds a tenant with a key. `limits` are lines of its table.
    fn with(mut self, name: &str, roles: &str, key: &Key, limits: &str) -> Tenants {
        let hash = &key.hash;
        self.text += &format!(
            "[[tenants]]\nname = '{name}'\nroles = [{roles}]\n\
             [[tenants.keys]]\nid = 'key-of-{name}'\nhash = '{hash}'\n\
             [tenants.limits]\n{limits}\n"
        );
        self.write();
        self
    }

    fn with_certificate(mut self, name: &str, san: &str) -> Tenants {
        self.text +=
            &format!("[[tenants]]\nname = '{name}'\n[[tenants.certificates]]\nsan = '{san}'\n");
        self.write();
        self
    }

    fn write(&self) {
        std::fs::write(self.path(), &self.text).expect("a directory of the test");
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn path(&self) -> PathBuf {
        self.dir().join("tenants.toml")
    }

    fn serve(&self, more: &[&str]) -> Server {
        let file = self.path();
        Server::start(&[&["--tenants", path(&file)], more].concat())
    }

    /// On a kernel that is slow until it is released.
    fn serve_slowly(&self, more: &[&str]) -> (StallingKernel, Server) {
        let kernel = StallingKernel::build();
        let server = self.serve(&[&kernel.flags(), more].concat());
        kernel.slow();
        (kernel, server)
    }
}

async fn client(server: &Server, key: &Key) -> Client {
    let builder = Client::builder(server.endpoint()).api_key(&key.key);
    builder.connect().await.expect("it is up")
}

fn reason(error: &Error) -> String {
    let status = error.status().expect("the server answered");
    let info = status.get_details_error_info();
    info.expect("every refusal has a reason").reason
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn tls_flags(paths: &[PathBuf; 2]) -> [&str; 4] {
    let [certificate, key] = paths;
    [
        "--tls-certificate",
        path(certificate),
        "--tls-key",
        path(key),
    ]
}

async fn connect(
    server: &Server,
    ca: &Authority,
    certificate: Option<&Certificate>,
    key: Option<&str>,
) -> Result<Client, Error> {
    let mut builder = Client::builder(server.endpoint()).ca(ca.pem());
    if let Some(Certificate { certificate, key }) = certificate {
        builder = builder.client_certificate(certificate.as_str(), key.as_str());
    }
    if let Some(key) = key {
        builder = builder.api_key(key);
    }
    let client = builder.connect().await?;
    // With TLS 1.3 a client that isn't wanted learns it after it connected.
    client.models().await?;
    Ok(client)
}

async fn next(events: &mut Events) -> Event {
    let event = ternion_client::StreamExt::next(events).await;
    event.expect("it goes on").expect("it goes on")
}

const ONE_AT_A_TIME: [&str; 2] = ["--max-num-seqs", "1"];
/// On a slow kernel, half a minute.
const MANY_TOKENS: u32 = 1000;

fn long(id: &str) -> Generate {
    let mut request = greedy(&[1016, 591], MANY_TOKENS);
    request.request.request_id = id.to_owned();
    request
}

/// Events of one request until its last, or the error it failed with.
async fn session_end(session: &mut Session, wanted: &str) -> Result<FinishReason, Error> {
    loop {
        let event = session.next().await.expect("it goes on");
        match event.expect("the stream lives on") {
            SessionEvent::Failed { id, error, .. } if id == wanted => return Err(error),
            SessionEvent::Event {
                id,
                event: Event::Finished(finished),
            } if id == wanted => return Ok(finished.reason()),
            _ => {}
        }
    }
}

/// The fields of the audit lines, once there are so many.
async fn audit_lines(server: &mut Server, count: usize) -> Vec<Value> {
    let lines = |log: &str| -> Vec<Value> {
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let of_audit = |line: &Value| line["target"] == "ternion_server::audit";
        lines
            .filter(of_audit)
            .map(|line| line["fields"].clone())
            .filter(|fields| fields["message"] == "request ended")
            .collect()
    };
    let log = server.log_with(|log| lines(log).len() >= count).await;
    let lines = lines(log);
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}
