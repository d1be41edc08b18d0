//! Plugins good and bad, from files, as a server meets them.

use std::ffi::CStr;
use std::fs;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::process::Command;

use ternion_kernel_conformance::{Fault, full, quick};
use ternion_kernel_export::{Plugin, Table};
use ternion_kernel_host::{
    Choice, Identity, Kernel, PluginFile, Rejection, Search, SearchPath, Sha256, State, Survey,
    Tried, survey,
};
use ternion_kernels::{i2s, tl1, tl2};

const MODEL_SHAPES: [(usize, usize); 3] = [(2560, 2560), (6912, 2560), (2560, 6912)];

/// The folder cargo builds into, from the test that runs in it: either
/// `PROFILE/deps` or a folder below.
fn build_dir() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let deps = test.ancestors().find(|dir| dir.ends_with("deps"));
    deps.and_then(Path::parent)
        .expect("tests run in the folder they were built in")
        .to_owned()
}

/// A library cargo built: an example, or a dependency of this test.
fn library(name: &str) -> PathBuf {
    let file = format!("lib{name}.so");
    ["examples", "deps", ""]
        .iter()
        .map(|dir| build_dir().join(dir).join(&file))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("cargo built {file}"))
}

fn install(name: &str, dir: &Path, file: &str) -> PathBuf {
    let path = dir.join(file);
    fs::copy(library(name), &path).unwrap();
    path
}

fn look_in(dir: &Path, every_library: bool, wanted: Option<&str>) -> Survey {
    let path = SearchPath {
        dir: dir.to_owned(),
        every_library,
    };
    search(path, wanted, None, &mut |_| None)
}

/// Tries plugins in this process: what they do to it, they do here.
fn search(
    path: SearchPath,
    wanted: Option<&str>,
    allowed: Option<&[Sha256]>,
    choose: &mut dyn FnMut(&[Kernel]) -> Option<Choice>,
) -> Survey {
    let open = |file: &PluginFile| PluginFile::read(file.path(), None)?.open(&mut |_| {});
    let trial = |file: &PluginFile| match open(file) {
        Ok(kernel) => Tried {
            identity: Some(Identity::of(&kernel)),
            outcome: quick(&kernel, &MODEL_SHAPES)
                .map_err(|mismatch| Rejection::Failed(mismatch.to_string())),
        },
        Err(error) => Tried {
            identity: None,
            outcome: Err(error.into()),
        },
    };
    survey(Search {
        paths: &[path],
        wanted,
        allowed,
        trial: &trial,
        choose,
    })
}

fn state_of<'a>(survey: &'a Survey, file: &str) -> &'a State {
    let found = survey.found.iter().find(|found| found.path.ends_with(file));
    &found.expect("the file was looked at").state
}

fn refused(reason: &str) -> State {
    State::Refused {
        reason: reason.into(),
    }
}

/// Variant `N` of a packing's as a plugin of its own.
struct Nth<K, const N: usize>(PhantomData<K>);

/// Packings, whose modules name and call things alike.
macro_rules! packings {
    ($($packing:ident: $test:ident;)*) => {
        $(impl<const N: usize> Plugin for Nth<$packing::Variant, N> {
            const NAME: &'static CStr = c"nth";
            type Kernel = $packing::Variant;

            fn kernel() -> $packing::Variant {
                $packing::Variant::available()[N]
            }
        }

        #[test]
        fn $test() {
            let num_variants = $packing::Variant::available().len();
            let tables = [
                Table::of::<Nth<$packing::Variant, 0>>(),
                Table::of::<Nth<$packing::Variant, 1>>(),
                Table::of::<Nth<$packing::Variant, 2>>(),
                Table::of::<Nth<$packing::Variant, 3>>(),
                Table::of::<Nth<$packing::Variant, 4>>(),
                Table::of::<Nth<$packing::Variant, 5>>(),
            ];
            assert!(num_variants <= tables.len(), "{num_variants} variants");
            for table in tables.into_iter().take(num_variants) {
                conforms_in_process(table);
            }
        })*
    };
}

