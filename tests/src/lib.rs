//! The harness of the end-to-end tests: the programs as they ship, started as
//! a user starts them, and the fixtures to compare with.
#![forbid(unsafe_code)]

mod answer;
mod c_plugin;
mod certificates;
mod collector;
mod http;
mod load;
mod matrix;
mod misbehaving_kernel;
mod powercap;
mod programs;
mod prometheus;
mod relay;
mod server;
mod stalling_kernel;
mod traefik;

pub use answer::{Answer, answer, answers, greedy};
pub use c_plugin::compile_plugin;
pub use certificates::{Authority, Certificate};
pub use collector::{Collector, Exported, Span};
pub use http::{Page, http_get};
pub use load::{Load, LoadReport};
pub use matrix::{Comparison, Matrix, argmax};
pub use misbehaving_kernel::misbehaving_kernel;
pub use powercap::Powercap;
pub use programs::{
    Ran, emulated, program, server_tool, shipped_kernel, signal, ternion, ternion_server,
};
pub use prometheus::{Prometheus, check_metrics};
pub use relay::Relay;
pub use server::Server;
pub use stalling_kernel::StallingKernel;
pub use traefik::{HEALTH_INTERVAL, Traefik};

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// An address for a program that doesn't tell which port it took: one that was
/// free just now.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound")
}

/// A file or directory of `tests/fixtures`.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(path)
}

/// A JSON file of `tests/fixtures`.
pub fn fixture_json(path: &str) -> Value {
    let path = fixture(path);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Token ids in JSON.
pub fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("an array of token ids");
    ids.iter()
        .map(|id| id.as_u64().expect("a token id") as u32)
        .collect()
}
