//! RMSNorm.

use super::two_widths;

/// Partial sums of the squares: f64, hence fewer than for f32 reductions.
const LANES: usize = 16;

two_widths! {
    /// `out[i] = x[i] / sqrt(mean(x²) + eps) * weight[i]`.
    ///
    /// The squares are summed in f64 as in ggml, in sixteen lanes that are then
    /// added pairwise; the rest is f32, the weight multiplied last. Dividing by
    /// the root rounds once less than multiplying with its reciprocal, and keeps
    /// more activations on the side of a rounding boundary where the published
    /// implementations have them.
    pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len());
        let mut lanes = [0.0_f64; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for l in 0..LANES {
                lanes[l] += f64::from(chunk[l] * chunk[l]);
            }
        }
        for (l, x) in rest.iter().enumerate() {
            lanes[l] += f64::from(x * x);
        }
        let mut half = LANES / 2;
        while half > 0 {
            for l in 0..half {
                lanes[l] += lanes[l + half];
            }
            half /= 2;
        }
        let mean = (lanes[0] / x.len() as f64) as f32;
        let root = (mean + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x / root * weight;
        }
    }
}
