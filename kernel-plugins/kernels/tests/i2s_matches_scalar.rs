//! Every variant this CPU runs against the scalar reference, exactly.

use proptest::prelude::*;
use ternion_kernels::i2s::{Activations, Layout, Output, Product, ROW_TILE, Variant};
use ternion_kernels::scalar;

/// What stands in the output where no result belongs.
const UNTOUCHED: i32 = i32::MIN;

/// More than any variant calls few.
const MANY_TOKENS: usize = 70;

struct Case {
    rows: usize,
    cols: usize,
    batch: usize,
    trits: Vec<i8>,
    activations: Vec<i8>,
}

impl Case {
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

    fn check(&self, first_row: usize, gap: usize) {
        let Case {
            rows, cols, batch, ..
        } = *self;
        let layout = Layout::new(rows, cols).unwrap();
        let mut packed = vec![0xff; layout.packed_bytes()];
        layout.pack(0..rows, &self.trits, &mut packed).unwrap();
        let activations = Activations::new(cols, batch).unwrap();
        let mut prepared = vec![0xff; activations.prepared_bytes()];
        activations.prepare(&self.activations, &mut prepared);
        let product = Product::new(layout, &packed, activations, &prepared, first_row..rows);
        let num_rows = rows - first_row;
        let stride = num_rows + gap;
        let expected = self.expected(first_row, stride);
        for variant in Variant::available() {
            let mut out = vec![UNTOUCHED; batch * stride];
            variant.multiply(&product, Output::new(&mut out, num_rows, batch, stride));
            assert!(
                out == expected,
                "{} differs: {rows}x{cols}, batch {batch}, from row {first_row}, stride {stride}",
                variant.name()
            );
        }
    }
}

#[test]
fn the_ends_of_the_ranges_do_not_overflow() {
    for cols in [1, 4, 16, 255, 256, 257, 512, 2560, 6912] {
        for batch in [1, 2, 4, 6, 7, MANY_TOKENS] {
            for trit in [-1, 0, 1] {
                for x in [-128, -1, 0, 127] {
                    let case = Case {
                        rows: 33,
                        cols,
                        batch,
                        trits: vec![trit; 33 * cols],
                        activations: vec![x; cols * batch],
                    };
                    case.check(0, 0);
                }
            }
        }
    }
}

/// Sums that stand for multiples of their weights are joined in time.
#[test]
fn the_longest_rows_do_not_overflow() {
    for cols in [262_144, 262_160, 600_000] {
        for batch in [1, 2, 3, 8] {
            for (trit, x) in [(1, 127), (1, -128), (-1, -128)] {
                let case = Case {
                    rows: 2,
                    cols,
                    batch,
                    trits: vec![trit; 2 * cols],
                    activations: vec![x; cols * batch],
                };
                case.check(0, 0);
            }
        }
    }
}

fn cases() -> impl Strategy<Value = (Case, usize, usize)> {
    let batch = prop_oneof![4 => 1..20usize, 1 => 20..=MANY_TOKENS];
    (1..100usize, 1..700usize, batch).prop_flat_map(|(rows, cols, batch)| {
        // The ends of the range are where arithmetic breaks: half of all.
        let activation = prop_oneof![any::<i8>(), prop_oneof![Just(-128i8), Just(127)]];
        (
            proptest::collection::vec(-1..=1i8, rows * cols),
            proptest::collection::vec(activation, cols * batch),
            0..=(rows - 1) / ROW_TILE,
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
                (case, first_tile * ROW_TILE, gap)
            })
    })
}

impl core::fmt::Debug for Case {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}x{}, batch {}", self.rows, self.cols, self.batch)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_variant_matches_scalar((case, first_row, gap) in cases()) {
        case.check(first_row, gap);
    }
}
