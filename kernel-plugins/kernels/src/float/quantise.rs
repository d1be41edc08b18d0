//! Activation quantisation.

use super::two_widths;

two_widths! {
    /// Quantises one token's activations to int8 and returns the scale `s`:
    /// `q = round(x * s)` to nearest even with `s = 127 / max(|x|, 1e-5)`.
    ///
    /// This is bitnet.cpp's I2_S rule, equal to `ActQuant` of transformers
    /// in f32. An activation that is not a number counts as 0, so that a
    /// broken model can't produce an undefined integer.
    pub fn quantise(x: &[f32], out: &mut [i8]) -> f32 {
        assert_eq!(x.len(), out.len());
        const LANES: usize = 32;
        let mut largest = [0.0_f32; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for l in 0..LANES {
                largest[l] = largest[l].max(chunk[l].abs());
            }
        }
        for (l, x) in rest.iter().enumerate() {
            largest[l] = largest[l].max(x.abs());
        }
        let largest = largest.into_iter().fold(1e-5_f32, f32::max);
        let scale = 127.0 / largest;
        for (out, x) in out.iter_mut().zip(x) {
            *out = (x * scale).round_ties_even() as i8;
        }
        scale
    }
}
