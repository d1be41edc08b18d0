//! AVX-512: `vpermw` looks up 32 rows at a time in a table of 32 16-bit sums,
//! and reads no more of a word than its low five bits: a word shifted by 0, 5
//! and 10 is an index as it is. The spare bits of five words are shifted
//! together one after the other by `vpshldw` (VBMI2), which makes the
//! sixteenth index.
//!
//! A look-up, an addition and most of a shift are three instructions for 96
//! weights: as few for a weight as i2s has, for five sixths of the bytes.
//!
//! For one token the kernel makes the tables itself, by two `vpmaddubsw` and an
//! addition each: a sixth more work, but on every thread at once, where filling
//! them beforehand keeps all but one waiting.
//!
//! To a panel, codes are unpacked by `vpmultishiftqb` (VBMI), which brings
//! four codes of a row into the four bytes of its field, and `vpermb`, which
//! turns 64 codes into weights.

use core::arch::x86_64::{
    __m512i, __mmask32, _mm256_loadu_si256, _mm512_add_epi16, _mm512_add_epi32,
    _mm512_broadcast_i64x4, _mm512_loadu_si512, _mm512_maddubs_epi16,
    _mm512_mask_multishift_epi64_epi8, _mm512_mask_sub_epi16, _mm512_multishift_epi64_epi8,
    _mm512_permutexvar_epi8, _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_set1_epi64,
    _mm512_setzero_si512, _mm512_shldi_epi16, _mm512_srai_epi32, _mm512_srli_epi16,
    _mm512_storeu_si512, _mm512_unpackhi_epi16, _mm512_unpacklo_epi16,
};
use core::hint::black_box;

use super::code::{NUM_CODES, PANEL_CODES};
use super::factors::{self, BlockFactors, Factors, SPREAD};
use super::layout::{
    BLOCK_CODES, BLOCK_FIELDS, Block, STRIP_ROWS, TILE_STRIPS, VECTOR, WORD_CODES, blocks,
};
use super::tables::{BlockTables, MAX_SUMMED, Table, Tables};
use super::{Activations, Product};
use crate::ahead;
use crate::layout::Tile;
use crate::output::Output;
use crate::panel::{self, Field, Part};

/// Tokens that look their sums up. For more, unpacking weights once for all of
/// them is faster.
pub(super) const MAX_TABLES: usize = 16;

/// Blocks below each other whose sums stay in 16 bits: 80 numbers of 85.
const SUMMED_BLOCKS: usize = MAX_SUMMED / BLOCK_CODES;
/// Likewise with tables from factors: 32 numbers of 42.
const SUMMED_BLOCKS_OF_ONE: usize = factors::MAX_SUMMED / BLOCK_CODES;

