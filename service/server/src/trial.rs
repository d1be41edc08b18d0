//! A plugin's first run, in a process of its own.
//!
//! Loading a library runs it, and whatever it does then it does to the process
//! that loaded it. So this executable is started once more for each plugin, as
//! [`trial_command`](crate::trial_command), to load it and multiply with it:
//! what crashes, hangs, exits or prints there is refused, by the step at which
//! it did, and the server was never at risk.
//!
//! What the child has to say it says as lines of JSON on its standard output,
//! before each step and at the end. The pipe holds nothing else, so that what a
//! plugin prints is seen as well.

use std::{
    ffi::OsString,
    io::Read,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde::{Deserialize, Serialize};
use ternion_kernel_host::{Identity, PluginFile, Rejection, Tried};

/// Name of the command that the child is.
pub(crate) const COMMAND: &str = "try-plugin";

/// Room for the steps of any model's shapes; a plugin that prints more is
/// refused anyway.
const MAX_STDOUT_BYTES: u64 = 64 << 10;
/// Of what it complains about, the beginning is enough.
const MAX_STDERR_BYTES: u64 = 16 << 10;
/// How much of what a plugin prints is quoted.
const MAX_QUOTED_CHARS: usize = 120;
/// The timeout is counted in these. While this process is stopped, by a
/// debugger say, at most one of them passes: a child that is stopped along
/// with it isn't to blame.
const TICK: Duration = Duration::from_millis(20);

/// What a child says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Line {
    /// What comes next, as the end of "was killed by SIGSEGV ...".
    Step(String),
    /// It could be loaded.
    Opened(Identity),
    Rejected {
        by: Verdict,
        reason: String,
    },
    Passed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Refused,
    Unusable,
    Failed,
}

impl From<Rejection> for Line {
    fn from(rejection: Rejection) -> Line {
        let (by, reason) = match rejection {
            Rejection::Refused(reason) => (Verdict::Refused, reason),
            Rejection::Unusable(reason) => (Verdict::Unusable, reason),
            Rejection::Failed(reason) => (Verdict::Failed, reason),
        };
        Line::Rejected { by, reason }
    }
}

/// How plugins are tried.
#[derive(Debug, Clone)]
pub(crate) struct Trial<'a> {
    /// Those of the model.
    pub(crate) shapes: &'a [(usize, usize)],
    /// Whether only files of a list are loaded, and so from a sealed copy.
    pub(crate) listed: bool,
    pub(crate) timeout: Duration,
}

impl Trial<'_> {
    /// Has a child load the plugin and multiply with it.
    pub(crate) fn run(&self, file: &PluginFile) -> Tried {
        let spawned = Command::new(own_executable())
            .arg(COMMAND)
            .args(self.arguments(file))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // So that whatever it starts ends with it.
            .process_group(0)
            .spawn();
        match spawned {
            Ok(child) => wait(child, self.timeout).tried(self.timeout),
            Err(error) => Tried {
                identity: None,
                outcome: Err(Rejection::Refused(format!("can't be tried: {error}"))),
            },
        }
    }

    fn arguments(&self, file: &PluginFile) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![
            "--file".into(),
            file.path().into(),
            "--sha256".into(),
            file.sha256().to_string().into(),
            "--parent".into(),
            std::process::id().to_string().into(),
        ];
        if self.listed {
            arguments.push("--sealed".into());
        }
        for (rows, cols) in self.shapes {
            arguments.push("--shape".into());
            arguments.push(format!("{rows}x{cols}").into());
        }
        arguments
    }
}

/// The file this process runs from, even if another has its name by now.
fn own_executable() -> PathBuf {
    let link = Path::new("/proc/self/exe");
    match link.exists() {
        true => link.to_owned(),
        false => std::env::current_exe().unwrap_or_else(|_| link.to_owned()),
    }
}

