//! What is shipped, built for the other architecture of the image and run
//! there as far as an emulator is that: the kernels by all their paths, the
//! model, and a stream from server to client.
//!
//! Emulated programs run others of theirs, as a server tries plugins in a
//! process of their own, so the kernel of the system has to know whom to ask
//! for such files. Since Linux 6.7 every user namespace has its own register
//! of that, and what is written there is gone with the step.

use std::path::PathBuf;
use std::process::Command;

use crate::cargo::{cargo, packages, workspace};
use crate::outcome::{Outcome, run, run_all, works};
use crate::tools::debian_packages;

const TARGET: &str = "aarch64-unknown-linux-gnu";
const C_COMPILER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "/usr/bin/qemu-aarch64";
/// Where Debian's cross compiler has the target's C library.
const SYSROOT: &str = "/usr/aarch64-linux-gnu";

/// CPUs whose kernels differ: plain NEON, with `dotprod`, with `i8mm`.
const CPUS: [&str; 3] = ["cortex-a72", "cortex-a76", "max"];

/// 64-bit, little endian, an executable or a library, for AArch64.
const ELF_MAGIC: &str = concat!(
    r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:",
    r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff",
);

/// Whether the programs of the target run here is seen by running one.
pub fn aarch64() -> Outcome {
    if std::env::consts::ARCH == "aarch64" {
        // The release build and the tests were for it.
        return Outcome::Passed;
    }
    if let Err(reason) = tools() {
        return Outcome::Skipped(reason);
    }
    let mut build = cross("build");
    build.arg("--workspace");
    match run(&mut build) {
        Outcome::Passed => {}
        failed => return failed,
    }
    if !works(&mut emulated(CPUS[0], built("ternion").arg("--version"))) {
        let reason = "the kernel has no binfmt_misc of an own user namespace, or allows none";
        return Outcome::Skipped(reason.into());
    }
    let kernels = CPUS.iter().flat_map(|cpu| {
        let mut variants = cross("test");
        variants.args(packages(&["ternion-kernels"]));
        let mut plugins = cross("test");
        plugins.args(packages(&["ternion-kernel-conformance"]));
        // Others need tools that know the target's files.
        plugins.args(["--test=plugins", "--", "our_plugins_conform"]);
        [emulated(cpu, &variants), emulated(cpu, &plugins)]
    });
    let mut model = cross("test");
    model.args(packages(&["ternion-model", "ternion-compute"]));
    // Minutes under the emulator. The kernels' own tests have long contexts here, too.
    model.args([
        "--",
        "--skip",
        "long_contexts_and_page_sizes_change_nothing",
    ]);
    // These are programs of this machine that run those of the other one.
    let mut programs = cargo();
    programs.args(["test", "--locked", "--package=ternion-tests"]);
    programs.args(["--test=aarch64", "--", "--ignored"]);
    let once = [&model, &programs].map(|command| emulated("max", command));
    run_all(&mut kernels.chain(once).collect::<Vec<_>>())
}

/// A program built by the step, which runs where the step lets it.
pub fn built(name: &str) -> Command {
    Command::new(target_dir().join(TARGET).join("debug").join(name))
}

fn tools() -> Result<(), String> {
    if !works(Command::new("rustup").args(["target", "add", TARGET])) {
        return Err(format!("rustup can't add {TARGET}"));
    }
    // Some crates have parts in C.
    let has_compiler = works(Command::new(C_COMPILER).arg("--version"));
    if has_compiler && works(Command::new(EMULATOR).arg("--version")) {
        return Ok(());
    }
    let packages = [
        "gcc-aarch64-linux-gnu",
        "libc6-dev-arm64-cross",
        "qemu-user",
    ];
    debian_packages(&packages).map_err(|error| format!("{error:#}"))
}

fn target_dir() -> PathBuf {
    workspace().join("target")
}

/// A cargo command for the target.
fn cross(command: &str) -> Command {
    let mut cargo = cargo();
    cargo
        .args([command, "--locked", "--target", TARGET])
        .arg("--target-dir")
        .arg(target_dir())
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", C_COMPILER)
        .env("CC_aarch64_unknown_linux_gnu", C_COMPILER);
    cargo
}

/// The command where programs of the target run on that CPU.
fn emulated(cpu: &str, command: &Command) -> Command {
    let register = format!(
        "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc && \
         printf '%s' ':ternion:M::{ELF_MAGIC}:{EMULATOR}:' > /proc/sys/fs/binfmt_misc/register && \
         exec \"$@\""
    );
    let mut unshare = Command::new("unshare");
    unshare
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            &register,
            "sh",
        ])
        .arg(command.get_program())
        .args(command.get_args())
        .env("QEMU_CPU", cpu)
        .env("QEMU_LD_PREFIX", SYSROOT)
        // Where Debian's own C library for the target is installed as well, the
        // loader of one and the library of the other would meet, and hang.
        .env("QEMU_SET_ENV", format!("LD_LIBRARY_PATH={SYSROOT}/lib"));
    if let Some(directory) = command.get_current_dir() {
        unshare.current_dir(directory);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => unshare.env(name, value),
            None => unshare.env_remove(name),
        };
    }
    unshare
}
