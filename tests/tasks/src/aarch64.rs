//! What is shipped also compiles for the other architecture of the image.

use std::process::Command;

use crate::cargo::{SHIPPED, cargo, packages};
use crate::outcome::{Outcome, run, works};
use crate::tools::debian_packages;

const TARGET: &str = "aarch64-unknown-linux-gnu";
const C_COMPILER: &str = "aarch64-linux-gnu-gcc";

/// Checks, which finds what is compiled for x86 only. Linking and running are
/// the image's part.
pub fn aarch64() -> Outcome {
    if std::env::consts::ARCH == "aarch64" {
        // The release build was for it.
        return Outcome::Passed;
    }
    if !works(Command::new("rustup").args(["target", "add", TARGET])) {
        return Outcome::Skipped(format!("rustup can't add {TARGET}"));
    }
    // Some crates have parts in C.
    let compiler = || works(Command::new(C_COMPILER).arg("--version"));
    if !compiler() {
        let packages = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];
        if let Err(error) = debian_packages(&packages) {
            return Outcome::Skipped(format!("{error:#}"));
        }
    }
    run(cargo()
        .args(["check", "--locked", "--target", TARGET])
        .args(packages(&SHIPPED))
        .env("CC_aarch64_unknown_linux_gnu", C_COMPILER))
}