/// How a child ended.
struct Ended {
    /// None if it had to be killed.
    status: Option<ExitStatus>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

fn wait(mut child: Child, timeout: Duration) -> Ended {
    let pid = Pid::from_child(&child);
    let stdout = collect(child.stdout.take(), MAX_STDOUT_BYTES);
    let stderr = collect(child.stderr.take(), MAX_STDERR_BYTES);
    let mut left = timeout;
    // Output ends when the child does, or with what it may not exceed.
    let mut said: Option<Vec<u8>> = None;
    let mut exited = false;
    let is_over = |said: &Option<Vec<u8>>, exited: bool| {
        said.as_ref()
            .is_some_and(|said| exited || said.len() as u64 == MAX_STDOUT_BYTES)
    };
    while !is_over(&said, exited) && !left.is_zero() {
        let begin = Instant::now();
        match said {
            None => match stdout.recv_timeout(TICK) {
                Err(RecvTimeoutError::Timeout) => {}
                outcome => said = Some(outcome.unwrap_or_default()),
            },
            Some(_) => thread::sleep(Duration::from_millis(1)),
        }
        exited = exited || has_exited(pid);
        left = left.saturating_sub(begin.elapsed().min(TICK));
    }
    // Whatever it started must not stay behind. It has not been waited for, so
    // that the number is still its own.
    let _ = kill_process_group(pid, Signal::KILL);
    let status = child.wait().ok();
    let rest = |output: &Receiver<Vec<u8>>| output.recv_timeout(TICK).unwrap_or_default();
    Ended {
        status: status.filter(|_| is_over(&said, exited)),
        stdout: said.unwrap_or_else(|| rest(&stdout)),
        stderr: rest(&stderr),
    }
}

/// Without waiting for it, and without forgetting it.
fn has_exited(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::Pid(pid), options), Ok(Some(_)))
}

fn collect(output: Option<impl Read + Send + 'static>, max_bytes: u64) -> Receiver<Vec<u8>> {
    let (send, receive) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(output) = output {
            // What was read before an error counts.
            let _ = output.take(max_bytes).read_to_end(&mut bytes);
        }
        let _ = send.send(bytes);
    });
    receive
}

impl Ended {
    fn tried(&self, timeout: Duration) -> Tried {
        let mut step = String::new();
        let mut identity = None;
        let mut printed = Vec::new();
        let mut verdict = None;
        for line in self.stdout.split(|byte| *byte == b'\n') {
            match serde_json::from_slice(line) {
                Ok(Line::Step(next)) => step = next,
                Ok(Line::Opened(opened)) => identity = Some(opened),
                Ok(Line::Passed) => verdict = Some(Ok(())),
                Ok(Line::Rejected { by, reason }) => verdict = Some(Err(rejection(by, reason))),
                Err(_) => printed.extend_from_slice(line),
            }
        }
        let misbehaved = match self.status {
            None => Some(format!("did not end within {timeout:?} {step}")),
            // Killed for it, unless it noticed first that nobody reads on.
            Some(_) if self.stdout.len() as u64 == MAX_STDOUT_BYTES => {
                Some(format!("printed {} to standard output", quoted(&printed)))
            }
            Some(status) => match status.signal() {
                Some(signal) => Some(format!("was killed by {} {step}", signal_name(signal))),
                None if !printed.is_empty() => {
                    Some(format!("printed {} to standard output", quoted(&printed)))
                }
                None if verdict.is_none() || !status.success() => {
                    let code = status.code().unwrap_or_default();
                    Some(format!("ended the process with status {code} {step}"))
                }
                None => None,
            },
        };
        let outcome = match misbehaved {
            Some(what) => Err(Rejection::Refused(what + &self.complaint())),
            None => verdict.unwrap_or(Ok(())),
        };
        Tried { identity, outcome }
    }

    /// Its last words.
    fn complaint(&self) -> String {
        let last = self
            .stderr
            .split(|byte| *byte == b'\n')
            .rfind(|line| !line.trim_ascii().is_empty());
        match last {
            Some(line) => format!(", having said {}", quoted(line)),
            None => String::new(),
        }
    }
}

