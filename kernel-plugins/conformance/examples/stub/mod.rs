//! A kernel that packs nothing and multiplies plainly, for plugins whose point
//! is something else.

use std::ffi::CStr;
use std::slice::{from_raw_parts, from_raw_parts_mut};

use ternion_kernel_abi as abi;

/// A table, or something that begins with one, in a static.
pub(crate) struct Static<T>(pub(crate) T);

// SAFETY: the pointers in a table are to immutable statics.
unsafe impl<T> Sync for Static<T> {}

pub(crate) const fn table(name: &'static CStr) -> abi::Kernel {
    abi::Kernel {
        abi_version: abi::ABI_VERSION,
        struct_size: abi::KERNEL_SIZE_V1,
        name: name.as_ptr(),
        version: c"0.0.1".as_ptr(),
        isa: Some(isa),
        probe: Some(probe),
        alignment: 1,
        row_tile: 1,
        supports: Some(supports),
        packed_bytes: Some(bytes),
        pack: Some(pack),
        prepared_bytes: Some(bytes),
        prepare: Some(prepare),
        gemm: Some(gemm),
    }
}

extern "C" fn isa() -> *const std::ffi::c_char {
    c"none".as_ptr()
}

extern "C" fn probe() -> i32 {
    1
}

extern "C" fn supports(_rows: u64, _cols: u64) -> i32 {
    1
}

extern "C" fn bytes(rows: u64, cols: u64) -> u64 {
    rows * cols
}

unsafe extern "C" fn pack(
    _rows: u64,
    cols: u64,
    row_begin: u64,
    row_end: u64,
    trits: *const i8,
    packed: *mut u8,
) -> i32 {
    let len = ((row_end - row_begin) * cols) as usize;
    // SAFETY: the contract of `pack`.
    let trits = unsafe { from_raw_parts(trits, len) };
    if trits.iter().any(|trit| !(-1..=1).contains(trit)) {
        return abi::INVALID;
    }
    // SAFETY: as above.
    unsafe {
        let packed = packed.add((row_begin * cols) as usize);
        trits.as_ptr().cast::<u8>().copy_to(packed, len);
    }
    abi::OK
}

unsafe extern "C" fn prepare(cols: u64, batch: u64, activations: *const i8, out: *mut u8) -> i32 {
    // SAFETY: the contract of `prepare`.
    unsafe {
        activations
            .cast::<u8>()
            .copy_to(out, (cols * batch) as usize)
    };
    abi::OK
}

/// The contract's own sum.
pub(crate) unsafe extern "C" fn gemm(
    _rows: u64,
    cols: u64,
    packed: *const u8,
    batch: u64,
    prepared: *const u8,
    row_begin: u64,
    row_end: u64,
    out: *mut i32,
    out_stride: u64,
) -> i32 {
    let cols = cols as usize;
    for b in 0..batch as usize {
        // SAFETY: the contract of `gemm`.
        let (token, out) = unsafe {
            let out = out.add(b * out_stride as usize);
            (
                from_raw_parts(prepared.cast::<i8>().add(b * cols), cols),
                from_raw_parts_mut(out, (row_end - row_begin) as usize),
            )
        };
        for (r, out) in (row_begin as usize..).zip(out) {
            // SAFETY: as above.
            let row = unsafe { from_raw_parts(packed.cast::<i8>().add(r * cols), cols) };
            *out = row
                .iter()
                .zip(token)
                .map(|(&w, &x)| i32::from(w) * i32::from(x))
                .sum();
        }
    }
    abi::OK
}
