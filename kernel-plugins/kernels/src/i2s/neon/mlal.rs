//! `smlal`, which multiplies bytes and adds the products to 16-bit lanes: for
//! CPUs without `dotprod`.
//!
//! A code is 0, 1 or 2 and an activation -128..=127, so one product is
//! -256..=254 and 128 of them are -32768..=32512: the 16-bit range to its very
//! end, whatever the activations are. After so many a lane is widened.

use core::arch::aarch64::{
    int16x8_t, int32x4_t, uint8x16_t, vaddq_s16, vandq_u8, vdupq_n_s16, vpaddlq_s16, vpaddq_s32,
    vshrq_n_s16, vshrq_n_u8,
};
use core::arch::asm;
use std::arch::is_aarch64_feature_detected;

use super::super::activations::Group;
use super::super::layout::Step;
use super::super::{Output, Product, Rows};
use super::{
    BLOCK_VECTORS, EMPTY_FIELD, Field, TILE_BLOCKS, add_sums, load, splat, splat_word, unpack,
    words_from,
};

/// Tokens whose sums fit the registers beside a block of weights: each takes
/// two vectors for a vector of weights.
const TILE_TOKENS: usize = 3;

/// Steps of a chunk, after which sums are widened. A lane adds one product of
/// every field, four a step, so 32 steps are the 128 products that fit.
const CHUNK_STEPS: usize = 32;
const CHUNK_FIELDS: usize = 4 * CHUNK_STEPS;

/// The CPU has NEON: only then is there a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Mlal(());

/// 16-bit sums of a vector's rows, the first two rows' and the other two's.
type Sums = [int16x8_t; 2];

impl Mlal {
    pub(in super::super) fn new() -> Option<Mlal> {
        is_aarch64_feature_detected!("neon").then_some(Mlal(()))
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

#[target_feature(enable = "neon")]
fn multiply_one(product: &Product<'_>, out: &mut Output<'_>) {
    for tile in product.tiles() {
        let rows = product.begin(&tile, out);
        for group in product.groups() {
            let token = group.bytes.as_chunks::<16>().0;
            let chunks = tile.steps.chunks(CHUNK_STEPS);
            for (steps, token) in chunks.zip(token.chunks(CHUNK_STEPS)) {
                for block in 0..TILE_BLOCKS {
                    let sums = dot(steps, token, block).map(|sums| widen(sums));
                    add_sums([sums], block, 0, rows, out);
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
fn dot(steps: &[Step], token: &[[u8; 16]], block: usize) -> [Sums; BLOCK_VECTORS] {
    let [low, high] = [0x03, 0x0c].map(|mask| splat(mask));
    let mut sums = [zero(); BLOCK_VECTORS];
    let mut fourfold = [zero(); BLOCK_VECTORS];
    for (step, x) in steps.iter().zip(token) {
        let (words, _) = x.as_chunks();
        let x: [uint8x16_t; 4] = core::array::from_fn(|f| splat_word(words[f]));
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

#[target_feature(enable = "neon")]
fn multiply_many(product: &Product<'_>, out: &mut Output<'_>) {
    let mut panel = [EMPTY_FIELD; CHUNK_FIELDS];
    for tile in product.tiles() {
        let rows = product.begin(&tile, out);
        for (chunk, steps) in tile.steps.chunks(CHUNK_STEPS).enumerate() {
            let panel = &mut panel[..4 * steps.len()];
            unpack(steps, panel);
            for group in product.groups() {
                add_group(panel, &group, chunk * CHUNK_FIELDS, rows, out);
            }
        }
    }
}

#[target_feature(enable = "neon")]
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
        let weights: [uint8x16_t; BLOCK_VECTORS] =
            core::array::from_fn(|v| load(&field.0[block * BLOCK_VECTORS + v]));
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
fn zero() -> Sums {
    [vdupq_n_s16(0); 2]
}

/// The intrinsics would do, but the compiler sees that activations repeat and
/// then takes `smlal` for both halves, for which it first moves the upper one
/// down: half as many instructions again.
#[inline]
#[target_feature(enable = "neon")]
fn multiply_add([mut low, mut high]: Sums, codes: uint8x16_t, activations: uint8x16_t) -> Sums {
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
fn widen([low, high]: Sums) -> int32x4_t {
    vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high))
}
