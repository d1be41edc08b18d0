//! What the table's functions say to arguments that break the contract in a
//! way that can be seen without touching memory, for every kernel.

use core::ffi::CStr;
use core::marker::PhantomData;
use std::ptr::{null, null_mut};

use ternion_kernel_abi::{INVALID, Kernel, MAX_COLS, OK, UNSUPPORTED};
use ternion_kernel_export::{Plugin, Table};
use ternion_kernels::i2s;

/// A matrix of two whole tiles and some rows of a third.
struct Shape {
    rows: u64,
    cols: u64,
    tile: u64,
}

struct Of<K>(PhantomData<K>);

impl Plugin for Of<i2s::Variant> {
    const NAME: &'static CStr = c"i2s";
    type Kernel = i2s::Variant;

    fn kernel() -> i2s::Variant {
        i2s::Variant::best()
    }
}

fn tables() -> impl Iterator<Item = (Kernel, Shape)> {
    [Table::of::<Of<i2s::Variant>>()].into_iter().map(|table| {
        // SAFETY: the table is alive while its numbers are copied, and what
        // they point to is static.
        let table = unsafe { *table.as_ptr() };
        let tile = u64::from(table.row_tile);
        let shape = Shape {
            rows: 2 * tile + 6,
            cols: 20,
            tile,
        };
        (table, shape)
    })
}

fn packed_bytes(table: &Kernel, shape: &Shape) -> Vec<u8> {
    // SAFETY: a function of two numbers.
    let bytes = unsafe { table.packed_bytes.unwrap()(shape.rows, shape.cols) };
    vec![0; bytes as usize]
}

/// Ranges that don't begin or end at a tile, or not in the matrix.
fn bad_ranges(shape: &Shape) -> [(u64, u64); 6] {
    let Shape { rows, tile, .. } = *shape;
    [
        (1, tile),
        (0, tile + 1),
        (0, rows + 1),
        (2 * tile, tile),
        (3 * tile, 3 * tile),
        (u64::MAX, u64::MAX),
    ]
}

#[test]
fn sizes_are_zero_where_a_shape_is_not_supported() {
    for (table, shape) in tables() {
        let supports = table.supports.unwrap();
        let packed_bytes = table.packed_bytes.unwrap();
        let shapes = [
            (shape.rows, shape.cols, 1),
            (1, MAX_COLS, 1),
            (0, shape.cols, 0),
            (shape.rows, 0, 0),
            (shape.rows, MAX_COLS + 1, 0),
            (u64::MAX, shape.cols, 0),
        ];
        for (rows, cols, supported) in shapes {
            // SAFETY: functions of two numbers.
            let (answer, bytes) = unsafe { (supports(rows, cols), packed_bytes(rows, cols)) };
            assert_eq!(answer, supported, "{rows}x{cols}");
            assert_eq!(bytes > 0, supported == 1, "{rows}x{cols}");
        }
        let prepared_bytes = table.prepared_bytes.unwrap();
        for (cols, batch) in [(0, 1), (1, 0), (MAX_COLS + 1, 1), (1, u64::MAX)] {
            // SAFETY: a function of two numbers.
            assert_eq!(unsafe { prepared_bytes(cols, batch) }, 0);
        }
    }
}

#[test]
fn pack_refuses_ranges_and_null() {
    for (table, shape) in tables() {
        let pack = table.pack.unwrap();
        let Shape { rows, cols, tile } = shape;
        let trits = |trit| vec![trit; (rows * cols) as usize];
        let mut packed = packed_bytes(&table, &shape);
        let mut status = |rows, begin, end, trits: &[i8]| {
            let packed = packed.as_mut_ptr();
            // SAFETY: `packed` is as long as the matrix, and no range that is
            // accepted takes more trits than there are.
            unsafe { pack(rows, cols, begin, end, trits.as_ptr(), packed) }
        };
        assert_eq!(status(rows, 0, rows, &trits(0)), OK);
        assert_eq!(status(rows, 2 * tile, rows, &trits(0)), OK);
        for (begin, end) in bad_ranges(&shape) {
            assert_eq!(
                status(rows, begin, end, &trits(0)),
                INVALID,
                "{begin}..{end}"
            );
        }
        assert_eq!(status(0, 0, 0, &trits(0)), UNSUPPORTED);
        for bad in [2, -2, 3, 127, -128] {
            assert_eq!(status(rows, 0, rows, &trits(bad)), INVALID);
        }
        // SAFETY: null is refused before it is read.
        let status = unsafe { pack(rows, cols, 0, rows, null(), packed.as_mut_ptr()) };
        assert_eq!(status, INVALID);
        // SAFETY: null is refused before it is written to.
        let status = unsafe { pack(rows, cols, 0, rows, trits(0).as_ptr(), null_mut()) };
        assert_eq!(status, INVALID);
    }
}

#[test]
fn prepare_refuses_null() {
    for (table, shape) in tables() {
        let prepare = table.prepare.unwrap();
        let mut prepared = prepared_bytes(&table, &shape);
        let x = vec![0; 2 * shape.cols as usize];
        // SAFETY: null is refused before it is read.
        let status = unsafe { prepare(shape.cols, 2, null(), prepared.as_mut_ptr()) };
        assert_eq!(status, INVALID);
        // SAFETY: null is refused before it is written to.
        let status = unsafe { prepare(shape.cols, 2, x.as_ptr(), null_mut()) };
        assert_eq!(status, INVALID);
    }
}

#[test]
fn gemm_refuses_ranges_strides_and_null() {
    for (table, shape) in tables() {
        let gemm = table.gemm.unwrap();
        let Shape { rows, cols, tile } = shape;
        let packed = packed_bytes(&table, &shape);
        let prepared = prepared_bytes(&table, &shape);
        let status_of = |packed: *const u8, prepared: *const u8, begin, end, out, stride| {
            // SAFETY: the buffers are those of a matrix of this shape and of
            // two tokens, `out` holds all rows of both, and null is refused
            // before it is touched.
            unsafe { gemm(rows, cols, packed, 2, prepared, begin, end, out, stride) }
        };
        let mut out = vec![0; 2 * rows as usize];
        let out = out.as_mut_ptr();
        let status = |begin, end, stride| {
            status_of(packed.as_ptr(), prepared.as_ptr(), begin, end, out, stride)
        };
        assert_eq!(status(0, rows, rows), OK);
        assert_eq!(status(tile, tile, 0), OK);
        for stride in [0, rows - 1, u64::MAX, u64::MAX / 8] {
            assert_eq!(status(0, rows, stride), INVALID, "stride {stride}");
        }
        for (begin, end) in bad_ranges(&shape) {
            assert_eq!(status(begin, end, rows), INVALID, "{begin}..{end}");
        }
        let (packed, prepared) = (packed.as_ptr(), prepared.as_ptr());
        assert_eq!(status_of(null(), prepared, 0, rows, out, rows), INVALID);
        assert_eq!(status_of(packed, null(), 0, rows, out, rows), INVALID);
        assert_eq!(
            status_of(packed, prepared, 0, rows, null_mut(), rows),
            INVALID
        );
    }
}

fn prepared_bytes(table: &Kernel, shape: &Shape) -> Vec<u8> {
    // SAFETY: a function of two numbers.
    let bytes = unsafe { table.prepared_bytes.unwrap()(shape.cols, 2) };
    vec![0; bytes as usize]
}
