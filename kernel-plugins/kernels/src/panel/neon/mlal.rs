//! `smlal`, which multiplies bytes and adds the products to 16-bit lanes: for
//! CPUs without `dotprod`.
//!
//! A code is 0, 1 or 2 and an activation -128..=127, so one product is
//! -256..=254 and [`PRODUCTS`] of them are -32768..=32512: the 16-bit range to
//! its very end, whatever the activations are. After so many a lane is
//! widened.

use core::arch::aarch64::{int16x8_t, int32x4_t, uint8x16_t, vdupq_n_s16, vpaddlq_s16, vpaddq_s32};
use core::arch::asm;

use super::{
    BLOCK_VECTORS, Field, Group, Output, Rows, TILE_BLOCKS, add_sums, load_block, splat_word,
    words_from,
};

/// Products of a code and an activation that a lane takes.
pub(crate) const PRODUCTS: usize = 128;

/// Tokens whose sums fit the registers beside a block of weights: each takes
/// two vectors for a vector of weights.
const TILE_TOKENS: usize = 3;

/// 16-bit sums of a vector's rows, the first two rows' and the other two's.
pub(crate) type Sums = [int16x8_t; 2];

/// Adds a panel's sums of a group's tokens to the output.
#[target_feature(enable = "neon")]
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
            _ => add_tokens::<TILE_TOKENS>(panel, group, first, first_field, rows, out),
        }
    }
}

/// Adds the panel's sums of `N` of a group's tokens to the output.
#[target_feature(enable = "neon")]
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
        let sums = dots::<N>(panel, words, group.num_tokens, block)
            .map(|sums| sums.map(|sums| widen(sums)));
        add_sums(sums, block, group.first_token + first, rows, out);
    }
}

/// A block's rows times `N` tokens over one chunk: `8 N` sums and the block's
/// weights stay in registers.
#[target_feature(enable = "neon")]
fn dots<const N: usize>(
    panel: &[Field],
    words: &[[u8; 4]],
    stride: usize,
    block: usize,
) -> [[Sums; BLOCK_VECTORS]; N] {
    let mut sums = [[zero(); BLOCK_VECTORS]; N];
    for (field, words) in panel.iter().zip(words.chunks(stride)) {
        let weights = load_block(field, block);
        for (sums, word) in sums.iter_mut().zip(&words[..N]) {
            let x = splat_word(*word);
            for (sums, weights) in sums.iter_mut().zip(weights) {
                *sums = multiply_add(*sums, weights, x);
            }
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn zero() -> Sums {
    [vdupq_n_s16(0); 2]
}

/// The intrinsics would do, but the compiler sees that activations repeat and
/// then takes `smlal` for both halves, for which it first moves the upper one
/// down: half as many instructions again.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn multiply_add(
    [mut low, mut high]: Sums,
    codes: uint8x16_t,
    activations: uint8x16_t,
) -> Sums {
    // SAFETY: the instructions are part of NEON, and touch no memory.
    unsafe {
        asm!(
            "smlal {low:v}.8h, {codes:v}.8b, {activations:v}.8b",
            "smlal2 {high:v}.8h, {codes:v}.16b, {activations:v}.16b",
            low = inout(vreg) low,
            high = inout(vreg) high,
            codes = in(vreg) codes,
            activations = in(vreg) activations,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    [low, high]
}

/// Adds the four 16-bit sums of every row.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn widen([low, high]: Sums) -> int32x4_t {
    vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high))
}