packings! {
    i2s: every_variant_of_i2s_conforms_in_process;
    tl1: every_variant_of_tl1_conforms_in_process;
    tl2: every_variant_of_tl2_conforms_in_process;
}

fn conforms_in_process(table: Table) {
    let table = Box::leak(Box::new(table)).as_ptr();
    // SAFETY: the table lives as long as the program, and follows the contract.
    let kernel = unsafe { Kernel::from_table(table) }.unwrap();
    full(&kernel).unwrap_or_else(|mismatch| panic!("{}: {mismatch}", kernel.isa()));
}

/// Every plugin of ours. No two can be linked into one program: all have the same symbol.
const OURS: [&str; 3] = ["i2s", "tl1", "tl2"];

#[test]
fn our_plugins_conform_as_files() {
    for name in OURS {
        let kernel = Kernel::open(&library(&format!("ternion_kernel_{name}"))).unwrap();
        assert_eq!(kernel.name(), name);
        full(&kernel).unwrap_or_else(|mismatch| panic!("{name}: {mismatch}"));
    }
}

#[test]
fn our_plugins_export_one_symbol() {
    for name in OURS {
        let nm = Command::new("nm")
            .args(["-D", "--defined-only", "--format=posix"])
            .arg(library(&format!("ternion_kernel_{name}")))
            .output()
            .unwrap();
        let symbols = String::from_utf8(nm.stdout).unwrap();
        let names: Vec<&str> = symbols
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        assert_eq!(names, ["ternion_kernel_v1"], "{name}");
    }
}

#[test]
fn tiles_of_five_rows_and_a_transposed_layout_conform() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libodd.so");
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiled = Command::new("cc")
        .args([
            "-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC",
        ])
        .arg("-I")
        .arg(here.join("../abi/include"))
        .arg(here.join("tests/odd_plugin.c"))
        .arg("-o")
        .arg(&path)
        .status()
        .unwrap();
    assert!(compiled.success());
    let kernel = Kernel::open(&path).unwrap();
    assert_eq!((kernel.name(), kernel.isa()), ("odd", "c"));
    assert!(!kernel.supports(1, 1));
    full(&kernel).unwrap_or_else(|mismatch| panic!("{mismatch}"));
}

