use std::io::{self, Write};

use crate::failure::Failure;

/// Writes at once: whoever reads, a person or a script, waits for it. Unlike
/// `print!`, a reader that has gone is an error and not a panic.
pub(crate) fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(Failure::Output)
}

pub(crate) fn write_lines(lines: &[String]) -> Result<(), Failure> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    write(&text)
}
