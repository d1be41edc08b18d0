//! Who may know whom, and where `unsafe` may stand.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates that know no other crate of ours.
const LEAVES: [&str; 6] = [
    "ternion-engine",
    "ternion-model",
    "ternion-policy",
    "ternion-kernels",
    "ternion-kernel-abi",
    "ternion-proto",
];

const PLUGINS: [&str; 3] = [
    "ternion-kernel-i2s",
    "ternion-kernel-tl1",
    "ternion-kernel-tl2",
];

/// Kernels, plugins, the host that calls them, and `model`, which maps
/// weights in one file.
const UNSAFE_ALLOWED: [&str; 8] = [
    "kernel-plugins/kernels",
    "kernel-plugins/export",
    "kernel-plugins/i2s",
    "kernel-plugins/tl1",
    "kernel-plugins/tl2",
    "kernel-plugins/host",
    "kernel-plugins/abi",
    "service/model",
];

#[test]
fn the_server_links_no_plugin() {
    for dependency in dependencies("ternion-server") {
        assert!(
            !is_plugin(&dependency),
            "{dependency} is linked: plugins are opened at startup",
        );
    }
}

#[test]
fn the_client_knows_the_protocol_only() {
    let ours = ours("ternion-client");
    assert_eq!(ours, ["ternion-proto"]);
}

#[test]
fn leaves_depend_on_none_of_ours() {
    for leaf in LEAVES {
        assert!(ours(leaf).is_empty(), "{leaf} depends on {:?}", ours(leaf));
    }
}

#[test]
fn a_plugin_is_a_kernel_behind_the_table() {
    for plugin in PLUGINS {
        assert!(is_plugin(plugin));
        assert_eq!(
            ours(plugin),
            [
                "ternion-kernel-abi",
                "ternion-kernel-export",
                "ternion-kernels"
            ],
            "{plugin}",
        );
    }
}

#[test]
fn engine_and_policy_do_no_io_and_no_async() {
    for package in ["ternion-engine", "ternion-policy"] {
        for dependency in dependencies(package) {
            assert!(
                !["tokio", "tonic", "tracing"].contains(&dependency.as_str()),
                "{package} depends on {dependency}",
            );
        }
    }
}

#[test]
fn unsafe_is_forbidden_where_it_has_no_business() {
    let mut roots = Vec::new();
    crate_roots(&workspace(), &mut roots);
    assert!(roots.len() > 10, "only {roots:?}");
    for root in roots {
        let inside = root.strip_prefix(workspace()).expect("found there");
        if UNSAFE_ALLOWED
            .iter()
            .any(|allowed| inside.starts_with(allowed))
        {
            continue;
        }
        let text = std::fs::read_to_string(&root).expect("found above");
        assert!(
            text.contains("#![forbid(unsafe_code)]"),
            "{} doesn't forbid unsafe code",
            inside.display(),
        );
    }
}

#[test]
fn only_one_file_of_model_is_unsafe() {
    let mut files = Vec::new();
    rust_files(&workspace().join("service/model/src"), &mut files);
    let unsafe_files: Vec<_> = files
        .iter()
        .filter(|file| {
            let text = std::fs::read_to_string(file).expect("found above");
            text.contains("unsafe {") || text.contains("unsafe impl") || text.contains("unsafe fn")
        })
        .collect();
    assert!(unsafe_files.len() <= 1, "{unsafe_files:?}");
}

/// Names of everything that ends up in `package`.
fn dependencies(package: &str) -> Vec<String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["tree", "--locked", "--edges=normal", "--prefix=none"])
        .args(["--format={p}", "--package", package])
        .current_dir(workspace())
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "{output:?}");
    let tree = String::from_utf8(output.stdout).expect("cargo prints UTF-8");
    let names: Vec<String> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    assert_eq!(names.first().map(String::as_str), Some(package), "{tree}");
    names
}

fn ours(package: &str) -> Vec<String> {
    let mut ours = dependencies(package);
    ours.retain(|name| name.starts_with("ternion-") && name != package);
    ours.sort();
    ours.dedup();
    ours
}

/// Plugins are called after their kernel; the rooms around them are not.
fn is_plugin(name: &str) -> bool {
    let rooms = [
        "ternion-kernel-abi",
        "ternion-kernel-export",
        "ternion-kernel-host",
        "ternion-kernel-conformance",
    ];
    name.starts_with("ternion-kernel-") && !rooms.contains(&name)
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests is a room of the workspace")
        .to_owned()
}

fn crate_roots(dir: &Path, roots: &mut Vec<PathBuf>) {
    rust_files(dir, roots);
    roots.retain(|file| file.ends_with("lib.rs") || file.ends_with("main.rs"));
}

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory of the workspace") {
        let path = entry.expect("it can be listed").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
