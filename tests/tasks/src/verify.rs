use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cargo::{build_shipped, cargo, packages};

/// Crates that others write code against; their documentation must be whole.
const DOCUMENTED: [&str; 4] = [
    "ternion-client",
    "ternion-engine",
    "ternion-kernel-abi",
    "ternion-kernels",
];

enum Outcome {
    Passed,
    Failed(String),
    /// Can't be done on this machine.
    Skipped(String),
}

struct Step {
    name: &'static str,
    run: fn() -> Outcome,
}

/// In the order of what is quickest to fail.
const STEPS: [Step; 6] = [
    Step {
        name: "tools",
        run: tools,
    },
    Step {
        name: "format",
        run: format,
    },
    Step {
        name: "lint",
        run: lint,
    },
    Step {
        name: "documentation",
        run: documentation,
    },
    Step {
        name: "release build",
        run: release_build,
    },
    Step {
        name: "tests",
        run: tests,
    },
];

struct Done {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

/// Runs every step whatever the others did: one run tells everything that is
/// wrong.
pub(crate) fn verify() -> Result<ExitCode> {
    // CI is the one place where every step has to run.
    let skipping_fails = std::env::var_os("CI").is_some();
    let done: Vec<Done> = STEPS
        .iter()
        .map(|Step { name, run }| {
            println!("\n=== {name}");
            let start = Instant::now();
            let outcome = match run() {
                Outcome::Skipped(reason) if skipping_fails => {
                    Outcome::Failed(format!("skipped, which CI may not: {reason}"))
                }
                outcome => outcome,
            };
            Done {
                name,
                outcome,
                took: start.elapsed(),
            }
        })
        .collect();
    println!("\n=== summary");
    let mut passed = 0;
    let mut failed = 0;
    for Done {
        name,
        outcome,
        took,
    } in &done
    {
        let text = match outcome {
            Outcome::Passed => {
                passed += 1;
                "passed".to_owned()
            }
            Outcome::Failed(reason) => {
                failed += 1;
                format!("FAILED: {reason}")
            }
            Outcome::Skipped(reason) => format!("skipped: {reason}"),
        };
        println!("{name:<14} {:>6.1} s  {text}", took.as_secs_f64());
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What the other steps need and a toolchain may lack.
fn tools() -> Outcome {
    let missing: Vec<String> = [
        component("rustfmt", "fmt"),
        component("clippy", "clippy"),
        c_compiler(),
    ]
    .into_iter()
    .filter_map(Result::err)
    .collect();
    if missing.is_empty() {
        Outcome::Passed
    } else {
        Outcome::Skipped(missing.join("; "))
    }
}

fn format() -> Outcome {
    if let Err(missing) = component("rustfmt", "fmt") {
        return Outcome::Skipped(missing);
    }
    run(cargo().args(["fmt", "--all", "--check"]))
}

fn lint() -> Outcome {
    if let Err(missing) = component("clippy", "clippy") {
        return Outcome::Skipped(missing);
    }
    run(cargo()
        .args(["clippy", "--workspace", "--all-targets", "--locked"])
        .args(["--", "--deny", "warnings"]))
}

fn documentation() -> Outcome {
    run(cargo()
        .args(["doc", "--no-deps", "--locked"])
        .args(packages(&DOCUMENTED))
        .env("RUSTDOCFLAGS", "--deny warnings"))
}

fn release_build() -> Outcome {
    run(build_shipped().arg("--locked"))
}

fn tests() -> Outcome {
    run(cargo().args(["test", "--workspace", "--locked", "--no-fail-fast"]))
}

fn run(command: &mut Command) -> Outcome {
    match command.status() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(status.to_string()),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// Adds a component of the toolchain unless its subcommand works.
fn component(name: &str, subcommand: &str) -> Result<(), String> {
    if works(cargo().args([subcommand, "--version"])) {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    if works(rustup.args(["component", "add", name])) {
        return Ok(());
    }
    Err(format!("{name} is missing and rustup can't add it"))
}

/// The C header of the kernel ABI is compiled as C in a test.
fn c_compiler() -> Result<(), String> {
    let here = || works(Command::new("cc").arg("--version"));
    if here() {
        return Ok(());
    }
    if is_root() {
        println!("installing a C compiler");
        let apt = |arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            command
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive");
            works(&mut command)
        };
        apt(&["update", "--quiet"]);
        apt(&[
            "install",
            "--yes",
            "--quiet",
            "--no-install-recommends",
            "gcc",
            "libc6-dev",
        ]);
    }
    if here() {
        return Ok(());
    }
    Err("no C compiler `cc`, and none could be installed".to_owned())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn works(command: &mut Command) -> bool {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
