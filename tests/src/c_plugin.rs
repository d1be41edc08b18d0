use std::path::Path;

/// Makes a kernel plugin of a C file, which is named from the repository's root.
pub fn compile_plugin(source: &str, plugin: &Path, defines: &[String]) {
    let made = ternion_tasks::c_plugin::compile_plugin(source, plugin, defines);
    made.expect("it compiles");
}
