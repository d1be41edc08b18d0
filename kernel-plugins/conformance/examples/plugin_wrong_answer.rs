//! A plugin that thinks highly of itself, and is wrong by one in one place:
//! the last row of the second token.

mod stub;

use ternion_kernel_abi as abi;

static TABLE: stub::Static<abi::Kernel> = stub::Static(abi::Kernel {
    probe: Some(probe),
    gemm: Some(gemm),
    ..stub::table(c"wrong_answer")
});

// SAFETY: the name is ternion's.
#[unsafe(no_mangle)]
pub extern "C" fn ternion_kernel_v1() -> *const abi::Kernel {
    &TABLE.0
}

extern "C" fn probe() -> i32 {
    1000
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
    // SAFETY: the contract of both is the same.
    let status = unsafe {
        stub::gemm(
            rows, cols, packed, batch, prepared, row_begin, row_end, out, out_stride,
        )
    };
    if batch >= 2 && row_end == rows {
        // SAFETY: the last row is in the range, the second token in the batch.
        unsafe { *out.add((out_stride + rows - 1 - row_begin) as usize) += 1 };
    }
    status
}
