//! Draws as races.
//!
//! Every token is given a number of its own, its luck, from Gumbel's
//! distribution; the largest sum of luck and logit over temperature is each
//! token's as often as softmax says (Gumbel, "Statistical theory of extreme
//! values", 1954). Luck is a function of seed, index and token id. So the
//! winner can be found like the largest logit, among those that can be it, and
//! how often a token is drawn depends on nothing that was left out.
//!
//! The numbers are SplitMix64's from a start that seed and index have drawn
//! (see [`random`]), and the logarithms libm's own, which are the same on every
//! machine.

use std::cmp::Ordering;

use crate::random;

/// What a draw depends on besides the logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// Of the request.
    pub seed: u64,
    /// Of the token among those that the request generates.
    pub index: u64,
    /// Above 0.
    pub temperature: f32,
    /// As in [`Sampling`](crate::Sampling); 1 leaves all.
    pub top_p: f32,
    /// As in [`Sampling`](crate::Sampling); 0 leaves all.
    pub min_p: f32,
}

impl Draw {
    /// That of a token so many places later.
    pub fn later(self, places: usize) -> Draw {
        Draw {
            index: self.index + places as u64,
            ..self
        }
    }

    /// Whether only some of the likeliest are drawn from.
    pub fn is_cut(self) -> bool {
        self.top_p < 1.0 || self.min_p > 0.0
    }

    /// The race that decides it.
    pub fn race(self) -> Race {
        Race {
            start: random::bits(self.seed, self.index),
            temperature: f64::from(self.temperature),
        }
    }
}

/// The luck of all tokens, for one draw.
#[derive(Debug, Clone, Copy)]
pub struct Race {
    start: u64,
    temperature: f64,
}

/// Where a token comes in: of two that are not the same token one is greater,
/// and the greatest is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    sum: f64,
    luck: f64,
    /// Whose it is.
    pub token: u32,
}

impl Standing {
    /// Luck and logit over temperature.
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

impl Ord for Standing {
    /// By luck where logits are so large that luck is lost in the sum: only
    /// equal ones are so close there.
    fn cmp(&self, other: &Standing) -> Ordering {
        let by_sum = self.sum.total_cmp(&other.sum);
        let by_luck = || self.luck.total_cmp(&other.luck);
        by_sum
            .then_with(by_luck)
            .then_with(|| other.token.cmp(&self.token))
    }
}

impl PartialOrd for Standing {
    fn partial_cmp(&self, other: &Standing) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Standing {
    fn eq(&self, other: &Standing) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Standing {}

impl Race {
    /// Where a token with this score comes in.
    pub fn standing(&self, token: u32, score: f32) -> Standing {
        let luck = self.luck(token);
        Standing {
            sum: f64::from(score) / self.temperature + luck,
            luck,
            token,
        }
    }

    /// `-ln(-ln(1 - u))` for a `u` uniform in (0, 1): an odd multiple of 2^-53,
    /// so that neither logarithm is of 0. The lucky have a small `u`, where
    /// its digits are.
    fn luck(&self, token: u32) -> f64 {
        let odd = (self.bits(token) >> 12 << 1) + 1;
        let u = odd as f64 / (1_u64 << 53) as f64;
        -libm::log(-libm::log1p(-u))
    }

    /// No less than a token's luck, and not much more where it has much: a few
    /// operations of f32 in place of two logarithms.
    ///
    /// With `u` rounded down to 24 bits, `-ln(1 - u)` is at least
    /// `u + u²/2 + u³/3`; and the base-2 logarithm of `1 + f` is above its chord
    /// `f` by at least `0.278 f (1 - f)`, and by no more than 0.02 above that.
    #[inline]
    pub fn luck_at_most(&self, token: u32) -> f32 {
        /// Far more than is lost to rounding here, and in comparisons in f32.
        const SLACK: f32 = 1e-4;
        let u = (self.bits(token) >> 40) as i32 as f32 / (1 << 24) as f32;
        let arrival = (u * (1.0 / 3.0) + 0.5) * u * u + u;
        let bits = arrival.to_bits();
        let exponent = (bits >> 23) as i32 - 127;
        let f = f32::from_bits(bits & 0x007f_ffff | 0x3f80_0000) - 1.0;
        let log2_at_least = exponent as f32 + f + 0.278 * f * (1.0 - f);
        SLACK - std::f32::consts::LN_2 * log2_at_least
    }

    #[inline]
    fn bits(&self, token: u32) -> u64 {
        random::nth(self.start, u64::from(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn race(seed: u64) -> Race {
        Draw {
            seed,
            index: 3,
            temperature: 1.0,
            top_p: 1.0,
            min_p: 0.0,
        }
        .race()
    }

    #[test]
    fn luck_is_never_more_than_its_bound_and_seldom_much_less() {
        let (mut loose, mut lucky) = (0, 0);
        for seed in 0..8 {
            for token in 0..200_000 {
                let (luck, bound) = (race(seed).luck(token), race(seed).luck_at_most(token));
                assert!(f64::from(bound) >= luck, "{token}: {luck} {bound}");
                if luck > 1.0 {
                    lucky += 1;
                    loose += u32::from(f64::from(bound) > luck + 0.1);
                }
            }
        }
        // Of so many none below 2^-24, which are a tenth of a million.
        assert!(lucky > 100_000 && loose < 5, "{loose} of {lucky}");
    }

    /// Gumbel's: mean 0.5772, variance pi²/6.
    #[test]
    fn luck_has_gumbels_distribution() {
        const N: u32 = 400_000;
        let (mut sum, mut squares, mut below) = (0.0, 0.0, [0_u32; 7]);
        for token in 0..N {
            let luck = race(5).luck(token);
            sum += luck;
            squares += luck * luck;
            for (level, below) in (-2..5).zip(&mut below) {
                *below += u32::from(luck <= f64::from(level));
            }
        }
        let mean = sum / f64::from(N);
        assert!((mean - 0.577_215_66).abs() < 0.01, "{mean}");
        let variance = squares / f64::from(N) - mean * mean;
        assert!((variance - 1.644_934).abs() < 0.03, "{variance}");
        for (level, below) in (-2..5).zip(below) {
            let want = (-(-f64::from(level)).exp()).exp();
            let got = f64::from(below) / f64::from(N);
            // Five deviations.
            let slack = 5.0 * (want * (1.0 - want) / f64::from(N)).sqrt();
            assert!((got - want).abs() < slack, "{level}: {got} {want}");
        }
    }
}
