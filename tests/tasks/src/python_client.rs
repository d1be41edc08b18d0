//! The Python client: its generated code, its checks, its scenario runner.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::c_plugin::slow_kernel;
use crate::cargo::{release_dir, workspace};
use crate::outcome::{Outcome, run};
use crate::tools::{self, directory, python};

const CLIENT: &str = "client/python";
const RUNNER: &str = "tests/scenarios/python";

/// Where the generated code lies, in the workspace. Nothing else lies there.
pub const GENERATED_PYTHON: &str = "client/python/src/ternion/v1";

/// grpcio-tools holds a protoc.
const GENERATORS: [&str; 2] = ["grpcio-tools==1.85.1", "mypy-protobuf==5.1.0"];

/// What the client needs, and what checks it.
const PACKAGES: [&str; 13] = [
    "googleapis-common-protos==1.76.0",
    "grpcio==1.85.1",
    "hatchling==1.33.0",
    "mypy==2.4.1",
    "protobuf==7.36.2",
    "pytest==9.2.0",
    "pytest-asyncio==1.5.0",
    "pytest-timeout==2.4.0",
    "ruff==0.17.6",
    "trustme==1.2.1",
    "types-grpcio==1.85.0.20261028",
    "types-protobuf==7.35.1.20260906",
    "typing-extensions==4.16.0",
];

/// Writes the generated code anew, under the path that it has in the
/// workspace, into another directory.
pub fn regenerate_python(into: &Path) -> Result<()> {
    let python = python("protoc", &GENERATORS)?;
    let plugin = |name: &str| -> Result<String> {
        let program = std::path::absolute(python.with_file_name(name))?;
        Ok(format!("--plugin={name}={}", program.display()))
    };
    let sources = std::path::absolute(into)?.join(CLIENT).join("src");
    std::fs::create_dir_all(&sources)?;
    let mut protoc = Command::new(std::path::absolute(&python)?);
    protoc.args(["-m", "grpc_tools.protoc", "--proto_path=."]);
    for output in ["python", "grpc_python", "mypy", "mypy_grpc"] {
        protoc.arg(format!("--{output}_out={}", sources.display()));
    }
    protoc
        .args([plugin("protoc-gen-mypy")?, plugin("protoc-gen-mypy_grpc")?])
        .args(proto_files()?)
        .current_dir(workspace().join("proto"));
    tools::run(&mut protoc)?;
    let package = into.join(GENERATED_PYTHON).join("__init__.py");
    std::fs::write(
        package,
        "\"\"\"Generated from the .proto files of ternion.v1.\"\"\"\n",
    )?;
    Ok(())
}

/// Format, lint, types, and the tests, which talk to the released server. They
/// use the package as it would be installed, not the sources.
pub fn python_client() -> Outcome {
    let python = match interpreter() {
        Ok(python) => python,
        Err(missing) => return Outcome::Skipped(format!("{missing:#}")),
    };
    match checks(&python) {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

/// `run.py`, for arguments to be added; with `--aio` it uses the asyncio client.
pub fn scenario_runner() -> Result<Command> {
    let workspace = std::path::absolute(workspace())?;
    let mut command = module(&interpreter()?, &workspace.join(CLIENT).join("src"));
    command.arg(workspace.join(RUNNER).join("run.py"));
    Ok(command)
}

fn checks(python: &Path) -> Result<Outcome> {
    let client = std::path::absolute(workspace())?.join(CLIENT);
    let runner = std::path::absolute(workspace())?.join(RUNNER);
    let server = std::path::absolute(release_dir()?)?.join("ternion-server");
    anyhow::ensure!(server.is_file(), "{} has not been built", server.display());
    let sources = client.join("src");
    let check = |tool: &str, arguments: &[&str]| {
        let mut command = module(python, &sources);
        command.args(["-m", tool]).args(arguments);
        command.current_dir(&client);
        command
    };
    let runner = runner.to_string_lossy();
    for mut command in [
        check("ruff", &["format", "--check", "--no-cache", ".", &runner]),
        check("ruff", &["check", "--no-cache", ".", &runner]),
        check("mypy", &["--strict"]),
        check("mypy", &["--strict", &runner]),
    ] {
        match run(&mut command) {
            Outcome::Passed => {}
            failed => return Ok(failed),
        }
    }
    let installed = install(python, &client)?;
    Ok(run(module(python, &installed)
        .args(["-m", "pytest", "-p", "no:cacheprovider", "--timeout=300"])
        .env("TERNION_SERVER", server)
        .env("TERNION_SLOW_KERNEL", slow_kernel()?)
        .current_dir(&client)))
}

/// Builds the wheel, and puts what is in it into a directory for `PYTHONPATH`.
fn install(python: &Path, client: &Path) -> Result<PathBuf> {
    let home = std::path::absolute(directory())?.join("python-client");
    if home.exists() {
        std::fs::remove_dir_all(&home)?;
    }
    let wheels = home.join("wheels");
    tools::run(
        module(python, &home)
            .args(["-m", "hatchling", "build", "-t", "wheel", "-d"])
            .arg(&wheels)
            .current_dir(client),
    )?;
    let wheel = std::fs::read_dir(&wheels)?
        .next()
        .context("the build made no wheel")??
        .path();
    let package = home.join("package");
    tools::run(
        module(python, &home)
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-index"])
            .args(["--disable-pip-version-check", "--target"])
            .args([&package, &wheel]),
    )?;
    Ok(package)
}

/// Python that finds the client there. Whatever it runs leaves no files beside
/// the sources, which are compared with fresh ones.
fn module(python: &Path, path: &Path) -> Command {
    let mut command = Command::new(python);
    command
        .env("PYTHONPATH", path)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn interpreter() -> Result<PathBuf> {
    Ok(std::path::absolute(python("client", &PACKAGES)?)?)
}

/// As protoc wants them: relative to its directory.
fn proto_files() -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(workspace().join("proto/ternion/v1"))? {
        let name = entry?.file_name();
        let name = name.to_str().context("a proto file's name is text")?;
        if name.ends_with(".proto") {
            files.push(format!("ternion/v1/{name}"));
        }
    }
    files.sort();
    Ok(files)
}
