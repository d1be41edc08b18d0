//! Random numbers that need no state.
//!
//! A sequence that is preempted, restarted or moved must draw the same numbers
//! again, so a number is a function of the request's seed and the index of the
//! generated token. The generator is SplitMix64 (Steele, Lea and Flood, "Fast
//! splittable pseudorandom number generators", OOPSLA 2014), whose n-th output
//! is a hash of a counter and can be computed on its own. The counter starts
//! at a hash of the seed, because seeds that differ by a multiple of the
//! increment would otherwise see each other's numbers a few tokens later.

/// The golden ratio's share of 2^64, made odd.
const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a seed and an index draw.
pub(crate) fn bits(seed: u64, index: u64) -> u64 {
    nth(mix(seed), index)
}

/// The n-th output from a state.
#[inline]
pub(crate) fn nth(state: u64, n: u64) -> u64 {
    let counter = n.wrapping_add(1).wrapping_mul(INCREMENT);
    mix(state.wrapping_add(counter))
}

/// The finaliser of SplitMix64, a permutation.
#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_splitmix64() {
        // The published first outputs for state 0, and 0 hashes to 0.
        assert_eq!(bits(0, 0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(bits(0, 1), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(bits(0, 2), 0x06c4_5d18_8009_454f);
    }

    #[test]
    fn seeds_an_increment_apart_do_not_share_numbers() {
        for index in 0..100 {
            assert_ne!(bits(INCREMENT, index), bits(0, index + 1));
        }
    }

    #[test]
    fn numbers_are_spread_over_seeds_as_over_indices() {
        for (by_seed, by_index) in [(1, 0), (0, 1), (1, 1), (INCREMENT, 0)] {
            let mut bins = [0u32; 16];
            let mut sum = 0.0;
            for n in 0..16_000u64 {
                let bits = bits(n.wrapping_mul(by_seed), n * by_index);
                let u = (bits >> 11) as f64 / (1u64 << 53) as f64;
                bins[(u * 16.0) as usize] += 1;
                sum += u;
            }
            // 1000 a bin are expected, with a standard deviation of 31.
            assert!(bins.iter().all(|n| (850..1150).contains(n)), "{bins:?}");
            assert!((sum / 16_000.0 - 0.5).abs() < 0.01);
        }
    }
}
