//! Dot products with dense rows as they lie in a model file: f32, f16 or
//! bf16, little endian, at any alignment.

use super::{LANES, add_lanes, two_widths};

two_widths! {
    /// Sum of `a[i] * b[i]`, in the order of this module.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        let mut lanes = [0.0_f32; LANES];
        let (a_chunks, a_rest) = a.as_chunks::<LANES>();
        let (b_chunks, b_rest) = b.as_chunks::<LANES>();
        for (a, b) in a_chunks.iter().zip(b_chunks) {
            for l in 0..LANES {
                lanes[l] = a[l].mul_add(b[l], lanes[l]);
            }
        }
        for (l, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
            lanes[l] = a.mul_add(*b, lanes[l]);
        }
        add_lanes(&mut lanes)
    }
}

two_widths! {
    /// [`dot`] of `a` and a row of bf16, `2 * a.len()` bytes.
    pub fn dot_bf16(a: &[f32], row: &[u8]) -> f32 {
        let (row, rest) = row.as_chunks::<2>();
        assert!(row.len() == a.len() && rest.is_empty());
        let mut lanes = [0.0_f32; LANES];
        let (a_chunks, a_rest) = a.as_chunks::<LANES>();
        let (row_chunks, row_rest) = row.as_chunks::<LANES>();
        for (a, b) in a_chunks.iter().zip(row_chunks) {
            for l in 0..LANES {
                lanes[l] = a[l].mul_add(from_bf16(b[l]), lanes[l]);
            }
        }
        for (l, (a, b)) in a_rest.iter().zip(row_rest).enumerate() {
            lanes[l] = a.mul_add(from_bf16(*b), lanes[l]);
        }
        add_lanes(&mut lanes)
    }
}

two_widths! {
    /// [`dot`] of `a` and a row of f32, `4 * a.len()` bytes.
    pub fn dot_f32_bytes(a: &[f32], row: &[u8]) -> f32 {
        let (row, rest) = row.as_chunks::<4>();
        assert!(row.len() == a.len() && rest.is_empty());
        let mut lanes = [0.0_f32; LANES];
        let (a_chunks, a_rest) = a.as_chunks::<LANES>();
        let (row_chunks, row_rest) = row.as_chunks::<LANES>();
        for (a, b) in a_chunks.iter().zip(row_chunks) {
            for l in 0..LANES {
                lanes[l] = a[l].mul_add(f32::from_le_bytes(b[l]), lanes[l]);
            }
        }
        for (l, (a, b)) in a_rest.iter().zip(row_rest).enumerate() {
            lanes[l] = a.mul_add(f32::from_le_bytes(*b), lanes[l]);
        }
        add_lanes(&mut lanes)
    }
}

