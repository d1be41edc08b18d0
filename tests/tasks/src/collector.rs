//! The OpenTelemetry Collector that the telemetry test exports to. It is not
//! released as a Go package that could be installed; its builder is, and makes
//! one with the few components that are needed.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cargo::workspace;
use crate::outcome::Outcome;
use crate::tools::{go, go_program, installed, run, short_name};

const BUILDER: &str = "go.opentelemetry.io/collector/cmd/builder";
/// The same as in the builder's configuration.
const VERSION: &str = "v0.159.0";

/// The program, built the first time: some minutes on two cores.
pub fn collector() -> Result<PathBuf> {
    let config = workspace()
        .join("tests/tools/collector/builder.yaml")
        .canonicalize()?;
    let text = std::fs::read_to_string(&config)
        .with_context(|| format!("can't read {}", config.display()))?;
    let builder = go_program("builder", BUILDER, VERSION)?.canonicalize()?;
    let key = format!("go/otelcol-{}", short_name(&text));
    installed(&key, "build/otelcol", |into| {
        let mut build = Command::new(&builder);
        // It runs `go`, which must ask no more than its proxy here either.
        for (name, value) in go().get_envs() {
            if let Some(value) = value {
                build.env(name, value);
            }
        }
        run(build.arg("--config").arg(&config).current_dir(into))
    })
}

/// A step of its own, so that a test doesn't have to wait for it.
pub fn build_collector() -> Outcome {
    match collector() {
        Ok(_) => Outcome::Passed,
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}
