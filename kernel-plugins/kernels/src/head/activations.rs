//! Tokens' activations in 16 bits.

use super::rounding::Dither;
use super::{Bits, Codes};

/// The upper half of such a number, rounded, is at most 127.
const LARGEST: f64 = 32639.0;

/// Sums of products, twice over, stay below this.
const SUM_LIMIT: f64 = (1_u32 << 30) as f64;

/// Activations of one token as integers: `scale * p` is about the activation.
#[derive(Clone, Copy, Debug)]
pub struct Token {
    /// What an integer is a multiple of.
    pub scale: f32,
    /// Sum of the integers.
    pub sum: i32,
    /// Sum of the integers times their columns' shifts.
    pub shifted: f64,
    /// Euclidean norm of the activations.
    pub norm: f64,
    /// Euclidean norm of what rounding changed.
    pub error: f64,
}

/// Several tokens' activations, ready to be multiplied with [`Codes`]. Keeps
/// its memory from one use to the next.
#[derive(Debug, Default)]
pub struct Activations {
    tokens: Vec<Token>,
    /// Groups of four columns of a token, an even number of them.
    token_groups: usize,
    /// Columns 0 and 2, 1 and 3 of each group, the first in the lower half:
    /// what meets the even and the odd bytes of a line.
    pairs: Vec<[i32; 2]>,
    /// Each group's upper and lower halves: `256 * upper + lower`.
    halves: Vec<[[i8; 4]; 2]>,
}

impl Activations {
    /// Converts `hidden`, rows of as many activations as there are shifts, for
    /// codes of that width that were rounded with them.
    ///
    /// The integers are as large as 16 bits and exact 32-bit sums of products
    /// with any codes allow. Activations that are not numbers count as 0: look
    /// at [`Token::norm`].
    ///
    /// # Panics
    ///
    /// If `hidden` is not whole rows of 1 to 2^16 columns.
    pub fn prepare(&mut self, hidden: &[f32], dither: &Dither, bits: Bits) {
        let cols = dither.shifts().len();
        assert!(
            (1..=1 << 16).contains(&cols) && hidden.len().is_multiple_of(cols),
            "{} activations are not whole rows of {cols}",
            hidden.len(),
        );
        self.token_groups = cols.div_ceil(4).next_multiple_of(2);
        self.tokens.clear();
        self.pairs.clear();
        self.halves.clear();
        for hidden in hidden.chunks_exact(cols) {
            self.push(hidden, dither, bits);
        }
    }

    fn push(&mut self, hidden: &[f32], dither: &Dither, bits: Bits) {
        let magnitude = |x: &f32| f64::from(x.abs());
        let largest = hidden.iter().map(magnitude).fold(0.0, f64::max);
        let total: f64 = hidden.iter().map(magnitude).sum();
        // Rounding adds half to each integer at most.
        let total_limit = SUM_LIMIT / f64::from(bits.max()) - hidden.len() as f64;
        let scale = (largest / LARGEST).max(total / total_limit) as f32;
        let usable = scale.is_normal() && total.is_finite();
        let scale = if usable { scale } else { 1.0 };
        let per_scale = if usable { 1.0 / f64::from(scale) } else { 0.0 };
        let mut token = Token {
            scale,
            sum: 0,
            shifted: 0.0,
            norm: 0.0,
            error: 0.0,
        };
        for group in 0..self.token_groups {
            let mut four = [0_i16; 4];
            let columns = hidden.iter().zip(dither.shifts()).skip(4 * group);
            for (p, (x, shift)) in four.iter_mut().zip(columns) {
                let x = f64::from(*x);
                *p = (x * per_scale).round_ties_even().clamp(-LARGEST, LARGEST) as i16;
                token.sum += i32::from(*p);
                token.shifted += f64::from(*p) * f64::from(*shift);
                token.norm += x * x;
                token.error += (x - f64::from(scale) * f64::from(*p)).powi(2);
            }
            let [a, b, c, d] = four;
            let pair = |low: i16, high: i16| i32::from(low) & 0xffff | i32::from(high) << 16;
            self.pairs.push([pair(a, c), pair(b, d)]);
            let lower = four.map(|p| p as i8);
            let upper = four.map(|p| ((i32::from(p) + 128) >> 8) as i8);
            self.halves.push([upper, lower]);
        }
        token.norm = token.norm.sqrt();
        token.error = token.error.sqrt();
        self.tokens.push(token);
    }

    /// What is known of each token.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    pub(super) fn check(&self, codes: &Codes) {
        let groups = codes.cols().div_ceil(4).next_multiple_of(2);
        assert_eq!(self.token_groups, groups, "activations for other codes");
    }

    pub(super) fn pairs(&self, token: usize) -> &[[i32; 2]] {
        &self.pairs[token * self.token_groups..][..self.token_groups]
    }

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", test))]
    pub(super) fn halves(&self, token: usize) -> &[[[i8; 4]; 2]] {
        &self.halves[token * self.token_groups..][..self.token_groups]
    }
}
