//! Rows of numbers to codes.
//!
//! Code `c` in column `i` of a row stands for `(c - max / 2 - dither[i]) *
//! step`, and a weight becomes the code nearest to it. Without dither levels
//! lie evenly on both sides of 0, and with `step = 2 * largest / max` the
//! outermost are the row's largest magnitude.
//!
//! With it each column's levels are shifted by a random part of a step, up to
//! half a step up or down. What rounding changes of a weight is then uniform
//! on half a step to either side whatever the weight is, and independent from
//! column to column (subtractive dither: L. Schuchman, Dither signals and
//! their effect on quantization noise, 1964). All rows share the shifts, so
//! that they cost a product with them no more than one sum a token.

use crate::float::two_widths;

/// What rounding changes of a weight differs from a uniform number by at most
/// this share of a step: shifts have 16 bits, and the place between two levels
/// is a rounded f32.
pub const UNEVENNESS: f64 = 1.0 / 65536.0;

/// Shifts of columns, in steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Dither(Vec<f32>);

impl Dither {
    /// No shift at all.
    pub fn none(cols: usize) -> Dither {
        Dither(vec![0.0; cols])
    }

    /// Random shifts.
    pub fn random(seed: u64, cols: usize) -> Dither {
        let mut state = seed;
        let shift = |_| {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut x = state;
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^= x >> 31;
            ((x >> 48) as f32 + 0.5) / 65536.0 - 0.5
        };
        Dither((0..cols).map(shift).collect())
    }

    /// Shifts that were drawn before.
    pub fn of(shifts: Vec<f32>) -> Dither {
        Dither(shifts)
    }

    /// Shifts, by column.
    pub fn shifts(&self) -> &[f32] {
        &self.0
    }
}

two_widths! {
    /// The largest magnitude of numbers.
    pub fn largest(row: &[f32]) -> f32 {
        let mut lanes = [0.0_f32; 32];
        let (chunks, rest) = row.as_chunks::<32>();
        for chunk in chunks {
            for l in 0..32 {
                lanes[l] = if chunk[l].abs() > lanes[l] { chunk[l].abs() } else { lanes[l] };
            }
        }
        lanes.iter().chain(rest).fold(0.0, |largest, x| largest.max(x.abs()))
    }
}

two_widths! {
    /// Rounds each weight to the nearest level. `step` is at least `2 *
    /// largest / max`.
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn round(row: &[f32], max: u8, step: f32, dither: &Dither, codes: &mut [u8]) {
        assert!(row.len() == codes.len() && row.len() == dither.0.len());
        let (middle, per_step) = (f32::from(max) / 2.0 + 0.5, 1.0 / step);
        for ((code, weight), shift) in codes.iter_mut().zip(row).zip(&dither.0) {
            let place = weight * per_step + (middle + shift);
            *code = place.clamp(0.0, f32::from(max)) as i32 as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_for_levels_on_both_sides_of_zero() {
        let row = [-1.5, -1.4, -0.2, 0.2, 1.5];
        let mut codes = [9; 5];
        round(&row, 3, 1.0, &Dither::none(5), &mut codes);
        // Levels -1.5, -0.5, 0.5, 1.5.
        assert_eq!(codes, [0, 0, 1, 2, 3]);
        // Shifted down by 0.3: -1.8, -0.8, 0.2, 1.2.
        round(&row, 3, 1.0, &Dither(vec![0.3; 5]), &mut codes);
        assert_eq!(codes, [0, 0, 2, 2, 3]);
    }

    #[test]
    fn with_dither_errors_are_uniform_whatever_the_weight() {
        const N: usize = 200_000;
        let dither = Dither::random(7, N);
        for weight in [-7.5_f32, -7.49, -3.1, -0.02, 0.0, 0.3, 2.5, 6.999, 7.5] {
            let mut codes = vec![0; N];
            round(&vec![weight; N], 15, 1.0, &dither, &mut codes);
            let errors: Vec<f64> = codes
                .iter()
                .zip(dither.shifts())
                .map(|(code, shift)| {
                    f64::from(weight) - (f64::from(*code) - 7.5 - f64::from(*shift))
                })
                .collect();
            assert!(errors.iter().all(|error| error.abs() <= 0.5 + UNEVENNESS));
            // The first four moments of a uniform number, within five of their
            // deviations.
            for (power, want) in [(1, 0.0), (2, 1.0 / 12.0), (3, 0.0), (4, 1.0 / 80.0)] {
                let moment = errors.iter().map(|error| error.powi(power)).sum::<f64>() / N as f64;
                let allowed = 5.0 * 0.5_f64.powi(power) / (N as f64).sqrt();
                assert!(
                    (moment - want).abs() < allowed,
                    "{weight}, {power}: {moment}"
                );
            }
        }
    }

    #[test]
    fn shifts_of_neighbouring_columns_are_unrelated() {
        const N: usize = 100_000;
        let dither = Dither::random(42, N + 256);
        let shifts = dither.shifts();
        for distance in [1, 2, 3, 4, 8, 16, 32, 64, 256] {
            let products = (0..N).map(|i| f64::from(shifts[i]) * f64::from(shifts[i + distance]));
            let sum: f64 = products.sum();
            assert!(
                sum.abs() < 5.0 / 12.0 * (N as f64).sqrt(),
                "{distance}: {sum}"
            );
        }
    }
}
