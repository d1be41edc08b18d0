//! Every variant of i2s that this CPU runs against the scalar reference,
//! exactly.

use against_scalar::{Case, cases, check_extremes};
use proptest::prelude::*;
use ternion_kernels::i2s::Variant;

mod against_scalar;

/// More than any variant calls few.
const MANY_TOKENS: usize = 70;

#[test]
fn the_ends_of_the_ranges_do_not_overflow() {
    let cols = [1, 4, 16, 255, 256, 257, 512, 2560, 6912];
    check_extremes(&Variant::available(), &cols, &[1, 2, 4, 6, 7, MANY_TOKENS]);
}

/// Sums that stand for multiples of their weights are joined in time.
#[test]
fn the_longest_rows_do_not_overflow() {
    for cols in [262_144, 262_160, 600_000, 2_100_000] {
        for batch in [1, 2, 3, 8] {
            for (trit, x) in [(1, 127), (1, -128), (-1, -128)] {
                Case::uniform(2, cols, batch, trit, x).check(&Variant::available(), 0, 0);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_variant_matches_scalar(
        (case, first_tile, gap) in cases::<Variant>(1..100usize, 1..700usize, prop_oneof![4 => 1..20usize, 1 => 20..=MANY_TOKENS])
    ) {
        case.check(&Variant::available(), first_tile, gap);
    }
}
