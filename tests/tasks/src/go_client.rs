//! The Go client and its scenario runner.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::c_plugin::slow_kernel;
use crate::cargo::{release_dir, workspace};
use crate::outcome::{Outcome, run, works};
use crate::tools::{self, go, go_program};

const RUNNER: &str = "tests/scenarios/go";
const MODULES: [&str; 2] = ["client/go", RUNNER];
const STATICCHECK: &str = "v0.8.2";

/// Format, lint and tests. Comes after the release build: the tests talk to
/// the server.
pub fn go_client() -> Outcome {
    if !works(go().arg("version")) {
        return Outcome::Skipped("no go command".to_owned());
    }
    let staticcheck = match go_program(
        "staticcheck",
        "honnef.co/go/tools/cmd/staticcheck",
        STATICCHECK,
    ) {
        Ok(staticcheck) => staticcheck,
        Err(error) => return Outcome::Skipped(format!("{error:#}")),
    };
    let server = match release_dir().and_then(|dir| Ok(std::path::absolute(dir)?)) {
        Ok(release) => release.join("ternion-server"),
        Err(error) => return Outcome::Failed(format!("{error:#}")),
    };
    if !server.is_file() {
        return Outcome::Failed(format!("{} has not been built", server.display()));
    }
    let slow_kernel = match slow_kernel() {
        Ok(plugins) => plugins,
        Err(error) => return Outcome::Failed(format!("{error:#}")),
    };
    for module in MODULES {
        let directory = workspace().join(module);
        if let Err(error) = formatted(&directory) {
            return Outcome::Failed(format!("{module}: {error:#}"));
        }
        let mut check = Command::new(&staticcheck);
        check.arg("./...");
        let mut vet = go();
        vet.args(["vet", "./..."]);
        // The race detector needs a C compiler, which the tools step installs.
        let mut test = go();
        test.args(["test", "-race", "-count=1", "./..."])
            .env("CGO_ENABLED", "1")
            .env("TERNION_SERVER", &server)
            .env("TERNION_SLOW_KERNEL", &slow_kernel);
        for command in [&mut vet, &mut check, &mut test] {
            match run(command.current_dir(&directory)) {
                Outcome::Passed => {}
                failed => return failed,
            }
        }
    }
    Outcome::Passed
}

/// The program of `tests/scenarios/go`, for arguments to be added.
pub fn scenario_runner() -> Result<Command> {
    let program = std::path::absolute(tools::directory())?.join("go/scenarios/scenarios");
    let mut build = go();
    build
        .args(["build", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(workspace().join(RUNNER));
    tools::run(&mut build)?;
    Ok(Command::new(program))
}

/// gofmt tells of wrong files in words only, not by its status.
fn formatted(directory: &Path) -> Result<()> {
    let output = Command::new("gofmt")
        .args(["-l", "-s", "."])
        .current_dir(directory)
        .output()?;
    let told = [output.stdout, output.stderr].concat();
    anyhow::ensure!(
        told.is_empty() && output.status.success(),
        "gofmt -s would change {}",
        String::from_utf8_lossy(&told).trim()
    );
    Ok(())
}