#[test]
fn among_many_bad_plugins_the_good_one_is_selected() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    install("plugin_too_old", dir, "a_too_old.so");
    install("plugin_too_new", dir, "b_too_new.so");
    install("plugin_incomplete", dir, "c_incomplete.so");
    install("plugin_wrong_answer", dir, "d_wrong_answer.so");
    install("plugin_newer_minor", dir, "e_newer_minor.so");
    let text = dir.join("f_text.so");
    fs::write(&text, "This file is not a library at all. ".repeat(10)).unwrap();
    let i2s = install("ternion_kernel_i2s", dir, "g_i2s.so");
    install("ternion_kernel_i2s", dir, "h_i2s_again.so");
    let whole = fs::read(&i2s).unwrap();
    fs::write(dir.join("i_truncated.so"), &whole[..whole.len() / 2]).unwrap();
    fs::write(dir.join("j_empty.so"), "").unwrap();
    fs::create_dir(dir.join("k_directory.so")).unwrap();
    fs::write(dir.join("l_readme.txt"), "not looked at").unwrap();
    // A library that has nothing to do with ternion.
    let foreign = dir.join("m_foreign.so");
    let compiled = Command::new("cc")
        .args(["-shared", "-xc", "/dev/null", "-o"])
        .arg(&foreign)
        .status()
        .unwrap();
    assert!(compiled.success());

    let survey = look_in(dir, true, None);
    let table_bytes = ternion_kernel_abi::KERNEL_SIZE_V1;
    let state = |file| state_of(&survey, file);
    assert_eq!(
        state("a_too_old.so"),
        &refused(&format!(
            "is too old: its table has 16 bytes, and this host needs {table_bytes}"
        ))
    );
    assert_eq!(
        state("b_too_new.so"),
        &refused("has kernel ABI version 2, and this host has 1")
    );
    assert_eq!(
        state("c_incomplete.so"),
        &refused("has no function `prepare`")
    );
    let State::Failed { reason } = state("d_wrong_answer.so") else {
        panic!("{:?}", state("d_wrong_answer.so"));
    };
    assert!(
        reason.starts_with(
            "2x2560, batch 2, random weights, random activations: row 1 of token 1 is "
        ),
        "{reason}"
    );
    assert_eq!(state("e_newer_minor.so"), &State::Usable);
    let no_elf = "is not a library: it does not begin as an ELF file does";
    assert_eq!(state("f_text.so"), &refused(no_elf));
    assert!(
        matches!(state("g_i2s.so"), State::Selected { why } if why.ends_with(" of 2 usable")),
        "{:?}",
        state("g_i2s.so")
    );
    assert_eq!(
        state("h_i2s_again.so"),
        &refused(&format!("has the name of {}", i2s.display()))
    );
    let State::Refused { reason } = state("i_truncated.so") else {
        panic!("{:?}", state("i_truncated.so"));
    };
    assert!(
        reason.starts_with(&format!("is cut short: {} bytes of ", whole.len() / 2)),
        "{reason}"
    );
    assert_eq!(state("j_empty.so"), &refused(no_elf));
    assert_eq!(state("k_directory.so"), &refused("is not a file"));
    assert!(
        matches!(state("m_foreign.so"), State::Refused { reason }
            if reason.starts_with("exports no ternion_kernel_v1: ")),
        "{:?}",
        state("m_foreign.so")
    );
    assert_eq!(survey.found.len(), 12);
    let selected = survey.selected().unwrap();
    assert_eq!((selected.name(), selected.path()), ("i2s", i2s.as_path()));
}

#[test]
fn a_wanted_plugin_is_selected_and_no_other_instead() {
    let dir = tempfile::tempdir().unwrap();
    install("plugin_newer_minor", dir.path(), "newer.so");
    install("ternion_kernel_i2s", dir.path(), "i2s.so");
    let survey = look_in(dir.path(), true, Some("newer_minor"));
    assert_eq!(survey.selected().unwrap().name(), "newer_minor");
    let why = "configured by name".into();
    assert_eq!(state_of(&survey, "newer.so"), &State::Selected { why });
    assert_eq!(state_of(&survey, "i2s.so"), &State::Usable);

    let survey = look_in(dir.path(), true, Some("tl2"));
    let error = survey.selected().unwrap_err().to_string();
    let dir = dir.path().display();
    let start =
        format!("no kernel plugin called tl2 can be used; looked in {dir}; {dir}/i2s.so (i2s ");
    assert!(error.starts_with(&start), "{error}");
}

#[test]
fn beside_the_executable_only_plugins_are_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    install("plugin_newer_minor", dir.path(), "libsomething_else.so");
    install("ternion_kernel_i2s", dir.path(), "libternion_kernel_i2s.so");
    let survey = look_in(dir.path(), false, None);
    assert_eq!(survey.found.len(), 1);
    let found = &survey.found[0];
    assert!(matches!(&found.state, State::Selected { .. }), "{found}");
}

