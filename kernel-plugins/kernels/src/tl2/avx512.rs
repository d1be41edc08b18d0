//! AVX-512: `vpermb` (VBMI) finds the three weights of 64 codes at a time, and
//! `vpdpbusd` (VNNI) multiplies them, as [`panel::vnni`] says.
//!
//! **How a code becomes an index**: `vpermb` reads six bits. The lower four are
//! a magnitude; the sign is the fifth or the sixth, wherever a shift by two
//! brings two runs' signs at once, and what is in the other doesn't matter: the
//! table for it has everything twice. A shift and a selection for 64 codes, and
//! a look-up for 64 weights, are about what i2s takes to mask and shift as many.
//!
//! Weights are unpacked in registers, again for each group of tokens, and for
//! many tokens once, to a panel. Look-ups share a port with `vpdpbusd`, where
//! masks don't, so that groups are as large as registers allow.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_permutexvar_epi8, _mm512_set1_epi8,
    _mm512_setzero_si512, _mm512_slli_epi16, _mm512_srli_epi16, _mm512_ternarylogic_epi32,
};

use super::Product;
use super::code::{NUM_CODES, PANEL_CODES, SIGN, WEIGHTS};
use super::layout::{BLOCK_FIELDS, BLOCK_RUNS, Block, Half, MAGNITUDES, Words, blocks};
use crate::ahead;
use crate::output::{Output, Rows};
use crate::panel::activations::{Group, WIDE_GROUP_TOKENS};
use crate::panel::vnni::avx512::{add_sums, broadcast, load, store_bytes};
use crate::panel::{self, Field, Part};

/// Tokens that are few: unpacking again for each group of tokens costs less
/// than writing and reading what was unpacked.
pub(super) const FEW_TOKENS: usize = 64;
/// Tokens of a group of those.
pub(super) const GROUP_TOKENS: usize = WIDE_GROUP_TOKENS;

/// How far weights are asked for ahead: with eight kilobytes one token and two
/// read a tenth less.
const AHEAD: usize = 12288;

