//! AVX2: `vpshufb` looks up 32 rows at a time, but in a table of 16 bytes, and
//! a sum of three activations has ten bits. So a table is split in two digits,
//! `n = 30 h + l`, each looked up on its own by the four bits of a magnitude
//! and negated by `vpsignb` where the fifth says so.
//!
//! **How seldom digits are widened.** `l` is at most 15 in magnitude and `h` at
//! most 13, so that eight of either add up in a byte. A block's sixteen codes
//! are then at most 240 in 16 bits, which holds 136 blocks.
//!
//! This takes more instructions for a weight than i2s' multiply-add, and no
//! fewer for being fewer bytes: see `kernel-plugins/BENCHMARKS.md`. More than one token
//! is multiplied in panels.

use core::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_add_epi8, _mm256_add_epi16, _mm256_add_epi32,
    _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_mulhrs_epi16, _mm256_mullo_epi16, _mm256_or_si256, _mm256_packs_epi16,
    _mm256_permute4x64_epi64, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_sign_epi8, _mm256_slli_epi16,
    _mm256_srai_epi16, _mm256_srli_epi16, _mm256_storeu_si256, _mm256_sub_epi16,
    _mm256_unpackhi_epi16, _mm256_unpacklo_epi16,
};

use super::code::{self, PANEL_CODES};
use super::kernel::MADE_FOR;
use super::layout::{
    BLOCK_CODES, BLOCK_FIELDS, BLOCK_WORDS, Block, STRIP_ROWS, TILE_STRIPS, WORD_CODES, blocks,
};
use super::tables::{BlockTables, Table, Tables};
use super::{Activations, Product};
use crate::ahead;
use crate::layout::Tile;
use crate::output::Output;
use crate::panel::{self, Field, Part};

/// Tokens that look their sums up.
pub(super) const MAX_TABLES: usize = 1;

/// What the high digit counts.
const BASE: i16 = 30;
/// Codes whose digits add up in a byte.
const SUMMED_CODES: usize = 8;
/// Blocks below each other whose digits add up in 16 bits, with room to spare.
const SUMMED_BLOCKS: usize = 128;

/// Bytes of a vector.
const VECTOR: usize = size_of::<__m256i>();
/// Vectors of a strip's results.
const RESULTS: usize = STRIP_ROWS * 4 / VECTOR;

/// The low and the high digits of a code's numbers.
type Digits = [__m256i; 2];
/// Of a strip's rows: each digit of the first sixteen lanes, and of the others.
type Sums = [Digits; 2];

/// The CPU has AVX2: only then is there a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn new() -> Option<Avx2> {
        is_x86_feature_detected!("avx2").then_some(Avx2(()))
    }

    pub(super) fn fill(self, tables: Tables, x: &[i8], prepared: &mut [u8]) {
        // SAFETY: `self` is proof of AVX2.
        unsafe { fill(tables, x, prepared) }
    }

    pub(super) fn multiply(self, product: &Product<'_>, out: Output<'_>) {
        // SAFETY: `self` is proof of AVX2.
        unsafe { multiply(product, out) }
    }
}

#[target_feature(enable = "avx2")]
fn fill(tables: Tables, x: &[i8], prepared: &mut [u8]) {
    tables.fill(x, prepared);
}

#[target_feature(enable = "avx2")]
fn multiply(product: &Product<'_>, mut out: Output<'_>) {
    ahead::first(product.weights());
    match product.activations {
        Activations::Tables(tables) => multiply_one(product, tables, &mut out),
        Activations::Factors(_) => unreachable!("{MADE_FOR}"),
        Activations::Panel(activations) => {
            let tokens = panel::Tokens::new(activations, product.prepared);
            let fill = |part: &Part, fields: &mut [Field]| unpack(product, part, fields);
            panel::avx2::multiply(tokens, &product.rows, BLOCK_FIELDS, &mut out, fill);
        }
    }
}

