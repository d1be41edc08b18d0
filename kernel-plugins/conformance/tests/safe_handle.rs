//! Whatever a caller passes to a kernel's handle, and whatever sizes a plugin
//! asks for, ends in an error and not in memory that isn't there.

use std::convert::Infallible;
use std::ops::Range;

use ternion_kernel_abi as abi;
use ternion_kernel_host::{Kernel, KernelError, OpenError, PackError, PackedMatrix, Prepared};

fn i2s_table() -> abi::Kernel {
    // SAFETY: the table is a static.
    unsafe { *ternion_kernel_i2s::ternion_kernel_v1() }
}

fn open(table: abi::Kernel) -> Result<Kernel, OpenError> {
    // SAFETY: leaked, so it lives as long as the program; its functions are
    // those of i2s, or worse only in what they return.
    unsafe { Kernel::from_table(Box::leak(Box::new(table))) }
}

fn i2s() -> Kernel {
    open(i2s_table()).unwrap()
}

fn ones(kernel: &Kernel, rows: usize, cols: usize) -> Result<PackedMatrix, KernelError> {
    let packed = kernel.pack(rows, cols, |_, trits| {
        trits.fill(1);
        Ok::<(), Infallible>(())
    });
    packed.map_err(|error| match error {
        PackError::Kernel(error) => error,
        PackError::Fill(never) => match never {},
    })
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let kernel = i2s();
    let matrix = ones(&kernel, 70, 20).unwrap();
    let mut prepared = Prepared::default();
    let mut out = [0; 140];
    let gemm = |prepared: &Prepared, rows: Range<usize>, out: &mut [i32], stride| {
        kernel
            .gemm(&matrix, prepared, rows, out, stride)
            .map_err(|error| error.to_string())
    };

    let foreign = Err("the prepared activations were made by another kernel than i2s".into());
    assert_eq!(gemm(&prepared, 0..70, &mut out, 70), foreign);

    let error = kernel.prepare(20, 2, &[1; 39], &mut prepared).unwrap_err();
    assert_eq!(error.to_string(), "activations: 39 elements, not 40");
    for (cols, batch) in [(0, 2), (20, 0), (usize::MAX, 2), (usize::MAX, usize::MAX)] {
        assert!(kernel.prepare(cols, batch, &[], &mut prepared).is_err());
    }

    kernel.prepare(19, 2, &[1; 38], &mut prepared).unwrap();
    let columns = Err("the matrix has 20 columns and the activations have 19".into());
    assert_eq!(gemm(&prepared, 0..70, &mut out, 70), columns);

    kernel.prepare(20, 2, &[1; 40], &mut prepared).unwrap();
    #[allow(clippy::reversed_empty_ranges, reason = "refused, as it should be")]
    for rows in [1..70, 0..33, 32..71, 64..32, 96..usize::MAX] {
        assert!(gemm(&prepared, rows, &mut out, 70).is_err());
    }
    let stride = Err("an output stride of 69 is less than 70 rows".into());
    assert_eq!(gemm(&prepared, 0..70, &mut out, 69), stride);
    let short = Err("results: 139 elements, not 140".into());
    assert_eq!(gemm(&prepared, 0..70, &mut out[1..], 70), short);
    assert!(gemm(&prepared, 0..70, &mut out, usize::MAX).is_err());

    assert_eq!(out, [0; 140]);
    gemm(&prepared, 0..70, &mut out, 70).unwrap();
    assert_eq!(out, [20; 140]);
}

#[test]
fn one_kernels_matrix_is_no_use_to_another() {
    let (own, other) = (i2s(), i2s());
    let matrix = ones(&own, 1, 1).unwrap();
    let mut prepared = Prepared::default();
    other.prepare(1, 1, &[5], &mut prepared).unwrap();
    let error = other.gemm(&matrix, &prepared, 0..1, &mut [0], 1);
    assert_eq!(
        error.unwrap_err().to_string(),
        "the packed weights were made by another kernel than i2s"
    );
    assert!(own.gemm(&matrix, &prepared, 0..1, &mut [0], 1).is_err());
    own.prepare(1, 1, &[5], &mut prepared).unwrap();
    let mut out = [0];
    own.gemm(&matrix, &prepared, 0..1, &mut out, 1).unwrap();
    assert_eq!(out, [5]);
}

