use std::path::PathBuf;

use crate::compile_plugin;

/// A kernel plugin that can be stalled, and made to fail, while a server runs
/// on it.
#[derive(Debug)]
pub struct StallingKernel {
    directory: tempfile::TempDir,
}

impl StallingKernel {
    pub fn build() -> StallingKernel {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let kernel = StallingKernel { directory };
        std::fs::create_dir(kernel.plugins()).expect("a writable directory");
        let define = |name: &str, path: PathBuf| format!("-D{name}=\"{}\"", path.display());
        compile_plugin(
            "tests/tools/stalling_kernel.c",
            &kernel.plugins().join("libternion_kernel_stalling.so"),
            &[
                define("STALL_FILE", kernel.stalls()),
                define("FAIL_FILE", kernel.fails()),
                define("POISON_FILE", kernel.poison()),
            ],
        );
        kernel
    }

    /// For `--plugin-dir`.
    pub fn plugins(&self) -> PathBuf {
        self.directory.path().join("plugins")
    }

    fn stalls(&self) -> PathBuf {
        self.directory.path().join("stalls")
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
        std::fs::write(self.poison(), "").expect("a writable directory");
    }

    /// From now on, no step ends.
    pub fn stall(&self) {
        std::fs::write(self.stalls(), "").expect("a writable directory");
    }

    pub fn release(&self) {
        std::fs::remove_file(self.stalls()).expect("it is stalled");
    }

    /// From now on, every step fails.
    pub fn fail(&self) {
        std::fs::write(self.fails(), "").expect("a writable directory");
    }

    pub fn recover(&self) {
        std::fs::remove_file(self.fails()).expect("it fails");
    }
}
