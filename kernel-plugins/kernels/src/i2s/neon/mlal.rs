//! Few tokens by `smlal`, as [`panel::neon`](crate::panel::neon) has it.

use core::arch::aarch64::{uint8x16_t, vaddq_s16, vandq_u8, vshrq_n_s16, vshrq_n_u8};

use super::super::layout::{STEP_FIELDS, Step, steps};
use super::super::{Output, Product};
use crate::panel::neon::mlal::{PRODUCTS, Sums, multiply_add, widen, zero};
use crate::panel::neon::{
    BLOCK_VECTORS, TILE_BLOCKS, add_sums, load, splat, splat_word, words_from,
};

/// Steps of a chunk, after which sums are widened: a lane adds one product of
/// every field.
const CHUNK_STEPS: usize = PRODUCTS / STEP_FIELDS;

/// Tokens share nothing but what the caches hold, since multiplying takes long
/// enough to unpack beside it.
#[target_feature(enable = "neon")]
pub(super) fn multiply_few(product: &Product<'_>, out: &mut Output<'_>) {
    for tile in product.tiles() {
        let rows = product.begin(&tile, out);
        for (chunk, steps) in steps(tile.bytes).chunks(CHUNK_STEPS).enumerate() {
            for group in product.groups() {
                for lane in 0..group.num_tokens {
                    let words = words_from(&group, chunk * PRODUCTS, lane);
                    for block in 0..TILE_BLOCKS {
                        let sums = dot(steps, words, group.num_tokens, block);
                        let sums = sums.map(|sums| widen(sums));
                        add_sums([sums], block, group.first_token + lane, rows, out);
                    }
                }
            }
        }
    }
}

/// A block's rows times one token over one chunk.
///
/// The second field is used where it stands in the byte, as 4 times the code,
/// with sums of its own. They take a quarter of the products, so they are at
/// the end of their 16 bits when the others are at three quarters; a quarter
/// of them is the rest.
#[target_feature(enable = "neon")]
fn dot(steps: &[Step], words: &[[u8; 4]], stride: usize, block: usize) -> [Sums; BLOCK_VECTORS] {
    let [low, high] = [0x03, 0x0c].map(|mask| splat(mask));
    let mut sums = [zero(); BLOCK_VECTORS];
    let mut fourfold = [zero(); BLOCK_VECTORS];
    for (step, words) in steps.iter().zip(words.chunks(STEP_FIELDS * stride)) {
        let x: [uint8x16_t; STEP_FIELDS] = core::array::from_fn(|f| splat_word(words[f * stride]));
        let vectors = &step.as_chunks().0[block * BLOCK_VECTORS..][..BLOCK_VECTORS];
        for v in 0..BLOCK_VECTORS {
            let codes = load(&vectors[v]);
            let shifted = vandq_u8(vshrq_n_u8::<4>(codes), low);
            sums[v] = multiply_add(sums[v], vandq_u8(codes, low), x[0]);
            fourfold[v] = multiply_add(fourfold[v], vandq_u8(codes, high), x[1]);
            sums[v] = multiply_add(sums[v], shifted, x[2]);
            sums[v] = multiply_add(sums[v], vshrq_n_u8::<6>(codes), x[3]);
        }
    }
    for (sums, fourfold) in sums.iter_mut().zip(fourfold) {
        for (sum, fourfold) in sums.iter_mut().zip(fourfold) {
            *sum = vaddq_s16(*sum, vshrq_n_s16::<2>(fourfold));
        }
    }
    sums
}
