//! The API files: style, compatibility, and the code that is made of them and
//! committed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cargo::workspace;
use crate::outcome::{Outcome, run, run_all};
use crate::python_client::{GENERATED_PYTHON, regenerate_python};
use crate::tools::{self, go_program, python};

const BUF: &str = "buf-bin==1.75.0";
/// Goes with google.golang.org/protobuf in client/go/go.mod.
const PROTOC_GEN_GO: &str = "v1.36.12";
const PROTOC_GEN_GO_GRPC: &str = "v1.6.2";

/// Code that is generated and committed.
struct Generated {
    /// Where it is committed, in the workspace. Nothing else lies there.
    directory: &'static str,
    /// Writes it anew, under the same path, into another directory.
    generate: fn(&Path) -> Result<()>,
}

const GENERATED: &[Generated] = &[
    Generated {
        directory: "client/go/ternionpb",
        generate: generate_go,
    },
    Generated {
        directory: GENERATED_PYTHON,
        generate: regenerate_python,
    },
];

/// The files read as such files should, and nothing that clients rely on has
/// changed.
pub fn proto_lint() -> Outcome {
    let buf = match buf() {
        Ok(buf) => buf,
        Err(missing) => return Outcome::Skipped(format!("{missing:#}")),
    };
    let buf = |arguments: &[&str]| {
        let mut command = Command::new(&buf);
        command.args(arguments).current_dir(proto());
        command
    };
    run_all(&mut [
        buf(&["lint"]),
        buf(&["format", "--diff", "--exit-code"]),
        buf(&["breaking", "--against", "baseline.binpb"]),
    ])
}

/// The committed code is what today's files make.
pub fn generated_code() -> Outcome {
    let fresh = workspace().join("target/generated");
    for Generated {
        directory,
        generate,
    } in GENERATED
    {
        let made = match std::fs::remove_dir_all(&fresh) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => std::fs::create_dir_all(&fresh)
                .map_err(anyhow::Error::from)
                .and_then(|()| generate(&fresh)),
        };
        if let Err(error) = made {
            return Outcome::Failed(format!("{directory}: {error:#}"));
        }
        let same = run(Command::new("diff")
            .args([
                "--recursive",
                "--unified",
                "--new-file",
                "--exclude=__pycache__",
                directory,
            ])
            .arg(fresh.join(directory))
            .current_dir(workspace()));
        if !matches!(same, Outcome::Passed) {
            return Outcome::Failed(format!(
                "{directory} is not what the proto files make; proto/README.md says how to make it anew"
            ));
        }
    }
    Outcome::Passed
}

fn generate_go(into: &Path) -> Result<()> {
    let plugins = [
        go_program(
            "protoc-gen-go",
            "google.golang.org/protobuf/cmd/protoc-gen-go",
            PROTOC_GEN_GO,
        )?,
        go_program(
            "protoc-gen-go-grpc",
            "google.golang.org/grpc/cmd/protoc-gen-go-grpc",
            PROTOC_GEN_GO_GRPC,
        )?,
    ];
    tools::run(
        Command::new(buf()?)
            .args(["generate", "--output"])
            .arg(std::path::absolute(into)?)
            .env("PATH", path_with(&plugins)?)
            .current_dir(proto()),
    )
}

fn buf() -> Result<PathBuf> {
    let python = python("buf", &[BUF])?;
    Ok(std::path::absolute(python.with_file_name("buf"))?)
}

fn proto() -> PathBuf {
    workspace().join("proto")
}

/// `PATH` with the directories of programs before all others.
fn path_with(programs: &[PathBuf]) -> Result<OsString> {
    let before = programs
        .iter()
        .map(|program| {
            std::path::absolute(program.parent().context("a program lies in a directory")?)
                .map_err(anyhow::Error::from)
        })
        .collect::<Result<Vec<_>>>()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(
        before.into_iter().chain(std::env::split_paths(&path)),
    )?)
}
