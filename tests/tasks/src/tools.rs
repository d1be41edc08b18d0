//! Programs of others that tests need, from package registries only, installed
//! under `target/tools` the first time somebody asks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use crate::cargo::workspace;
use crate::outcome::works;

/// Tests of one process ask at once; those of two wait for the file lock.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Where everything is installed. Goes with `cargo clean`.
pub fn directory() -> PathBuf {
    workspace().join("target/tools")
}

/// A program of the `go` toolchain's making: `go install MODULE@VERSION`.
pub fn go_program(name: &str, module: &str, version: &str) -> Result<PathBuf> {
    installed(&format!("go/{name}-{version}"), name, |into| {
        run(go()
            .env("GOBIN", into)
            .args(["install", &format!("{module}@{version}")]))
    })
}

/// The `go` command with settings under which only its proxy is asked.
pub fn go() -> Command {
    let mut go = Command::new("go");
    go.env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-buildvcs=false");
    go
}

/// The interpreter of a Python environment that holds these packages.
/// `requirements` is what `pip install` takes.
pub fn python(name: &str, requirements: &[&str]) -> Result<PathBuf> {
    let key = short_name(&requirements.join("\n"));
    installed(&format!("python/{name}-{key}"), "bin/python", |into| {
        run(Command::new("python3").args(["-m", "venv"]).arg(into))?;
        run(Command::new(into.join("bin/python"))
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(requirements)
            .current_dir(workspace()))
    })
}

/// A program from Debian's packages.
pub fn debian_program(name: &str, package: &str) -> Result<PathBuf> {
    let find = || {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&paths)
            .map(|directory| directory.join(name))
            .find(|path| path.is_file())
    };
    if let Some(path) = find() {
        return Ok(path);
    }
    let _one_at_a_time = INSTALLING.lock();
    debian_packages(&[package])?;
    find().with_context(|| format!("package {package} brought no {name}"))
}

/// Debian packages, for root only.
pub fn debian_packages(names: &[&str]) -> Result<()> {
    if !is_root() {
        bail!("installing {} takes root", names.join(", "));
    }
    println!("installing {}", names.join(", "));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut command)
    };
    apt(&["update", "--quiet", "--quiet"])?;
    let mut install = vec![
        "install",
        "--yes",
        "--quiet",
        "--quiet",
        "--no-install-recommends",
    ];
    install.extend(names);
    apt(&install)
}

/// The path of `program` in a directory of its own under [`directory`], which
/// `install` fills unless that was done before. A directory counts only once
/// it is complete.
pub fn installed(
    key: &str,
    program: &str,
    install: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let _one_at_a_time = INSTALLING.lock();
    let home = directory().join(key);
    let lock = directory().join("lock");
    std::fs::create_dir_all(directory())?;
    let lock = std::fs::File::create(lock)?;
    lock.lock().context("can't wait for another installation")?;
    let complete = home.join(".complete");
    if !complete.exists() {
        if home.exists() {
            std::fs::remove_dir_all(&home)?;
        }
        std::fs::create_dir_all(&home)?;
        println!("installing {key}");
        install(&home).with_context(|| format!("can't install {key}"))?;
        std::fs::write(&complete, "")?;
    }
    Ok(home.join(program))
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("can't run {}", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Adds a component of the toolchain unless its subcommand works.
pub fn component(name: &str, subcommand: &str) -> Result<()> {
    if works(crate::cargo::cargo().args([subcommand, "--version"])) {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    if works(rustup.args(["component", "add", name])) {
        return Ok(());
    }
    bail!("{name} is missing and rustup can't add it")
}

/// A C compiler: tests build C plugins, and crates C code.
pub fn c_compiler() -> Result<()> {
    let here = || works(Command::new("cc").arg("--version"));
    if !here() {
        debian_packages(&["gcc", "libc6-dev"])?;
    }
    if !here() {
        bail!("no C compiler `cc`, and none could be installed");
    }
    Ok(())
}

/// A short name for a text. No more than that: the standard hasher is not
/// promised to stay the same, and then something is installed once more.
pub fn short_name(text: &str) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
