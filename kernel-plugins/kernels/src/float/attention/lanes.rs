//! What attention asks of an instruction set.

use half::f16;

use super::TILE;

/// Sixteen floats at a time. A value is the proof that the CPU has the
/// instructions: only then is there one.
///
/// Each operation is rounded as IEEE 754 says, or moves bits, so that all
/// instruction sets give the same results: the algorithm is written once, over
/// this trait, and a new instruction set is a file with these operations.
///
/// Implementations are `#[inline(always)]`, so that they end up in the function
/// that has the target features.
pub(super) trait Lanes: Copy {
    /// Sixteen floats.
    type V: Copy;
    /// Sixteen integers of 32 bits.
    type Sums: Copy;
    /// Sixteen pairs of integers of 16 bits.
    type Pairs: Copy;

    /// Rows of queries that one register tile has where there are many.
    const ROWS: usize;
    /// Whether sixteen floats are one register and there are many: tiles are
    /// then of more than one vector.
    const WIDE: bool;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; TILE]) -> Self::V;
    fn load_f16(self, x: &[f16; TILE]) -> Self::V;
    fn store(self, x: Self::V, to: &mut [f32; TILE]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a` where it is larger, else `b`.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn round(self, x: Self::V) -> Self::V;
    /// 2^x for integers between -126 and 127.
    fn power_of_two(self, x: Self::V) -> Self::V;
    /// `x` but 0 where `by` is less than `bound`.
    fn zero_below(self, x: Self::V, by: Self::V, bound: f32) -> Self::V;
    /// The first `n` lanes of `x`, then lanes of `other`.
    fn first(self, n: usize, x: Self::V, other: Self::V) -> Self::V;
    /// The largest lane.
    fn largest(self, x: Self::V) -> f32;
    /// All lanes, added pairwise: `l` and `l + 8`, then `l` and `l + 4`, and so
    /// on.
    fn sum(self, x: Self::V) -> f32;
    /// To the nearest integers, ties to even, which an i16 holds.
    fn round_to_i16(self, x: Self::V, to: &mut [i16; TILE]);
    fn no_sums(self) -> Self::Sums;
    fn load_sums(self, sums: &[i32; TILE]) -> Self::Sums;
    fn store_sums(self, sums: Self::Sums, to: &mut [i32; TILE]);
    fn add_sums(self, a: Self::Sums, b: Self::Sums) -> Self::Sums;
    fn widen_pairs(self, x: &[[i8; 2]; TILE]) -> Self::Pairs;
    /// The lower half of the bits is the first of the pair.
    fn splat_pair(self, x: i32) -> Self::Pairs;
    /// Adds the products of both of each pair.
    fn add_products(self, sums: Self::Sums, a: Self::Pairs, b: Self::Pairs) -> Self::Sums;
    /// The nearest floats, ties to even.
    fn to_floats(self, sums: Self::Sums) -> Self::V;
    /// A hint that this will be read.
    fn prefetch<T>(self, at: &T);
}
