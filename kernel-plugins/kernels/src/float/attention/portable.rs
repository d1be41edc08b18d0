//! [`Lanes`] for any CPU.

use std::array::from_fn;

use half::f16;

use super::TILE;
use super::lanes::Lanes;

/// Any CPU will do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Portable;

impl Lanes for Portable {
    type V = [f32; TILE];
    type Sums = [i32; TILE];
    type Pairs = [[i16; 2]; TILE];

    const ROWS: usize = 4;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; TILE]
    }

    #[inline(always)]
    fn load(self, x: &[f32; TILE]) -> Self::V {
        *x
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; TILE]) -> Self::V {
        x.map(f16::to_f32)
    }

    #[inline(always)]
    fn store(self, x: Self::V, to: &mut [f32; TILE]) {
        *to = x;
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        from_fn(|l| a[l] + b[l])
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        from_fn(|l| a[l] - b[l])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        from_fn(|l| a[l] * b[l])
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        from_fn(|l| a[l].mul_add(b[l], c[l]))
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        from_fn(|l| if a[l] > b[l] { a[l] } else { b[l] })
    }

    #[inline(always)]
    fn round(self, x: Self::V) -> Self::V {
        x.map(f32::round_ties_even)
    }

    #[inline(always)]
    fn power_of_two(self, x: Self::V) -> Self::V {
        x.map(|x| f32::from_bits(((x as i32 + 127) << 23) as u32))
    }

    #[inline(always)]
    fn zero_below(self, x: Self::V, by: Self::V, bound: f32) -> Self::V {
        from_fn(|l| if by[l] < bound { 0.0 } else { x[l] })
    }

    #[inline(always)]
    fn first(self, n: usize, x: Self::V, other: Self::V) -> Self::V {
        from_fn(|l| if l < n { x[l] } else { other[l] })
    }

    #[inline(always)]
    fn largest(self, x: Self::V) -> f32 {
        x.into_iter()
            .fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn sum(self, mut x: Self::V) -> f32 {
        let mut half = TILE / 2;
        while half > 0 {
            for l in 0..half {
                x[l] += x[l + half];
            }
            half /= 2;
        }
        x[0]
    }

    #[inline(always)]
    fn round_to_i16(self, x: Self::V, to: &mut [i16; TILE]) {
        *to = x.map(|x| x.round_ties_even() as i16);
    }

    #[inline(always)]
    fn no_sums(self) -> Self::Sums {
        [0; TILE]
    }

    #[inline(always)]
    fn load_sums(self, sums: &[i32; TILE]) -> Self::Sums {
        *sums
    }

    #[inline(always)]
    fn store_sums(self, sums: Self::Sums, to: &mut [i32; TILE]) {
        *to = sums;
    }

    #[inline(always)]
    fn add_sums(self, a: Self::Sums, b: Self::Sums) -> Self::Sums {
        from_fn(|l| a[l] + b[l])
    }

    #[inline(always)]
    fn widen_pairs(self, x: &[[i8; 2]; TILE]) -> Self::Pairs {
        x.map(|pair| pair.map(i16::from))
    }

    #[inline(always)]
    fn splat_pair(self, x: i32) -> Self::Pairs {
        [[x as i16, (x >> 16) as i16]; TILE]
    }

    #[inline(always)]
    fn add_products(self, sums: Self::Sums, a: Self::Pairs, b: Self::Pairs) -> Self::Sums {
        let product = |a: i16, b: i16| i32::from(a) * i32::from(b);
        from_fn(|l| sums[l] + product(a[l][0], b[l][0]) + product(a[l][1], b[l][1]))
    }

    #[inline(always)]
    fn to_floats(self, sums: Self::Sums) -> Self::V {
        sums.map(|sum| sum as f32)
    }

    #[inline(always)]
    fn prefetch<T>(self, _: &T) {}
}