#[target_feature(enable = "avx2")]
fn multiply_one(product: &Product<'_>, tables: Tables, out: &mut Output<'_>) {
    let tables = tables.of(product.prepared);
    for tile in product.tiles() {
        let mut totals = [[0; STRIP_ROWS]; TILE_STRIPS];
        add_products(&tile, tables, &mut totals);
        for (strip, total) in totals.iter().enumerate().take(tile.num_strips()) {
            let rows = product.rows_of(&tile, strip);
            let out = out.of_token(0, rows.first, rows.num);
            out.copy_from_slice(&total[..rows.num]);
        }
    }
}

/// Adds a tile's products with one token.
#[target_feature(enable = "avx2")]
fn add_products(
    tile: &Tile<'_>,
    tables: &[BlockTables],
    totals: &mut [[i32; STRIP_ROWS]; TILE_STRIPS],
) {
    let num_strips = tile.num_strips();
    let runs = blocks(tile.bytes).chunks(SUMMED_BLOCKS * num_strips);
    for (blocks, tables) in runs.zip(tables.chunks(SUMMED_BLOCKS)) {
        let mut sums = [[[_mm256_setzero_si256(); 2]; 2]; TILE_STRIPS];
        for (blocks, tables) in blocks.chunks_exact(num_strips).zip(tables) {
            let digits = digits_of(tables);
            for (block, sums) in blocks.iter().zip(&mut sums) {
                add_looked_up(sums, block, &digits);
            }
        }
        for (total, sums) in totals.iter_mut().zip(&sums) {
            add_widened(total, sums);
        }
    }
}

/// The digits of every table's numbers, in both halves
/// of a vector.
#[inline]
#[target_feature(enable = "avx2")]
fn digits_of(tables: &BlockTables) -> [Digits; BLOCK_CODES] {
    /// A 30th, of 2^15.
    const RECIPROCAL: i16 = 1092;
    let mut all = [[_mm256_setzero_si256(); 2]; BLOCK_CODES];
    for (digits, table) in all.iter_mut().zip(tables) {
        let numbers = load_table(table);
        let high = _mm256_mulhrs_epi16(numbers, _mm256_set1_epi16(RECIPROCAL));
        let low = _mm256_sub_epi16(numbers, _mm256_mullo_epi16(high, _mm256_set1_epi16(BASE)));
        for (digit, words) in digits.iter_mut().zip([low, high]) {
            let bytes = _mm256_packs_epi16(words, words);
            *digit = _mm256_permute4x64_epi64::<0b10_00_10_00>(bytes);
        }
    }
    all
}

/// Adds what 32 rows' codes of 48 columns find in a token's tables.
#[inline]
#[target_feature(enable = "avx2")]
fn add_looked_up(sums: &mut Sums, block: &Block, digits: &[Digits; BLOCK_CODES]) {
    let codes = codes_of(block);
    let parts = codes.chunks_exact(SUMMED_CODES);
    for (codes, digits) in parts.zip(digits.chunks_exact(SUMMED_CODES)) {
        let mut low = _mm256_setzero_si256();
        let mut high = _mm256_setzero_si256();
        for (code, digits) in codes.iter().zip(digits) {
            let magnitude = _mm256_and_si256(*code, _mm256_set1_epi8(0x0f));
            // The sign is the top bit, and only a code of zero is zero.
            let sign = _mm256_slli_epi16::<3>(*code);
            let number = _mm256_shuffle_epi8(digits[0], magnitude);
            low = _mm256_add_epi8(low, _mm256_sign_epi8(number, sign));
            let number = _mm256_shuffle_epi8(digits[1], magnitude);
            high = _mm256_add_epi8(high, _mm256_sign_epi8(number, sign));
        }
        for (digit, bytes) in [low, high].into_iter().enumerate() {
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes));
            let odd = _mm256_srai_epi16::<8>(bytes);
            sums[0][digit] = _mm256_add_epi16(sums[0][digit], even);
            sums[1][digit] = _mm256_add_epi16(sums[1][digit], odd);
        }
    }
}