#[test]
fn shapes_no_memory_holds_are_refused() {
    let kernel = i2s();
    for (rows, cols) in [
        (0, 1),
        (1, 0),
        (1, 1 << 24),
        (usize::MAX, 1),
        (1 << 62, 1 << 20),
    ] {
        assert!(ones(&kernel, rows, cols).is_err(), "{rows}x{cols}");
    }
}

#[test]
fn a_failing_reader_ends_the_packing() {
    let packed = i2s().pack(4, 4, |rows, _| Err(format!("rows {rows:?} can't be read")));
    let error = packed.unwrap_err();
    assert_eq!(error.to_string(), "rows 0..4 can't be read");
}

extern "C" fn no_bytes(_: u64, _: u64) -> u64 {
    0
}

extern "C" fn all_bytes(_: u64, _: u64) -> u64 {
    u64::MAX
}

extern "C" fn status_of_99(_: u64, _: u64, _: *const i8, _: *mut u8) -> i32 {
    99
}

#[test]
fn absurd_sizes_are_refused() {
    let sizes: [extern "C" fn(u64, u64) -> u64; 2] = [no_bytes, all_bytes];
    for size in sizes {
        let mut table = i2s_table();
        table.packed_bytes = Some(size);
        let error = ones(&open(table).unwrap(), 1, 1).unwrap_err();
        assert!(matches!(error, KernelError::AbsurdSize { .. }), "{error}");

        let mut table = i2s_table();
        table.prepared_bytes = Some(size);
        let kernel = open(table).unwrap();
        let error = kernel.prepare(1, 1, &[1], &mut Prepared::default());
        let error = error.unwrap_err();
        assert!(matches!(error, KernelError::AbsurdSize { .. }), "{error}");
    }
}

#[test]
fn a_status_is_passed_on() {
    let mut table = i2s_table();
    table.prepare = Some(status_of_99);
    let kernel = open(table).unwrap();
    let mut prepared = Prepared::default();
    let error = kernel.prepare(1, 1, &[1], &mut prepared).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel i2s failed in `prepare` with status 99"
    );
    assert_eq!((prepared.cols(), prepared.batch()), (0, 0));
}

#[test]
fn tables_that_make_no_sense_are_refused() {
    let refusal = |change: &dyn Fn(&mut abi::Kernel)| {
        let mut table = i2s_table();
        change(&mut table);
        open(table).unwrap_err().to_string()
    };
    assert_eq!(
        refusal(&|table| table.name = std::ptr::null()),
        "has no name"
    );
    assert_eq!(refusal(&|table| table.name = c"".as_ptr()), "has no name");
    assert_eq!(
        refusal(&|table| table.version = c"\xff".as_ptr()),
        "has a version that is not UTF-8"
    );
    assert_eq!(
        refusal(&|table| table.name = c"i2s\x1b[2J".as_ptr()),
        "has a name with a control character"
    );
    assert_eq!(
        refusal(&|table| table.row_tile = 0),
        "asks for row tiles of 0, not 1 to 4096"
    );
    assert_eq!(
        refusal(&|table| table.alignment = 48),
        "asks for an alignment of 48, not a power of two up to 4096"
    );
    assert_eq!(
        refusal(&|table| table.gemm = None),
        "has no function `gemm`"
    );
    extern "C" fn no_score() -> i32 {
        0
    }
    assert_eq!(
        refusal(&|table| table.probe = Some(no_score)),
        "can't run on this CPU"
    );
    // SAFETY: null is one of the things a plugin may return.
    let error = unsafe { Kernel::from_table(std::ptr::null()) }.unwrap_err();
    assert_eq!(
        error.to_string(),
        "returned no table from ternion_kernel_v1"
    );
}
