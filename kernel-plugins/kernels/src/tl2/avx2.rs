//! AVX2: `vpshufb` finds the three weights of 32 codes at a time, and
//! `vpmaddubsw` multiplies them, as [`panel::avx2`] says.
//!
//! What a look-up by a magnitude finds is a byte with all three weights of a
//! code, each of two bits, as a weight plus one. Those of the negated code are
//! two less each, and none borrows from another.
//!
//! This takes more instructions for a weight than i2s, and fewer bytes pay for
//! them only where memory is slow: see `kernel-plugins/BENCHMARKS.md`.

use core::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256,
    _mm256_blendv_epi8, _mm256_broadcastsi128_si256, _mm256_set1_epi8, _mm256_set1_epi32,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi16, _mm256_srai_epi16,
    _mm256_srli_epi16, _mm256_sub_epi8,
};

use super::Product;
use super::code::{PANEL_CODES, SIGN, WEIGHTS};
use super::layout::{BLOCK_FIELDS, Block, Half, MAGNITUDES, ROW_TILE, blocks};
use crate::ahead;
use crate::output::Output;
use crate::panel::avx2::{LANES, VECTOR, load, multiply_add, store, store_bytes, widen};
use crate::panel::{self, Field, Part};

/// Vectors of a tile's rows.
const TILE_VECTORS: usize = ROW_TILE / LANES;
/// Vectors of half a block's rows.
const HALF_VECTORS: usize = TILE_VECTORS / 2;

/// The CPU has AVX2: only then is there a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn new() -> Option<Avx2> {
        is_x86_feature_detected!("avx2").then_some(Avx2(()))
    }

    pub(super) fn multiply(self, product: &Product<'_>, out: Output<'_>) {
        // SAFETY: `self` is proof of AVX2.
        unsafe { multiply(product, out) }
    }
}

#[target_feature(enable = "avx2")]
fn multiply(product: &Product<'_>, mut out: Output<'_>) {
    ahead::first(product.weights());
    match product.activations.batch() {
        1 => multiply_one(product, &mut out),
        _ => multiply_many(product, &mut out),
    }
}

#[target_feature(enable = "avx2")]
fn multiply_one(product: &Product<'_>, out: &mut Output<'_>) {
    for tile in product.tiles() {
        let rows = product.begin(&tile, out);
        for group in product.groups() {
            let (words, _) = group.bytes.as_chunks();
            let sums = dot(blocks(tile.bytes), words);
            let out = out.of_token(0, rows.first, rows.num);
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = out.wrapping_add(sum);
            }
        }
    }
}

#[target_feature(enable = "avx2")]
fn multiply_many(product: &Product<'_>, out: &mut Output<'_>) {
    let fill = |part: &Part, fields: &mut [Field]| {
        product.unpack(part, fields, |block, fields| unpack_block(block, fields));
    };
    panel::avx2::multiply(product.tokens(), &product.rows, BLOCK_FIELDS, out, fill);
}

/// 32 rows times one token.
#[target_feature(enable = "avx2")]
fn dot(blocks: &[Block], words: &[[u8; 4]]) -> [i32; ROW_TILE] {
    let mut wide = [_mm256_setzero_si256(); TILE_VECTORS];
    let (whole, rest) = words.as_chunks();
    for (block, words) in blocks.iter().zip(whole) {
        add_block(&mut wide, block, words);
    }
    if let Some(block) = blocks.get(whole.len()) {
        let mut last = [[0; 4]; BLOCK_FIELDS];
        last[..rest.len()].copy_from_slice(rest);
        add_block(&mut wide, block, &last);
    }
    let mut out = [0; ROW_TILE];
    let (vectors, _) = out.as_chunks_mut();
    for v in 0..TILE_VECTORS {
        store(&mut vectors[v], wide[v]);
    }
    out
}

