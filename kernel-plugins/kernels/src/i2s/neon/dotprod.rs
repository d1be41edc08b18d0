//! Few tokens by `sdot`, as [`panel::neon`](crate::panel::neon) has it.

use core::arch::aarch64::{
    int32x4_t, uint8x16_t, vaddq_s32, vandq_u8, vdupq_n_s32, vshrq_n_s32, vshrq_n_u8,
};

use super::super::layout::{ROW_TILE, STEP_FIELDS, Step, steps};
use super::super::{Output, Product};
use super::STEP_VECTORS;
use crate::layout::Tile;
use crate::output::Rows;
use crate::panel::Group;
use crate::panel::neon::{
    BLOCK_VECTORS, LANES, TILE_BLOCKS, TILE_TOKENS, VECTOR, add_products, add_sums, load,
    load_words, sdot, splat, store, words_from,
};

/// After so many steps the unshifted sums of [`dot`] are joined. The largest
/// are 16 times the product: at most `16 * 2 * 128` times 4 columns a step,
/// which reaches `2^30` here.
const JOINED_STEPS: usize = 1 << 16;

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
    let chunks = steps(tile.bytes).chunks(JOINED_STEPS);
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

/// The sums of a block's rows and some tokens stay in registers from the first
/// column to the last.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn multiply_few(product: &Product<'_>, out: &mut Output<'_>) {
    for tile in product.tiles() {
        let rows = product.begin(&tile, out);
        for group in product.groups() {
            for first in (0..group.num_tokens).step_by(TILE_TOKENS) {
                match group.num_tokens - first {
                    1 => add_tokens::<1>(steps(tile.bytes), &group, first, rows, out),
                    2 => add_tokens::<2>(steps(tile.bytes), &group, first, rows, out),
                    3 => add_tokens::<3>(steps(tile.bytes), &group, first, rows, out),
                    4 => add_tokens::<4>(steps(tile.bytes), &group, first, rows, out),
                    5 => add_tokens::<5>(steps(tile.bytes), &group, first, rows, out),
                    _ => add_tokens::<TILE_TOKENS>(steps(tile.bytes), &group, first, rows, out),
                }
            }
        }
    }
}

/// Adds a tile's sums of `N` of a group's tokens to the output.
#[target_feature(enable = "neon,dotprod")]
fn add_tokens<const N: usize>(
    steps: &[Step],
    group: &Group<'_>,
    first: usize,
    rows: Rows,
    out: &mut Output<'_>,
) {
    for block in 0..TILE_BLOCKS {
        let words = words_from(group, 0, first);
        let sums = packed_dots::<N>(steps, words, group.num_tokens, block);
        add_sums(sums, block, group.first_token + first, rows, out);
    }
}

/// A block's rows times `N` tokens, unpacking in registers.
#[target_feature(enable = "neon,dotprod")]
fn packed_dots<const N: usize>(
    steps: &[Step],
    words: &[[u8; 4]],
    stride: usize,
    block: usize,
) -> [[int32x4_t; BLOCK_VECTORS]; N] {
    let mask = splat(0x03);
    let mut sums = [[vdupq_n_s32(0); BLOCK_VECTORS]; N];
    for (step, words) in steps.iter().zip(words.chunks(STEP_FIELDS * stride)) {
        let vectors = &step.as_chunks().0[block * BLOCK_VECTORS..][..BLOCK_VECTORS];
        let mut codes: [uint8x16_t; BLOCK_VECTORS] = core::array::from_fn(|v| load(&vectors[v]));
        for words in words.chunks(stride) {
            let x = load_words::<N>(words);
            for (v, codes) in codes.iter_mut().enumerate() {
                add_products(&mut sums, v, vandq_u8(*codes, mask), x);
                *codes = vshrq_n_u8::<2>(*codes);
            }
        }
    }
    sums
}
