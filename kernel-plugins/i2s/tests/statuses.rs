//! What the table's functions say to arguments that break the contract in a
//! way that can be seen without touching memory.

use std::ptr::{null, null_mut};

use ternion_kernel_abi::{INVALID, Kernel, MAX_COLS, OK, UNSUPPORTED};

const ROWS: u64 = 70;
const COLS: u64 = 20;

fn table() -> Kernel {
    // SAFETY: the table is a static.
    unsafe { *ternion_kernel_i2s::ternion_kernel_v1() }
}

#[test]
fn sizes_are_zero_where_a_shape_is_not_supported() {
    let supports = table().supports.unwrap();
    let packed_bytes = table().packed_bytes.unwrap();
    let shapes = [
        (ROWS, COLS, 1),
        (1, MAX_COLS, 1),
        (0, COLS, 0),
        (ROWS, 0, 0),
        (ROWS, MAX_COLS + 1, 0),
        (u64::MAX, COLS, 0),
    ];
    for (rows, cols, supported) in shapes {
        // SAFETY: functions of two numbers.
        let (answer, bytes) = unsafe { (supports(rows, cols), packed_bytes(rows, cols)) };
        assert_eq!(answer, supported, "{rows}x{cols}");
        assert_eq!(bytes > 0, supported == 1, "{rows}x{cols}");
    }
    let prepared_bytes = table().prepared_bytes.unwrap();
    for (cols, batch) in [(0, 1), (1, 0), (MAX_COLS + 1, 1), (1, u64::MAX)] {
        // SAFETY: a function of two numbers.
        assert_eq!(unsafe { prepared_bytes(cols, batch) }, 0);
    }
}

#[test]
fn pack_refuses_ranges_and_null() {
    let pack = table().pack.unwrap();
    let trits = [0; (ROWS * COLS) as usize];
    let mut packed = vec![0; 3 * 2 * 128];
    let mut status = |rows, begin, end, trits: &[i8]| {
        let packed = packed.as_mut_ptr();
        // SAFETY: `packed` is as long as the matrix, and no range that is
        // accepted takes more trits than there are.
        unsafe { pack(rows, COLS, begin, end, trits.as_ptr(), packed) }
    };
    assert_eq!(status(ROWS, 0, ROWS, &trits), OK);
    assert_eq!(status(ROWS, 64, ROWS, &trits), OK);
    for (begin, end) in [
        (1, 32),
        (0, 33),
        (0, ROWS + 1),
        (64, 32),
        (u64::MAX, u64::MAX),
    ] {
        assert_eq!(status(ROWS, begin, end, &trits), INVALID, "{begin}..{end}");
    }
    assert_eq!(status(0, 0, 0, &trits), UNSUPPORTED);
    assert_eq!(status(ROWS, 0, ROWS, &[2; (ROWS * COLS) as usize]), INVALID);
    // SAFETY: null is refused before it is read.
    let status = unsafe { pack(ROWS, COLS, 0, ROWS, null(), packed.as_mut_ptr()) };
    assert_eq!(status, INVALID);
}

#[test]
fn gemm_refuses_ranges_strides_and_null() {
    let gemm = table().gemm.unwrap();
    let packed = vec![0; 3 * 2 * 128];
    let prepared = [0; 64 + 2 * 32];
    let mut out = [0; 2 * ROWS as usize];
    let mut status = |begin, end, stride| {
        let (packed, prepared) = (packed.as_ptr(), prepared.as_ptr());
        let out = out.as_mut_ptr();
        // SAFETY: the buffers are those of a matrix of this shape and of two
        // tokens, and `out` holds all rows of both.
        unsafe { gemm(ROWS, COLS, packed, 2, prepared, begin, end, out, stride) }
    };
    assert_eq!(status(0, ROWS, ROWS), OK);
    assert_eq!(status(32, 32, 0), OK);
    for stride in [0, ROWS - 1, u64::MAX, u64::MAX / 8] {
        assert_eq!(status(0, ROWS, stride), INVALID, "stride {stride}");
    }
    for (begin, end) in [(1, 32), (0, 33), (0, ROWS + 1), (64, 32)] {
        assert_eq!(status(begin, end, ROWS), INVALID, "{begin}..{end}");
    }
    let null_out = null_mut();
    // SAFETY: null is refused before it is written to.
    let status = unsafe {
        gemm(
            ROWS,
            COLS,
            packed.as_ptr(),
            2,
            prepared.as_ptr(),
            0,
            ROWS,
            null_out,
            ROWS,
        )
    };
    assert_eq!(status, INVALID);
}
