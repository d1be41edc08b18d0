//! Kernel plugins made of C, for tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::cargo::workspace;
use crate::tools::{self, c_compiler, directory};

/// Makes a kernel plugin of a C file, which is named from the repository's root.
pub fn compile_plugin(source: &str, plugin: &Path, defines: &[String]) -> Result<()> {
    c_compiler()?;
    tools::run(
        Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-std=c11", "-Wall", "-Werror"])
            .args(defines)
            .arg("-I")
            .arg(workspace().join("kernel-plugins/abi/include"))
            .arg("-o")
            .arg(plugin)
            .arg(workspace().join(source)),
    )
}

/// Directory of a kernel on which a step of the demo takes more than 20 ms. On
/// such a server, what a client's test begins is still running when the test
/// ends it, however fast the machine.
pub fn slow_kernel() -> Result<PathBuf> {
    let plugins = std::path::absolute(directory())?.join("slow-kernel");
    std::fs::create_dir_all(&plugins)?;
    // The first is always there, and the others never are.
    let files = [
        ("SLOW_FILE", "/"),
        ("STALL_FILE", ""),
        ("FAIL_FILE", ""),
        ("POISON_FILE", ""),
    ];
    compile_plugin(
        "tests/tools/stalling_kernel.c",
        &plugins.join("libternion_kernel_slow.so"),
        &files.map(|(name, file)| format!("-D{name}=\"{file}\"")),
    )?;
    Ok(plugins)
}
