//! The tenant that the chart makes: its key opens a server that has its hash.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::cargo::release_dir;

/// How the command line exits if the server refuses what is asked.
const REFUSED: i32 = 3;

/// Serves with what a rendered chart holds, and calls with its key and without.
pub(super) fn check(held: &Path) -> Result<()> {
    let key = fs::read_to_string(held.join("chart-ternion-api-key/api-key"))?;
    let server = Server::start(held)?;
    let admitted = server.call(&["--api-key", &key])?;
    if !admitted.status.success() {
        bail!("the chart's key: {}", said(&admitted));
    }
    let refused = server.call(&[])?;
    if refused.status.code() != Some(REFUSED) {
        bail!("without a key: {}, {}", refused.status, said(&refused));
    }
    Ok(())
}

/// Killed when dropped.
struct Server {
    process: Child,
    /// Open as long as the server may write to it.
    stdout: BufReader<ChildStdout>,
    address: String,
}

impl Server {
    fn start(held: &Path) -> Result<Server> {
        let mut process = Command::new(release_dir()?.join("ternion-server"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(["--operations-listen", "127.0.0.1:0"])
            .arg("--config")
            .arg(held.join("chart-ternion/ternion.yaml"))
            .arg("--tenants")
            .arg(held.join("chart-ternion-tenants/tenants.toml"))
            .stdout(Stdio::piped())
            .spawn()
            .context("can't run the server")?;
        let stdout = process.stdout.take().expect("it is piped");
        let mut server = Server {
            process,
            stdout: BufReader::new(stdout),
            address: String::new(),
        };
        server.await_address()?;
        Ok(server)
    }

    fn await_address(&mut self) -> Result<()> {
        let mut line = String::new();
        while self.stdout.read_line(&mut line)? > 0 {
            if let Some(address) = line.strip_prefix("serving") {
                self.address = address.trim().to_owned();
                return Ok(());
            }
            line.clear();
        }
        bail!("the server ended without serving");
    }

    fn call(&self, credentials: &[&str]) -> Result<Output> {
        Command::new(release_dir()?.join("ternion"))
            .args(["--endpoint", &format!("http://{}", self.address)])
            .args(credentials)
            .args(["generate", "--temperature", "0", "--max-tokens", "4"])
            .args(["--chat", "What is ternion?"])
            .output()
            .context("can't run the client")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}
