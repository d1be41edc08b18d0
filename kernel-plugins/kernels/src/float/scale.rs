//! From the integers of a ternary product to floats.

use super::two_widths;

two_widths! {
    /// `out[i] = sums[i] / s * w_s`.
    pub fn scale_sums(sums: &[i32], s: f32, w_s: f32, out: &mut [f32]) {
        assert_eq!(sums.len(), out.len());
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = *sum as f32 / s * w_s;
        }
    }
}

two_widths! {
    /// `out[i] += sums[i] / s * w_s`.
    pub fn add_scaled_sums(sums: &[i32], s: f32, w_s: f32, out: &mut [f32]) {
        assert_eq!(sums.len(), out.len());
        for (out, sum) in out.iter_mut().zip(sums) {
            *out += *sum as f32 / s * w_s;
        }
    }
}