/// A block's codes, a byte each: those of the first sixteen lanes in the even
/// bytes, those of the others in the odd ones.
#[inline]
#[target_feature(enable = "avx2")]
fn codes_of(block: &Block) -> [__m256i; BLOCK_CODES] {
    let even = _mm256_set1_epi16(0x001f);
    let odd = _mm256_set1_epi16(0x1f00);
    let mut codes = [_mm256_setzero_si256(); BLOCK_CODES];
    let mut spare = _mm256_setzero_si256();
    for k in 0..BLOCK_WORDS {
        ahead::again(&block[k]);
        let [first, second] = load_words(block, k);
        let firsts = [
            first,
            _mm256_srli_epi16::<5>(first),
            _mm256_srli_epi16::<10>(first),
        ];
        let seconds = [
            _mm256_slli_epi16::<8>(second),
            _mm256_slli_epi16::<3>(second),
            _mm256_srli_epi16::<2>(second),
        ];
        for i in 0..WORD_CODES {
            let first = _mm256_and_si256(firsts[i], even);
            let second = _mm256_and_si256(seconds[i], odd);
            codes[WORD_CODES * k + i] = _mm256_or_si256(first, second);
        }
        let bits = _mm256_or_si256(
            _mm256_srli_epi16::<15>(first),
            _mm256_and_si256(_mm256_srli_epi16::<7>(second), _mm256_set1_epi16(0x0100)),
        );
        spare = _mm256_or_si256(_mm256_slli_epi16::<1>(spare), bits);
    }
    codes[BLOCK_CODES - 1] = spare;
    codes
}

/// Adds 32 rows' digits to their results, in their order.
#[target_feature(enable = "avx2")]
fn add_widened(total: &mut [i32; STRIP_ROWS], sums: &Sums) {
    let weights = _mm256_set1_epi32((i32::from(BASE) << 16) | 1);
    let (results, _) = total.as_chunks_mut();
    for (half, [low, high]) in sums.iter().enumerate() {
        let first = _mm256_unpacklo_epi16(*low, *high);
        let second = _mm256_unpackhi_epi16(*low, *high);
        add_to(&mut results[half], _mm256_madd_epi16(first, weights));
        add_to(
            &mut results[RESULTS / 2 + half],
            _mm256_madd_epi16(second, weights),
        );
    }
}

