//! A while of coverage-guided fuzzing of everything that reads what others wrote.
//!
//! The compiler marks every branch for libFuzzer, by options that need no nightly toolchain, in a target directory of
//! its own since everything is built anew with them. A longer run is the same with `TERNION_FUZZ_SECONDS` for each
//! target; what it finds lies in `target/fuzz/found` and belongs into `tests/fuzz/corpus`, named after its symptom.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo::{cargo, workspace};
use crate::outcome::{Outcome, run, works};
use crate::tools::debian_packages;

const DEFAULT_SECONDS: &str = "10";

/// Of one input. A server answers thousands of requests in that time.
const MAX_SECONDS_PER_INPUT: u32 = 5;

/// Of the whole target: its corpus, what it counts, and what an input makes it allocate.
const MAX_MEBIBYTES: u32 = 2048;

/// Longer inputs only repeat what shorter ones do.
const MAX_INPUT_BYTES: u32 = 8192;

/// Counters and comparisons for libFuzzer, and panics where arithmetic would wrap.
const INSTRUMENTED: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cdebug-assertions -Coverflow-checks";

/// Builds every target and runs each.
pub fn fuzz() -> Outcome {
    if !works(Command::new("c++").arg("--version"))
        && let Err(missing) = debian_packages(&["g++"])
    {
        return Outcome::Skipped(format!("libFuzzer is C++: {missing:#}"));
    }
    let Some(host) = host() else {
        return Outcome::Failed("rustc does not tell its host".to_owned());
    };
    match run(&mut build(&host)) {
        Outcome::Passed => {}
        failed => return failed,
    }
    let programs = directory().join(host).join("release");
    let targets = match targets() {
        Ok(targets) => targets,
        Err(error) => return Outcome::Failed(format!("tests/fuzz/targets: {error}")),
    };
    let seconds = std::env::var("TERNION_FUZZ_SECONDS");
    let seconds = seconds.unwrap_or_else(|_| DEFAULT_SECONDS.to_owned());
    let mut failed = Vec::new();
    for target in &targets {
        println!("fuzzing {target} for {seconds} s");
        match fuzz_one(&programs.join(target), target, &seconds) {
            Ok(true) => {}
            Ok(false) => failed.push(target.as_str()),
            Err(error) => return Outcome::Failed(format!("{target}: {error}")),
        }
    }
    match failed.is_empty() {
        true => Outcome::Passed,
        false => Outcome::Failed(format!(
            "{}; the inputs are in {}",
            failed.join(", "),
            directory().join("found").display()
        )),
    }
}

fn directory() -> PathBuf {
    workspace().join("target/fuzz")
}

fn build(host: &str) -> Command {
    let mut build = cargo();
    build
        .args(["build", "--release", "--locked", "--package=ternion-fuzz"])
        .args(["--features=libfuzzer", "--bins"])
        // Without a target, what runs at build time would be instrumented too.
        .args(["--target", host])
        .arg("--target-dir")
        .arg(directory())
        .env("RUSTFLAGS", INSTRUMENTED);
    build
}

/// Each is a file.
fn targets() -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(workspace().join("tests/fuzz/targets"))? {
        let path = entry?.path();
        names.extend(
            path.file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    Ok(names)
}

/// Whether it found nothing.
fn fuzz_one(program: &Path, target: &str, seconds: &str) -> std::io::Result<bool> {
    let found = directory().join("found");
    let scratch = directory().join("scratch").join(target);
    let temporary = directory().join("tmp");
    for path in [&found, &scratch, &temporary] {
        std::fs::create_dir_all(path)?;
    }
    let mut fuzzer = Command::new(program);
    fuzzer
        // What it finds worth keeping goes to the first directory; the others are read.
        .arg(&scratch)
        .arg(workspace().join("tests/fuzz/corpus").join(target))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={MAX_SECONDS_PER_INPUT}"))
        .arg(format!("-rss_limit_mb={MAX_MEBIBYTES}"))
        .arg(format!("-malloc_limit_mb={MAX_MEBIBYTES}"))
        .arg(format!("-max_len={MAX_INPUT_BYTES}"))
        .arg(format!("-artifact_prefix={}/{target}.", found.display()))
        .args(["-print_final_stats=1", "-verbosity=0"])
        // Thousands of caught panics of a library, each with its stack, would hide everything else.
        .env("RUST_BACKTRACE", "0")
        .env("TMPDIR", &temporary);
    let words = workspace().join(format!("tests/fuzz/words/{target}.dict"));
    if words.exists() {
        fuzzer.arg(format!("-dict={}", words.display()));
    }
    let status = fuzzer.status()?;
    // It ends without unwinding, so the files of its tests are still there.
    std::fs::remove_dir_all(&temporary)?;
    Ok(status.success())
}

/// Such as `x86_64-unknown-linux-gnu`.
fn host() -> Option<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let told = Command::new(rustc).arg("-vV").output().ok()?;
    let told = String::from_utf8(told.stdout).ok()?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "))?;
    Some(host.to_owned())
}
