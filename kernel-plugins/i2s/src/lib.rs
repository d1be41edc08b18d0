//! The i2s kernel as a plugin: the table around `ternion_kernels::i2s`, and
//! nothing else.
//!
//! Lengths come over the boundary as numbers beside pointers. Every function
//! first turns them into a layout, which refuses what no buffer could be, and
//! only then pointers into slices of the layout's size; that they are really
//! so long is the host's side of the contract. Nothing panics knowingly, and a
//! panic all the same becomes `FAILED` at the boundary.

use core::ffi::c_char;
use core::ops::Range;
use core::slice::{from_raw_parts, from_raw_parts_mut};
use std::panic::catch_unwind;

use ternion_kernel_abi as abi;
use ternion_kernels::i2s::{ALIGNMENT, Activations, Layout, Output, Product, ROW_TILE, Variant};

const _: () = assert!(abi::MAX_COLS == ternion_kernels::i2s::MAX_COLS as u64);

/// A table with its pointers to static strings.
struct Table(abi::Kernel);

// SAFETY: the pointers are to immutable statics.
unsafe impl Sync for Table {}

static TABLE: Table = Table(abi::Kernel {
    abi_version: abi::ABI_VERSION,
    struct_size: abi::KERNEL_SIZE_V1,
    name: c"i2s".as_ptr(),
    version: concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast(),
    isa: Some(isa),
    probe: Some(probe),
    alignment: ALIGNMENT as u32,
    row_tile: ROW_TILE as u32,
    supports: Some(supports),
    packed_bytes: Some(packed_bytes),
    pack: Some(pack),
    prepared_bytes: Some(prepared_bytes),
    prepare: Some(prepare),
    gemm: Some(gemm),
});

/// The plugin's one exported symbol.
// SAFETY: the name is ternion's, and no other library exports it as something
// else.
#[unsafe(no_mangle)]
pub extern "C" fn ternion_kernel_v1() -> *const abi::Kernel {
    &TABLE.0
}

/// What a function ends with when it doesn't succeed.
enum Fault {
    Unsupported,
    Invalid,
}

/// Turns a result into a status, and a panic into one as well: unwinding into
/// the host's frames would abort it.
fn status(work: impl FnOnce() -> Result<(), Fault> + std::panic::UnwindSafe) -> i32 {
    match catch_unwind(work) {
        Ok(Ok(())) => abi::OK,
        Ok(Err(Fault::Unsupported)) => abi::UNSUPPORTED,
        Ok(Err(Fault::Invalid)) => abi::INVALID,
        Err(_) => abi::FAILED,
    }
}

extern "C" fn isa() -> *const c_char {
    match Variant::best().name() {
        "avx512-vnni" => c"avx512-vnni".as_ptr(),
        "avx-vnni" => c"avx-vnni".as_ptr(),
        "avx2" => c"avx2".as_ptr(),
        _ => c"portable".as_ptr(),
    }
}

extern "C" fn probe() -> i32 {
    match Variant::best().name() {
        "avx512-vnni" => 300,
        "avx-vnni" => 250,
        "avx2" => 200,
        _ => 100,
    }
}

extern "C" fn supports(rows: u64, cols: u64) -> i32 {
    i32::from(layout(rows, cols).is_ok())
}

extern "C" fn packed_bytes(rows: u64, cols: u64) -> u64 {
    layout(rows, cols).map_or(0, |layout| layout.packed_bytes() as u64)
}

unsafe extern "C" fn pack(
    rows: u64,
    cols: u64,
    row_begin: u64,
    row_end: u64,
    trits: *const i8,
    packed: *mut u8,
) -> i32 {
    status(|| {
        let layout = layout(rows, cols)?;
        let rows = row_range(layout, row_begin, row_end)?;
        let trits_len = rows
            .len()
            .checked_mul(layout.cols())
            .filter(|&len| len <= isize::MAX as usize)
            .ok_or(Fault::Invalid)?;
        not_null(trits)?;
        not_null(packed)?;
        let bytes = layout.bytes_of(&rows);
        // SAFETY: the contract says that `trits` holds these rows and that
        // `packed` holds `packed_bytes(rows, cols)` bytes, of which other
        // threads use those of other rows only, and `bytes_of` keeps those
        // apart.
        let (trits, packed) = unsafe {
            (
                from_raw_parts(trits, trits_len),
                from_raw_parts_mut(packed.add(bytes.start), bytes.len()),
            )
        };
        layout.pack(rows, trits, packed).map_err(|_| Fault::Invalid)
    })
}

