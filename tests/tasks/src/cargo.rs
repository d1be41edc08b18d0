use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// What is shipped: the server, the plugins that it opens, the command line.
/// No crate depends on a plugin, so nothing else would build them.
pub const SHIPPED: [&str; 5] = [
    "ternion-server",
    "ternion-kernel-i2s",
    "ternion-kernel-tl2",
    "ternion-kernel-tl1",
    "ternion-client",
];

/// The cargo that runs this task, in the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(workspace());
    // There nothing is built a second time, and what a second time needs costs minutes.
    if std::env::var_os("CI").is_some() {
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}

pub fn build_shipped() -> Command {
    let mut command = cargo();
    command.args(["build", "--release"]);
    command.args(packages(&SHIPPED));
    command
}

pub fn packages(names: &[&str]) -> impl Iterator<Item = String> {
    names.iter().map(|name| format!("--package={name}"))
}

/// Where this task itself was built, and so whatever else is in release:
/// `cargo metadata` would not know of a target triple in the configuration.
pub fn release_dir() -> Result<PathBuf> {
    let this = std::env::current_exe().context("where is this program?")?;
    let dir = this.parent().context("a program lies in a directory")?;
    Ok(dir.to_owned())
}

pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
