//! `sdot`: every 32-bit lane adds four products of signed bytes, so sums are
//! exact to the end of `i32` and nothing needs widening. Its second operand is
//! any word of a vector, so a load brings four tokens' activations and nothing
//! has to be repeated.
//!
//! The intrinsic isn't stable yet; the instruction is written by hand.

use core::arch::aarch64::{int32x4_t, uint8x16_t, vdupq_n_s32};
use core::arch::asm;

use super::{
    BLOCK_VECTORS, Field, Group, Output, Rows, TILE_BLOCKS, add_sums, load_block, load_words,
    words_from,
};

/// Tokens whose sums fit the registers beside a block of weights.
pub(crate) const TILE_TOKENS: usize = 6;

/// Adds a panel's sums of a group's tokens to the output.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn add_group(
    panel: &[Field],
    group: &Group<'_>,
    first_field: usize,
    rows: Rows,
    out: &mut Output<'_>,
) {
    for first in (0..group.num_tokens).step_by(TILE_TOKENS) {
        match group.num_tokens - first {
            1 => add_tokens::<1>(panel, group, first, first_field, rows, out),
            2 => add_tokens::<2>(panel, group, first, first_field, rows, out),
            3 => add_tokens::<3>(panel, group, first, first_field, rows, out),
            4 => add_tokens::<4>(panel, group, first, first_field, rows, out),
            5 => add_tokens::<5>(panel, group, first, first_field, rows, out),
            _ => add_tokens::<TILE_TOKENS>(panel, group, first, first_field, rows, out),
        }
    }
}

/// Adds the panel's sums of `N` of a group's tokens to the output.
#[target_feature(enable = "neon,dotprod")]
fn add_tokens<const N: usize>(
    panel: &[Field],
    group: &Group<'_>,
    first: usize,
    first_field: usize,
    rows: Rows,
    out: &mut Output<'_>,
) {
    for block in 0..TILE_BLOCKS {
        let words = words_from(group, first_field, first);
        let sums = dots::<N>(panel, words, group.num_tokens, block);
        add_sums(sums, block, group.first_token + first, rows, out);
    }
}

/// A block's rows times `N` tokens over one panel: `4 N` sums, the block's
/// weights and the tokens' activations stay in registers.
#[target_feature(enable = "neon,dotprod")]
fn dots<const N: usize>(
    panel: &[Field],
    words: &[[u8; 4]],
    stride: usize,
    block: usize,
) -> [[int32x4_t; BLOCK_VECTORS]; N] {
    let mut sums = [[vdupq_n_s32(0); BLOCK_VECTORS]; N];
    for (field, words) in panel.iter().zip(words.chunks(stride)) {
        let x = load_words::<N>(words);
        for (v, weights) in load_block(field, block).into_iter().enumerate() {
            add_products(&mut sums, v, weights, x);
        }
    }
    sums
}

/// Adds a vector's products with the tokens' activations to its sums. Elements
/// are part of the instruction, so there is no loop over them.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn add_products<const N: usize>(
    sums: &mut [[int32x4_t; BLOCK_VECTORS]; N],
    v: usize,
    weights: uint8x16_t,
    [low, high]: [uint8x16_t; 2],
) {
    if let Some(sums) = sums.get_mut(0) {
        sums[v] = sdot::<0>(sums[v], weights, low);
    }
    if let Some(sums) = sums.get_mut(1) {
        sums[v] = sdot::<1>(sums[v], weights, low);
    }
    if let Some(sums) = sums.get_mut(2) {
        sums[v] = sdot::<2>(sums[v], weights, low);
    }
    if let Some(sums) = sums.get_mut(3) {
        sums[v] = sdot::<3>(sums[v], weights, low);
    }
    if let Some(sums) = sums.get_mut(4) {
        sums[v] = sdot::<0>(sums[v], weights, high);
    }
    if let Some(sums) = sums.get_mut(5) {
        sums[v] = sdot::<1>(sums[v], weights, high);
    }
}

/// Adds the products of signed bytes, four a lane, with the four activations
/// of element `ELEMENT`.
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn sdot<const ELEMENT: i32>(
    mut sums: int32x4_t,
    weights: uint8x16_t,
    activations: uint8x16_t,
) -> int32x4_t {
    // SAFETY: the instruction is part of `dotprod`, and touches no memory.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {weights:v}.16b, {activations:v}.4b[{element}]",
            sums = inout(vreg) sums,
            weights = in(vreg) weights,
            activations = in(vreg) activations,
            element = const ELEMENT,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}
