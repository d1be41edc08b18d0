//! How a step of `cargo verify` ends.

use std::process::{Command, Stdio};

/// The end of a step.
#[derive(Debug)]
pub enum Outcome {
    Passed,
    Failed(String),
    /// Can't be done on this machine.
    Skipped(String),
}

/// Runs a command, whose output is the step's.
pub fn run(command: &mut Command) -> Outcome {
    match command.status() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(format!("{}: {status}", shown(command))),
        Err(error) => Outcome::Failed(format!("{}: {error}", shown(command))),
    }
}

/// Runs commands until one fails.
pub fn run_all<'a>(commands: impl IntoIterator<Item = &'a mut Command>) -> Outcome {
    for command in commands {
        match run(command) {
            Outcome::Passed => {}
            failed => return failed,
        }
    }
    Outcome::Passed
}

/// Whether a command can be run and succeeds; what it prints is of no interest.
pub fn works(command: &mut Command) -> bool {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn shown(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let arguments = command
        .get_args()
        .map(|argument| argument.to_string_lossy());
    [program]
        .into_iter()
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}
