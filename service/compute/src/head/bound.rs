//! How far a logit can be above what rounded numbers make of it.
//!
//! Let `w` be a row of the head and `h` a hidden state, of `n` numbers each.
//! The row was rounded to `v = w - e` with steps of `s`; the hidden state is
//! `scale * p + d` with integers `p`. Then
//!
//! ```text
//! h·w = scale (p·v) + d·v + h·e
//! ```
//!
//! The first term comes from exact integers. What is to be added for a bound:
//!
//! - `d·v <= |d| |v|`, and `|v| <= |w| + s sqrt(n)`. Known: `|d|`, from the
//!   hidden state itself.
//! - `h·e`: the levels that weights were rounded to are shifted at random, so
//!   that the `e[i]` are independent and uniform on `s / 2` to either side of
//!   0, whatever `w` is. For such a number `E exp(x e[i]) <= exp(x² s² / 24)`,
//!   hence `P(h·e > t s |h|) <= exp(-6 t²)` for whatever `h` does not depend
//!   on the shifts (Chernoff). It does not: all that a model is given are
//!   tokens, and these are those of the unrounded head. With [`DEVIATIONS`]
//!   the right side is 10^-20; that rows share the shifts does not matter to
//!   the sum over all rows, one wrong token in 10^15 for a vocabulary of
//!   100,000. Shifts are pseudo-random numbers from a secret seed of 64 bits.
//!   [`UNEVENNESS`] adds `UNEVENNESS s sqrt(n) |h|`.
//! - the logit that is looked for is not `h·w` but a sum in f32: every product
//!   goes through one of `n / 32` fused additions of its lane and the five
//!   that join the lanes, each off by one part in 2^24 at most, and the
//!   magnitudes of the products sum to `|h| |w|` at most.
//! - the first term is rounded, scaled and added to the others in f32 too: a
//!   few parts in 2^24 of `|h| |v|`.
//!
//! Underflow and overflow stay out of this since rows and hidden states whose
//! norms are not within [`NORMS`] are not screened.

use std::ops::RangeInclusive;

use ternion_kernels::head::{TILE_ROWS, Token, rounding::UNEVENNESS};

/// `t`: `exp(-6 t²) < 10^-20`.
const DEVIATIONS: f64 = 2.78;

/// Half a unit in the last place of an f32, relative.
const ROUNDING: f64 = 1.0 / (1 << 24) as f64;

/// What more an f32 must be to be no less than the f64 it was made from, with
/// room for the rounding of sums in f64.
const ROUNDED_UP: f64 = 1.0 + 4.0 * ROUNDING;

const NORMS: RangeInclusive<f64> = 1e-12..=1e12;

/// What bounds the logits of a tile's rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct TileBounds {
    pub(super) step: [f32; TILE_ROWS],
    /// Times the norm of a hidden state.
    norm: [f32; TILE_ROWS],
    /// Times the norm of what rounding changed of it.
    error: [f32; TILE_ROWS],
}

impl TileBounds {
    /// For rows that are all 0, and for those that pad a tile.
    pub(super) const ZERO: TileBounds = TileBounds {
        step: [0.0; TILE_ROWS],
        norm: [0.0; TILE_ROWS],
        error: [0.0; TILE_ROWS],
    };

    /// Sets those of one row with the given Euclidean norm.
    pub(super) fn set(&mut self, row: usize, cols: usize, row_norm: f64, step: f32) {
        let (step_64, root) = (f64::from(step), (cols as f64).sqrt());
        let rounded_norm = row_norm + step_64 * root;
        let additions = (cols.div_ceil(32) + 5) as f64;
        let norm = step_64 * (DEVIATIONS + UNEVENNESS * root)
            + 1.01 * additions * ROUNDING * row_norm
            + 16.0 * ROUNDING * rounded_norm;
        self.step[row] = step;
        self.norm[row] = (norm * ROUNDED_UP) as f32;
        self.error[row] = (rounded_norm * ROUNDED_UP) as f32;
    }

    /// From a tile's sums of code times integer: what each logit is about, and
    /// what it is at most.
    pub(super) fn estimate(
        &self,
        sums: &[i32; TILE_ROWS],
        token: &TokenBounds,
        max_code: u8,
    ) -> ([f32; TILE_ROWS], [f32; TILE_ROWS]) {
        let middle = i32::from(max_code) * token.sum;
        let (mut about, mut at_most) = ([0.0; TILE_ROWS], [0.0; TILE_ROWS]);
        for row in 0..TILE_ROWS {
            let twice = (2 * sums[row] - middle) as f32 - token.twice_shifted;
            about[row] = twice * (token.half_scale * self.step[row]);
            at_most[row] =
                about[row] + (self.norm[row] * token.norm + self.error[row] * token.error);
        }
        (about, at_most)
    }
}

/// The same of one hidden state.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenBounds {
    sum: i32,
    twice_shifted: f32,
    half_scale: f32,
    norm: f32,
    error: f32,
}

impl TokenBounds {
    pub(super) fn new(token: &Token) -> TokenBounds {
        TokenBounds {
            sum: token.sum,
            twice_shifted: (2.0 * token.shifted) as f32,
            half_scale: token.scale / 2.0,
            norm: (token.norm * ROUNDED_UP) as f32,
            error: (token.error * ROUNDED_UP) as f32,
        }
    }
}

/// Whether a row of this norm can be bounded.
pub(super) fn holds_for_norm(norm: f64) -> bool {
    norm == 0.0 || NORMS.contains(&norm)
}

/// Whether logits of this hidden state can be.
pub(super) fn holds_for(hidden: &[f32]) -> bool {
    NORMS.contains(&norm(hidden))
}

/// The Euclidean norm.
pub(super) fn norm(x: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*x) * f64::from(*x);
        }
    }
    let rest: f64 = rest.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    (lanes.iter().sum::<f64>() + rest).sqrt()
}