extern "C" fn prepared_bytes(cols: u64, batch: u64) -> u64 {
    activations(cols, batch).map_or(0, |activations| activations.prepared_bytes() as u64)
}

unsafe extern "C" fn prepare(
    cols: u64,
    batch: u64,
    activations: *const i8,
    prepared: *mut u8,
) -> i32 {
    status(|| {
        let layout = self::activations(cols, batch)?;
        not_null(activations)?;
        not_null(prepared)?;
        // SAFETY: the contract says that `activations` is `batch` x `cols`
        // long, which is less than the prepared bytes and so no overflow, and
        // that `prepared` is `prepared_bytes(cols, batch)` long and ours alone.
        let (activations, prepared) = unsafe {
            (
                from_raw_parts(activations, layout.batch() * layout.cols()),
                from_raw_parts_mut(prepared, layout.prepared_bytes()),
            )
        };
        layout.prepare(activations, prepared);
        Ok(())
    })
}

unsafe extern "C" fn gemm(
    rows: u64,
    cols: u64,
    packed: *const u8,
    batch: u64,
    prepared: *const u8,
    row_begin: u64,
    row_end: u64,
    out: *mut i32,
    out_stride: u64,
) -> i32 {
    status(|| {
        let layout = layout(rows, cols)?;
        let activations = activations(cols, batch)?;
        let rows = row_range(layout, row_begin, row_end)?;
        let stride = usize::try_from(out_stride).map_err(|_| Fault::Invalid)?;
        let span = Output::span(rows.len(), activations.batch(), stride);
        let fits = span.is_some_and(|span| span <= isize::MAX as usize / size_of::<i32>());
        if stride < rows.len() || !fits {
            return Err(Fault::Invalid);
        }
        not_null(packed)?;
        not_null(prepared)?;
        not_null(out)?;
        // SAFETY: the contract says that both buffers have the sizes that
        // `packed_bytes` and `prepared_bytes` told, and that nobody writes to
        // them during the call; that the rows' results may be written at the
        // stride, which was checked, and are nobody else's.
        let (packed, prepared, out) = unsafe {
            (
                from_raw_parts(packed, layout.packed_bytes()),
                from_raw_parts(prepared, activations.prepared_bytes()),
                Output::from_raw(out, rows.len(), activations.batch(), stride),
            )
        };
        let product = Product::new(layout, packed, activations, prepared, rows);
        Variant::best().multiply(&product, out);
        Ok(())
    })
}

fn layout(rows: u64, cols: u64) -> Result<Layout, Fault> {
    let rows = usize::try_from(rows).map_err(|_| Fault::Unsupported)?;
    let cols = usize::try_from(cols).map_err(|_| Fault::Unsupported)?;
    Layout::new(rows, cols).ok_or(Fault::Unsupported)
}

fn activations(cols: u64, batch: u64) -> Result<Activations, Fault> {
    let cols = usize::try_from(cols).map_err(|_| Fault::Unsupported)?;
    let batch = usize::try_from(batch).map_err(|_| Fault::Unsupported)?;
    Activations::new(cols, batch).ok_or(Fault::Unsupported)
}

fn row_range(layout: Layout, begin: u64, end: u64) -> Result<Range<usize>, Fault> {
    let begin = usize::try_from(begin).map_err(|_| Fault::Invalid)?;
    let end = usize::try_from(end).map_err(|_| Fault::Invalid)?;
    match layout.holds(&(begin..end)) {
        true => Ok(begin..end),
        false => Err(Fault::Invalid),
    }
}

fn not_null<T>(pointer: *const T) -> Result<(), Fault> {
    match pointer.is_null() {
        true => Err(Fault::Invalid),
        false => Ok(()),
    }
}
