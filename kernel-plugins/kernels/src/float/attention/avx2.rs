//! [`Lanes`] in two registers.

use std::arch::x86_64::*;

use half::f16;

use super::TILE;
use super::lanes::Lanes;

/// The CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn new() -> Option<Avx2> {
        crate::float::wide().then_some(Avx2(()))
    }
}

/// Adds pairwise: `l` and `l + 4`, then `l` and `l + 2`, then the last two.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn sum_of_eight(x: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    let one = _mm_add_ss(two, _mm_shuffle_ps::<1>(two, two));
    _mm_cvtss_f32(one)
}

// SAFETY, for all blocks of this implementation: `self` is proof of the
// instructions, and the arrays have the sixteen elements or pairs that are loaded
// or stored, eight of them from the eighth; none of the loads and stores needs
// alignment.
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one argument for all of them, above"
)]
impl Lanes for Avx2 {
    type V = [__m256; 2];
    type Sums = [__m256i; 2];
    type Pairs = [__m256i; 2];

    const ROWS: usize = 6;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    fn load(self, x: &[f32; TILE]) -> Self::V {
        unsafe {
            [
                _mm256_loadu_ps(x.as_ptr()),
                _mm256_loadu_ps(x.as_ptr().add(8)),
            ]
        }
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; TILE]) -> Self::V {
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(8).cast())),
            ]
        }
    }

    #[inline(always)]
    fn store(self, x: Self::V, to: &mut [f32; TILE]) {
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), x[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn round(self, x: Self::V) -> Self::V {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        unsafe {
            [
                _mm256_round_ps::<NEAREST>(x[0]),
                _mm256_round_ps::<NEAREST>(x[1]),
            ]
        }
    }

    #[inline(always)]
    fn power_of_two(self, x: Self::V) -> Self::V {
        unsafe {
            let bias = _mm256_set1_epi32(127);
            let low = _mm256_add_epi32(_mm256_cvtps_epi32(x[0]), bias);
            let high = _mm256_add_epi32(_mm256_cvtps_epi32(x[1]), bias);
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high)),
            ]
        }
    }

    #[inline(always)]
    fn zero_below(self, x: Self::V, by: Self::V, bound: f32) -> Self::V {
        unsafe {
            let bound = _mm256_set1_ps(bound);
            [
                _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(by[0], bound), x[0]),
                _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(by[1], bound), x[1]),
            ]
        }
    }

    #[inline(always)]
    fn first(self, n: usize, x: Self::V, other: Self::V) -> Self::V {
        unsafe {
            let n = _mm256_set1_epi32(n as i32);
            let low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let high = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
            let low = _mm256_castsi256_ps(_mm256_cmpgt_epi32(n, low));
            let high = _mm256_castsi256_ps(_mm256_cmpgt_epi32(n, high));
            [
                _mm256_blendv_ps(other[0], x[0], low),
                _mm256_blendv_ps(other[1], x[1], high),
            ]
        }
    }

    #[inline(always)]
    fn largest(self, x: Self::V) -> f32 {
        let mut lanes = [0.0; TILE];
        self.store(x, &mut lanes);
        lanes
            .into_iter()
            .fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn sum(self, x: Self::V) -> f32 {
        unsafe { sum_of_eight(_mm256_add_ps(x[0], x[1])) }
    }

    #[inline(always)]
    fn round_to_i16(self, x: Self::V, to: &mut [i16; TILE]) {
        unsafe {
            let halves = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
            // Packing keeps each half of the registers to itself.
            let in_order = _mm256_permute4x64_epi64::<0b11_01_10_00>(halves);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), in_order);
        }
    }

    #[inline(always)]
    fn no_sums(self) -> Self::Sums {
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    fn load_sums(self, sums: &[i32; TILE]) -> Self::Sums {
        unsafe {
            [
                _mm256_loadu_si256(sums.as_ptr().cast()),
                _mm256_loadu_si256(sums.as_ptr().add(8).cast()),
            ]
        }
    }

    #[inline(always)]
    fn store_sums(self, sums: Self::Sums, to: &mut [i32; TILE]) {
        unsafe {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), sums[0]);
            _mm256_storeu_si256(to.as_mut_ptr().add(8).cast(), sums[1]);
        }
    }

    #[inline(always)]
    fn add_sums(self, a: Self::Sums, b: Self::Sums) -> Self::Sums {
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn widen_pairs(self, x: &[[i8; 2]; TILE]) -> Self::Pairs {
        unsafe {
            let eight = |at: *const [i8; 2]| _mm256_cvtepi8_epi16(_mm_loadu_si128(at.cast()));
            [eight(x.as_ptr()), eight(x.as_ptr().add(8))]
        }
    }

    #[inline(always)]
    fn splat_pair(self, x: i32) -> Self::Pairs {
        unsafe { [_mm256_set1_epi32(x); 2] }
    }

    #[inline(always)]
    fn add_products(self, sums: Self::Sums, a: Self::Pairs, b: Self::Pairs) -> Self::Sums {
        unsafe {
            [
                _mm256_add_epi32(sums[0], _mm256_madd_epi16(a[0], b[0])),
                _mm256_add_epi32(sums[1], _mm256_madd_epi16(a[1], b[1])),
            ]
        }
    }

    #[inline(always)]
    fn to_floats(self, sums: Self::Sums) -> Self::V {
        unsafe { [_mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1])] }
    }

    #[inline(always)]
    fn prefetch<T>(self, at: &T) {
        crate::fetch::near(at);
    }
}
