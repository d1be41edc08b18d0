//! Kernels against the scalar reference, exactly.

use proptest::prelude::*;
use ternion_kernels::kernel::{Kernel, Weights};
use ternion_kernels::layout::{Layout, Packing};
use ternion_kernels::{Output, scalar};

/// What stands in the output where no result belongs.
const UNTOUCHED: i32 = i32::MIN;

/// A product.
pub(crate) struct Case {
    rows: usize,
    cols: usize,
    batch: usize,
    trits: Vec<i8>,
    activations: Vec<i8>,
}

impl Case {
    /// All weights alike, and all activations.
    pub(crate) fn uniform(rows: usize, cols: usize, batch: usize, trit: i8, x: i8) -> Case {
        Case {
            rows,
            cols,
            batch,
            trits: vec![trit; rows * cols],
            activations: vec![x; cols * batch],
        }
    }

    /// The reference's integers, `stride` elements from token to token, for
    /// the rows from `first_row` on.
    fn expected(&self, first_row: usize, stride: usize) -> Vec<i32> {
        let Case {
            rows, cols, batch, ..
        } = *self;
        let mut dense = vec![0; rows * batch];
        let (trits, activations) = (&self.trits, &self.activations);
        scalar::gemm(trits, rows, cols, activations, batch, &mut dense);
        let mut strided = vec![UNTOUCHED; batch * stride];
        for (dense, strided) in dense.chunks(rows).zip(strided.chunks_mut(stride)) {
            strided[..rows - first_row].copy_from_slice(&dense[first_row..]);
        }
        strided
    }

    /// Each kernel's integers for the rows from a tile on, with a gap between
    /// tokens that stays as it is.
    pub(crate) fn check<K: Kernel>(&self, kernels: &[K], first_tile: usize, gap: usize) {
        let Case {
            rows, cols, batch, ..
        } = *self;
        let first_row = first_tile * K::Packing::ROW_TILE;
        let num_rows = rows - first_row;
        let stride = num_rows + gap;
        let expected = self.expected(first_row, stride);
        let layout = Layout::<K::Packing>::new(rows, cols).unwrap();
        let mut packed = vec![0xff; layout.packed_bytes()];
        layout.pack(0..rows, &self.trits, &mut packed).unwrap();
        for kernel in kernels {
            let activations = kernel.activations(cols, batch).unwrap();
            let mut prepared = vec![0xff; K::prepared_bytes(activations)];
            kernel.prepare(activations, &self.activations, &mut prepared);
            let weights = Weights {
                layout,
                packed: &packed,
                rows: first_row..rows,
            };
            let mut out = vec![UNTOUCHED; batch * stride];
            let output = Output::new(&mut out, num_rows, batch, stride);
            kernel.multiply(weights, activations, &prepared, output);
            assert!(
                out == expected,
                "{:?} differs: {rows}x{cols}, batch {batch}, from row {first_row}, stride {stride}",
                kernel.isa(),
            );
        }
    }
}

/// The ends of the ranges, where arithmetic breaks.
pub(crate) fn check_extremes<K: Kernel>(kernels: &[K], cols: &[usize], batches: &[usize]) {
    for &cols in cols {
        for &batch in batches {
            for trit in [-1, 0, 1] {
                for x in [-128, -1, 0, 127] {
                    Case::uniform(33, cols, batch, trit, x).check(kernels, 0, 0);
                }
            }
        }
    }
}

/// A product, the tile it begins with, and the gap between tokens.
pub(crate) fn cases<K: Kernel>(
    rows: impl Strategy<Value = usize>,
    cols: impl Strategy<Value = usize>,
    batch: impl Strategy<Value = usize>,
) -> impl Strategy<Value = (Case, usize, usize)> {
    (rows, cols, batch).prop_flat_map(|(rows, cols, batch)| {
        // Half of all are ends of the range.
        let activation = prop_oneof![any::<i8>(), prop_oneof![Just(-128i8), Just(127)]];
        (
            proptest::collection::vec(-1..=1i8, rows * cols),
            proptest::collection::vec(activation, cols * batch),
            0..=(rows - 1) / K::Packing::ROW_TILE,
            0..5usize,
        )
            .prop_map(move |(trits, activations, first_tile, gap)| {
                let case = Case {
                    rows,
                    cols,
                    batch,
                    trits,
                    activations,
                };
                (case, first_tile, gap)
            })
    })
}

impl core::fmt::Debug for Case {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}x{}, batch {}", self.rows, self.cols, self.batch)
    }
}
