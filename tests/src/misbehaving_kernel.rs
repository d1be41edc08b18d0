use std::path::Path;
use std::process::Command;

/// Builds a kernel plugin that computes right but for what is defined: see
/// `tools/misbehaving_kernel.c`. Its name is the file's.
pub fn misbehaving_kernel(dir: &Path, name: &str, definitions: &[(&str, &str)]) {
    ternion_tasks::tools::c_compiler().expect("a C compiler");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let define = |(name, text): &(&str, &str)| format!("-D{name}={text}");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-std=c11", "-Wall", "-Werror"])
        .arg(format!("-DNAME=\"{name}\""))
        .args(definitions.iter().map(define))
        .arg("-I")
        .arg(tests.join("../kernel-plugins/abi/include"))
        .arg("-o")
        .arg(dir.join(format!("{name}.so")))
        .arg(tests.join("tools/misbehaving_kernel.c"))
        .status();
    assert!(status.is_ok_and(|status| status.success()), "cc failed");
}
