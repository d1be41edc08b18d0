use std::path::Path;
use std::process::Command;

/// Makes a kernel plugin of a C file, which is named from the repository's root.
pub fn compile_plugin(source: &str, plugin: &Path, defines: &[String]) {
    ternion_tasks::tools::c_compiler().expect("a C compiler");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-std=c11", "-Wall", "-Werror"])
        .args(defines)
        .arg("-I")
        .arg(repository.join("kernel-plugins/abi/include"))
        .arg("-o")
        .arg(plugin)
        .arg(repository.join(source))
        .status();
    assert!(status.is_ok_and(|status| status.success()), "cc failed");
}
