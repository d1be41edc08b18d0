//! The exponential, the same to the bit on every machine.

/// Below it the exponential is 0.
pub(super) const LOWEST: f32 = -87.0;
/// Above it, infinite.
const HIGHEST: f32 = 88.0;

/// ln 2 in two parts: a multiple of the first by an integer of 8 bits is exact.
pub(super) const LN2_HIGH: f32 = 0.693_359_4;
pub(super) const LN2_LOW: f32 = -2.121_944_4e-4;

/// From the highest power down.
pub(super) const COEFFICIENTS: [f32; 6] = [
    1.987_569_1e-4,
    1.398_199_9e-3,
    8.333_452e-3,
    4.166_579_6e-2,
    1.666_666_5e-1,
    0.5,
];

/// e^x to about two units in the last place, from multiplications, additions
/// and a shift only, so that it is the same everywhere. Below -87 it is 0,
/// above 88 infinite.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; the polynomial for e^r is that of
/// Cephes' `expf`.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let clamped = x.clamp(LOWEST, HIGHEST);
    let n = (clamped * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let mut p = COEFFICIENTS[0];
    for coefficient in &COEFFICIENTS[1..] {
        p = p.mul_add(r, *coefficient);
    }
    let e_r = (r * r).mul_add(p, r) + 1.0;
    // n is in -126..=127, so the exponent field stays in 1..=254.
    let power = f32::from_bits(((n as i32 + 127) << 23) as u32);
    let result = e_r * power;
    if x < LOWEST {
        0.0
    } else if x > HIGHEST {
        f32::INFINITY
    } else {
        result
    }
}
