//! AVX2: `vpmaddubsw` multiplies unsigned codes with signed activations and
//! adds neighbours, into 16-bit lanes that are widened as seldom as is safe.
//! How seldom, [`panel::avx2`] says.
//!
//! One token and many want different loops. One token is bound by memory, and
//! must spend as few instructions on a weight as possible ([`dot`]). Many
//! tokens are bound by `vpmaddubsw`: weights are unpacked once for all of
//! them, and the panel's loop keeps its sums in registers. A few tokens
//! have registers to spare and unpack as they go ([`packed_dots`]), which is
//! half as fast again as writing first what is then read once.

use core::arch::x86_64::{
    __m256i, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256, _mm256_set1_epi8,
    _mm256_set1_epi32, _mm256_setzero_si256, _mm256_srai_epi16, _mm256_srli_epi16,
};

use super::layout::{ROW_TILE, STEP_BYTES, STEP_FIELDS, Step, steps};
use super::{Output, Product};
use crate::ahead;
use crate::layout::Tile;
use crate::output::Rows;
use crate::panel::Group;
use crate::panel::avx2::{
    CHUNK_FIELDS, LANES, VECTOR, add_sums, load, multiply_add, store, store_bytes, widen,
};
use crate::panel::{self, Field};

/// Vectors of a step, each of its own eight rows.
const STEP_VECTORS: usize = STEP_BYTES / VECTOR;

/// Steps of a chunk, after which sums are widened.
const CHUNK_STEPS: usize = CHUNK_FIELDS / STEP_FIELDS;

/// Tokens that are few: with five, sums and shifted weights no longer fit the
/// registers together.
const FEW_TOKENS: usize = 4;

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
        2..=FEW_TOKENS => multiply_few(product, &mut out),
        _ => multiply_many(product, &mut out),
    }
}

#[target_feature(enable = "avx2")]
fn multiply_one(product: &Product<'_>, out: &mut Output<'_>) {
    for tile in product.tiles() {
        for group in product.groups() {
            let (words, _) = group.bytes.as_chunks();
            let sums = dot(&tile, words.as_chunks().0, product.offset(0));
            out.of_token(0, tile.first_row - product.rows.start, tile.num_rows)
                .copy_from_slice(&sums[..tile.num_rows]);
        }
    }
}

/// 32 rows times one token.
///
/// Two of a vector's four fields are used where they stand, as 1x and 4x the
/// code, and a shift by four bits brings the others there: 13 instructions for
/// 128 weights, of which four multiply. The 4x sums are four times as fast at
/// the end of their 16 bits, after 16 pair sums or 8 steps; they are multiples
/// of four, so shifting them back is exact, and what they add to the 1x sums
/// is what four pair sums a step would have: a chunk is the limit of those too.
#[target_feature(enable = "avx2")]
fn dot(tile: &Tile<'_>, token: &[[[u8; 4]; 4]], offset: i32) -> [i32; ROW_TILE] {
    let low = _mm256_set1_epi8(0x03);
    let high = _mm256_set1_epi8(0x0c);
    let mut wide = [_mm256_set1_epi32(offset); STEP_VECTORS];
    for (steps, token) in steps(tile.bytes)
        .chunks(CHUNK_STEPS)
        .zip(token.chunks(CHUNK_STEPS))
    {
        let mut sums = [_mm256_setzero_si256(); STEP_VECTORS];
        let halves = steps.chunks(CHUNK_STEPS / 2);
        for (steps, token) in halves.zip(token.chunks(CHUNK_STEPS / 2)) {
            let mut fourfold = [_mm256_setzero_si256(); STEP_VECTORS];
            for (step, words) in steps.iter().zip(token) {
                ahead::once(step, ahead::ONCE);
                let x = words.map(|word| _mm256_set1_epi32(i32::from_ne_bytes(word)));
                let (vectors, _) = step.as_chunks();
                for v in 0..STEP_VECTORS {
                    let even = load(&vectors[v]);
                    let odd = _mm256_srli_epi16::<4>(even);
                    sums[v] = multiply_add(sums[v], _mm256_and_si256(even, low), x[0]);
                    fourfold[v] = multiply_add(fourfold[v], _mm256_and_si256(even, high), x[1]);
                    sums[v] = multiply_add(sums[v], _mm256_and_si256(odd, low), x[2]);
                    fourfold[v] = multiply_add(fourfold[v], _mm256_and_si256(odd, high), x[3]);
                }
            }
            for v in 0..STEP_VECTORS {
                sums[v] = _mm256_add_epi16(sums[v], _mm256_srai_epi16::<2>(fourfold[v]));
            }
        }
        for v in 0..STEP_VECTORS {
            wide[v] = _mm256_add_epi32(wide[v], widen(sums[v]));
        }
    }
    let mut out = [0; ROW_TILE];
    let (vectors, _) = out.as_chunks_mut();
    for v in 0..STEP_VECTORS {
        store(&mut vectors[v], wide[v]);
    }
    out
}

