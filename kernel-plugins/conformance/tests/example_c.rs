//! The example plugin in C, by every compiler that is here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::{null, null_mut};

use libloading::Library;
use tempfile::TempDir;
use ternion_kernel_abi::{
    ENTRY_SYMBOL, Entry, INVALID, Kernel as Table, MAX_COLS, OK, UNSUPPORTED,
};
use ternion_kernel_conformance::full;
use ternion_kernel_host::Kernel;

const ROWS: u64 = 70;
const COLS: u64 = 20;
/// Of the layout: a group of 32 bytes for each row, and 32 + 128 for each token.
const PACKED_BYTES: usize = 70 * 32;
const PREPARED_BYTES: usize = 2 * 160;

/// Buffers as aligned as the plugin asks for.
#[repr(align(32))]
struct Aligned<const N: usize>([u8; N]);

/// A library that a compiler made of the example, until dropped.
struct Built {
    _dir: TempDir,
    path: PathBuf,
}

/// None if there is no such compiler.
fn built_by(compiler: &[&str]) -> Option<Built> {
    let version = Command::new(compiler[0]).arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libternion_kernel_example.so");
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let compiled = Command::new(compiler[0])
        .args(&compiler[1..])
        .args([
            "-O2",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Wconversion",
            "-Werror",
        ])
        .args(["-shared", "-fPIC", "-I"])
        .arg(plugins.join("abi/include"))
        .arg(plugins.join("example-c/example.c"))
        .arg("-o")
        .arg(&path)
        .output()
        .unwrap();
    assert!(
        compiled.status.success(),
        "{compiler:?}: {}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    Some(Built { _dir: dir, path })
}

fn assert_conforms(built: &Built) {
    let kernel = Kernel::open(&built.path).unwrap();
    assert_eq!((kernel.name(), kernel.isa()), ("example", "c"));
    full(&kernel).unwrap_or_else(|mismatch| panic!("{mismatch}"));
}

#[test]
fn it_is_c11_and_conforms() {
    assert_conforms(&built_by(&["gcc", "-std=c11"]).expect("the tests need gcc"));
}

/// These are tried where they are.
#[test]
fn it_is_cpp_and_other_compilers_take_it() {
    let compilers: [&[&str]; 5] = [
        &["gcc", "-std=c99"],
        &["g++", "-xc++", "-std=c++20"],
        &["clang", "-std=c11"],
        &["clang-19", "-std=c11"],
        &["clang++", "-xc++", "-std=c++20"],
    ];
    for compiler in compilers {
        match built_by(compiler) {
            Some(built) => assert_conforms(&built),
            None => println!("left out, as it isn't here: {compiler:?}"),
        }
    }
}

/// Calls the example's table, which the host only does with good arguments.
fn with_table(test: impl FnOnce(&Table)) {
    let built = built_by(&["gcc", "-std=c11"]).expect("the tests need gcc");
    // SAFETY: the example has no initialisers, and its one symbol is the entry.
    let library = unsafe { Library::new(&built.path) }.unwrap();
    // SAFETY: as above; the table is a static that lives as long as the library.
    test(unsafe { &*library.get::<Entry>(ENTRY_SYMBOL).unwrap()() });
}

#[test]
fn sizes_are_zero_where_a_shape_is_not_supported() {
    with_table(|table| {
        let shapes = [
            (ROWS, COLS, 70 * 32),
            (1, MAX_COLS, MAX_COLS / 4),
            (0, COLS, 0),
            (ROWS, 0, 0),
            (ROWS, MAX_COLS + 1, 0),
            (u64::MAX, COLS, 0),
            (u64::MAX / 32 + 2, COLS, 0),
            (u64::MAX, u64::MAX, 0),
        ];
        for (rows, cols, expected) in shapes {
            // SAFETY: functions of two numbers.
            let (answer, bytes) = unsafe {
                let supports = table.supports.unwrap();
                (
                    supports(rows, cols),
                    table.packed_bytes.unwrap()(rows, cols),
                )
            };
            assert_eq!(bytes, expected, "{rows}x{cols}");
            assert_eq!(answer, i32::from(expected > 0), "{rows}x{cols}");
        }
        let batches = [
            (COLS, 2, 320),
            (0, 1, 0),
            (1, 0, 0),
            (MAX_COLS + 1, 1, 0),
            (1, u64::MAX, 0),
            (1, u64::MAX / 160 + 2, 0),
        ];
        for (cols, batch, expected) in batches {
            // SAFETY: a function of two numbers.
            let bytes = unsafe { table.prepared_bytes.unwrap()(cols, batch) };
            assert_eq!(bytes, expected, "{batch} tokens of {cols}");
        }
    });
}

#[test]
fn pack_and_prepare_refuse_what_breaks_the_contract() {
    with_table(|table| {
        let (pack, prepare) = (table.pack.unwrap(), table.prepare.unwrap());
        let mut packed = Aligned([0; PACKED_BYTES]);
        let packed = packed.0.as_mut_ptr();
        let status = |rows, cols, begin, end, trits: &[i8; 1400]| {
            // SAFETY: `packed` is as long as the matrix, and no range that is
            // accepted takes more trits than there are.
            unsafe { pack(rows, cols, begin, end, trits.as_ptr(), packed) }
        };
        let zeros = [0; 1400];
        assert_eq!(status(ROWS, COLS, 0, ROWS, &zeros), OK);
        assert_eq!(status(ROWS, COLS, 64, ROWS, &zeros), OK);
        assert_eq!(status(ROWS, COLS, 8, 8, &zeros), OK);
        for (begin, end) in [(1, 8), (0, 9), (0, ROWS + 1), (64, 8), (u64::MAX, u64::MAX)] {
            assert_eq!(
                status(ROWS, COLS, begin, end, &zeros),
                INVALID,
                "{begin}..{end}"
            );
        }
        for (rows, cols) in [(0, COLS), (ROWS, 0), (ROWS, MAX_COLS + 1), (u64::MAX, COLS)] {
            assert_eq!(
                status(rows, cols, 0, 0, &zeros),
                UNSUPPORTED,
                "{rows}x{cols}"
            );
        }
        for (place, bad) in [(0, 2), (1399, -2), (700, i8::MAX), (701, i8::MIN)] {
            let mut trits = zeros;
            trits[place] = bad;
            assert_eq!(
                status(ROWS, COLS, 0, ROWS, &trits),
                INVALID,
                "{bad} at {place}"
            );
        }
        // SAFETY: null is refused before it is used.
        unsafe {
            assert_eq!(pack(ROWS, COLS, 0, ROWS, null(), packed), INVALID);
            assert_eq!(
                pack(ROWS, COLS, 0, ROWS, zeros.as_ptr(), null_mut()),
                INVALID
            );
        }

        let mut prepared = Aligned([0; PREPARED_BYTES]);
        let prepared = prepared.0.as_mut_ptr();
        let activations = [1; 40];
        let activations = activations.as_ptr();
        // SAFETY: two tokens of twenty columns are there, and room for them;
        // what else is passed is refused before it is used.
        unsafe {
            assert_eq!(prepare(COLS, 2, activations, prepared), OK);
            assert_eq!(prepare(COLS, 0, activations, prepared), UNSUPPORTED);
            assert_eq!(prepare(0, 2, activations, prepared), UNSUPPORTED);
            assert_eq!(prepare(MAX_COLS + 1, 2, activations, prepared), UNSUPPORTED);
            assert_eq!(prepare(COLS, u64::MAX, activations, prepared), UNSUPPORTED);
            assert_eq!(prepare(COLS, 2, null(), prepared), INVALID);
            assert_eq!(prepare(COLS, 2, activations, null_mut()), INVALID);
        }
    });
}

#[test]
fn gemm_refuses_what_breaks_the_contract() {
    with_table(|table| {
        let gemm = table.gemm.unwrap();
        let (packed, prepared) = (Aligned([0; PACKED_BYTES]), Aligned([0; PREPARED_BYTES]));
        let (packed, prepared) = (packed.0.as_ptr(), prepared.0.as_ptr());
        let mut out = [0; 2 * ROWS as usize];
        let out = out.as_mut_ptr();
        let status = |batch, begin, end, stride| {
            // SAFETY: the buffers are those of a matrix of this shape and of
            // two tokens, and `out` holds all rows of both.
            unsafe { gemm(ROWS, COLS, packed, batch, prepared, begin, end, out, stride) }
        };
        assert_eq!(status(2, 0, ROWS, ROWS), OK);
        assert_eq!(status(1, 0, ROWS, u64::from(u32::MAX)), OK);
        assert_eq!(status(2, 8, 8, 0), OK);
        for stride in [0, ROWS - 1, u64::MAX, u64::MAX / 16 + 1] {
            assert_eq!(status(2, 0, ROWS, stride), INVALID, "stride {stride}");
        }
        for (begin, end) in [(1, 8), (0, 9), (0, ROWS + 1), (64, 8)] {
            assert_eq!(status(2, begin, end, ROWS), INVALID, "{begin}..{end}");
        }
        for batch in [0, u64::MAX] {
            assert_eq!(status(batch, 0, ROWS, ROWS), UNSUPPORTED, "{batch} tokens");
        }
        // SAFETY: null is refused before it is used.
        unsafe {
            let of_nothing = gemm(ROWS, 0, packed, 2, prepared, 0, ROWS, out, ROWS);
            assert_eq!(of_nothing, UNSUPPORTED);
            let without_packed = gemm(ROWS, COLS, null(), 2, prepared, 0, ROWS, out, ROWS);
            assert_eq!(without_packed, INVALID);
            let without_prepared = gemm(ROWS, COLS, packed, 2, null(), 0, ROWS, out, ROWS);
            assert_eq!(without_prepared, INVALID);
            let without_out = gemm(ROWS, COLS, packed, 2, prepared, 0, ROWS, null_mut(), ROWS);
            assert_eq!(without_out, INVALID);
        }
    });
}
