use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::{Server, compile_plugin};

/// A kernel plugin that can be slowed, stalled, and made to fail, while a
/// server runs on it. What must still run at some moment of a test is slow or
/// stalled until then: how long it takes by itself is the machine's affair.
#[derive(Debug)]
pub struct StallingKernel {
    directory: tempfile::TempDir,
    /// As a flag takes it.
    plugins: String,
}

impl StallingKernel {
    pub fn build() -> StallingKernel {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let plugins = directory.path().join("plugins");
        std::fs::create_dir(&plugins).expect("a writable directory");
        let kernel = StallingKernel {
            directory,
            plugins: plugins.to_str().expect("UTF-8").to_owned(),
        };
        let define = |name: &str, path: PathBuf| format!("-D{name}=\"{}\"", path.display());
        compile_plugin(
            "tests/tools/stalling_kernel.c",
            &plugins.join("libternion_kernel_stalling.so"),
            &[
                define("STALL_FILE", kernel.stalls()),
                define("SLOW_FILE", kernel.slows()),
                define("FAIL_FILE", kernel.fails()),
                define("POISON_FILE", kernel.poison()),
            ],
        );
        kernel
    }

    /// Where it is, and where others may lie beside it.
    pub fn plugins(&self) -> &Path {
        Path::new(&self.plugins)
    }

    /// What makes a server run on it.
    pub fn flags(&self) -> [&str; 2] {
        ["--plugin-dir", &self.plugins]
    }

    /// Serves with it, and with more flags.
    pub fn serve(&self, more: &[&str]) -> Server {
        Server::start(&[&self.flags(), more].concat())
    }

    fn stalls(&self) -> PathBuf {
        self.directory.path().join("stalls")
    }

    fn slows(&self) -> PathBuf {
        self.directory.path().join("slows")
    }

    fn fails(&self) -> PathBuf {
        self.directory.path().join("fails")
    }

    fn poison(&self) -> PathBuf {
        self.directory.path().join("poison")
    }

    /// The first token that is computed from now on is poison: steps with it
    /// fail after that.
    pub fn poison_next(&self) {
        create(&self.poison());
    }

    /// From now on, a step of the demo takes more than 20 ms: some hundred
    /// tokens are on their way for seconds, however fast the machine.
    pub fn slow(&self) {
        create(&self.slows());
        remove(&self.stalls());
    }

    /// From now on, no step ends.
    pub fn stall(&self) {
        create(&self.stalls());
    }

    /// From now on, a step takes as long as it does.
    pub fn release(&self) {
        remove(&self.slows());
        remove(&self.stalls());
    }

    /// From now on, every step fails.
    pub fn fail(&self) {
        create(&self.fails());
    }

    pub fn recover(&self) {
        remove(&self.fails());
    }
}

fn create(file: &Path) {
    std::fs::write(file, "").expect("a writable directory");
}

fn remove(file: &Path) {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
        _ => {}
    }
}
