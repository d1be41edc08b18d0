//! Rows of numbers to codes.
//!
//! Code `c` of a row stands for `(c - max / 2) * step`: levels lie evenly on
//! both sides of 0, and with `step = 2 * largest / max` the outermost are the
//! row's largest magnitude.

use crate::float::two_widths;

/// A row rounded by [`stochastic`] has, for each weight, an expectation that
/// differs from the weight by at most this share of a step: draws have 16
/// bits, and the place between two levels is a rounded f32.
pub const BIAS: f64 = 1.0 / 65536.0;

two_widths! {
    /// Rounds each weight to one of the two levels beside it, to the nearer
    /// one more often: so that its expectation is the weight, but for
    /// [`BIAS`]. `draws` selects the random numbers, see [`Draws`].
    ///
    /// `step` is at least `2 * largest / max`.
    pub fn stochastic(row: &[f32], max: u8, step: f32, draws: Draws, codes: &mut [u8]) {
        assert_eq!(row.len(), codes.len());
        let (middle, per_step) = (f32::from(max) / 2.0, 1.0 / step);
        for (i, (code, weight)) in codes.iter_mut().zip(row).enumerate() {
            let place = (weight * per_step + middle).clamp(0.0, f32::from(max));
            // Both are below 2^24, so that no integer is lost.
            let place = (place * 65536.0 + 0.5) as i32 as u32;
            *code = ((place + draws.sixteen_bits(i as u32)) >> 16) as u8;
        }
    }
}

two_widths! {
    /// Rounds each weight to the nearest level.
    pub fn nearest(row: &[f32], max: u8, step: f32, codes: &mut [u8]) {
        assert_eq!(row.len(), codes.len());
        let (middle, per_step) = (f32::from(max) / 2.0, 1.0 / step);
        for (code, weight) in codes.iter_mut().zip(row) {
            let place = (weight * per_step + middle).clamp(0.0, f32::from(max));
            *code = (place + 0.5) as i32 as u8;
        }
    }
}

/// The random numbers of one row: a hash of a column under 64 secret bits, so
/// that rows can be rounded in any order and vectors of columns at once.
#[derive(Clone, Copy, Debug)]
pub struct Draws([u32; 2]);

impl Draws {
    /// Those of row `row` under `seed`.
    pub fn new(seed: u64, row: usize) -> Draws {
        // SplitMix64.
        let mut x = seed.wrapping_add((row as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        Draws([x as u32, (x >> 32) as u32])
    }

    /// A good mixer of 32 bits (Wellons' search, "lowbias32") with a key
    /// before each of its two rounds.
    #[inline(always)]
    fn sixteen_bits(self, column: u32) -> u32 {
        let mut x = column.wrapping_mul(0x9e37_79b9) ^ self.0[0];
        x = (x ^ (x >> 16)).wrapping_mul(0x21f0_aaad);
        x = (x ^ (x >> 15))
            .wrapping_add(self.0[1])
            .wrapping_mul(0xd35a_2d97);
        x >> 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_for_levels_on_both_sides_of_zero() {
        let row = [-1.5, -1.4, -0.2, 0.2, 1.5];
        let mut codes = [9; 5];
        nearest(&row, 3, 1.0, &mut codes);
        // Levels -1.5, -0.5, 0.5, 1.5.
        assert_eq!(codes, [0, 0, 1, 2, 3]);
    }

    #[test]
    fn the_expectation_of_a_rounded_weight_is_the_weight() {
        const N: usize = 200_000;
        for weight in [-7.5_f32, -7.49, -3.1, -0.02, 0.0, 0.3, 2.5, 6.999, 7.5] {
            let row = vec![weight; N];
            let mut codes = vec![0; N];
            stochastic(&row, 15, 1.0, Draws::new(7, 3), &mut codes);
            let below = (weight + 7.5).floor() as u8;
            assert!(codes.iter().all(|code| (below..=below + 1).contains(code)));
            let mean = codes.iter().map(|code| f64::from(*code) - 7.5).sum::<f64>() / N as f64;
            // Five deviations of the mean of so many draws of 0 or 1.
            let allowed = 5.0 * 0.5 / (N as f64).sqrt();
            assert!(
                (mean - f64::from(weight)).abs() < allowed,
                "{weight}: {mean}"
            );
        }
    }

    #[test]
    fn draws_of_neighbouring_rows_and_columns_are_unrelated() {
        // Correlation of rounding up between columns, and between rows.
        const N: u32 = 100_000;
        let sign = |row: usize, column: u32| {
            let up = Draws::new(42, row).sixteen_bits(column) >= 1 << 15;
            if up { 1.0 } else { -1.0 }
        };
        for distance in [1, 2, 3, 4, 8, 16, 32, 64, 256] {
            let columns: f64 = (0..N).map(|c| sign(5, c) * sign(5, c + distance)).sum();
            let rows: f64 = (0..N as usize)
                .map(|r| sign(r, 9) * sign(r + distance as usize, 9))
                .sum();
            for sum in [columns, rows] {
                assert!(sum.abs() < 5.0 * f64::from(N).sqrt(), "{distance}: {sum}");
            }
        }
    }
}
