//! NEON with `dotprod`: `sdot` multiplies four columns of four rows and adds
//! them to 32 bits. Activations are halves of bytes, each with sums of its own.

use core::arch::aarch64::{int32x4_t, uint8x16_t, vandq_u8, vdupq_n_s32, veorq_u8, vshrq_n_u8};

use super::super::Line;
use super::{Activations, Bits, Sums, Tile};
use crate::panel::neon::{LANES, VECTOR, load, sdot, splat, store};

/// Vectors of a line: four rows each.
const VECTORS: usize = size_of::<Line>() / VECTOR;

/// Tokens that share unpacked codes: their sums are half of the registers.
const MOST_TOKENS: usize = 2;

/// Taken from each code of eight bits, which are then signed.
const OFFSET: i32 = 128;

/// The CPU has NEON and `dotprod`: only then is there a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dotprod(());

impl Dotprod {
    pub(super) fn new() -> Option<Dotprod> {
        let neon = std::arch::is_aarch64_feature_detected!("neon");
        let dotprod = neon && std::arch::is_aarch64_feature_detected!("dotprod");
        dotprod.then_some(Dotprod(()))
    }

    pub(super) fn tile(self, tile: &Tile<'_>, activations: &Activations, sums: &mut Sums<'_>) {
        // SAFETY: `self` is proof of the features.
        unsafe { all_tokens(tile, activations, sums) }
    }
}

#[target_feature(enable = "neon,dotprod")]
fn all_tokens(tile: &Tile<'_>, activations: &Activations, sums: &mut Sums<'_>) {
    let batch = activations.tokens().len();
    let mut token = 0;
    while token < batch {
        token += match batch - token {
            MOST_TOKENS.. => some::<MOST_TOKENS>(token, tile, activations, sums),
            _ => some::<1>(token, tile, activations, sums),
        };
    }
}

#[target_feature(enable = "neon,dotprod")]
fn some<const T: usize>(
    first: usize,
    tile: &Tile<'_>,
    activations: &Activations,
    sums: &mut Sums<'_>,
) -> usize {
    let halves: [&[[[i8; 4]; 2]]; T] = std::array::from_fn(|i| activations.halves(first + i));
    let products = match tile.bits {
        Bits::Four => four_bits(tile.lines, halves),
        Bits::Eight => eight_bits(tile.lines, halves),
    };
    for (i, products) in products.into_iter().enumerate() {
        let offset = match tile.bits {
            Bits::Four => 0,
            Bits::Eight => activations.tokens()[first + i].sum.wrapping_mul(OFFSET),
        };
        let rows = sums.of(first + i, tile).as_chunks_mut::<LANES>().0;
        for (v, rows) in rows.iter_mut().enumerate() {
            let mut lower = [0; LANES];
            store(rows, products.upper[v]);
            store(&mut lower, products.lower[v]);
            for (row, lower) in rows.iter_mut().zip(lower) {
                // What comes out fits, whatever wraps on the way.
                *row = row
                    .wrapping_mul(256)
                    .wrapping_add(lower)
                    .wrapping_add(offset);
            }
        }
    }
    T
}

/// Sums of a token's upper and lower halves times the codes of a tile's rows.
#[derive(Clone, Copy)]
struct Products {
    upper: [int32x4_t; VECTORS],
    lower: [int32x4_t; VECTORS],
}

#[inline]
#[target_feature(enable = "neon")]
fn no_products() -> Products {
    Products {
        upper: [vdupq_n_s32(0); VECTORS],
        lower: [vdupq_n_s32(0); VECTORS],
    }
}

#[target_feature(enable = "neon,dotprod")]
fn four_bits<const T: usize>(lines: &[Line], halves: [&[[[i8; 4]; 2]]; T]) -> [Products; T] {
    let halves = halves.map(|halves| &halves.as_chunks::<2>().0[..lines.len()]);
    let mask = splat(15);
    let mut sums = [no_products(); T];
    for (i, line) in lines.iter().enumerate() {
        let x: [_; T] = std::array::from_fn(|t| of_groups(halves[t][i]));
        for (v, codes) in line.0.as_chunks().0.iter().enumerate() {
            let codes = load(codes);
            let (low, high) = (vandq_u8(codes, mask), vshrq_n_u8::<4>(codes));
            for t in 0..T {
                let Products { upper, lower } = &mut sums[t];
                upper[v] = sdot::<2>(sdot::<0>(upper[v], low, x[t]), high, x[t]);
                lower[v] = sdot::<3>(sdot::<1>(lower[v], low, x[t]), high, x[t]);
            }
        }
    }
    sums
}

#[target_feature(enable = "neon,dotprod")]
fn eight_bits<const T: usize>(lines: &[Line], halves: [&[[[i8; 4]; 2]]; T]) -> [Products; T] {
    let halves = halves.map(|halves| &halves[..lines.len()]);
    let sign = splat(OFFSET as u8);
    let mut sums = [no_products(); T];
    for (i, line) in lines.iter().enumerate() {
        let x: [_; T] = std::array::from_fn(|t| of_groups([halves[t][i]; 2]));
        for (v, codes) in line.0.as_chunks().0.iter().enumerate() {
            let codes = veorq_u8(load(codes), sign);
            for t in 0..T {
                let Products { upper, lower } = &mut sums[t];
                upper[v] = sdot::<0>(upper[v], codes, x[t]);
                lower[v] = sdot::<1>(lower[v], codes, x[t]);
            }
        }
    }
    sums
}

/// Upper and lower halves of a group and then of another, four bytes each.
#[inline]
#[target_feature(enable = "neon")]
fn of_groups(groups: [[[i8; 4]; 2]; 2]) -> uint8x16_t {
    load(&bytemuck::cast(groups))
}
