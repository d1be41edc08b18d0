//! RMSNorm.

use super::two_widths;

/// Partial sums of the squares: f64, hence fewer than for f32 reductions.
const LANES: usize = 16;

two_widths! {
    /// `out[i] = x[i] / sqrt(mean(x²) + eps) * weight[i]`, the weight
    /// multiplied last.
    pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len());
        let root = (mean_square(x) + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x / root * weight;
        }
    }
}

two_widths! {
    /// [`rms_norm`] as ggml rounds it: multiplied with the root's reciprocal.
    pub fn rms_norm_by_reciprocal(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len());
        let scale = 1.0 / (mean_square(x) + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

/// The squares are f32 and summed in f64 as in ggml, in sixteen lanes that are
/// then added pairwise.
#[inline(always)]
fn mean_square(x: &[f32]) -> f32 {
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
    (lanes[0] / x.len() as f64) as f32
}
