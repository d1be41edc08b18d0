//! Activation quantisation.

use super::two_widths;

two_widths! {
    /// Quantises one token's activations to int8 and returns the scale `s`:
    /// `q = round(x * s)` to nearest even with `s = 127 / max(|x|, 1e-5)`,
    /// bitnet.cpp's rule for I2_S, and that of transformers but for the last
    /// bit of the scale.
    ///
    /// An activation that is not a number counts as 0, so that a broken model
    /// can't produce an undefined integer.
    pub fn quantise(x: &[f32], out: &mut [i8]) -> f32 {
        let scale = 127.0 / largest(x);
        round(x, scale, out);
        scale
    }
}

two_widths! {
    /// The same to the bit as transformers does it in f32. `127 / x` of a torch tensor
    /// multiplies with the reciprocal, and the last bit of the scale decides
    /// where an activation lies in the middle between two integers: half of
    /// the largest one does.
    pub fn quantise_torch(x: &[f32], out: &mut [i8]) -> f32 {
        let scale = 1.0 / largest(x) * 127.0;
        round(x, scale, out);
        scale
    }
}

/// Largest magnitude, or 1e-5 if that is more.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
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
    largest.into_iter().fold(1e-5_f32, f32::max)
}

/// Added to a number between -2^22 and 2^22 it leaves no bits for a fraction:
/// the sum is rounded to the nearest integer, to even where two are as near,
/// and its low bits are that integer's.
const ROUNDER: f32 = 1.5 * (1 << 23) as f32;

/// Products are between -127.5 and 127.5, or not a number: the scale belongs to
/// the largest.
#[inline(always)]
fn round(x: &[f32], scale: f32, out: &mut [i8]) {
    assert_eq!(x.len(), out.len());
    for (out, x) in out.iter_mut().zip(x) {
        let product = x * scale;
        let product = if product.is_nan() { 0.0 } else { product };
        *out = (product + ROUNDER).to_bits() as i8;
    }
}
