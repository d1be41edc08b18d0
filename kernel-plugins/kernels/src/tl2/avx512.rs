//! AVX-512: `vpermw` looks up 32 rows at a time in a table of 32 16-bit sums,
//! and reads no more of a word than its low five bits: a word shifted by 0, 5
//! and 10 is an index as it is. The spare bits of five words are shifted
//! together one after the other by `vpshldw` (VBMI2), which makes the
//! sixteenth index.
//!
//! A look-up, an addition and most of a shift are three instructions for 96
//! weights: as few for a weight as i2s has, for five sixths of the bytes.
//!
//! To a panel, codes are unpacked by `vpmultishiftqb` (VBMI), which brings
//! four codes of a row into the four bytes of its field, and `vpermb`, which
//! turns 64 codes into weights.

use core::arch::x86_64::{
    __m512i, _MM_HINT_T1, _mm_prefetch, _mm512_add_epi16, _mm512_add_epi32, _mm512_loadu_si512,
    _mm512_mask_multishift_epi64_epi8, _mm512_multishift_epi64_epi8, _mm512_permutexvar_epi8,
    _mm512_permutexvar_epi16, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_shldi_epi16,
    _mm512_srai_epi32, _mm512_srli_epi16, _mm512_storeu_si512, _mm512_unpackhi_epi16,
    _mm512_unpacklo_epi16,
};

use super::code::{NUM_CODES, PANEL_CODES};
use super::layout::{
    BLOCK_CODES, BLOCK_FIELDS, BLOCK_WORDS, Block, STRIP_ROWS, TILE_STRIPS, Tile, VECTOR,
    WORD_CODES,
};
use super::tables::{BlockTables, MAX_SUMMED, Table, Tables};
use super::{Activations, Product};
use crate::output::Output;
use crate::panel::{self, Field, Part};

/// Tokens that look their sums up. For more, unpacking weights once for all of
/// them is faster.
pub(super) const MAX_TABLES: usize = 8;

/// Blocks below each other whose sums stay in 16 bits: 80 numbers of 85.
const SUMMED_BLOCKS: usize = MAX_SUMMED / BLOCK_CODES;

/// Rows of half a strip, whose sums fill a vector of 32-bit lanes.
const LANES: usize = STRIP_ROWS / 2;

/// The sums of a strip's rows, in their order.
type Sums = [__m512i; 2];

