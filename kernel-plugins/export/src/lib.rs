//! The C table around a kernel.
//!
//! A plugin names itself and its kernel by a [`Plugin`], keeps the [`Table`]
//! of it in a static, and exports one function that returns its address.
//!
//! Lengths come over the boundary as numbers beside pointers. Every function
//! first turns them into a layout, which refuses what no buffer could be, and
//! only then pointers into slices of the layout's size; that they are really
//! so long is the host's side of the contract. Nothing panics knowingly, and a
//! panic all the same becomes `FAILED` at the boundary.
#![warn(missing_docs)]

use core::ffi::{CStr, c_char};
use core::ops::Range;
use core::slice::{from_raw_parts, from_raw_parts_mut};
use std::panic::catch_unwind;

use ternion_kernel_abi as abi;
use ternion_kernels::Output;
use ternion_kernels::kernel::{Kernel, Weights};
use ternion_kernels::layout::{Layout, Packing};

/// What makes a kernel a plugin.
pub trait Plugin {
    /// Short name, unique among the plugins of a directory.
    const NAME: &'static CStr;

    /// The kernel.
    type Kernel: Kernel;

    /// The implementation to use, the same at every call.
    fn kernel() -> Self::Kernel;
}

type PackingOf<P> = <<P as Plugin>::Kernel as Kernel>::Packing;

/// A table with its pointers to static strings.
pub struct Table(abi::Kernel);

// SAFETY: the pointers are to immutable statics.
unsafe impl Sync for Table {}

impl Table {
    /// The table of a plugin. Its version is that of this crate: plugins of
    /// one workspace have one version.
    pub const fn of<P: Plugin>() -> Table {
        Table(abi::Kernel {
            abi_version: abi::ABI_VERSION,
            struct_size: abi::KERNEL_SIZE_V1,
            name: P::NAME.as_ptr(),
            version: concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast(),
            isa: Some(isa::<P>),
            probe: Some(probe::<P>),
            alignment: P::Kernel::ALIGNMENT as u32,
            row_tile: PackingOf::<P>::ROW_TILE as u32,
            supports: Some(supports::<P>),
            packed_bytes: Some(packed_bytes::<P>),
            pack: Some(pack::<P>),
            prepared_bytes: Some(prepared_bytes::<P>),
            prepare: Some(prepare::<P>),
            gemm: Some(gemm::<P>),
        })
    }

    /// The table as a host reads it.
    pub const fn as_ptr(&self) -> *const abi::Kernel {
        &self.0
    }
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

extern "C" fn isa<P: Plugin>() -> *const c_char {
    P::kernel().isa().as_ptr()
}

extern "C" fn probe<P: Plugin>() -> i32 {
    P::kernel().score()
}

extern "C" fn supports<P: Plugin>(rows: u64, cols: u64) -> i32 {
    i32::from(layout::<P>(rows, cols).is_ok())
}

extern "C" fn packed_bytes<P: Plugin>(rows: u64, cols: u64) -> u64 {
    layout::<P>(rows, cols).map_or(0, |layout| layout.packed_bytes() as u64)
}

unsafe extern "C" fn pack<P: Plugin>(
    rows: u64,
    cols: u64,
    row_begin: u64,
    row_end: u64,
    trits: *const i8,
    packed: *mut u8,
) -> i32 {
    status(|| {
        let layout = layout::<P>(rows, cols)?;
        let rows = range(row_begin, row_end)?;
        let bytes = layout.bytes_of(&rows).ok_or(Fault::Invalid)?;
        let cols = usize::try_from(cols).map_err(|_| Fault::Invalid)?;
        let trits_len = rows
            .len()
            .checked_mul(cols)
            .filter(|&len| len <= isize::MAX as usize)
            .ok_or(Fault::Invalid)?;
        not_null(trits)?;
        not_null(packed)?;
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

extern "C" fn prepared_bytes<P: Plugin>(cols: u64, batch: u64) -> u64 {
    activations::<P>(cols, batch).map_or(0, |activations| {
        P::Kernel::prepared_bytes(activations) as u64
    })
}

unsafe extern "C" fn prepare<P: Plugin>(
    cols: u64,
    batch: u64,
    activations: *const i8,
    prepared: *mut u8,
) -> i32 {
    status(|| {
        let layout = self::activations::<P>(cols, batch)?;
        let len = cols
            .checked_mul(batch)
            .and_then(|len| usize::try_from(len).ok())
            .filter(|&len| len <= isize::MAX as usize)
            .ok_or(Fault::Unsupported)?;
        not_null(activations)?;
        not_null(prepared)?;
        // SAFETY: the contract says that `activations` is `batch` x `cols`
        // long, and that `prepared` is `prepared_bytes(cols, batch)` long and
        // ours alone.
        let (activations, prepared) = unsafe {
            (
                from_raw_parts(activations, len),
                from_raw_parts_mut(prepared, P::Kernel::prepared_bytes(layout)),
            )
        };
        P::kernel().prepare(layout, activations, prepared);
        Ok(())
    })
}

unsafe extern "C" fn gemm<P: Plugin>(
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
        let layout = layout::<P>(rows, cols)?;
        let activations = activations::<P>(cols, batch)?;
        let rows = range(row_begin, row_end)?;
        layout.bytes_of(&rows).ok_or(Fault::Invalid)?;
        let batch = usize::try_from(batch).map_err(|_| Fault::Unsupported)?;
        let stride = usize::try_from(out_stride).map_err(|_| Fault::Invalid)?;
        let span = Output::span(rows.len(), batch, stride);
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
                from_raw_parts(prepared, P::Kernel::prepared_bytes(activations)),
                Output::from_raw(out, rows.len(), batch, stride),
            )
        };
        let weights = Weights {
            layout,
            packed,
            rows,
        };
        P::kernel().multiply(weights, activations, prepared, out);
        Ok(())
    })
}

fn layout<P: Plugin>(rows: u64, cols: u64) -> Result<Layout<PackingOf<P>>, Fault> {
    let rows = usize::try_from(rows).map_err(|_| Fault::Unsupported)?;
    let cols = usize::try_from(cols).map_err(|_| Fault::Unsupported)?;
    Layout::new(rows, cols).ok_or(Fault::Unsupported)
}

fn activations<P: Plugin>(
    cols: u64,
    batch: u64,
) -> Result<<P::Kernel as Kernel>::Activations, Fault> {
    let cols = usize::try_from(cols).map_err(|_| Fault::Unsupported)?;
    let batch = usize::try_from(batch).map_err(|_| Fault::Unsupported)?;
    P::kernel()
        .activations(cols, batch)
        .ok_or(Fault::Unsupported)
}

fn range(begin: u64, end: u64) -> Result<Range<usize>, Fault> {
    let begin = usize::try_from(begin).map_err(|_| Fault::Invalid)?;
    let end = usize::try_from(end).map_err(|_| Fault::Invalid)?;
    Ok(begin..end)
}

fn not_null<T>(pointer: *const T) -> Result<(), Fault> {
    match pointer.is_null() {
        true => Err(Fault::Invalid),
        false => Ok(()),
    }
}
