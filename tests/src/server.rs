use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use ternion_client::proto::LoadResponse;
use ternion_client::{Client, Retry};

use crate::programs::{program, signal};

/// A served model starts in a second or two; a busy CI machine gets more.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How long anything may take that happens within a step, on a machine that
/// does something else meanwhile.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// How often one looks whether it has happened.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// A running `ternion-server serve`, killed when dropped.
#[derive(Debug)]
pub struct Server {
    process: Child,
    endpoint: String,
    /// Of the operations listener, unless it is off.
    operations: Option<String>,
    output: Receiver<Line>,
    log: String,
}

#[derive(Debug)]
enum Line {
    Stdout(String),
    Stderr(String),
}

impl Server {
    /// Serves on a free port and waits until the address is printed.
    pub fn start(arguments: &[&str]) -> Server {
        Server::start_at("127.0.0.1:0", arguments)
    }

    /// Serves on an address of the caller's choice.
    pub fn start_at(address: &str, arguments: &[&str]) -> Server {
        Server::start_program(program("ternion-server"), address, arguments)
    }

    /// Serves by a build of the caller's choice.
    pub fn start_program(mut command: Command, address: &str, arguments: &[&str]) -> Server {
        command.args(["serve", "--listen", address]);
        if !arguments.contains(&"--operations-listen") {
            command.args(["--operations-listen", "127.0.0.1:0"]);
        }
        // Much of the demo's text repeats itself, and a test that needs a request
        // to last a while should get one.
        if !arguments.contains(&"--max-draft-tokens") {
            command.args(["--max-draft-tokens", "0"]);
        }
        let mut process = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ternion-server can be run");
        let (sender, output) = channel();
        forward(process.stdout.take(), sender.clone(), Line::Stdout);
        forward(process.stderr.take(), sender, Line::Stderr);
        let mut server = Server {
            process,
            endpoint: String::new(),
            operations: None,
            output,
            log: String::new(),
        };
        server.await_address();
        server
    }

    /// Such as `http://127.0.0.1:40123`, or `https://` where it has TLS.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// `127.0.0.1:40123`.
    pub fn address(&self) -> &str {
        let (_, address) = self.endpoint.split_once("://").expect("made so");
        address
    }

    /// Address of `/metrics` and of the probes.
    pub fn operations(&self) -> &str {
        self.operations.as_deref().expect("it is on")
    }

    /// What is printed before anybody is served.
    pub fn banner(&self) -> &str {
        &self.log
    }

    /// A client that shows the server's first answer, whatever it is.
    pub async fn client(&self) -> Client {
        Client::builder(&self.endpoint)
            .retry(Retry::NEVER)
            .connect()
            .await
            .expect("the server printed this address")
    }

    /// The log once it holds what is waited for.
    pub async fn log_with(&mut self, what: impl Fn(&str) -> bool) -> &str {
        let deadline = Instant::now() + STEP_TIMEOUT;
        loop {
            while let Ok(line) = self.output.try_recv() {
                self.keep(&line);
            }
            if what(&self.log) {
                return &self.log;
            }
            assert!(Instant::now() < deadline, "it is not logged");
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Resident memory that is no file's, as Linux counts it.
    pub fn anonymous_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.expect("it runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.expect("Linux tells it") * 1024
    }

    /// Asks to end, as an orchestrator does.
    pub fn terminate(&self) {
        signal(self.process.id(), "TERM");
    }

    /// Ends it as the kernel does when memory is short.
    pub fn kill(mut self) {
        self.process.kill().expect("it runs");
    }

    /// Waits for the end, which must have been asked for. Connections of the
    /// test go on meanwhile.
    pub async fn wait(mut self) -> ExitStatus {
        let waiting = tokio::task::spawn_blocking(move || {
            // Output ends with the process, so this needs no asking again and
            // again.
            let deadline = Instant::now() + START_TIMEOUT;
            while let Some(line) = self.next_line(deadline) {
                self.keep(&line);
            }
            assert!(Instant::now() < deadline, "the server did not end");
            self.process.wait().expect("it can be waited for")
        });
        waiting.await.expect("the server ends")
    }

    /// The load once no request runs or waits, and all pages are back: soon,
    /// as nothing here takes longer than a step.
    pub async fn idle(client: &Client) -> LoadResponse {
        let deadline = Instant::now() + STEP_TIMEOUT;
        loop {
            let load = client.load().await.expect("the server is up");
            if load.running == 0 && load.waiting == 0 && load.kv_pages_free == load.kv_pages {
                return load;
            }
            assert!(Instant::now() < deadline, "pages are not back: {load:?}");
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    fn await_address(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let Some(line) = self.next_line(deadline) else {
                panic!("the server told no address\n{}", self.log);
            };
            self.keep(&line);
            let Line::Stdout(text) = line else {
                continue;
            };
            // The first word says what the second is.
            let words: Vec<&str> = text.split_whitespace().collect();
            match words[..] {
                ["serving", address] => self.endpoint = format!("http://{address}"),
                ["serving", address, "with", "TLS"] => self.endpoint = format!("https://{address}"),
                ["metrics", url] => {
                    let (_, rest) = url.split_once("://").expect("it is a URL");
                    let (address, _) = rest.split_once('/').expect("with a path");
                    self.operations = Some(address.to_owned());
                }
                // The last line.
                ["try", ..] => {
                    assert!(!self.endpoint.is_empty(), "no address\n{}", self.log);
                    return;
                }
                _ => {}
            }
        }
    }

    fn next_line(&self, deadline: Instant) -> Option<Line> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.output.recv_timeout(left).ok()
    }

    fn keep(&mut self, line: &Line) {
        let (Line::Stdout(text) | Line::Stderr(text)) = line;
        self.log.push_str(text);
        self.log.push('\n');
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        while let Ok(line) = self.output.recv() {
            self.keep(&line);
        }
        if std::thread::panicking() {
            eprintln!("--- log of the server\n{}---", self.log);
        } else {
            assert!(!self.log.contains("panicked at"), "{}", self.log);
        }
    }
}

fn forward(
    pipe: Option<impl Read + Send + 'static>,
    lines: Sender<Line>,
    label: fn(String) -> Line,
) {
    let pipe = BufReader::new(pipe.expect("piped above"));
    std::thread::spawn(move || {
        for line in pipe.lines().map_while(Result::ok) {
            if lines.send(label(line)).is_err() {
                break;
            }
        }
    });
}