/// Unpacks a part of the weights to a panel.
#[target_feature(enable = "avx2")]
fn unpack(product: &Product<'_>, part: &Part, fields: &mut [Field]) {
    let blocks = product.layout.blocks(product.packed, part);
    for (block, fields) in blocks.zip(fields.chunks_mut(BLOCK_FIELDS)) {
        if let Ok(fields) = fields.try_into() {
            unpack_block(block, fields);
        } else {
            let mut all = [Field::ZERO; BLOCK_FIELDS];
            unpack_block(block, &mut all);
            fields.copy_from_slice(&all[..fields.len()]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn unpack_block(block: &Block, fields: &mut [Field; BLOCK_FIELDS]) {
    let code = _mm256_set1_epi16(code::MASK as i16);
    for half in 0..2 {
        // Two codes a word, a byte each: the first two of every word's, and
        // those that are left.
        let mut pairs = [_mm256_setzero_si256(); BLOCK_WORDS];
        let mut lasts = [_mm256_setzero_si256(); BLOCK_WORDS];
        let mut spare = _mm256_setzero_si256();
        for k in 0..BLOCK_WORDS {
            let word = load_words(block, k)[half];
            let first = _mm256_and_si256(word, code);
            let second = _mm256_and_si256(_mm256_slli_epi16::<3>(word), _mm256_set1_epi16(0x1f00));
            pairs[k] = _mm256_or_si256(first, second);
            lasts[k] = _mm256_and_si256(_mm256_srli_epi16::<10>(word), code);
            spare = _mm256_or_si256(_mm256_slli_epi16::<1>(spare), _mm256_srli_epi16::<15>(word));
        }
        let joined = |low, high| _mm256_or_si256(low, _mm256_slli_epi16::<8>(high));
        let runs = [
            [pairs[0], pairs[1]],
            [pairs[2], pairs[3]],
            [pairs[4], joined(lasts[4], spare)],
            [joined(lasts[0], lasts[1]), joined(lasts[2], lasts[3])],
        ];
        for (run, [low, high]) in runs.into_iter().enumerate() {
            let codes = _mm256_unpacklo_epi16(low, high);
            unpack_codes(codes, &mut fields[3 * run..], half);
            let codes = _mm256_unpackhi_epi16(low, high);
            unpack_codes(codes, &mut fields[3 * run..], RESULTS / 2 + half);
        }
    }
}

/// Unpacks four codes of eight rows to three fields of theirs.
#[inline]
#[target_feature(enable = "avx2")]
fn unpack_codes(codes: __m256i, fields: &mut [Field], vector: usize) {
    let one = _mm256_set1_epi8(1);
    let magnitude = _mm256_and_si256(codes, _mm256_set1_epi8(0x0f));
    let sign = _mm256_slli_epi16::<3>(codes);
    for (field, weights) in fields.iter_mut().zip(&PANEL_CODES) {
        // The first sixteen codes have no sign.
        let (halves, _) = weights.as_chunks::<16>();
        let weights = _mm256_add_epi8(broadcast(&halves[0]), _mm256_set1_epi8(-1));
        let weights = _mm256_sign_epi8(_mm256_shuffle_epi8(weights, magnitude), sign);
        let (vectors, _) = field.0.as_chunks_mut();
        store_bytes(&mut vectors[vector], _mm256_add_epi8(weights, one));
    }
}

/// The words of a block's lanes: the first sixteen and the others.
#[inline]
#[target_feature(enable = "avx2")]
fn load_words(block: &Block, k: usize) -> [__m256i; 2] {
    let (halves, _) = block[k].as_chunks();
    [load(&halves[0]), load(&halves[1])]
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; VECTOR]) -> __m256i {
    // SAFETY: the reference is to as many bytes as a vector has, and this load
    // needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_table(table: &Table) -> __m256i {
    // SAFETY: as for `load`.
    unsafe { _mm256_loadu_si256(table.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn broadcast(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: as for `load`, with half a vector.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_bytes(bytes: &mut [u8; VECTOR], vector: __m256i) {
    // SAFETY: as for `load`, and the reference is exclusive.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), vector) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_to(lanes: &mut [i32; VECTOR / 4], vector: __m256i) {
    // SAFETY: as for `load`, and the reference is exclusive.
    unsafe {
        let old = _mm256_loadu_si256(lanes.as_ptr().cast());
        _mm256_storeu_si256(lanes.as_mut_ptr().cast(), _mm256_add_epi32(old, vector));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_add_up_in_a_byte() {
        let Some(avx2) = Avx2::new() else { return };
        let mut seen = 0;
        for x in [-128i8, -127, -64, -1, 0, 1, 63, 127] {
            for y in i8::MIN..=i8::MAX {
                let mut tokens = [0; 48];
                // The columns of the first code's three weights.
                (tokens[0], tokens[4], tokens[8]) = (x, y, if y % 2 == 0 { x } else { y });
                let layout = Tables::new(48, 1).unwrap();
                let mut prepared = vec![0; layout.prepared_bytes()];
                avx2.fill(layout, &tokens, &mut prepared);
                let tables = &layout.of(&prepared)[0];
                // SAFETY: there is a value of `Avx2`.
                let digits = unsafe { digits_of(tables) }[0];
                let [low, high] = digits.map(|digit| {
                    let mut bytes = [0; VECTOR];
                    // SAFETY: as above.
                    unsafe { store_bytes(&mut bytes, digit) };
                    bytes.map(|byte| byte as i8)
                });
                for (code, entry) in tables[0][..14].iter().enumerate() {
                    let (low, high) = (i16::from(low[code]), i16::from(high[code]));
                    assert_eq!(BASE * high + low, i16::from_ne_bytes(*entry));
                    let most = SUMMED_CODES as i16 * low.abs().max(high.abs());
                    assert!(most <= 127, "{low} and {high}");
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 8 * 256 * 14);
    }
}
