use std::path::Path;

use crate::compile_plugin;

/// Builds a kernel plugin that computes right but for what is defined: see
/// `tools/misbehaving_kernel.c`. Its name is the file's.
pub fn misbehaving_kernel(dir: &Path, name: &str, definitions: &[(&str, &str)]) {
    let mut defines = vec![format!("-DNAME=\"{name}\"")];
    defines.extend(
        definitions
            .iter()
            .map(|(what, text)| format!("-D{what}={text}")),
    );
    let file = dir.join(format!("{name}.so"));
    compile_plugin("tests/tools/misbehaving_kernel.c", &file, &defines);
}
