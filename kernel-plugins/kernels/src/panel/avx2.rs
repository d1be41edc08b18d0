//! AVX2: `vpmaddubsw` multiplies unsigned codes with signed activations and
//! adds neighbours, into 16-bit lanes that are widened as seldom as is safe.
//!
//! **How seldom.** A code is 0, 1 or 2 and an activation -128..=127, so one
//! product is -256..=254 and a pair sum -512..=508. After `n` pair sums a lane
//! holds -512 n ..= 508 n, and at `n = 64` that is -32768..=32512: the 16-bit
//! range to its very end, whatever the activations are. 64 pair sums are 256
//! columns, a *chunk*, and after each chunk `vpmaddwd` with ones adds the two
//! halves of a row's word into 32 bits. Those may wrap on the way, as the
//! offset is removed by adding; the result fits, so it is right.

use core::arch::x86_64::{
    __m256i, _mm256_add_epi16, _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_maddubs_epi16, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setzero_si256,
    _mm256_storeu_si256,
};
use core::ops::Range;

use super::activations::GROUP_TOKENS;
use super::{FIELD_BYTES, Field, Group, Part, Tokens};
use crate::output::{Output, Rows};
use crate::panel;

/// Bytes of a vector: four columns of eight rows.
pub(crate) const VECTOR: usize = size_of::<__m256i>();
/// Rows of a vector.
pub(crate) const LANES: usize = VECTOR / 4;
/// Vectors of a field, each of its own eight rows.
const FIELD_VECTORS: usize = FIELD_BYTES / VECTOR;

/// Fields of a chunk, after which sums are widened: see the module's text.
pub(crate) const CHUNK_FIELDS: usize = 64;

/// Multiplies some rows, which begin with a tile, with all tokens. `fill` gets
/// panels to fill, of at most [`CHUNK_FIELDS`] fields that begin at a multiple
/// of `unit`.
#[target_feature(enable = "avx2")]
pub(crate) fn multiply(
    tokens: Tokens<'_>,
    rows: &Range<usize>,
    unit: usize,
    out: &mut Output<'_>,
    mut fill: impl FnMut(&Part, &mut [Field]),
) {
    let mut panel = [Field::ZERO; CHUNK_FIELDS];
    // Once: where a group begins takes divisions, and a few tokens' panel is
    // through in some hundred cycles.
    let groups: Vec<Group<'_>> = tokens.groups().collect();
    for (tile, rows) in panel::blocks(rows, 1) {
        tokens.begin(rows, out);
        for fields in tokens.chunks(unit, CHUNK_FIELDS) {
            let first_field = fields.start;
            let panel = &mut panel[..fields.len()];
            fill(&Part { tile, fields }, panel);
            for group in &groups {
                match group.num_tokens {
                    1 => add_unpacked::<1>(panel, group, first_field, rows, out),
                    2 => add_unpacked::<2>(panel, group, first_field, rows, out),
                    3 => add_unpacked::<3>(panel, group, first_field, rows, out),
                    4 => add_unpacked::<4>(panel, group, first_field, rows, out),
                    5 => add_unpacked::<5>(panel, group, first_field, rows, out),
                    _ => add_unpacked::<GROUP_TOKENS>(panel, group, first_field, rows, out),
                }
            }
        }
    }
}

/// Adds a panel's sums of `N` tokens to the output.
#[target_feature(enable = "avx2")]
fn add_unpacked<const N: usize>(
    panel: &[Field],
    group: &Group<'_>,
    first_field: usize,
    rows: Rows,
    out: &mut Output<'_>,
) {
    let (words, _) = group.bytes.as_chunks::<4>();
    let words = &words.as_chunks::<N>().0[first_field..][..panel.len()];
    for half in 0..FIELD_VECTORS / 2 {
        for (lane, sums) in dots(panel, words, half).into_iter().enumerate() {
            let sums = [sums.map(|sums| widen(sums))];
            add_sums(sums, half * 2 * LANES, group.first_token + lane, rows, out);
        }
    }
}

/// Adds sums of 16 rows, of which the first stands in a tile where it is told.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn add_sums<const N: usize>(
    sums: [[__m256i; 2]; N],
    first_row: usize,
    first_token: usize,
    rows: Rows,
    out: &mut Output<'_>,
) {
    if rows.num < first_row + 2 * LANES {
        return add_some_sums(&sums, first_row, first_token, rows, out);
    }
    for (lane, sums) in sums.into_iter().enumerate() {
        let out = out.of_token(first_token + lane, rows.first + first_row, 2 * LANES);
        let (vectors, _) = out.as_chunks_mut();
        for v in 0..2 {
            add_to(&mut vectors[v], sums[v]);
        }
    }
}

/// Likewise, where the last tile has fewer rows.
#[cold]
#[target_feature(enable = "avx2")]
fn add_some_sums(
    sums: &[[__m256i; 2]],
    first_row: usize,
    first_token: usize,
    rows: Rows,
    out: &mut Output<'_>,
) {
    let num_rows = rows.num.saturating_sub(first_row);
    let first_row = rows.first + first_row.min(rows.num);
    for (lane, sums) in sums.iter().enumerate() {
        let mut all = [[0; LANES]; 2];
        for v in 0..2 {
            store(&mut all[v], sums[v]);
        }
        let out = out.of_token(first_token + lane, first_row, num_rows);
        for (out, sum) in out.iter_mut().zip(all.as_flattened()) {
            *out = out.wrapping_add(*sum);
        }
    }
}

/// 16 rows times `N` tokens over one chunk: two vectors of weights, `2 N`
/// sums and a broadcast stay in registers. A broadcast from memory takes a
/// load port and no vector port, so it is made anew for each use.
#[target_feature(enable = "avx2")]
fn dots<const N: usize>(panel: &[Field], words: &[[[u8; 4]; N]], half: usize) -> [[__m256i; 2]; N] {
    let mut sums = [[_mm256_setzero_si256(); 2]; N];
    for (field, words) in panel.iter().zip(words) {
        let (vectors, _) = field.0.as_chunks();
        let low = load(&vectors[2 * half]);
        let high = load(&vectors[2 * half + 1]);
        for (sums, word) in sums.iter_mut().zip(words) {
            let x = _mm256_set1_epi32(i32::from_ne_bytes(*word));
            sums[0] = multiply_add(sums[0], low, x);
            sums[1] = multiply_add(sums[1], high, x);
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn multiply_add(sums: __m256i, codes: __m256i, activations: __m256i) -> __m256i {
    _mm256_add_epi16(sums, _mm256_maddubs_epi16(codes, activations))
}

/// Adds the two 16-bit halves of every 32-bit lane.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn widen(sums: __m256i) -> __m256i {
    _mm256_madd_epi16(sums, _mm256_set1_epi16(1))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load(bytes: &[u8; VECTOR]) -> __m256i {
    // SAFETY: the reference is to as many bytes as a vector has, and this load
    // needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn store_bytes(bytes: &mut [u8; VECTOR], vector: __m256i) {
    // SAFETY: as for `load`, and the reference is exclusive.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), vector) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn store(lanes: &mut [i32; LANES], vector: __m256i) {
    // SAFETY: as for `load`, and the reference is exclusive.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), vector) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn add_to(lanes: &mut [i32; LANES], vector: __m256i) {
    // SAFETY: as for `load`.
    let old = unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) };
    store(lanes, _mm256_add_epi32(old, vector));
}
