//! `smmla`: two rows of eight columns times two tokens of as many, 32 products
//! an instruction where `sdot` has 16. One token would leave half of them
//! unused, and goes by `sdot`.
//!
//! A panel's vectors hold four columns of four rows. Two of them, of
//! neighbouring fields, hold the same bytes as two that have eight columns of
//! two rows each, so the panel's are exchanged once when it is unpacked; the
//! activations' are exchanged as they are read.
//!
//! The intrinsic isn't stable yet; the instruction is written by hand.

use core::arch::aarch64::{
    int32x4_t, uint8x16_t, vdupq_n_s32, vreinterpretq_s32_s64, vreinterpretq_s64_s32,
    vreinterpretq_u8_u32, vreinterpretq_u32_u8, vzip1q_s64, vzip1q_u32, vzip2q_s64, vzip2q_u32,
};
use core::arch::asm;
use std::arch::is_aarch64_feature_detected;

use super::super::activations::Group;
use super::super::layout::Step;
use super::super::{Output, Product, Rows};
use super::{
    BLOCK_VECTORS, STEP_VECTORS, TILE_BLOCKS, VECTOR, add_sums, codes_of, dotprod, load,
    load_words, store_bytes, words_from,
};

/// Pairs of tokens whose sums fit the registers beside the weights.
const TILE_PAIRS: usize = 3;
const TILE_TOKENS: usize = 2 * TILE_PAIRS;
/// Steps of a panel: 512 columns of 32 rows are 16 KiB.
const PANEL_STEPS: usize = 32;

/// Eight columns of 32 rows, one code a byte, two rows a vector.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Field([[[u8; VECTOR]; 2]; STEP_VECTORS]);

/// Sums of two tokens and two rows, those of the first token first.
type Square = int32x4_t;

/// The CPU has `i8mm` and `dotprod`: only then is there a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct I8mm(());

impl I8mm {
    pub(in super::super) fn new() -> Option<I8mm> {
        let has_both =
            is_aarch64_feature_detected!("dotprod") && is_aarch64_feature_detected!("i8mm");
        has_both.then_some(I8mm(()))
    }

    pub(in super::super) fn multiply(self, product: &Product<'_>, mut out: Output<'_>) {
        // SAFETY: `self` is proof of the features.
        unsafe {
            match product.activations.batch() {
                1 => dotprod::multiply_one(product, &mut out),
                _ => multiply_many(product, &mut out),
            }
        }
    }
}

#[target_feature(enable = "neon,i8mm")]
fn multiply_many(product: &Product<'_>, out: &mut Output<'_>) {
    let mut panel = [Field([[[0; VECTOR]; 2]; STEP_VECTORS]); 2 * PANEL_STEPS];
    for tile in product.tiles() {
        let rows = product.begin(&tile, out);
        for (chunk, steps) in tile.steps.chunks(PANEL_STEPS).enumerate() {
            let panel = &mut panel[..2 * steps.len()];
            unpack(steps, panel);
            let first_field = chunk * 4 * PANEL_STEPS;
            for group in product.groups() {
                add_group(panel, &group, first_field, rows, out);
            }
        }
    }
}

#[target_feature(enable = "neon,i8mm")]
fn unpack(steps: &[Step], panel: &mut [Field]) {
    for (step, fields) in steps.iter().zip(panel.as_chunks_mut::<2>().0) {
        for (v, vector) in step.as_chunks().0.iter().enumerate() {
            let [f0, f1, f2, f3] = codes_of(load(vector));
            for (field, codes) in fields.iter_mut().zip([[f0, f1], [f2, f3]]) {
                for (stored, codes) in field.0[v].iter_mut().zip(exchange(codes)) {
                    store_bytes(stored, codes);
                }
            }
        }
    }
}

#[target_feature(enable = "neon,i8mm")]
fn add_group(
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
    for (field, words) in panel.iter().zip(words.chunks(2 * stride)) {
        let [low0, high0] = load_words::<N>(words);
        let [low1, high1] = load_words::<N>(&words[stride..]);
        let [pair0, pair1] = exchange([low0, low1]);
        let [pair2, _] = exchange([high0, high1]);
        let tokens = [pair0, pair1, pair2];
        for v in 0..BLOCK_VECTORS {
            let weights = field.0[block * BLOCK_VECTORS + v]
                .each_ref()
                .map(|half| load(half));
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
#[target_feature(enable = "neon,i8mm")]
fn exchange([a, b]: [uint8x16_t; 2]) -> [uint8x16_t; 2] {
    let [a, b] = [vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)];
    [
        vreinterpretq_u8_u32(vzip1q_u32(a, b)),
        vreinterpretq_u8_u32(vzip2q_u32(a, b)),
    ]
}

/// One token's sums of four rows.
#[target_feature(enable = "neon,i8mm")]
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