/// The CPU has what is needed here: only then is there a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) fn new() -> Option<Avx512> {
        let detected = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vnni");
        detected.then_some(Avx512(()))
    }

    pub(super) fn multiply(self, product: &Product<'_>, out: Output<'_>) {
        // SAFETY: `self` is proof of the features.
        unsafe { multiply(product, out) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn multiply(product: &Product<'_>, mut out: Output<'_>) {
    ahead::first(product.weights());
    match product.activations.batch() {
        ..=FEW_TOKENS => multiply_few(product, &mut out),
        _ => multiply_many(product, &mut out),
    }
}

/// All columns at once: the sums stay in registers from the first to the last.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn multiply_few(product: &Product<'_>, out: &mut Output<'_>) {
    for tile in product.tiles() {
        let rows = product.begin(&tile, out);
        let blocks = blocks(tile.bytes);
        for group in product.groups() {
            match group.num_tokens {
                1 => add_packed::<1, 3>(blocks, &group, rows, out),
                2 => add_packed::<2, 3>(blocks, &group, rows, out),
                3 => add_packed::<3, 2>(blocks, &group, rows, out),
                4 => add_packed::<4, 2>(blocks, &group, rows, out),
                5 => add_packed::<5, 1>(blocks, &group, rows, out),
                6 => add_packed::<6, 1>(blocks, &group, rows, out),
                7 => add_packed::<7, 1>(blocks, &group, rows, out),
                8 => add_packed::<8, 1>(blocks, &group, rows, out),
                9 => add_packed::<9, 1>(blocks, &group, rows, out),
                10 => add_packed::<10, 1>(blocks, &group, rows, out),
                11 => add_packed::<11, 1>(blocks, &group, rows, out),
                12 => add_packed::<12, 1>(blocks, &group, rows, out),
                _ => unreachable!("a group has at most {GROUP_TOKENS} tokens"),
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn multiply_many(product: &Product<'_>, out: &mut Output<'_>) {
    let fill = |part: &Part, fields: &mut [Field]| {
        product.unpack(part, fields, |block, fields| unpack_block(block, fields));
    };
    panel::vnni::avx512::multiply(product.tokens(), &product.rows, BLOCK_FIELDS, out, fill);
}

/// Adds a tile's sums of `N` tokens to the output.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn add_packed<const N: usize, const S: usize>(
    blocks: &[Block],
    group: &Group<'_>,
    rows: Rows,
    out: &mut Output<'_>,
) {
    let (words, _) = group.bytes.as_chunks::<4>();
    let (words, _) = words.as_chunks::<N>();
    let mut total = [[_mm512_setzero_si512(); 2]; N];
    for (total, sums) in total.iter_mut().zip(dots::<N, S>(blocks, words)) {
        for (total, sums) in total.iter_mut().zip(sums) {
            for sum in sums {
                *total = _mm512_add_epi32(*total, sum);
            }
        }
    }
    add_sums(total, 0, group.first_token, rows, out);
}

/// 32 rows times `N` tokens, with `S` sums of each: more sums are more work at
/// a time for an instruction that takes long to end.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn dots<const N: usize, const S: usize>(
    blocks: &[Block],
    words: &[[[u8; 4]; N]],
) -> [[[__m512i; S]; 2]; N] {
    let mut sums = [[[_mm512_setzero_si512(); S]; 2]; N];
    let (whole, rest) = words.as_chunks();
    for (block, words) in blocks.iter().zip(whole) {
        add_block(&mut sums, block, words);
    }
    if let Some(block) = blocks.get(whole.len()) {
        let mut last = [[[0; 4]; N]; BLOCK_FIELDS];
        last[..rest.len()].copy_from_slice(rest);
        add_block(&mut sums, block, &last);
    }
    sums
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn add_block<const N: usize, const S: usize>(
    sums: &mut [[[__m512i; S]; 2]; N],
    block: &Block,
    words: &[[[u8; 4]; N]; BLOCK_FIELDS],
) {
    add_run::<0, N, S>(sums, block, words);
    add_run::<1, N, S>(sums, block, words);
    add_run::<2, N, S>(sums, block, words);
    add_run::<3, N, S>(sums, block, words);
    add_run::<4, N, S>(sums, block, words);
    add_run::<5, N, S>(sums, block, words);
    add_run::<6, N, S>(sums, block, words);
    add_run::<7, N, S>(sums, block, words);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn add_run<const RUN: usize, const N: usize, const S: usize>(
    sums: &mut [[[__m512i; S]; 2]; N],
    block: &Block,
    words: &[[[u8; 4]; N]; BLOCK_FIELDS],
) {
    // A line now and then: see `ahead`.
    let lines = block.as_flattened();
    ask::<N>(&lines[RUN]);
    if RUN >= BLOCK_RUNS - 2 {
        ask::<N>(&lines[RUN + 2]);
    }
    let indices = [index::<RUN>(&block[0]), index::<RUN>(&block[1])];
    for nth in 0..WEIGHTS {
        let mut weights = indices;
        for h in 0..2 {
            weights[h] = find::<RUN>(indices[h], &TABLES[nth]);
        }
        for n in 0..N {
            let x = broadcast(words[WEIGHTS * RUN + nth][n]);
            for h in 0..2 {
                let sum = &mut sums[n][h][nth % S];
                *sum = _mm512_dpbusd_epi32(*sum, weights[h], x);
            }
        }
    }
}

#[inline(always)]
fn ask<const N: usize>(words: &Words) {
    match N {
        1 => ahead::once(words, AHEAD),
        _ => ahead::again(words, AHEAD),
    }
}

/// The indices of 64 codes, of the same columns of 16 rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn index<const RUN: usize>(half: &Half) -> __m512i {
    /// Takes the first where the third has ones, else the second.
    const SELECT: i32 = 0b1010_1010 & 0b1111_0000 | 0b0101_0101 & 0b1100_1100;
    let low = _mm512_set1_epi8(0x0f);
    let magnitudes = load(&half[RUN / 2]);
    let magnitudes = match RUN % 2 {
        0 => magnitudes,
        _ => _mm512_srli_epi16::<4>(magnitudes),
    };
    let signs = load(&half[MAGNITUDES]);
    let signs = match RUN / 2 {
        0 => _mm512_slli_epi16::<4>(signs),
        1 => _mm512_slli_epi16::<2>(signs),
        2 => signs,
        _ => _mm512_srli_epi16::<2>(signs),
    };
    _mm512_ternarylogic_epi32::<SELECT>(magnitudes, signs, low)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn find<const RUN: usize>(indices: __m512i, table: &[Words; 2]) -> __m512i {
    _mm512_permutexvar_epi8(indices, load(&table[RUN % 2]))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn unpack_block(block: &Block, fields: &mut [Field; BLOCK_FIELDS]) {
    for (h, half) in block.iter().enumerate() {
        for vector in half {
            ahead::again(vector, AHEAD);
        }
        unpack_run::<0>(h, half, fields);
        unpack_run::<1>(h, half, fields);
        unpack_run::<2>(h, half, fields);
        unpack_run::<3>(h, half, fields);
        unpack_run::<4>(h, half, fields);
        unpack_run::<5>(h, half, fields);
        unpack_run::<6>(h, half, fields);
        unpack_run::<7>(h, half, fields);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn unpack_run<const RUN: usize>(h: usize, half: &Half, fields: &mut [Field; BLOCK_FIELDS]) {
    let indices = index::<RUN>(half);
    for (nth, table) in TABLES.iter().enumerate() {
        let field = &mut fields[WEIGHTS * RUN + nth].0;
        store_bytes(&mut field.as_chunks_mut().0[h], find::<RUN>(indices, table));
    }
}

/// The weights of all codes, one after the other, plus one: with the sign in
/// the fifth bit of an index, and in the sixth.
static TABLES: [[Words; 2]; WEIGHTS] = [
    by_index(&PANEL_CODES[0]),
    by_index(&PANEL_CODES[1]),
    by_index(&PANEL_CODES[2]),
];

const fn by_index(of_codes: &[u8; NUM_CODES]) -> [Words; 2] {
    let mut tables = [[0; size_of::<Words>()]; 2];
    let mut index = 0;
    while index < size_of::<Words>() {
        let magnitude = index % SIGN as usize;
        let mut place = 0;
        while place < 2 {
            let sign = (index >> (4 + place)) & 1;
            tables[place][index] = of_codes[magnitude + sign * SIGN as usize];
            place += 1;
        }
        index += 1;
    }
    tables
}
