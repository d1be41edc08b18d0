use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use ternion_tasks::cargo::{build_shipped, release_dir};

/// Becomes the server, so that signals reach it and its exit code is the
/// task's. The server finds the plugins beside its own executable.
pub(crate) fn serve(arguments: impl Iterator<Item = OsString>) -> Result<ExitCode> {
    let built = build_shipped().status().context("can't run cargo")?;
    if !built.success() {
        return Ok(ExitCode::FAILURE);
    }
    let server = release_dir()?.join("ternion-server");
    // The alias has a `--` already; one of the caller's does no harm.
    let arguments = arguments.skip_while(|argument| argument == "--");
    let error = Command::new(&server).arg("serve").args(arguments).exec();
    Err(error).with_context(|| format!("can't run {}", server.display()))
}
