//! `sdot`: every 32-bit lane adds four products of signed bytes, so sums are
//! exact to the end of `i32` and nothing needs widening.
//!
//! The intrinsic isn't stable yet; the instruction is written by hand.

use core::arch::aarch64::{
    int32x4_t, uint8x16_t, vaddq_s32, vandq_u8, vdupq_n_s32, vshrq_n_s32, vshrq_n_u8,
};
use core::arch::asm;
use std::arch::is_aarch64_feature_detected;

use super::super::activations::Group;
use super::super::layout::{ROW_TILE, Tile};
use super::super::{Output, Product, Rows};
use super::{
    BLOCK_VECTORS, EMPTY_FIELD, Field, LANES, STEP_VECTORS, TILE_BLOCKS, VECTOR, add_sums, load,
    load_words, splat, store, unpack, words_from,
};

/// Tokens whose sums fit the registers beside a block of weights.
const TILE_TOKENS: usize = 6;
/// Steps of a panel: 512 columns of 32 rows are 16 KiB.
const PANEL_STEPS: usize = 32;

/// After so many steps the unshifted sums of [`dot`] are joined. The largest
/// are 16 times the product: at most `16 * 2 * 128` times 4 columns a step,
/// which reaches `2^30` here.
const JOINED_STEPS: usize = 1 << 16;

/// The CPU has `dotprod`: only then is there a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Dotprod(());

impl Dotprod {
    pub(in super::super) fn new() -> Option<Dotprod> {
        is_aarch64_feature_detected!("dotprod").then_some(Dotprod(()))
    }

    pub(in super::super) fn multiply(self, product: &Product<'_>, mut out: Output<'_>) {
        // SAFETY: `self` is proof of the feature.
        unsafe {
            match product.activations.batch() {
                1 => multiply_one(product, &mut out),
                _ => multiply_many(product, &mut out),
            }
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
pub(super) fn multiply_one(product: &Product<'_>, out: &mut Output<'_>) {
    for tile in product.tiles() {
        for group in product.groups() {
            let sums = dot(&tile, group.bytes.as_chunks().0, product.offset(0));
            out.of_token(0, tile.first_row - product.rows.start, tile.num_rows)
                .copy_from_slice(&sums[..tile.num_rows]);
        }
    }
}

/// 32 rows times one token.
///
/// Three of a vector's four fields are used where they stand in the byte, as
/// 1, 4 and 16 times the code; the fourth would not be positive there and is
/// shifted down. The sums are multiples of those factors, so shifting them
/// back is exact.
#[target_feature(enable = "neon,dotprod")]
fn dot(tile: &Tile<'_>, token: &[[u8; VECTOR]], offset: i32) -> [i32; ROW_TILE] {
    let masks = [0x03, 0x0c, 0x30].map(|mask| splat(mask));
    let zero = vdupq_n_s32(0);
    let mut total = [vdupq_n_s32(offset); STEP_VECTORS];
    let chunks = tile.steps.chunks(JOINED_STEPS);
    for (steps, token) in chunks.zip(token.chunks(JOINED_STEPS)) {
        let mut ones = [zero; STEP_VECTORS];
        let mut fours = [zero; STEP_VECTORS];
        let mut sixteens = [zero; STEP_VECTORS];
        for (step, x) in steps.iter().zip(token) {
            let x = load(x);
            let (vectors, _) = step.as_chunks();
            for v in 0..STEP_VECTORS {
                let codes = load(&vectors[v]);
                ones[v] = sdot::<0>(ones[v], vandq_u8(codes, masks[0]), x);
                fours[v] = sdot::<1>(fours[v], vandq_u8(codes, masks[1]), x);
                sixteens[v] = sdot::<2>(sixteens[v], vandq_u8(codes, masks[2]), x);
                ones[v] = sdot::<3>(ones[v], vshrq_n_u8::<6>(codes), x);
            }
        }
        for v in 0..STEP_VECTORS {
            let high = vaddq_s32(vshrq_n_s32::<2>(fours[v]), vshrq_n_s32::<4>(sixteens[v]));
            total[v] = vaddq_s32(total[v], vaddq_s32(ones[v], high));
        }
    }
    let mut out = [0; ROW_TILE];
    let (vectors, _) = out.as_chunks_mut::<LANES>();
    for (out, total) in vectors.iter_mut().zip(total) {
        store(out, total);
    }
    out
}

#[target_feature(enable = "neon,dotprod")]
fn multiply_many(product: &Product<'_>, out: &mut Output<'_>) {
    let mut panel = [EMPTY_FIELD; 4 * PANEL_STEPS];
    for tile in product.tiles() {
        let rows = product.begin(&tile, out);
        for (chunk, steps) in tile.steps.chunks(PANEL_STEPS).enumerate() {
            let panel = &mut panel[..4 * steps.len()];
            unpack(steps, panel);
            let first_field = chunk * 4 * PANEL_STEPS;
            for group in product.groups() {
                add_group(panel, &group, first_field, rows, out);
            }
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
fn add_group(
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
        let weights: [uint8x16_t; BLOCK_VECTORS] =
            core::array::from_fn(|v| load(&field.0[block * BLOCK_VECTORS + v]));
        let [low, high] = load_words::<N>(words);
        let (first, others) = sums.split_at_mut(N.min(4));
        add_products(first, weights, low);
        add_products(others, weights, high);
    }
    sums
}

/// Adds a field's products with up to four tokens' activations. Elements are
/// part of the instruction, so there is no loop over them.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add_products(
    sums: &mut [[int32x4_t; BLOCK_VECTORS]],
    weights: [uint8x16_t; BLOCK_VECTORS],
    activations: uint8x16_t,
) {
    for v in 0..BLOCK_VECTORS {
        if let Some(sums) = sums.get_mut(0) {
            sums[v] = sdot::<0>(sums[v], weights[v], activations);
        }
        if let Some(sums) = sums.get_mut(1) {
            sums[v] = sdot::<1>(sums[v], weights[v], activations);
        }
        if let Some(sums) = sums.get_mut(2) {
            sums[v] = sdot::<2>(sums[v], weights[v], activations);
        }
        if let Some(sums) = sums.get_mut(3) {
            sums[v] = sdot::<3>(sums[v], weights[v], activations);
        }
    }
}

/// Adds the products of signed bytes, four a lane, with the four activations
/// of element `ELEMENT`.
#[target_feature(enable = "neon,dotprod")]
fn sdot<const ELEMENT: i32>(
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