two_widths! {
    /// Converts a row of bf16 to f32, exactly.
    pub fn widen_bf16(row: &[u8], out: &mut [f32]) {
        let (row, rest) = row.as_chunks::<2>();
        assert!(row.len() == out.len() && rest.is_empty());
        for (out, value) in out.iter_mut().zip(row) {
            *out = from_bf16(*value);
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

/// [`dot`] of `a` and a row of f16, `2 * a.len()` bytes.
pub fn dot_f16(a: &[f32], row: &[u8]) -> f32 {
    assert_eq!(2 * a.len(), row.len());
    #[cfg(target_arch = "x86_64")]
    if super::wide() {
        // SAFETY: `wide` says that the CPU has these features.
        return unsafe { avx2::dot_f16(a, row) };
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        // SAFETY: the CPU has NEON.
        return unsafe { neon::dot_f16(a, row) };
    }
    let mut lanes = [0.0_f32; LANES];
    for (i, (a, value)) in a.iter().zip(row.as_chunks::<2>().0).enumerate() {
        let lane = &mut lanes[i % LANES];
        *lane = a.mul_add(from_f16(*value), *lane);
    }
    add_lanes(&mut lanes)
}

/// Converts a row of f16 to f32, exactly.
pub fn widen_f16(row: &[u8], out: &mut [f32]) {
    assert_eq!(2 * out.len(), row.len());
    #[cfg(target_arch = "x86_64")]
    if super::wide() {
        // SAFETY: `wide` says that the CPU has these features.
        return unsafe { avx2::widen_f16(row, out) };
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        // SAFETY: the CPU has NEON.
        return unsafe { neon::widen_f16(row, out) };
    }
    for (out, value) in out.iter_mut().zip(row.as_chunks::<2>().0) {
        *out = from_f16(*value);
    }
}

#[inline(always)]
fn from_bf16(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

#[inline(always)]
fn from_f16(bytes: [u8; 2]) -> f32 {
    half::f16::from_le_bytes(bytes).to_f32()
}

/// The f16 operations by hand: the compiler does not turn the conversion in
/// `half` into `vcvtph2ps`.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{LANES, add_lanes, from_f16};

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn dot_f16(a: &[f32], row: &[u8]) -> f32 {
        let mut sums = [_mm256_setzero_ps(); LANES / 8];
        let (a_chunks, a_rest) = a.as_chunks::<LANES>();
        let (row_chunks, row_rest) = row.as_chunks::<{ 2 * LANES }>();
        for (a, row) in a_chunks.iter().zip(row_chunks) {
            for (part, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `part < LANES / 8`, so both loads end inside their
                // chunks of LANES elements; neither needs alignment.
                let (a, halves) = unsafe {
                    (
                        _mm256_loadu_ps(a.as_ptr().add(8 * part)),
                        _mm_loadu_si128(row.as_ptr().add(16 * part).cast()),
                    )
                };
                *sum = _mm256_fmadd_ps(a, _mm256_cvtph_ps(halves), *sum);
            }
        }
        let mut lanes = [0.0_f32; LANES];
        for (sum, lanes) in sums.iter().zip(lanes.as_chunks_mut::<8>().0) {
            // SAFETY: the chunk holds the eight elements that are stored.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), *sum) };
        }
        for (l, (a, value)) in a_rest.iter().zip(row_rest.as_chunks::<2>().0).enumerate() {
            lanes[l] = a.mul_add(from_f16(*value), lanes[l]);
        }
        add_lanes(&mut lanes)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn widen_f16(row: &[u8], out: &mut [f32]) {
        let (row_chunks, row_rest) = row.as_chunks::<16>();
        let (out_chunks, out_rest) = out.as_chunks_mut::<8>();
        for (row, out) in row_chunks.iter().zip(out_chunks) {
            // SAFETY: the chunks hold the 16 bytes that are loaded and the
            // eight elements that are stored.
            unsafe {
                let halves = _mm_loadu_si128(row.as_ptr().cast());
                _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(halves));
            }
        }
        for (out, value) in out_rest.iter_mut().zip(row_rest.as_chunks::<2>().0) {
            *out = from_f16(*value);
        }
    }
}

/// The same with `fcvtl`, which every NEON has.
#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    use super::{LANES, add_lanes, from_f16};

    /// Elements of a vector of f32.
    const VECTOR: usize = 4;

    #[target_feature(enable = "neon")]
    pub(super) fn dot_f16(a: &[f32], row: &[u8]) -> f32 {
        let mut sums = [vdupq_n_f32(0.0); LANES / VECTOR];
        let (a_chunks, a_rest) = a.as_chunks::<LANES>();
        let (row_chunks, row_rest) = row.as_chunks::<{ 2 * LANES }>();
        for (a, row) in a_chunks.iter().zip(row_chunks) {
            let (a, _) = a.as_chunks();
            let (row, _) = row.as_chunks();
            for ((sum, a), row) in sums.iter_mut().zip(a).zip(row) {
                *sum = vfmaq_f32(*sum, load(a), widen(row));
            }
        }
        let mut lanes = [0.0_f32; LANES];
        for (sum, lanes) in sums.iter().zip(lanes.as_chunks_mut().0) {
            store(lanes, *sum);
        }
        for (l, (a, value)) in a_rest.iter().zip(row_rest.as_chunks::<2>().0).enumerate() {
            lanes[l] = a.mul_add(from_f16(*value), lanes[l]);
        }
        add_lanes(&mut lanes)
    }

    #[target_feature(enable = "neon")]
    pub(super) fn widen_f16(row: &[u8], out: &mut [f32]) {
        let (row_chunks, row_rest) = row.as_chunks();
        let (out_chunks, out_rest) = out.as_chunks_mut();
        for (row, out) in row_chunks.iter().zip(out_chunks) {
            store(out, widen(row));
        }
        for (out, value) in out_rest.iter_mut().zip(row_rest.as_chunks::<2>().0) {
            *out = from_f16(*value);
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn widen(halves: &[u8; 2 * VECTOR]) -> float32x4_t {
        // SAFETY: the reference is to as many bytes as are loaded, at any
        // alignment.
        let halves = unsafe { vld1_u8(halves.as_ptr()) };
        vcvt_f32_f16(vreinterpret_f16_u8(halves))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn load(elements: &[f32; VECTOR]) -> float32x4_t {
        // SAFETY: the reference is to as many elements as are loaded.
        unsafe { vld1q_f32(elements.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn store(elements: &mut [f32; VECTOR], vector: float32x4_t) {
        // SAFETY: as for `load`, and the reference is exclusive.
        unsafe { vst1q_f32(elements.as_mut_ptr(), vector) }
    }
}
