//! Every variant of tl2 that this CPU runs against the scalar reference,
//! exactly.

use against_scalar::{Case, cases, check_extremes};
use proptest::prelude::*;
use ternion_kernels::tl2::Variant;

mod against_scalar;

/// More than any variant calls few.
const MANY_TOKENS: usize = 70;

#[test]
fn the_ends_of_the_ranges_do_not_overflow() {
    let cols = [1, 3, 95, 96, 97, 255, 256, 480, 2560, 6912];
    let batches = [1, 2, 4, 6, 7, 12, 13, MANY_TOKENS];
    check_extremes(&Variant::available(), &cols, &batches);
}

/// The longest that is supported is 2^23: the sum is still an `i32`, and all
/// on the way to it are.
#[test]
fn the_longest_rows_do_not_overflow() {
    let variants = Variant::available();
    for cols in [600_000, (1 << 23) - 1] {
        for (trit, x) in [(1, 127), (1, -128), (-1, -128)] {
            Case::uniform(2, cols, 1, trit, x).check(&variants, 0, 0);
        }
    }
    Case::uniform(1, 600_000, 9, -1, -128).check(&variants, 0, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_variant_matches_scalar(
        (case, first_tile, gap) in cases::<Variant>(1..300usize, 1..700usize, prop_oneof![4 => 1..30usize, 1 => 30..=MANY_TOKENS])
    ) {
        case.check(&Variant::available(), first_tile, gap);
    }
}