/// The CPU has what is needed here: only then is there a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) fn new() -> Option<Avx512> {
        let detected = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vbmi2")
            && is_x86_feature_detected!("avx512vnni");
        detected.then_some(Avx512(()))
    }

    pub(super) fn fill(self, tables: Tables, x: &[i8], prepared: &mut [u8]) {
        // SAFETY: `self` is proof of the features.
        unsafe { fill(tables, x, prepared) }
    }

    pub(super) fn multiply(self, product: &Product<'_>, out: Output<'_>) {
        // SAFETY: `self` is proof of the features.
        unsafe { multiply(product, out) }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn fill(tables: Tables, x: &[i8], prepared: &mut [u8]) {
    tables.fill(x, prepared);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,avx512vnni")]
fn multiply(product: &Product<'_>, mut out: Output<'_>) {
    match product.activations {
        Activations::Tables(tables) if tables.batch() == 1 => {
            multiply_one(product, tables, &mut out);
        }
        Activations::Tables(tables) => multiply_few(product, tables, &mut out),
        Activations::Panel(activations) => {
            let tokens = panel::Tokens::new(activations, product.prepared);
            let fill = |part: &Part, fields: &mut [Field]| unpack(product, part, fields);
            panel::vnni::avx512::multiply(tokens, &product.rows, BLOCK_FIELDS, &mut out, fill);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
fn multiply_one(product: &Product<'_>, tables: Tables, out: &mut Output<'_>) {
    let tables = tables.of(product.prepared);
    for tile in product.tiles() {
        match tile.num_strips() {
            1 => write::<1>(product, &tile, dot(&tile, tables), 0, out),
            2 => write::<2>(product, &tile, dot(&tile, tables), 0, out),
            3 => write::<3>(product, &tile, dot(&tile, tables), 0, out),
            _ => write::<TILE_STRIPS>(product, &tile, dot(&tile, tables), 0, out),
        }
    }
}

/// A tile times one token. The tables of 48 columns are loaded once for all
/// strips, and the packed weights are one stream from memory.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
fn dot<const STRIPS: usize>(tile: &Tile<'_>, tables: &[BlockTables]) -> [Sums; STRIPS] {
    let (groups, _) = tile.blocks.as_chunks::<STRIPS>();
    let mut total = [[_mm512_setzero_si512(); 2]; STRIPS];
    let runs = groups.chunks(SUMMED_BLOCKS);
    for (groups, tables) in runs.zip(tables.chunks(SUMMED_BLOCKS)) {
        let mut sums = [_mm512_setzero_si512(); STRIPS];
        for (blocks, tables) in groups.iter().zip(tables) {
            let tables = tables.each_ref().map(|table| load_table(table));
            for (block, sums) in blocks.iter().zip(&mut sums) {
                prefetch_beyond(block);
                let indices = indices(block);
                for (index, table) in indices.into_iter().zip(tables) {
                    *sums = _mm512_add_epi16(*sums, _mm512_permutexvar_epi16(index, table));
                }
            }
        }
        for (total, sums) in total.iter_mut().zip(sums) {
            *total = add_widened(*total, sums);
        }
    }
    total
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
fn multiply_few(product: &Product<'_>, tables: Tables, out: &mut Output<'_>) {
    let num_tokens = tables.batch();
    let tables = tables.of(product.prepared);
    for tile in product.tiles() {
        let mut total = [[[_mm512_setzero_si512(); 2]; TILE_STRIPS]; MAX_TABLES];
        let total = &mut total[..num_tokens];
        add_products(&tile, tables, total);
        for (token, sums) in total.iter().enumerate() {
            write(product, &tile, *sums, token, out);
        }
    }
}

/// A tile times some tokens: a block's indices are made once for all of them.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
fn add_products(tile: &Tile<'_>, tables: &[BlockTables], total: &mut [[Sums; TILE_STRIPS]]) {
    let num_strips = tile.num_strips();
    let num_tokens = total.len();
    let runs = tile.blocks.chunks(SUMMED_BLOCKS * num_strips);
    for (blocks, tables) in runs.zip(tables.chunks(SUMMED_BLOCKS * num_tokens)) {
        let mut sums = [[_mm512_setzero_si512(); TILE_STRIPS]; MAX_TABLES];
        let groups = blocks.chunks_exact(num_strips);
        for (blocks, tables) in groups.zip(tables.chunks_exact(num_tokens)) {
            for (strip, block) in blocks.iter().enumerate() {
                prefetch_beyond(block);
                let indices = indices(block);
                for (sums, tables) in sums.iter_mut().zip(tables) {
                    let mut sum = sums[strip];
                    for (index, table) in indices.into_iter().zip(tables) {
                        let number = _mm512_permutexvar_epi16(index, load_table(table));
                        sum = _mm512_add_epi16(sum, number);
                    }
                    sums[strip] = sum;
                }
            }
        }
        for (total, sums) in total.iter_mut().zip(sums) {
            for (total, sums) in total.iter_mut().zip(sums) {
                *total = add_widened(*total, sums);
            }
        }
    }
}

/// A block's codes, each in the low five bits of its row's lane, in the order
/// of the tables.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
fn indices(block: &Block) -> [__m512i; BLOCK_CODES] {
    let words = block.each_ref().map(|vector| load(vector));
    let mut indices = [_mm512_srli_epi16::<15>(words[0]); BLOCK_CODES];
    for k in 0..BLOCK_WORDS {
        indices[WORD_CODES * k] = words[k];
        indices[WORD_CODES * k + 1] = _mm512_srli_epi16::<5>(words[k]);
        indices[WORD_CODES * k + 2] = _mm512_srli_epi16::<10>(words[k]);
        if k > 0 {
            let spare = &mut indices[BLOCK_CODES - 1];
            *spare = _mm512_shldi_epi16::<1>(*spare, words[k]);
        }
    }
    indices
}

/// Adds 32 rows' 16-bit sums to their 32-bit ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add_widened(total: Sums, sums: __m512i) -> Sums {
    let zero = _mm512_setzero_si512();
    let low = _mm512_srai_epi32::<16>(_mm512_unpacklo_epi16(zero, sums));
    let high = _mm512_srai_epi32::<16>(_mm512_unpackhi_epi16(zero, sums));
    [
        _mm512_add_epi32(total[0], low),
        _mm512_add_epi32(total[1], high),
    ]
}

/// Writes a tile's results of one token.
#[target_feature(enable = "avx512f,avx512bw")]
fn write<const STRIPS: usize>(
    product: &Product<'_>,
    tile: &Tile<'_>,
    sums: [Sums; STRIPS],
    token: usize,
    out: &mut Output<'_>,
) {
    for (strip, sums) in sums.into_iter().enumerate().take(tile.num_strips()) {
        let mut all = [0; STRIP_ROWS];
        let (vectors, _) = all.as_chunks_mut();
        store(&mut vectors[0], sums[0]);
        store(&mut vectors[1], sums[1]);
        let rows = product.rows_of(tile, strip);
        let out = out.of_token(token, rows.first, rows.num);
        out.copy_from_slice(&all[..rows.num]);
    }
}

/// Asks for what is read a page later. The hardware's own prefetcher stops at
/// every page; this one knows neither pages nor the end of the matrix, where
/// it asks in vain. Into the second level, because the first is full of tables.
#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch_beyond(block: &Block) {
    const AHEAD: usize = 4096;
    for vector in block {
        _mm_prefetch::<_MM_HINT_T1>(vector.as_ptr().wrapping_add(AHEAD).cast());
    }
}

/// Unpacks a part of the weights to a panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
fn unpack_block(block: &Block, fields: &mut [Field; BLOCK_FIELDS]) {
    /// Where in a pair of words the four codes of a field begin, for two rows.
    const fn windows(in_row: [u8; 4]) -> i64 {
        let [a, b, c, d] = in_row;
        i64::from_le_bytes([a, b, c, d, a + 32, b + 32, c + 32, d + 32])
    }
    /// The bytes of two rows whose codes come from the second pair of words.
    const SECOND_PAIR: u64 = 0xcccc_cccc_cccc_cccc;
    let two_of_each = _mm512_set1_epi64(const { windows([0, 5, 16, 21]) });
    let three_and_spare = _mm512_set1_epi64(const { windows([0, 5, 10, 16]) });
    let last_of_each = _mm512_set1_epi64(const { windows([10, 26, 10, 26]) });
    let weights = WEIGHTS.each_ref().map(|weights| load(weights));

    let words = block.each_ref().map(|vector| load(vector));
    let mut spare = _mm512_srli_epi16::<15>(words[0]);
    for word in &words[1..] {
        spare = _mm512_shldi_epi16::<1>(spare, *word);
    }
    let pairs = [
        (words[0], words[1]),
        (words[2], words[3]),
        (words[4], spare),
    ];
    for half in 0..2 {
        let [first, second, third] = pairs.map(|(low, high)| match half {
            0 => _mm512_unpacklo_epi16(low, high),
            _ => _mm512_unpackhi_epi16(low, high),
        });
        let last = _mm512_multishift_epi64_epi8(last_of_each, first);
        let runs = [
            _mm512_multishift_epi64_epi8(two_of_each, first),
            _mm512_multishift_epi64_epi8(two_of_each, second),
            _mm512_multishift_epi64_epi8(three_and_spare, third),
            _mm512_mask_multishift_epi64_epi8(last, SECOND_PAIR, last_of_each, second),
        ];
        for (run, codes) in runs.into_iter().enumerate() {
            for (nth, weights) in weights.into_iter().enumerate() {
                let (vectors, _) = fields[3 * run + nth].0.as_chunks_mut();
                let unpacked = _mm512_permutexvar_epi8(codes, weights);
                store_bytes(&mut vectors[half], unpacked);
            }
        }
    }
}

/// The weights of all codes, plus one, twice: `vpermb` reads six bits, and
/// what the sixth is doesn't matter.
const WEIGHTS: [[u8; VECTOR]; 3] = [
    weights_of_codes(0),
    weights_of_codes(1),
    weights_of_codes(2),
];

const fn weights_of_codes(nth: usize) -> [u8; VECTOR] {
    let mut weights = [0; VECTOR];
    let mut code = 0;
    while code < VECTOR {
        weights[code] = PANEL_CODES[nth][code % NUM_CODES];
        code += 1;
    }
    weights
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_table(table: &Table) -> __m512i {
    // SAFETY: the reference is to as many bytes as a vector has, and this load
    // needs no alignment.
    unsafe { _mm512_loadu_si512(table.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8; VECTOR]) -> __m512i {
    // SAFETY: as for `load_table`.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_bytes(bytes: &mut [u8; VECTOR], vector: __m512i) {
    // SAFETY: as for `load_table`, and the reference is exclusive.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), vector) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(lanes: &mut [i32; LANES], vector: __m512i) {
    // SAFETY: as for `load_table`, and the reference is exclusive.
    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), vector) }
}
