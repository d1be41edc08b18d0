//! The exponential function, the same on every machine.
//!
//! Which token is drawn depends on the last bit of this function, and the C
//! library's differs between libraries, and between CPUs with and without
//! fused multiply-add. This one is plain IEEE arithmetic in a fixed order.

const LN2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000); // 32 bits, so k * LN2_HIGH is exact
const LN2_LOW: f64 = f64::from_bits(0x3dea_39ef_3579_3c76);
/// Adding and subtracting it rounds to an integer: 1.5 * 2^52.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// e^x for x of at most 0, within 2 units in the last place; 0 where the
/// result would be subnormal.
///
/// With k the integer nearest to x / ln 2 and r = x - k ln 2, e^x is 2^k e^r,
/// and for |r| of at most ln 2 / 2 the Taylor series to r^13 has an error of
/// 4e-18. Written without branches, because drawing from a whole vocabulary
/// spends most of its time here.
#[inline]
pub(crate) fn exp(x: f64) -> f64 {
    debug_assert!(x <= 0.0, "exp({x})");
    let in_range = x.max(-708.0);
    let rounded = in_range * std::f64::consts::LOG2_E + ROUND;
    let k = rounded - ROUND;
    let r = (in_range - k * LN2_HIGH) - k * LN2_LOW;
    let mut sum = 1.0 / 6_227_020_800.0;
    for coefficient in [
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        sum = sum * r + coefficient;
    }
    // The low bits of `rounded` are k in two's complement, and the shift leaves
    // the 12 lowest. k is at least -1021, so the exponent stays positive.
    let power = f64::from_bits(rounded.to_bits().wrapping_add(1023) << 52);
    if x < -708.0 { 0.0 } else { sum * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_standard_library() {
        let mut x = 0.0f64;
        while x > -708.0 {
            let want = x.exp();
            let error = (exp(x) - want).abs() / want;
            assert!(error < 5e-16, "exp({x}) is {} instead of {want}", exp(x));
            x -= 0.003_7;
        }
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(-708.1), 0.0);
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
        assert!(exp(-708.0) > 0.0);
    }
}
