use std::ffi::OsString;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ternion_tasks::cargo::{build_shipped, cargo, packages};
use ternion_tasks::outcome::{Outcome, run};
use ternion_tasks::tools::{c_compiler, component};
use ternion_tasks::{aarch64, chart, collector, fuzz, go_client, proto, python_client, rust_tests};

/// Crates that others write code against; their documentation must be whole.
const DOCUMENTED: [&str; 4] = [
    "ternion-client",
    "ternion-engine",
    "ternion-kernel-abi",
    "ternion-kernels",
];

struct Step {
    name: &'static str,
    run: fn() -> Outcome,
}

/// In the order of what is quickest to fail.
const STEPS: [Step; 14] = [
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
        name: "protocol",
        run: proto::proto_lint,
    },
    Step {
        name: "generated-code",
        run: proto::generated_code,
    },
    Step {
        name: "release-build",
        run: release_build,
    },
    Step {
        name: "chart",
        run: chart::chart,
    },
    Step {
        name: "go-client",
        run: go_client::go_client,
    },
    Step {
        name: "python-client",
        run: python_client::python_client,
    },
    Step {
        name: "collector",
        run: collector::build_collector,
    },
    Step {
        name: "tests",
        run: rust_tests::rust_tests,
    },
    Step {
        name: "fuzz",
        run: fuzz::fuzz,
    },
    Step {
        name: "aarch64",
        run: aarch64::aarch64,
    },
];

struct Done {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

/// Runs every step, or those that are named, whatever the others did: one run
/// tells everything that is wrong.
pub(crate) fn verify(names: impl Iterator<Item = OsString>) -> Result<ExitCode> {
    let names: Vec<OsString> = names.collect();
    let is_step = |name: &OsString| STEPS.iter().any(|step| name == step.name);
    if let Some(unknown) = names.iter().find(|name| !is_step(name)) {
        let known = STEPS.map(|step| step.name).join(", ");
        bail!("{} is no step; steps are {known}", unknown.display());
    }
    let is_wanted = |step: &&Step| names.is_empty() || names.iter().any(|name| name == step.name);
    // CI is the one place where every step has to run.
    let skipping_fails = std::env::var_os("CI").is_some();
    let done: Vec<Done> = STEPS
        .iter()
        .filter(is_wanted)
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
    .map(|error| format!("{error:#}"))
    .collect();
    if missing.is_empty() {
        Outcome::Passed
    } else {
        Outcome::Skipped(missing.join("; "))
    }
}

fn format() -> Outcome {
    if let Err(missing) = component("rustfmt", "fmt") {
        return Outcome::Skipped(format!("{missing:#}"));
    }
    run(cargo().args(["fmt", "--all", "--check"]))
}

fn lint() -> Outcome {
    if let Err(missing) = component("clippy", "clippy") {
        return Outcome::Skipped(format!("{missing:#}"));
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
