use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
use ternion_tasks::aarch64;
use ternion_tasks::cargo::{SHIPPED, packages};

/// What a program did.
#[derive(Debug)]
pub struct Ran {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Standard output as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Standard output as one JSON value a line.
    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
            })
            .collect()
    }

    /// Fails the test unless the program ended well.
    pub fn succeeded(self) -> Ran {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("programs print UTF-8"),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The `ternion` command line.
pub fn ternion() -> Command {
    program("ternion")
}

/// The server's executable.
pub fn ternion_server() -> Command {
    program("ternion-server")
}

/// Runs `ternion-server` with arguments other than `serve`.
pub fn server_tool(arguments: &[&str]) -> Ran {
    let output = program("ternion-server").args(arguments).output();
    output.expect("ternion-server can be run").into()
}

/// Sends a signal, such as `TERM`.
pub fn signal(process: u32, name: &str) {
    let killed = Command::new("kill")
        .args(["-s", name, &process.to_string()])
        .status();
    assert!(killed.is_ok_and(|status| status.success()), "kill failed");
}

/// A program of the other architecture on a CPU that the emulator knows, where
/// `cargo verify aarch64` lets such programs run.
pub fn emulated(cpu: &str, name: &str) -> Command {
    let mut command = without_settings(aarch64::built(name));
    command.env("QEMU_CPU", cpu);
    command
}

/// A program as it ships.
pub fn program(name: &str) -> Command {
    without_settings(Command::new(release_dir().join(name)))
}

/// Without settings of whoever runs the tests.
fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("TERNION_") || name_text.starts_with("OTEL_") {
            command.env_remove(&name);
        }
    }
    // What one test measured is no other's to remember.
    command.env("TERNION_CACHE_DIR", "off");
    command
}

/// File of a kernel plugin that ships.
pub fn shipped_kernel(name: &str) -> PathBuf {
    release_dir().join(format!("libternion_kernel_{name}.so"))
}

/// Directory of the release build, which holds the programs and the plugins.
/// Built by the first test that asks: cargo knows of no dependency between a
/// test and another package's binary, let alone a plugin that nobody links.
fn release_dir() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let status = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
            .args(["build", "--release", "--locked", "--quiet"])
            .args(packages(&SHIPPED))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo can be run");
        assert!(status.success(), "the release build failed");
        // target/PROFILE/deps/THIS-TEST, with or without a triple before.
        let this = std::env::current_exe().expect("a test has a path");
        let target = this.ancestors().nth(3).expect("four levels of directories");
        target.join("release")
    })
}
