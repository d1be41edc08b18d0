//! `cargo serve` and `cargo verify`: what people and CI type.
#![forbid(unsafe_code)]

mod serve;
mod verify;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo serve [arguments of `ternion-server serve`]
       cargo verify [STEP...]      all steps, or those of these names";

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let task = arguments.next();
    match task.as_ref().and_then(|task| task.to_str()) {
        Some("serve") => serve::serve(arguments),
        Some("verify") => verify::verify(arguments),
        _ => bail!("{USAGE}"),
    }
}
