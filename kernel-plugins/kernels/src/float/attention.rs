//! Pieces of attention over one head.

use super::{LANES, add_lanes, exp, two_widths};

two_widths! {
    /// Replaces scores by their softmax. The exponentials are summed in the
    /// order of this module, by position.
    pub fn softmax(scores: &mut [f32]) {
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut lanes = [0.0_f32; LANES];
        let (chunks, rest) = scores.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for l in 0..LANES {
                chunk[l] = exp(chunk[l] - largest);
                lanes[l] += chunk[l];
            }
        }
        for (l, score) in rest.iter_mut().enumerate() {
            *score = exp(*score - largest);
            lanes[l] += *score;
        }
        let sum = add_lanes(&mut lanes);
        for score in scores {
            *score /= sum;
        }
    }
}

two_widths! {
    /// `out[i] += factor * x[i]`.
    pub fn add_scaled(factor: f32, x: &[f32], out: &mut [f32]) {
        assert_eq!(x.len(), out.len());
        for (out, x) in out.iter_mut().zip(x) {
            *out = factor.mul_add(*x, *out);
        }
    }
}