/// The middle weight is used where it stands, as 4 times the weight. A block
/// has eight pair sums of it, as many as 32 of the weights themselves, of which
/// it has 16: inside 16 bits, and after it all are widened.
#[inline]
#[target_feature(enable = "avx2")]
fn add_block(wide: &mut [__m256i; TILE_VECTORS], block: &Block, words: &[[u8; 4]; BLOCK_FIELDS]) {
    let (words, _) = words.as_chunks::<WEIGHTS>();
    let low = _mm256_set1_epi8(0x03);
    let middle = _mm256_set1_epi8(0x0c);
    for vector in block.as_flattened() {
        ahead::once(vector, ahead::ONCE);
    }
    let mut sums = [[_mm256_setzero_si256(); HALF_VECTORS]; 2];
    let mut fourfold = sums;
    macro_rules! run {
        ($($run:literal)*) => { $(
            let x = words[$run].map(|word| _mm256_set1_epi32(i32::from_ne_bytes(word)));
            for h in 0..2 {
                for v in 0..HALF_VECTORS {
                    let found = find::<$run, { 7 - $run }>(&block[h], v);
                    let last = _mm256_srli_epi16::<4>(found);
                    let (sum, fourfold) = (&mut sums[h][v], &mut fourfold[h][v]);
                    *sum = multiply_add(*sum, _mm256_and_si256(found, low), x[0]);
                    *fourfold = multiply_add(*fourfold, _mm256_and_si256(found, middle), x[1]);
                    *sum = multiply_add(*sum, _mm256_and_si256(last, low), x[2]);
                }
            }
        )* };
    }
    run!(0 1 2 3 4 5 6 7);
    let (sums, fourfold) = (sums.as_flattened(), fourfold.as_flattened());
    for v in 0..TILE_VECTORS {
        let sums = _mm256_add_epi16(sums[v], _mm256_srai_epi16::<2>(fourfold[v]));
        wide[v] = _mm256_add_epi32(wide[v], widen(sums));
    }
}

/// All weights of 32 codes, of the same columns of 8 rows. `TOP` shifts a run's
/// signs to the top bit.
#[inline]
#[target_feature(enable = "avx2")]
fn find<const RUN: usize, const TOP: i32>(half: &Half, v: usize) -> __m256i {
    let magnitudes = load(&half[RUN / 2].as_chunks().0[v]);
    let magnitudes = match RUN % 2 {
        0 => magnitudes,
        _ => _mm256_srli_epi16::<4>(magnitudes),
    };
    let magnitudes = _mm256_and_si256(magnitudes, _mm256_set1_epi8(0x0f));
    let signs = _mm256_slli_epi16::<TOP>(load(&half[MAGNITUDES].as_chunks().0[v]));
    let found = _mm256_shuffle_epi8(load_table(&PACKED), magnitudes);
    let negated = _mm256_sub_epi8(_mm256_set1_epi8(0x2a), found);
    _mm256_blendv_epi8(found, negated, signs)
}

#[target_feature(enable = "avx2")]
fn unpack_block(block: &Block, fields: &mut [Field; BLOCK_FIELDS]) {
    let low = _mm256_set1_epi8(0x03);
    for (h, half) in block.iter().enumerate() {
        for vector in half {
            ahead::again(vector, ahead::AGAIN);
        }
        macro_rules! run {
            ($($run:literal)*) => { $(
                for v in 0..HALF_VECTORS {
                    let found = find::<$run, { 7 - $run }>(half, v);
                    let shifted = [
                        found,
                        _mm256_srli_epi16::<2>(found),
                        _mm256_srli_epi16::<4>(found),
                    ];
                    for (nth, weights) in shifted.into_iter().enumerate() {
                        let field = &mut fields[WEIGHTS * $run + nth].0;
                        let (vectors, _) = field.as_chunks_mut::<VECTOR>();
                        store_bytes(&mut vectors[HALF_VECTORS * h + v], _mm256_and_si256(weights, low));
                    }
                }
            )* };
        }
        run!(0 1 2 3 4 5 6 7);
    }
}

/// Codes of numbers that are not negative.
const NUM_MAGNITUDES: usize = SIGN as usize;

/// All weights of every magnitude.
static PACKED: [u8; NUM_MAGNITUDES] = {
    let mut packed = [0; NUM_MAGNITUDES];
    let mut nth = 0;
    while nth < WEIGHTS {
        let mut code = 0;
        while code < NUM_MAGNITUDES {
            packed[code] |= PANEL_CODES[nth][code] << (2 * nth);
            code += 1;
        }
        nth += 1;
    }
    packed
};

#[inline]
#[target_feature(enable = "avx2")]
fn load_table(table: &[u8; NUM_MAGNITUDES]) -> __m256i {
    // SAFETY: the reference is to as many bytes as half a vector has, and this
    // load needs no alignment.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
}