/// All columns at once, so that results are written once.
#[target_feature(enable = "avx2")]
fn multiply_few(product: &Product<'_>, out: &mut Output<'_>) {
    for tile in product.tiles() {
        let rows = product.begin(&tile, out);
        for group in product.groups() {
            match group.num_tokens {
                2 => add_packed::<2>(steps(tile.bytes), &group, rows, out),
                3 => add_packed::<3>(steps(tile.bytes), &group, rows, out),
                _ => add_packed::<FEW_TOKENS>(steps(tile.bytes), &group, rows, out),
            }
        }
    }
}

#[target_feature(enable = "avx2")]
fn multiply_many(product: &Product<'_>, out: &mut Output<'_>) {
    let fill = |part: &panel::Part, panel: &mut [Field]| unpack(product.steps(part), panel);
    panel::avx2::multiply(product.tokens(), &product.rows, STEP_FIELDS, out, fill);
}

#[target_feature(enable = "avx2")]
fn unpack(steps: &[Step], panel: &mut [Field]) {
    let low = _mm256_set1_epi8(0x03);
    for (step, fields) in steps.iter().zip(panel.as_chunks_mut::<4>().0) {
        ahead::again(step, ahead::AGAIN);
        for (v, vector) in step.as_chunks().0.iter().enumerate() {
            let f0 = load(vector);
            let f1 = _mm256_srli_epi16::<2>(f0);
            let f2 = _mm256_srli_epi16::<4>(f0);
            let f3 = _mm256_srli_epi16::<6>(f0);
            for (field, x) in fields.iter_mut().zip([f0, f1, f2, f3]) {
                store_bytes(&mut field.0.as_chunks_mut().0[v], _mm256_and_si256(x, low));
            }
        }
    }
}

/// Adds a tile's sums of `N` tokens to the output.
#[target_feature(enable = "avx2")]
fn add_packed<const N: usize>(steps: &[Step], group: &Group<'_>, rows: Rows, out: &mut Output<'_>) {
    let (words, _) = group.bytes.as_chunks::<4>();
    let words = words.as_chunks::<N>().0;
    for half in 0..STEP_VECTORS / 2 {
        let mut total = [[_mm256_setzero_si256(); 2]; N];
        let chunks = steps.chunks(CHUNK_STEPS).zip(words.chunks(CHUNK_FIELDS));
        for (steps, words) in chunks {
            let sums = packed_dots(steps, words, half);
            for (total, sums) in total.iter_mut().zip(sums) {
                for v in 0..2 {
                    total[v] = _mm256_add_epi32(total[v], widen(sums[v]));
                }
            }
        }
        add_sums(total, half * 2 * LANES, group.first_token, rows, out);
    }
}

/// 16 rows times `N` tokens over one chunk, unpacking in registers.
#[inline]
#[target_feature(enable = "avx2")]
fn packed_dots<const N: usize>(
    steps: &[Step],
    words: &[[[u8; 4]; N]],
    half: usize,
) -> [[__m256i; 2]; N] {
    let mask = _mm256_set1_epi8(0x03);
    let mut sums = [[_mm256_setzero_si256(); 2]; N];
    for (step, words) in steps.iter().zip(words.as_chunks::<4>().0) {
        if half == 0 {
            ahead::again(step, ahead::AGAIN);
        }
        let (vectors, _) = step.as_chunks();
        let mut low = load(&vectors[2 * half]);
        let mut high = load(&vectors[2 * half + 1]);
        for words in words {
            let codes = [_mm256_and_si256(low, mask), _mm256_and_si256(high, mask)];
            for (sums, word) in sums.iter_mut().zip(words) {
                let x = _mm256_set1_epi32(i32::from_ne_bytes(*word));
                sums[0] = multiply_add(sums[0], codes[0], x);
                sums[1] = multiply_add(sums[1], codes[1], x);
            }
            low = _mm256_srli_epi16::<2>(low);
            high = _mm256_srli_epi16::<2>(high);
        }
    }
    sums
}
