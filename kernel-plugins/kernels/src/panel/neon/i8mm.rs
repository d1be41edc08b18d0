//! `smmla`: two rows of eight columns times two tokens of as many, 32 products
//! an instruction where `sdot` has 16.
//!
//! A panel's vectors hold four columns of four rows. Two of them, at one place
//! in neighbouring fields, hold the same words as two that have eight columns
//! of two rows each, so a panel's words are exchanged once when it is filled;
//! the activations' are exchanged as they are read.
//!
//! The intrinsic isn't stable yet; the instruction is written by hand.

use core::arch::aarch64::{
    int32x4_t, uint8x16_t, vdupq_n_s32, vreinterpretq_s32_s64, vreinterpretq_s64_s32,
    vreinterpretq_u8_u32, vreinterpretq_u32_u8, vzip1q_s64, vzip1q_u32, vzip2q_s64, vzip2q_u32,
};
use core::arch::asm;

use super::{
    BLOCK_VECTORS, Field, Group, Output, Rows, TILE_BLOCKS, VECTOR, add_sums, load, load_block,
    load_words, store_bytes, words_from,
};

/// Tokens that are few: by llvm-mca's models, exchanging a panel's words takes
/// back what they would save.
pub(super) const FEW_TOKENS: usize = 6;

/// Pairs of tokens whose sums fit the registers beside the weights.
const TILE_PAIRS: usize = 3;
const TILE_TOKENS: usize = 2 * TILE_PAIRS;

/// Sums of two tokens and two rows, those of the first token first.
type Square = int32x4_t;

/// From every two fields of four columns and 32 rows, one of eight columns and
/// the first two of every four rows, and one of the other two.
#[target_feature(enable = "neon")]
pub(super) fn exchange_fields(panel: &mut [Field]) {
    for [first, second] in panel.as_chunks_mut().0 {
        let (first, _) = first.0.as_chunks_mut::<VECTOR>();
        let (second, _) = second.0.as_chunks_mut::<VECTOR>();
        for (first, second) in first.iter_mut().zip(second) {
            let [low, high] = exchange([load(first), load(second)]);
            store_bytes(first, low);
            store_bytes(second, high);
        }
    }
}

/// Adds the exchanged panel's sums of a group's tokens to the output.
#[target_feature(enable = "neon,i8mm")]
pub(super) fn add_group(
    panel: &[Field],
    group: &Group<'_>,
    first_field: usize,
    rows: Rows,
    out: &mut Output<'_>,
) {
    for first in (0..group.num_tokens).step_by(TILE_TOKENS) {
        match group.num_tokens - first {
            1 => add_tokens::<1, 1>(panel, group, first, first_field, rows, out),
            2 => add_tokens::<2, 1>(panel, group, first, first_field, rows, out),
            3 => add_tokens::<3, 2>(panel, group, first, first_field, rows, out),
            4 => add_tokens::<4, 2>(panel, group, first, first_field, rows, out),
            5 => add_tokens::<5, TILE_PAIRS>(panel, group, first, first_field, rows, out),
            _ => add_tokens::<TILE_TOKENS, TILE_PAIRS>(panel, group, first, first_field, rows, out),
        }
    }
}

/// Adds the panel's sums of `N` of a group's tokens, in `PAIRS` pairs of which
/// the last may lack one, to the output.
#[target_feature(enable = "neon,i8mm")]
fn add_tokens<const N: usize, const PAIRS: usize>(
    panel: &[Field],
    group: &Group<'_>,
    first: usize,
    first_field: usize,
    rows: Rows,
    out: &mut Output<'_>,
) {
    for block in 0..TILE_BLOCKS {
        let words = words_from(group, first_field, first);
        let squares = dots::<N, PAIRS>(panel, words, group.num_tokens, block);
        let sums: [_; N] = core::array::from_fn(|token| {
            squares[token / 2].map(|[upper, lower]| token_sums(token % 2, upper, lower))
        });
        add_sums(sums, block, group.first_token + first, rows, out);
    }
}

/// A block's rows times `N` tokens over one panel.
#[target_feature(enable = "neon,i8mm")]
fn dots<const N: usize, const PAIRS: usize>(
    panel: &[Field],
    words: &[[u8; 4]],
    stride: usize,
    block: usize,
) -> [[[Square; 2]; BLOCK_VECTORS]; PAIRS] {
    let mut sums = [[[vdupq_n_s32(0); 2]; BLOCK_VECTORS]; PAIRS];
    let pairs = panel.as_chunks().0.iter();
    for ([first, second], words) in pairs.zip(words.chunks(2 * stride)) {
        let [low0, high0] = load_words::<N>(words);
        let [low1, high1] = load_words::<N>(&words[stride..]);
        let [pair0, pair1] = exchange([low0, low1]);
        let [pair2, _] = exchange([high0, high1]);
        let tokens = [pair0, pair1, pair2];
        let first = load_block(first, block);
        let second = load_block(second, block);
        for v in 0..BLOCK_VECTORS {
            let weights = [first[v], second[v]];
            for (sums, tokens) in sums.iter_mut().zip(tokens) {
                for (sum, weights) in sums[v].iter_mut().zip(weights) {
                    *sum = smmla(*sum, tokens, weights);
                }
            }
        }
    }
    sums
}

/// From two vectors of four words each, words side by side that had the same
/// place: those of the first two places, and those of the others.
#[inline]
#[target_feature(enable = "neon")]
fn exchange([a, b]: [uint8x16_t; 2]) -> [uint8x16_t; 2] {
    let [a, b] = [vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)];
    [
        vreinterpretq_u8_u32(vzip1q_u32(a, b)),
        vreinterpretq_u8_u32(vzip2q_u32(a, b)),
    ]
}

/// One token's sums of four rows.
#[target_feature(enable = "neon")]
fn token_sums(token: usize, upper: Square, lower: Square) -> int32x4_t {
    let [upper, lower] = [vreinterpretq_s64_s32(upper), vreinterpretq_s64_s32(lower)];
    vreinterpretq_s32_s64(match token {
        0 => vzip1q_s64(upper, lower),
        _ => vzip2q_s64(upper, lower),
    })
}

/// Adds the products of two tokens and two rows of eight signed bytes each.
#[target_feature(enable = "neon,i8mm")]
fn smmla(mut sums: Square, tokens: uint8x16_t, weights: uint8x16_t) -> Square {
    // SAFETY: the instruction is part of `i8mm`, and touches no memory.
    unsafe {
        asm!(
            "smmla {sums:v}.4s, {tokens:v}.16b, {weights:v}.16b",
            sums = inout(vreg) sums,
            tokens = in(vreg) tokens,
            weights = in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}
