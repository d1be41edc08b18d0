//! [`Lanes`] in one register.

use std::arch::x86_64::*;

use half::f16;

use super::TILE;
use super::lanes::Lanes;

/// The CPU has AVX-512 F and what comes before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) fn new() -> Option<Avx512> {
        (std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("fma")
            && std::is_x86_feature_detected!("f16c"))
        .then_some(Avx512(()))
    }
}

// SAFETY, for all blocks of this implementation: `self` is proof of the
// instructions, and the arrays have the sixteen elements that are loaded or
// stored; none of the loads and stores needs alignment.
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one argument for all of them, above"
)]
impl Lanes for Avx512 {
    type V = __m512;

    const ROWS: usize = 12;
    const WIDE: bool = true;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, x: &[f32; TILE]) -> Self::V {
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; TILE]) -> Self::V {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_i8(self, x: &[i8; TILE]) -> Self::V {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn store(self, x: Self::V, to: &mut [f32; TILE]) {
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn round(self, x: Self::V) -> Self::V {
        unsafe { _mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(x) }
    }

    #[inline(always)]
    fn power_of_two(self, x: Self::V) -> Self::V {
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        }
    }

    #[inline(always)]
    fn zero_below(self, x: Self::V, by: Self::V, bound: f32) -> Self::V {
        unsafe {
            let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(by, _mm512_set1_ps(bound));
            _mm512_maskz_mov_ps(!below, x)
        }
    }

    #[inline(always)]
    fn first(self, n: usize, x: Self::V, other: Self::V) -> Self::V {
        let first = (1_u32 << n.min(TILE)) - 1;
        unsafe { _mm512_mask_mov_ps(other, first as u16, x) }
    }

    #[inline(always)]
    fn largest(self, x: Self::V) -> f32 {
        unsafe { _mm512_reduce_max_ps(x) }
    }

    #[inline(always)]
    fn sum(self, x: Self::V) -> f32 {
        unsafe {
            let upper = _mm256_castsi256_ps(_mm512_extracti64x4_epi64::<1>(_mm512_castps_si512(x)));
            super::avx2::sum_of_eight(_mm256_add_ps(_mm512_castps512_ps256(x), upper))
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, at: &T) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast()) }
    }
}