/// The lanes of codes with a sign.
const UPPER: __mmask32 = 0xffff_0000;

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

    pub(super) fn spread(self, factors: Factors, x: &[i8], prepared: &mut [u8]) {
        // SAFETY: `self` is proof of the features.
        unsafe { spread(factors, x, prepared) }
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

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn spread(factors: Factors, x: &[i8], prepared: &mut [u8]) {
    let columns = load_all(&SPREAD);
    factors.prepare(x, prepared, |x, factors| {
        let mut bytes = [0; VECTOR];
        for (byte, x) in bytes.iter_mut().zip(x) {
            *byte = *x as u8;
        }
        for (factors, columns) in factors.iter_mut().zip(columns) {
            store_bytes(factors, _mm512_permutexvar_epi8(columns, load(&bytes)));
        }
    });
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,avx512vnni")]
fn multiply(product: &Product<'_>, mut out: Output<'_>) {
    ahead::first(product.weights());
    match product.activations {
        Activations::Factors(factors) => multiply_one(product, factors, &mut out),
        Activations::Tables(tables) => multiply_few(product, tables, &mut out),
        Activations::Panel(activations) => {
            let tokens = panel::Tokens::new(activations, product.prepared);
            let fill = |part: &Part, fields: &mut [Field]| unpack(product, part, fields);
            panel::vnni::avx512::multiply(tokens, &product.rows, BLOCK_FIELDS, &mut out, fill);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
fn multiply_one(product: &Product<'_>, factors: Factors, out: &mut Output<'_>) {
    let offset = _mm512_set1_epi32(factors.offset(product.prepared));
    let factors = factors.of(product.prepared);
    let weights = load_all(&factors::WEIGHTS);
    for tile in product.tiles() {
        let mut totals = [[offset; 2]; TILE_STRIPS];
        let runs = blocks(tile.bytes).chunks(SUMMED_BLOCKS_OF_ONE * tile.num_strips());
        for (blocks, factors) in runs.zip(factors.chunks(SUMMED_BLOCKS_OF_ONE)) {
            let mut sums = [_mm512_setzero_si512(); TILE_STRIPS];
            for (blocks, factors) in blocks.chunks_exact(tile.num_strips()).zip(factors) {
                let tables = make_tables(factors, weights);
                for (block, sum) in blocks.iter().zip(&mut sums) {
                    *sum = add_looked_up::<true>(*sum, block, &tables);
                }
            }
            for (total, sum) in totals.iter_mut().zip(sums) {
                add_widened(total, sum);
            }
        }
        write(product, &tile, &totals, 0, out);
    }
}

/// The numbers of all codes, each with the sum of its three activations on
/// top.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn make_tables(factors: &BlockFactors, weights: [__m512i; 2]) -> [__m512i; BLOCK_CODES] {
    let mut tables = [_mm512_setzero_si512(); BLOCK_CODES];
    for (table, factors) in tables.iter_mut().zip(factors) {
        for (weights, factors) in weights.into_iter().zip(factors) {
            let factors = _mm512_set1_epi32(i32::from_ne_bytes(*factors));
            *table = _mm512_add_epi16(*table, _mm512_maddubs_epi16(weights, factors));
        }
    }
    tables
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
fn multiply_few(product: &Product<'_>, tables: Tables, out: &mut Output<'_>) {
    let num_tokens = tables.batch();
    let tables = tables.of(product.prepared);
    let mut sums = [[_mm512_setzero_si512(); TILE_STRIPS]; MAX_TABLES];
    let mut totals = [[[_mm512_setzero_si512(); 2]; TILE_STRIPS]; MAX_TABLES];
    let (sums, totals) = (&mut sums[..num_tokens], &mut totals[..num_tokens]);
    for tile in product.tiles() {
        totals.fill([[_mm512_setzero_si512(); 2]; TILE_STRIPS]);
        let runs = blocks(tile.bytes).chunks(SUMMED_BLOCKS * tile.num_strips());
        for (blocks, tables) in runs.zip(tables.chunks(SUMMED_BLOCKS * num_tokens)) {
            sums.fill([_mm512_setzero_si512(); TILE_STRIPS]);
            add_run(blocks, tile.num_strips(), tables, sums);
            for (total, sum) in totals
                .as_flattened_mut()
                .iter_mut()
                .zip(sums.as_flattened())
            {
                add_widened(total, *sum);
            }
        }
        for (token, sums) in totals.iter().enumerate() {
            write(product, &tile, sums, token, out);
        }
    }
}

/// Adds what the tables say of blocks below and beside each other. The tables
/// of 48 columns are loaded once for all strips, and the packed weights are one
/// stream from memory.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
fn add_run(
    blocks: &[Block],
    num_strips: usize,
    tables: &[BlockTables],
    sums: &mut [[__m512i; TILE_STRIPS]],
) {
    // The compiler makes a shuffle of a mask that it knows, and those are what
    // look-ups wait for.
    let upper = black_box(UPPER);
    let groups = blocks.chunks_exact(num_strips);
    for (blocks, tables) in groups.zip(tables.chunks_exact(sums.len())) {
        for (token, (sums, tables)) in sums.iter_mut().zip(tables).enumerate() {
            let tables = load_tables(tables, upper);
            if token == 0 {
                for (block, sum) in blocks.iter().zip(sums) {
                    *sum = add_looked_up::<true>(*sum, block, &tables);
                }
            } else {
                for (block, sum) in blocks.iter().zip(sums) {
                    *sum = add_looked_up::<false>(*sum, block, &tables);
                }
            }
        }
    }
}

/// Adds what 32 rows' codes of 48 columns find in a token's tables.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
fn add_looked_up<const PREFETCH: bool>(
    mut sum: __m512i,
    block: &Block,
    tables: &[__m512i; BLOCK_CODES],
) -> __m512i {
    let mut spare = _mm512_setzero_si512();
    for (k, vector) in block.iter().enumerate() {
        if PREFETCH {
            ahead::once(vector);
        }
        let word = load(vector);
        let indices = [
            word,
            _mm512_srli_epi16::<5>(word),
            _mm512_srli_epi16::<10>(word),
        ];
        for (i, index) in indices.into_iter().enumerate() {
            let number = _mm512_permutexvar_epi16(index, tables[WORD_CODES * k + i]);
            sum = _mm512_add_epi16(sum, number);
        }
        spare = _mm512_shldi_epi16::<1>(spare, word);
    }
    _mm512_add_epi16(
        sum,
        _mm512_permutexvar_epi16(spare, tables[BLOCK_CODES - 1]),
    )
}

/// Adds 32 rows' 16-bit sums to their 32-bit ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add_widened(total: &mut Sums, sums: __m512i) {
    let zero = _mm512_setzero_si512();
    let low = _mm512_srai_epi32::<16>(_mm512_unpacklo_epi16(zero, sums));
    let high = _mm512_srai_epi32::<16>(_mm512_unpackhi_epi16(zero, sums));
    total[0] = _mm512_add_epi32(total[0], low);
    total[1] = _mm512_add_epi32(total[1], high);
}

/// Writes a tile's results of one token.
#[target_feature(enable = "avx512f,avx512bw")]
fn write(
    product: &Product<'_>,
    tile: &Tile<'_>,
    sums: &[Sums; TILE_STRIPS],
    token: usize,
    out: &mut Output<'_>,
) {
    for (strip, sums) in sums.iter().enumerate().take(tile.num_strips()) {
        let mut all = [0; STRIP_ROWS];
        let (vectors, _) = all.as_chunks_mut();
        store(&mut vectors[0], sums[0]);
        store(&mut vectors[1], sums[1]);
        let rows = product.rows_of(tile, strip);
        let out = out.of_token(token, rows.first, rows.num);
        out.copy_from_slice(&all[..rows.num]);
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
    let weights = load_all(&WEIGHTS);

    let words = load_all(block);
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
        let mut in_order = [_mm512_setzero_si512(); 3];
        for (in_order, (low, high)) in in_order.iter_mut().zip(pairs) {
            *in_order = match half {
                0 => _mm512_unpacklo_epi16(low, high),
                _ => _mm512_unpackhi_epi16(low, high),
            };
        }
        let [first, second, third] = in_order;
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

/// The numbers of all codes: those without a sign in the lower half, and those
/// with one, which are the same but for it, in the upper.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_table(table: &Table, upper: __mmask32) -> __m512i {
    // SAFETY: the reference is to as many bytes as a vector has, and this load
    // needs no alignment.
    let numbers = unsafe { _mm256_loadu_si256(table.as_ptr().cast()) };
    let both = _mm512_broadcast_i64x4(numbers);
    _mm512_mask_sub_epi16(both, upper, _mm512_setzero_si512(), both)
}

/// Loops and not `map`: a closure is no function of these features when it is
/// called from one without, and would not be inlined there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_tables(tables: &BlockTables, upper: __mmask32) -> [__m512i; BLOCK_CODES] {
    let mut vectors = [_mm512_setzero_si512(); BLOCK_CODES];
    for (vector, table) in vectors.iter_mut().zip(tables) {
        *vector = load_table(table, upper);
    }
    vectors
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_all<const N: usize>(all: &[[u8; VECTOR]; N]) -> [__m512i; N] {
    let mut vectors = [_mm512_setzero_si512(); N];
    for (vector, bytes) in vectors.iter_mut().zip(all) {
        *vector = load(bytes);
    }
    vectors
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