#[test]
fn where_there_is_a_choice_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    install("plugin_newer_minor", dir.path(), "newer.so");
    let path = || SearchPath {
        dir: dir.path().to_owned(),
        every_library: true,
    };
    let mut no_choice = |_: &[Kernel]| panic!("there is one");
    let survey = search(path(), None, None, &mut no_choice);
    let why = "the only one usable".into();
    assert_eq!(state_of(&survey, "newer.so"), &State::Selected { why });

    install("ternion_kernel_i2s", dir.path(), "i2s.so");
    let mut lowest_score = |kernels: &[Kernel]| {
        let names: Vec<&str> = kernels.iter().map(Kernel::name).collect();
        assert_eq!(names, ["i2s", "newer_minor"]);
        let why = "just because".into();
        Some(Choice { index: 1, why })
    };
    let survey = search(path(), None, None, &mut lowest_score);
    assert_eq!(survey.selected().unwrap().name(), "newer_minor");
    let why = "just because".into();
    assert_eq!(state_of(&survey, "newer.so"), &State::Selected { why });

    let mut no_choice = |_: &[Kernel]| panic!("one is wanted");
    let survey = search(path(), Some("i2s"), None, &mut no_choice);
    assert_eq!(survey.selected().unwrap().name(), "i2s");
}

#[test]
fn with_a_list_only_its_files_are_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let newer = install("plugin_newer_minor", dir.path(), "newer.so");
    let i2s = install("ternion_kernel_i2s", dir.path(), "i2s.so");
    let allowed = [Sha256::of(&fs::read(&i2s).unwrap())];
    let path = SearchPath {
        dir: dir.path().to_owned(),
        every_library: true,
    };
    let survey = search(path, None, Some(&allowed), &mut |_| None);
    assert_eq!(survey.selected().unwrap().name(), "i2s");
    let digest = Sha256::of(&fs::read(&newer).unwrap());
    let reason = format!("is not among the files allowed: its SHA-256 is {digest}");
    assert_eq!(state_of(&survey, "newer.so"), &refused(&reason));
}

/// Between the look and the load, the file becomes another.
#[test]
fn what_was_allowed_is_what_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let path = install("ternion_kernel_i2s", dir.path(), "plugin.so");
    let allowed = [Sha256::of(&fs::read(&path).unwrap())];
    let file = PluginFile::read(&path, Some(&allowed)).unwrap();
    install("plugin_newer_minor", dir.path(), "plugin.so");
    let kernel = file.open(&mut |_| {}).unwrap();
    assert_eq!(kernel.name(), "i2s");
    full(&kernel).unwrap_or_else(|mismatch| panic!("{mismatch}"));
    let error = PluginFile::read(&path, Some(&allowed)).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("is not among the files allowed")
    );

    // Both are loaded at once, whatever the loader calls them.
    let allowed = [Sha256::of(&fs::read(&path).unwrap())];
    let file = PluginFile::read(&path, Some(&allowed)).unwrap();
    assert_eq!(file.open(&mut |_| {}).unwrap().name(), "newer_minor");
    assert_eq!(kernel.name(), "i2s");
}

/// A library that ends the process when it is loaded, and requires something.
fn deadly(dir: &Path, source: &str) -> PathBuf {
    let path = dir.join("deadly.so");
    let source = format!(
        "#include <ternion_kernel.h>\n#include <unistd.h>\n{source}\n\
         __attribute__((constructor)) static void load(void) {{ _exit(77); }}\n"
    );
    let file = dir.join("deadly.c");
    fs::write(&file, source).unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiled = Command::new("cc")
        .args([
            "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
        ])
        .args([
            "-ffunction-sections",
            "-fdata-sections",
            "-Wl,--gc-sections",
        ])
        .arg("-I")
        .arg(here.join("../abi/include"))
        .args([&file, Path::new("-o"), &path])
        .status()
        .unwrap();
    assert!(compiled.success());
    path
}

