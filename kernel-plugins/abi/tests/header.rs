//! The C header is generated from this crate, and a C compiler agrees with
//! Rust about it. `TERNION_BLESS=1` rewrites the committed file.

use std::collections::HashMap;
use std::mem::{align_of, offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ternion_kernel_abi as abi;

/// What C calls things that Rust finds under the crate's name.
const NAMES: [(&str, &str); 7] = [
    ("ABI_VERSION", "TERNION_ABI_VERSION"),
    ("MAX_COLS", "TERNION_MAX_COLS"),
    ("OK", "TERNION_OK"),
    ("UNSUPPORTED", "TERNION_UNSUPPORTED"),
    ("INVALID", "TERNION_INVALID"),
    ("FAILED", "TERNION_FAILED"),
    ("Kernel", "ternion_kernel"),
];

/// C's form of the crate's macro of that name.
const REQUIRES: &str = "\
/**
 * Names CPU features that the library needs to be loaded at all, separated by
 * commas, as GCC and Rust spell them: TERNION_KERNEL_REQUIRES(\"avx2,fma\");
 * once, at the top level of a source file.
 */
#define TERNION_KERNEL_REQUIRES(features) \\
  __attribute__((TERNION_KEPT, section(\".ternion.requires\"))) \\
  static const char ternion_kernel_requires[] = features

/* Against linkers that drop what nothing refers to. */
#ifdef __has_attribute
#if __has_attribute(retain)
#define TERNION_KEPT used, retain
#endif
#endif
#ifndef TERNION_KEPT
#define TERNION_KEPT used
#endif
";

const ENTRY: &str = "\
/**
 * The one symbol a plugin exports. The table it returns lives as long as the
 * library stays loaded, and doesn't change.
 */
const ternion_kernel *ternion_kernel_v1(void);
";

fn header_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include/ternion_kernel.h")
}

/// Documentation speaks of `Kernel` in Rust and of `ternion_kernel` in C.
fn in_c_words(text: &str) -> String {
    let mut text = text.to_owned();
    for (rust, c) in NAMES {
        text = text.replace(&format!("[`{rust}`]"), c);
    }
    // A name in plain code style stands for a value or a slot.
    for (rust, c) in &NAMES[..6] {
        text = text.replace(&format!("`{rust}`"), c);
    }
    text.replace('`', "")
}

/// The crate's own text, as the comment that opens the header.
fn contract() -> String {
    let mut comment = String::from("/*\n");
    for line in include_str!("../src/lib.rs").lines() {
        let Some(text) = line.strip_prefix("//!") else {
            break;
        };
        comment.push_str(format!(" *{}", text.replace("**", "")).trim_end());
        comment.push('\n');
    }
    comment + " *\n * Generated from the crate ternion-kernel-abi: edit that, not this.\n */"
}

fn generated() -> String {
    let rename: HashMap<String, String> = NAMES
        .iter()
        .map(|&(rust, c)| (rust.into(), c.into()))
        .collect();
    let config = cbindgen::Config {
        language: cbindgen::Language::C,
        header: Some(contract()),
        include_guard: Some("TERNION_KERNEL_H".into()),
        no_includes: true,
        sys_includes: vec!["stdint.h".into()],
        style: cbindgen::Style::Both,
        documentation_style: cbindgen::DocumentationStyle::Doxy,
        export: cbindgen::ExportConfig {
            include: vec!["Kernel".into()],
            exclude: vec![
                "Entry".into(),
                "KERNEL_SIZE_V1".into(),
                "ENTRY_SYMBOL".into(),
            ],
            rename,
            ..Default::default()
        },
        ..Default::default()
    };
    let mut text = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_src(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"))
        .generate()
        .expect("the crate is plain C")
        .write(&mut text);
    let text = String::from_utf8(text).expect("C source is text");
    // cbindgen writes functions only for Rust functions, and the entry is one
    // that every plugin defines and this crate doesn't.
    let table = "} ternion_kernel;\n";
    let (before, after) = text.split_once(table).expect("the table is there");
    in_c_words(&format!(
        "{before}{table}\n{REQUIRES}\n#ifdef __cplusplus\nextern \"C\" {{\n#endif\n\n{ENTRY}\n#ifdef __cplusplus\n}}\n#endif\n{after}"
    ))
}

#[test]
fn the_committed_header_is_the_generated_one() {
    let generated = generated();
    if std::env::var("TERNION_BLESS").is_ok_and(|value| value == "1") {
        std::fs::create_dir_all(header_path().parent().expect("it is in a folder")).unwrap();
        std::fs::write(header_path(), &generated).unwrap();
    }
    let committed = std::fs::read_to_string(header_path()).unwrap();
    assert!(
        committed == generated,
        "include/ternion_kernel.h isn't what the crate says; TERNION_BLESS=1 rewrites it"
    );
}

/// Compiles a C source that includes the header, without an output.
fn compile(source: &str) -> Result<(), String> {
    let mut compiler = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"])
        .args(["-fsyntax-only", "-xc", "-", "-I"])
        .arg(header_path().parent().expect("it is in a folder"))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a C compiler is called cc");
    let mut stdin = compiler.stdin.take().expect("it was piped");
    std::io::Write::write_all(&mut stdin, source.as_bytes()).unwrap();
    drop(stdin);
    let output = compiler.wait_with_output().unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn c_and_rust_agree_about_the_table() {
    macro_rules! offsets {
        ($($field:ident)*) => { [$((stringify!($field), offset_of!(abi::Kernel, $field))),*] };
    }
    let offsets = offsets!(abi_version struct_size name version isa probe alignment row_tile
        supports packed_bytes pack prepared_bytes prepare gemm);
    let values = [
        ("TERNION_ABI_VERSION", i64::from(abi::ABI_VERSION)),
        ("TERNION_MAX_COLS", abi::MAX_COLS as i64),
        ("TERNION_OK", abi::OK.into()),
        ("TERNION_UNSUPPORTED", abi::UNSUPPORTED.into()),
        ("TERNION_INVALID", abi::INVALID.into()),
        ("TERNION_FAILED", abi::FAILED.into()),
        ("sizeof(ternion_kernel)", size_of::<abi::Kernel>() as i64),
        ("_Alignof(ternion_kernel)", align_of::<abi::Kernel>() as i64),
    ];
    let mut source = String::from("#include <ternion_kernel.h>\n#include <stddef.h>\n");
    for (field, offset) in offsets {
        source +=
            &format!("_Static_assert(offsetof(ternion_kernel, {field}) == {offset}, \"\");\n");
    }
    for (name, value) in values {
        source += &format!("_Static_assert({name} == {value}, \"\");\n");
    }
    compile(&source).unwrap_or_else(|error| panic!("{error}"));
    let wrong = format!("{source}_Static_assert(sizeof(ternion_kernel) == 1, \"\");\n");
    assert!(compile(&wrong).is_err(), "the compiler checks nothing");
}

/// A plugin written against the header alone: every slot takes a function of
/// the type that a reader of the header would write.
#[test]
fn a_plugin_in_c_compiles() {
    let source = r#"
#include <ternion_kernel.h>

static const char *isa(void) { return "c"; }
static int32_t probe(void) { return 1; }
static int32_t supports(uint64_t rows, uint64_t cols) { return rows > 0 && cols <= TERNION_MAX_COLS; }
static uint64_t packed_bytes(uint64_t rows, uint64_t cols) { return rows * cols; }
static int32_t pack(uint64_t rows, uint64_t cols, uint64_t row_begin, uint64_t row_end,
                    const int8_t *trits, uint8_t *packed)
{
    if (row_end > rows) return TERNION_INVALID;
    for (uint64_t i = 0; i < (row_end - row_begin) * cols; i++) packed[row_begin * cols + i] = (uint8_t)trits[i];
    return TERNION_OK;
}
static uint64_t prepared_bytes(uint64_t cols, uint64_t batch) { return cols * batch; }
static int32_t prepare(uint64_t cols, uint64_t batch, const int8_t *activations, uint8_t *prepared)
{
    for (uint64_t i = 0; i < cols * batch; i++) prepared[i] = (uint8_t)activations[i];
    return TERNION_OK;
}
static int32_t gemm(uint64_t rows, uint64_t cols, const uint8_t *packed, uint64_t batch,
                    const uint8_t *prepared, uint64_t row_begin, uint64_t row_end,
                    int32_t *out, uint64_t out_stride)
{
    (void)rows, (void)cols, (void)packed, (void)batch, (void)prepared;
    (void)row_begin, (void)row_end, (void)out, (void)out_stride;
    return TERNION_UNSUPPORTED;
}
static const ternion_kernel table = {
    .abi_version = TERNION_ABI_VERSION, .struct_size = sizeof(ternion_kernel),
    .name = "c", .version = "1", .isa = isa, .probe = probe, .alignment = 64, .row_tile = 1,
    .supports = supports, .packed_bytes = packed_bytes, .pack = pack,
    .prepared_bytes = prepared_bytes, .prepare = prepare, .gemm = gemm,
};
const ternion_kernel *ternion_kernel_v1(void) { return &table; }
TERNION_KERNEL_REQUIRES("avx2,fma");
"#;
    compile(source).unwrap_or_else(|error| panic!("{error}"));
}
