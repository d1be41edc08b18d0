use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::programs::{Ran, signal, ternion};

/// Everything that was sent has ended by then, or hangs.
const END_TIMEOUT: Duration = Duration::from_secs(120);

/// A running `ternion load`, killed when dropped.
#[derive(Debug)]
pub struct Load(Option<Child>);

impl Load {
    pub fn start(endpoints: &[&str], arguments: &[&str]) -> Load {
        let mut command = ternion();
        command.args(["load", "--json"]).args(arguments);
        for endpoint in endpoints {
            command.args(["--endpoint", endpoint]);
        }
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Load(Some(process.expect("ternion can be run")))
    }

    /// Sends no more, waits for what runs, and gives the report.
    pub async fn stop(mut self) -> LoadReport {
        let process = self.0.take().expect("stopped once");
        let id = process.id();
        signal(id, "INT");
        let waiting = tokio::task::spawn_blocking(move || process.wait_with_output());
        let Ok(ended) = tokio::time::timeout(END_TIMEOUT, waiting).await else {
            signal(id, "KILL");
            panic!("some request never ended");
        };
        let output = ended
            .expect("waiting goes on")
            .expect("it can be waited for");
        let ran = Ran::from(output);
        LoadReport {
            report: ran.json(),
            ran,
        }
    }

    /// For signals.
    pub fn id(&self) -> u32 {
        self.0.as_ref().expect("not stopped").id()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(process) = &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// What `ternion load --json` told.
#[derive(Debug)]
pub struct LoadReport {
    pub ran: Ran,
    pub report: Value,
}

impl LoadReport {
    /// Requests that ended so, such as `complete`.
    pub fn requests(&self, how: &str) -> u64 {
        self.report["requests"][how]
            .as_u64()
            .unwrap_or_else(|| panic!("{how} in {self:?}"))
    }

    /// Rows of a table such as `errors`.
    pub fn rows(&self, table: &str) -> &[Value] {
        let rows = self.report[table].as_array();
        rows.unwrap_or_else(|| panic!("{table} in {self:?}"))
    }
}
