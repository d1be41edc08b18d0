//! [`Lanes`] in one register.

use std::arch::asm;
use std::arch::x86_64::*;

use half::f16;

use super::TILE;
use super::lanes::Lanes;

/// The CPU has AVX-512 F and BW and what comes before them; and VNNI or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512<const VNNI: bool>(());

impl<const VNNI: bool> Avx512<VNNI> {
    pub(super) fn new() -> Option<Self> {
        (std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512bw")
            && (!VNNI || std::is_x86_feature_detected!("avx512vnni"))
            && std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("fma")
            && std::is_x86_feature_detected!("f16c"))
        .then_some(Avx512(()))
    }
}

/// In assembly, as the compiler takes the intrinsic apart into a multiplication
/// and an addition, and there are as many of them as the CPU can do.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dpwssd(mut sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: the function has the feature; the instruction reads and writes
    // nothing but the registers that are named.
    unsafe {
        asm!(
            "vpdpwssd {sums}, {a}, {b}",
            sums = inout(zmm_reg) sums,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

// SAFETY, for all blocks of this implementation: `self` is proof of the
// instructions, and the arrays have the sixteen elements or pairs that are loaded
// or stored; none of the loads and stores needs alignment.
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one argument for all of them, above"
)]
impl<const VNNI: bool> Lanes for Avx512<VNNI> {
    type V = __m512;
    type Sums = __m512i;
    type Pairs = __m512i;

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
    fn round_to_i16(self, x: Self::V, to: &mut [i16; TILE]) {
        unsafe {
            let integers = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(x));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), integers);
        }
    }

    #[inline(always)]
    fn no_sums(self) -> Self::Sums {
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn load_sums(self, sums: &[i32; TILE]) -> Self::Sums {
        unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_sums(self, sums: Self::Sums, to: &mut [i32; TILE]) {
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), sums) }
    }

    #[inline(always)]
    fn add_sums(self, a: Self::Sums, b: Self::Sums) -> Self::Sums {
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn widen_pairs(self, x: &[[i8; 2]; TILE]) -> Self::Pairs {
        unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn splat_pair(self, x: i32) -> Self::Pairs {
        unsafe { _mm512_set1_epi32(x) }
    }

    #[inline(always)]
    fn add_products(self, sums: Self::Sums, a: Self::Pairs, b: Self::Pairs) -> Self::Sums {
        unsafe {
            if VNNI {
                dpwssd(sums, a, b)
            } else {
                _mm512_add_epi32(sums, _mm512_madd_epi16(a, b))
            }
        }
    }

    #[inline(always)]
    fn to_floats(self, sums: Self::Sums) -> Self::V {
        unsafe { _mm512_cvtepi32_ps(sums) }
    }

    #[inline(always)]
    fn prefetch<T>(self, at: &T) {
        crate::fetch::near(at);
    }
}
