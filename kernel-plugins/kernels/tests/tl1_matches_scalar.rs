//! Every variant of tl1 that this CPU runs against the scalar reference,
//! exactly.

use against_scalar::{cases, check_extremes};
use proptest::prelude::*;
use ternion_kernels::tl1::Variant;

mod against_scalar;

/// The most tokens that any variant looks up.
const FEW_TOKENS: usize = 4;

#[test]
fn the_ends_of_the_ranges_do_not_overflow() {
    let cols = [1, 2, 3, 16, 255, 257, 1024, 1040, 2560, 6912];
    check_extremes(
        &Variant::available(),
        &cols,
        &[1, 2, FEW_TOKENS, FEW_TOKENS + 1],
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_variant_matches_scalar(
        (case, first_tile, gap) in cases::<Variant>(1..100usize, 1..2100usize, 1..2 * FEW_TOKENS)
    ) {
        case.check(&Variant::available(), first_tile, gap);
    }
}