fn rejection(by: Verdict, reason: String) -> Rejection {
    match by {
        Verdict::Refused => Rejection::Refused(reason),
        Verdict::Unusable => Rejection::Unusable(reason),
        Verdict::Failed => Rejection::Failed(reason),
    }
}

/// Fit for logs and terminals, whatever it was.
fn quoted(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let short: String = text.trim().chars().take(MAX_QUOTED_CHARS).collect();
    format!("{short:?}")
}

fn signal_name(number: i32) -> String {
    let name = match Signal::from_named_raw(number) {
        Some(Signal::SEGV) => "SIGSEGV",
        Some(Signal::BUS) => "SIGBUS",
        Some(Signal::ILL) => "SIGILL",
        Some(Signal::FPE) => "SIGFPE",
        Some(Signal::ABORT) => "SIGABRT",
        Some(Signal::TRAP) => "SIGTRAP",
        Some(Signal::SYS) => "SIGSYS",
        Some(Signal::KILL) => "SIGKILL",
        Some(Signal::TERM) => "SIGTERM",
        Some(Signal::ALARM) => "SIGALRM",
        Some(Signal::XCPU) => "SIGXCPU",
        _ => return format!("signal {number}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Duration) -> Result<(), Rejection> {
        let child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("there is a shell");
        wait(child, timeout).tried(timeout).outcome
    }

    fn told(script: &str) -> String {
        match shell(script, Duration::from_secs(60)) {
            Err(Rejection::Refused(reason)) => reason,
            other => panic!("{script}: {other:?}"),
        }
    }

    const STEP: &str = r#"echo '{"step":"in its initialiser"}';"#;

    #[test]
    fn a_child_passes_only_in_every_respect() {
        let passed = r#"echo '"passed"';"#;
        let fine = shell(&format!("{STEP} {passed}"), Duration::from_secs(60));
        assert_eq!(fine, Ok(()));
        let cases = [
            (
                format!("{STEP} {passed} kill -SEGV $$"),
                "was killed by SIGSEGV in its initialiser",
            ),
            (
                format!("{STEP} {passed} exit 3"),
                "ended the process with status 3 in its initialiser",
            ),
            (
                format!("{STEP} exit 0"),
                "ended the process with status 0 in its initialiser",
            ),
            (
                format!("{STEP} {passed} printf 'hello\\033[2J'"),
                r#"printed "hello\u{1b}[2J" to standard output"#,
            ),
            (
                format!("{STEP} echo 'bad: table' >&2; kill -ABRT $$"),
                r#"was killed by SIGABRT in its initialiser, having said "bad: table""#,
            ),
        ];
        for (script, expected) in cases {
            assert_eq!(told(&script), expected, "{script}");
        }
        let failed = r#"echo '{"rejected":{"by":"failed","reason":"row 1 is 2"}}'"#;
        assert_eq!(
            shell(failed, Duration::from_secs(60)),
            Err(Rejection::Failed("row 1 is 2".to_owned()))
        );
    }

    #[test]
    fn who_does_not_end_is_ended_with_all_it_started() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pid = dir.path().join("pid");
        // The grandchild holds the pipe open, the child is gone.
        let script = format!("{STEP} sleep 1000 & echo $! > {}", pid.display());
        let refused = shell(&script, Duration::from_secs(3));
        let expected = "did not end within 3s in its initialiser";
        assert_eq!(refused, Err(Rejection::Refused(expected.to_owned())));
        let pid = std::fs::read_to_string(&pid).expect("written before");
        let alive = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            // A zombie is dead, and waits for whoever adopted it.
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while alive() {
            assert!(Instant::now() < deadline, "it lives on");
            thread::sleep(TICK);
        }
    }

    #[test]
    fn endless_output_is_not_read_to_its_end() {
        let refused = told("yes garbage");
        assert!(refused.contains("\"garbage"), "{refused}");
        assert!(refused.len() < 300, "{refused}");
    }
}
