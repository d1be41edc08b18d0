//! The C table that a ternion kernel plugin exports.
//!
//! A plugin is a shared library with one exported symbol,
//! `ternion_kernel_v1`, a function without arguments that returns a pointer
//! to a static [`Kernel`]. The table only ever grows at its end, and
//! `struct_size` says how much of it the plugin knows; a change that is not an
//! addition gets a new symbol.
//!
//! What crosses the boundary: plain pointers, lengths and integer status
//! codes. No Rust type, no allocation, no panic, no thread. The host owns all
//! memory and all threads. A plugin writes nothing to standard output, which
//! is the host's, and doesn't end the process.
//!
//! **Before it is loaded.** A host reads the file first: its machine, and the
//! CPU features that it names in a section `.ternion.requires`. Where the CPU
//! or its operating system lacks one, nothing of the library runs, so only what
//! is named there may be used by code that doesn't ask for itself: constructors,
//! `ternion_kernel_v1`, `probe` and `isa`. A plugin that is compiled for the
//! architecture's baseline and picks its paths at run time names nothing. Then
//! a host tries the plugin in a process of its own: whoever crashes, hangs,
//! exits or prints there is not loaded.
//!
//! **The work.** `W` is a ternary matrix of `rows` x `cols`, every weight in
//! {-1, 0, +1}. `X` is a matrix of `batch` x `cols` int8 activations, every
//! value an int8 allows (-128 included). The result is the exact
//! `Y[b][r] = sum over c of W[r][c] * X[b][c]` in int32. `cols` is at most
//! [`MAX_COLS`], for which the sum can't overflow. There is no
//! "approximately right": a plugin returns the same integers as the scalar
//! reference for every shape it supports.
//!
//! **Threading.** `gemm` is called from many threads at once on one packed
//! matrix and one prepared activation matrix, with disjoint row ranges;
//! `pack` from many threads with disjoint row ranges of one packed matrix.
//! `prepare` fills a buffer from one thread, while others fill other buffers.
//! Nothing else may be shared: a plugin keeps no mutable state.
//!
//! **Ownership.** Buffers belong to the host, don't overlap, and are valid
//! for the length of the call only. Packed and prepared buffers are aligned
//! to `alignment` bytes; others to their element. Between two tokens' results
//! in `out` may lie those of another thread: `gemm` touches its own only.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

use core::ffi::c_char;

/// Version of the table's meaning. Unequal versions don't work together.
pub const ABI_VERSION: u32 = 1;

/// The exported symbol, `ternion_kernel_v1`, NUL-terminated as `dlsym` wants it.
pub const ENTRY_SYMBOL: &[u8] = b"ternion_kernel_v1\0";

/// Type of the function behind [`ENTRY_SYMBOL`].
pub type Entry = unsafe extern "C" fn() -> *const Kernel;

/// Largest `cols` a host asks for: 128 * 2^23 sums to 2^30, inside int32.
pub const MAX_COLS: u64 = 1 << 23;

/// The call did what it says.
pub const OK: i32 = 0;
/// The plugin can't do this shape; `supports` would have said so.
pub const UNSUPPORTED: i32 = 1;
/// An argument breaks the contract: a length too small, a range out of bounds.
pub const INVALID: i32 = 2;
/// The plugin failed inside.
pub const FAILED: i32 = 3;

/// The table.
///
/// Strings are static, NUL-terminated UTF-8. Status codes are [`OK`],
/// [`UNSUPPORTED`], [`INVALID`], [`FAILED`]; any other value counts as
/// [`FAILED`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Kernel {
    /// [`ABI_VERSION`] of the header the plugin was built with.
    pub abi_version: u32,
    /// `sizeof` this table in the header the plugin was built with.
    pub struct_size: u32,
    /// Short name, unique among the plugins of a directory: `i2s`.
    pub name: *const c_char,
    /// The plugin's own version. Packed layouts may differ between versions.
    pub version: *const c_char,
    /// The instruction set the kernel will use on this machine: `avx2`.
    pub isa: Option<unsafe extern "C" fn() -> *const c_char>,
    /// 0: can't run on this CPU. Otherwise how well it expects to do, higher
    /// is better; i2s says 100 for its portable path, 200 for AVX2, 250
    /// for AVX-VNNI, 300 for AVX-512 VNNI.
    pub probe: Option<unsafe extern "C" fn() -> i32>,
    /// Alignment in bytes of packed and prepared buffers: a power of two, at
    /// most 4096.
    pub alignment: u32,
    /// Row ranges passed to `pack` and `gemm` begin at multiples of this and
    /// end at one or at `rows`. 1 to 4096.
    pub row_tile: u32,
    /// 1 if the plugin can multiply matrices of this shape, else 0.
    pub supports: Option<unsafe extern "C" fn(rows: u64, cols: u64) -> i32>,
    /// Bytes of a packed matrix; 0 if the shape isn't supported. A host takes
    /// more than four bytes a weight, of a shape rounded up generously, for a
    /// mistake.
    pub packed_bytes: Option<unsafe extern "C" fn(rows: u64, cols: u64) -> u64>,
    /// Packs rows `row_begin..row_end` of a `rows` x `cols` matrix.
    ///
    /// `trits` holds those rows only, row-major, one int8 in {-1, 0, +1} a
    /// weight: `(row_end - row_begin) * cols` bytes. `packed` is the buffer of
    /// the whole matrix, `packed_bytes(rows, cols)` long. A trit outside
    /// {-1, 0, +1} is `INVALID`.
    pub pack: Option<
        unsafe extern "C" fn(
            rows: u64,
            cols: u64,
            row_begin: u64,
            row_end: u64,
            trits: *const i8,
            packed: *mut u8,
        ) -> i32,
    >,
    /// Bytes of `batch` x `cols` prepared activations; 64 for each, of a shape
    /// rounded up generously, is as much as a host gives.
    pub prepared_bytes: Option<unsafe extern "C" fn(cols: u64, batch: u64) -> u64>,
    /// Turns row-major `batch` x `cols` activations into what `gemm` reads:
    /// sums, tables, shuffles. Once for all matrices that share the input.
    pub prepare: Option<
        unsafe extern "C" fn(
            cols: u64,
            batch: u64,
            activations: *const i8,
            prepared: *mut u8,
        ) -> i32,
    >,
    /// `out[b * out_stride + (r - row_begin)] = Y[b][r]` for every `b` in
    /// `0..batch` and `r` in `row_begin..row_end`. `out_stride` is in elements
    /// and at least `row_end - row_begin`.
    pub gemm: Option<
        unsafe extern "C" fn(
            rows: u64,
            cols: u64,
            packed: *const u8,
            batch: u64,
            prepared: *const u8,
            row_begin: u64,
            row_end: u64,
            out: *mut i32,
            out_stride: u64,
        ) -> i32,
    >,
}

/// Names CPU features that the library needs to be loaded at all, separated by
/// commas, as `std::arch` spells them: `requires!("avx2,fma");`, once, beside
/// the entry.
#[macro_export]
macro_rules! requires {
    ($features:literal) => {
        // SAFETY: the section is this text's alone: nothing runs it, and no
        // loader writes to it.
        #[used]
        #[unsafe(link_section = ".ternion.requires")]
        static TERNION_REQUIRES: [u8; $features.len() + 1] = {
            let text = ::core::concat!($features, "\0").as_bytes();
            *text.first_chunk().expect("the text is so long")
        };
    };
}

/// Bytes of version 1's table: a plugin that says less is too old to use.
pub const KERNEL_SIZE_V1: u32 = size_of::<Kernel>() as u32;
