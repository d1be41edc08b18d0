//! Plugins as the host opens them.

use ternion_kernel_host::Kernel;

/// Opens a plugin that cargo built beside this test.
pub(crate) fn open(name: &str) -> Kernel {
    let test = std::env::current_exe().expect("a test has a file");
    let file = format!(
        "{}ternion_kernel_{name}{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    );
    let found = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(&file))
        .find(|p| p.exists());
    let path = found.expect("cargo built the plugin, a dev-dependency");
    Kernel::open(&path).expect("our own plugin opens")
}
