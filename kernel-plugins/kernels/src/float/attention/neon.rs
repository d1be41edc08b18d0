//! [`Lanes`] in four registers.

use std::arch::aarch64::*;
use std::array::from_fn;

use half::f16;

use super::TILE;
use super::lanes::Lanes;

/// The CPU has NEON.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neon(());

impl Neon {
    pub(super) fn new() -> Option<Neon> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }
}

/// Elements of a register.
const VECTOR: usize = 4;

/// Sixteen elements in registers.
const VECTORS: usize = TILE / VECTOR;

// SAFETY, for all blocks of this implementation: `self` is proof of the
// instructions, and the arrays have the sixteen elements or pairs that are loaded
// or stored, four of them from each multiple of four; none of the loads and
// stores needs more alignment than the elements have.
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one argument for all of them, above"
)]
impl Lanes for Neon {
    type V = [float32x4_t; VECTORS];
    type Sums = [int32x4_t; VECTORS];
    type Pairs = [int16x8_t; VECTORS];

    const ROWS: usize = 6;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        unsafe { [vdupq_n_f32(x); VECTORS] }
    }

    #[inline(always)]
    fn load(self, x: &[f32; TILE]) -> Self::V {
        from_fn(|v| unsafe { vld1q_f32(x.as_ptr().add(VECTOR * v)) })
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; TILE]) -> Self::V {
        from_fn(|v| unsafe {
            let halves = vld1_u16(x.as_ptr().add(VECTOR * v).cast());
            vcvt_f32_f16(vreinterpret_f16_u16(halves))
        })
    }

    #[inline(always)]
    fn store(self, x: Self::V, to: &mut [f32; TILE]) {
        for (v, x) in x.into_iter().enumerate() {
            unsafe { vst1q_f32(to.as_mut_ptr().add(VECTOR * v), x) };
        }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        from_fn(|v| unsafe { vaddq_f32(a[v], b[v]) })
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        from_fn(|v| unsafe { vsubq_f32(a[v], b[v]) })
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        from_fn(|v| unsafe { vmulq_f32(a[v], b[v]) })
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        from_fn(|v| unsafe { vfmaq_f32(c[v], a[v], b[v]) })
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // Not `fmax`: that has another answer to what is no number.
        from_fn(|v| unsafe { vbslq_f32(vcgtq_f32(a[v], b[v]), a[v], b[v]) })
    }

    #[inline(always)]
    fn round(self, x: Self::V) -> Self::V {
        from_fn(|v| unsafe { vrndnq_f32(x[v]) })
    }

    #[inline(always)]
    fn power_of_two(self, x: Self::V) -> Self::V {
        from_fn(|v| unsafe {
            let exponent = vaddq_s32(vcvtnq_s32_f32(x[v]), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
        })
    }

    #[inline(always)]
    fn zero_below(self, x: Self::V, by: Self::V, bound: f32) -> Self::V {
        from_fn(|v| unsafe {
            let below = vcltq_f32(by[v], vdupq_n_f32(bound));
            vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(x[v]), below))
        })
    }

    #[inline(always)]
    fn first(self, n: usize, x: Self::V, other: Self::V) -> Self::V {
        const LANES: [u32; VECTOR] = [0, 1, 2, 3];
        from_fn(|v| unsafe {
            let lanes = vaddq_u32(vld1q_u32(LANES.as_ptr()), vdupq_n_u32((VECTOR * v) as u32));
            vbslq_f32(vcltq_u32(lanes, vdupq_n_u32(n as u32)), x[v], other[v])
        })
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
        unsafe {
            let four = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }

    #[inline(always)]
    fn round_to_i16(self, x: Self::V, to: &mut [i16; TILE]) {
        for (v, x) in x.into_iter().enumerate() {
            unsafe {
                let integers = vmovn_s32(vcvtnq_s32_f32(x));
                vst1_s16(to.as_mut_ptr().add(VECTOR * v), integers);
            }
        }
    }

    #[inline(always)]
    fn no_sums(self) -> Self::Sums {
        unsafe { [vdupq_n_s32(0); VECTORS] }
    }

    #[inline(always)]
    fn load_sums(self, sums: &[i32; TILE]) -> Self::Sums {
        from_fn(|v| unsafe { vld1q_s32(sums.as_ptr().add(VECTOR * v)) })
    }

    #[inline(always)]
    fn store_sums(self, sums: Self::Sums, to: &mut [i32; TILE]) {
        for (v, sums) in sums.into_iter().enumerate() {
            unsafe { vst1q_s32(to.as_mut_ptr().add(VECTOR * v), sums) };
        }
    }

    #[inline(always)]
    fn add_sums(self, a: Self::Sums, b: Self::Sums) -> Self::Sums {
        from_fn(|v| unsafe { vaddq_s32(a[v], b[v]) })
    }

    /// The first of four pairs, then the second ones.
    #[inline(always)]
    fn widen_pairs(self, x: &[[i8; 2]; TILE]) -> Self::Pairs {
        from_fn(|v| unsafe {
            let pairs = vld1_s8(x.as_ptr().add(VECTOR * v).cast());
            let apart = vuzp1_s8(pairs, pairs);
            let second = vuzp2_s8(pairs, pairs);
            vmovl_s8(vreinterpret_s8_s32(vzip1_s32(
                vreinterpret_s32_s8(apart),
                vreinterpret_s32_s8(second),
            )))
        })
    }

    #[inline(always)]
    fn splat_pair(self, x: i32) -> Self::Pairs {
        let (first, second) = (x as i16, (x >> 16) as i16);
        unsafe { [vcombine_s16(vdup_n_s16(first), vdup_n_s16(second)); VECTORS] }
    }

    #[inline(always)]
    fn add_products(self, sums: Self::Sums, a: Self::Pairs, b: Self::Pairs) -> Self::Sums {
        from_fn(|v| unsafe {
            let first = vmlal_s16(sums[v], vget_low_s16(a[v]), vget_low_s16(b[v]));
            vmlal_high_s16(first, a[v], b[v])
        })
    }

    #[inline(always)]
    fn to_floats(self, sums: Self::Sums) -> Self::V {
        from_fn(|v| unsafe { vcvtq_f32_s32(sums[v]) })
    }

    #[inline(always)]
    fn prefetch<T>(self, at: &T) {
        crate::fetch::near(at);
    }
}
