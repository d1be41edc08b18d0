//! `ternion-server try-plugin`: what a [trial](crate::trial) runs in its
//! child. Not for people.

use std::{io::Write, path::PathBuf};

use clap::Args;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit,
};
use ternion_kernel_host::{Identity, OpenError, PluginFile, Rejection, Sha256, Stage};

use crate::trial::Line;

#[derive(Debug, Args)]
pub(crate) struct TrialArguments {
    #[arg(long)]
    file: PathBuf,
    /// The file as it was seen; another is not loaded
    #[arg(long)]
    sha256: Sha256,
    /// Load a sealed copy
    #[arg(long)]
    sealed: bool,
    /// Shapes to multiply, rows before columns
    #[arg(long = "shape", value_parser = shape)]
    shapes: Vec<(usize, usize)>,
    /// Process without which there is nobody to tell
    #[arg(long)]
    parent: u32,
}

fn shape(text: &str) -> Result<(usize, usize), String> {
    text.split_once('x')
        .and_then(|(rows, cols)| Some((rows.parse().ok()?, cols.parse().ok()?)))
        .ok_or_else(|| format!("{text:?} is not ROWSxCOLS"))
}

pub(crate) fn run(arguments: &TrialArguments) -> anyhow::Result<()> {
    // Must not outlive the server that wants to know, even if that is killed.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let parent = getppid().map(Pid::as_raw_nonzero).map(i32::from);
    anyhow::ensure!(
        parent == i32::try_from(arguments.parent).ok(),
        "the process that asked is gone"
    );
    // A crash is expected here, and worth no dump.
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
    let outcome = match attempt(arguments) {
        Ok(()) => Line::Passed,
        Err(rejection) => rejection.into(),
    };
    say(&outcome);
    Ok(())
}

fn attempt(arguments: &TrialArguments) -> Result<(), Rejection> {
    let seen = [arguments.sha256];
    let file = PluginFile::read(&arguments.file, arguments.sealed.then_some(&seen[..]))?;
    if file.sha256() != arguments.sha256 {
        return Err(OpenError::Changed.into());
    }
    let kernel = file.open(&mut |stage| step(words(stage)))?;
    say(&Line::Opened(Identity::of(&kernel)));
    for (rows, cols) in &arguments.shapes {
        step(&format!("while it multiplied {rows}x{cols}"));
        ternion_kernel_conformance::quick(&kernel, &[(*rows, *cols)])
            .map_err(|mismatch| Rejection::Failed(mismatch.to_string()))?;
    }
    step("when it was unloaded");
    drop(kernel);
    Ok(())
}

fn words(stage: Stage) -> &'static str {
    match stage {
        Stage::Initialiser => "in its initialiser",
        Stage::Entry => "in ternion_kernel_v1",
        Stage::Probe => "in probe or isa",
        _ => "when it was loaded",
    }
}

fn step(words: &str) {
    say(&Line::Step(words.to_owned()));
}

/// A line at once, as the plugin may be about to end this process.
fn say(line: &Line) {
    let line = serde_json::to_string(line).expect("texts and names become JSON");
    let mut out = std::io::stdout().lock();
    // Nobody listens any more: then nobody waits either.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