#[test]
fn what_the_cpu_lacks_is_told_before_the_library_runs() {
    let dir = tempfile::tempdir().unwrap();
    let told = |source: &str| {
        let path = deadly(dir.path(), source);
        let error = PluginFile::read(&path, None).unwrap_err();
        (error.is_for_other_machines(), error.to_string())
    };
    assert_eq!(
        told(r#"TERNION_KERNEL_REQUIRES("no_such_feature");"#),
        (
            false,
            r#"requires "no_such_feature", which is no CPU feature this host knows"#.into()
        )
    );
    assert_eq!(
        told(r#"TERNION_KERNEL_REQUIRES("avx2;fma");"#),
        (
            false,
            "has a .ternion.requires section that is not a list of names".into()
        )
    );
    // No x86 CPU has both, and no ARM CPU either.
    let (present, missing) = match std::env::consts::ARCH {
        "x86_64" => ("sse2", ["avx512fp16", "avxifma", "avxvnniint16"].as_slice()),
        _ => ("neon", ["f64mm", "sve2"].as_slice()),
    };
    let is_missing = |name: &&&str| !ternion_kernel_host::cpu_features().contains(*name);
    let missing = missing.iter().find(is_missing).expect("some are rare");
    assert_eq!(
        told(&format!(
            r#"TERNION_KERNEL_REQUIRES("{present},{missing}");"#
        )),
        (
            true,
            format!("requires {missing}, which this CPU or its operating system doesn't have")
        )
    );
    // What is there lets it pass, and so does nothing.
    for source in [&format!(r#"TERNION_KERNEL_REQUIRES("{present}");"#), ""] {
        PluginFile::read(&deadly(dir.path(), source), None).unwrap();
    }
}

#[test]
fn rust_plugins_say_what_they_require() {
    let error = PluginFile::read(&library("plugin_requires"), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"requires "quantum", which is no CPU feature this host knows"#
    );
}

#[test]
fn libraries_for_other_machines_are_told_from_broken_ones() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(library("ternion_kernel_i2s")).unwrap();
    let told = |at: usize, value: u8| {
        let mut bytes = whole.clone();
        bytes[at] = value;
        let path = dir.path().join("other.so");
        fs::write(&path, bytes).unwrap();
        let error = PluginFile::read(&path, None).unwrap_err();
        (error.is_for_other_machines(), error.to_string())
    };
    let here = std::env::consts::ARCH;
    // e_machine of elf(5): RISC-V.
    assert_eq!(
        told(18, 243),
        (
            true,
            format!("is a library for riscv, and this machine is {here}")
        )
    );
    assert_eq!(
        told(4, 1),
        (
            true,
            format!("is a library for 32 bits, and this machine is {here}")
        )
    );
    // e_type: an object file.
    assert_eq!(
        told(16, 1),
        (false, "is an ELF file but not a shared library".into())
    );
}

#[test]
fn without_a_plugin_the_error_says_where_it_looked() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let error = look_in(&missing, true, None).selected().unwrap_err();
    let missing = missing.display();
    assert_eq!(
        error.to_string(),
        format!(
            "no kernel plugin can be used; looked in {missing}; \
             {missing} can't be read: No such file or directory (os error 2); found nothing"
        )
    );
}

/// The system's loader would map what isn't there and die of it.
#[test]
fn a_file_cut_anywhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(library("ternion_kernel_i2s")).unwrap();
    let around_the_headers = (0..1024).step_by(31);
    let elsewhere = (1024..whole.len()).step_by(whole.len() / 50);
    for len in around_the_headers.chain(elsewhere).chain([whole.len() - 1]) {
        let path = dir.path().join(format!("{len}.so"));
        fs::write(&path, &whole[..len]).unwrap();
        assert!(Kernel::open(&path).is_err(), "cut to {len} bytes");
    }
}

#[test]
fn a_wrong_answer_is_told_in_full() {
    let kernel = Kernel::open(&library("plugin_wrong_answer")).unwrap();
    let mismatch = full(&kernel).unwrap_err();
    assert_eq!((mismatch.rows, mismatch.cols), (1, 1));
    assert_eq!(
        mismatch.inputs,
        "batch 2, random weights, random activations"
    );
    let Fault::Wrong {
        row: 0,
        token: 1,
        got,
        want,
    } = mismatch.fault
    else {
        panic!("{mismatch}");
    };
    assert_eq!(got, want + 1);
}
