//! Matrices to multiply, the same at every run.

use std::fmt;

/// How weights are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    AllOnes,
    AllMinusOnes,
    AllZeros,
    /// +1 and -1 in turn.
    Alternating,
    /// From a seed.
    Random(u64),
}

/// How activations are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activations {
    All(i8),
    /// 127 and -128 in turn.
    Alternating,
    /// From a seed, over the whole range.
    Random(u64),
}

impl Weights {
    pub(crate) fn generate(self, len: usize) -> Vec<i8> {
        match self {
            Weights::AllOnes => vec![1; len],
            Weights::AllMinusOnes => vec![-1; len],
            Weights::AllZeros => vec![0; len],
            Weights::Alternating => (0..len).map(|i| [1, -1][i % 2]).collect(),
            Weights::Random(seed) => random(seed, len, |bits| (bits % 3) as i8 - 1),
        }
    }
}

impl Activations {
    pub(crate) fn generate(self, len: usize) -> Vec<i8> {
        match self {
            Activations::All(value) => vec![value; len],
            Activations::Alternating => (0..len).map(|i| [127, -128][i % 2]).collect(),
            Activations::Random(seed) => random(seed, len, |bits| bits as i8),
        }
    }
}

/// SplitMix64, four values of 16 bits from each step.
fn random(seed: u64, len: usize, value: impl Fn(u16) -> i8) -> Vec<i8> {
    let mut state = seed;
    let mut values = Vec::with_capacity(len + 3);
    while values.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        values.extend([0, 16, 32, 48].map(|shift| value((z >> shift) as u16)));
    }
    values.truncate(len);
    values
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Weights::AllOnes => "weights of 1",
            Weights::AllMinusOnes => "weights of -1",
            Weights::AllZeros => "weights of 0",
            Weights::Alternating => "alternating weights",
            Weights::Random(_) => "random weights",
        })
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Activations::All(value) => write!(f, "activations of {value}"),
            Activations::Alternating => f.write_str("alternating activations"),
            Activations::Random(_) => f.write_str("random activations"),
        }
    }
}
