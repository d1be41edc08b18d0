//! NEON, in three steps of what a CPU may have: `smlal` on any of them, `sdot`
//! where it has `dotprod`, `smmla` where it has `i8mm` as well.
//!
//! A vector of 16 bytes is four columns of four rows, a 32-bit word each, so a
//! field is eight vectors. A loop keeps the sums of a *block* of four vectors
//! and as many tokens as fit in registers.

mod dotprod;
mod i8mm;
pub(crate) mod mlal;

use core::arch::aarch64::{
    int32x4_t, uint8x16_t, vaddq_s32, vdupq_n_u8, vdupq_n_u32, vdupq_n_u64, vld1q_s32, vld1q_u8,
    vreinterpretq_u8_u32, vreinterpretq_u8_u64, vreinterpretq_u64_u8, vst1q_s32, vst1q_u8,
    vzip1q_u64,
};
use core::ffi::CStr;
use core::ops::Range;
use std::arch::is_aarch64_feature_detected;

use super::{Field, Group, Part, ROWS, Tokens};
use crate::output::{Output, Rows};
use crate::panel;

pub(crate) use dotprod::sdot;

/// Bytes of a vector: four columns of four rows.
pub(crate) const VECTOR: usize = size_of::<uint8x16_t>();
/// Rows of a vector.
pub(crate) const LANES: usize = VECTOR / 4;

/// Fields unpacked at a time: 16 KiB, half of the smallest first-level cache,
/// and as many products as a 16-bit lane of `mlal` takes.
const CHUNK_FIELDS: usize = mlal::PRODUCTS;

/// Vectors whose sums a loop keeps in registers together.
pub(crate) const BLOCK_VECTORS: usize = 4;
const BLOCK_ROWS: usize = BLOCK_VECTORS * LANES;
pub(crate) const TILE_BLOCKS: usize = ROWS / BLOCK_ROWS;

/// The CPU has NEON and what is named: only then is there a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neon(Extension);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    None,
    Dotprod,
    /// `dotprod` as well.
    I8mm,
}

impl Neon {
    /// All that this CPU has, the best one last.
    pub(crate) fn available() -> Vec<Neon> {
        let neon = is_aarch64_feature_detected!("neon");
        let dotprod = neon && is_aarch64_feature_detected!("dotprod");
        let i8mm = dotprod && is_aarch64_feature_detected!("i8mm");
        let extensions = [
            (neon, Extension::None),
            (dotprod, Extension::Dotprod),
            (i8mm, Extension::I8mm),
        ];
        let there = extensions.into_iter().filter(|(is_there, _)| *is_there);
        there.map(|(_, extension)| Neon(extension)).collect()
    }

    /// What it needs of the CPU.
    pub(crate) fn isa(self) -> &'static CStr {
        match self.0 {
            Extension::None => c"neon",
            Extension::Dotprod => c"neon-dotprod",
            Extension::I8mm => c"neon-i8mm",
        }
    }

    /// How well multiply-add is expected to do with it, against the portable
    /// 100.
    pub(crate) fn score(self) -> i32 {
        match self.0 {
            Extension::None => 200,
            Extension::Dotprod => 250,
            Extension::I8mm => 300,
        }
    }

    pub(crate) fn has_dotprod(self) -> bool {
        match self.0 {
            Extension::None => false,
            Extension::Dotprod | Extension::I8mm => true,
        }
    }

    /// Multiplies some rows, which begin with a tile, with all tokens. `fill`
    /// gets panels to fill, of at most [`CHUNK_FIELDS`] fields that begin at a
    /// multiple of `unit`.
    pub(crate) fn multiply(
        self,
        tokens: Tokens<'_>,
        rows: &Range<usize>,
        unit: usize,
        out: &mut Output<'_>,
        mut fill: impl FnMut(&Part, &mut [Field]),
    ) {
        match self.0 {
            Extension::None => {
                multiply(
                    tokens,
                    rows,
                    unit,
                    out,
                    fill,
                    |panel, group, at, rows, out| {
                        // SAFETY: `self` is proof of NEON.
                        unsafe { mlal::add_group(panel, group, at, rows, out) }
                    },
                );
            }
            Extension::I8mm if tokens.activations.batch() > i8mm::FEW_TOKENS => {
                let unit = if unit.is_multiple_of(2) {
                    unit
                } else {
                    2 * unit
                };
                let fill = |part: &Part, panel: &mut [Field]| {
                    fill(part, panel);
                    // SAFETY: `self` is proof of NEON.
                    unsafe { i8mm::exchange_fields(panel) }
                };
                multiply(
                    tokens,
                    rows,
                    unit,
                    out,
                    fill,
                    |panel, group, at, rows, out| {
                        // SAFETY: `self` is proof of `i8mm`.
                        unsafe { i8mm::add_group(panel, group, at, rows, out) }
                    },
                );
            }
            Extension::Dotprod | Extension::I8mm => {
                multiply(
                    tokens,
                    rows,
                    unit,
                    out,
                    fill,
                    |panel, group, at, rows, out| {
                        // SAFETY: `self` is proof of `dotprod`.
                        unsafe { dotprod::add_group(panel, group, at, rows, out) }
                    },
                );
            }
        }
    }
}

/// Fills the panels of all tiles in turn, and has each group of tokens added.
fn multiply(
    tokens: Tokens<'_>,
    rows: &Range<usize>,
    unit: usize,
    out: &mut Output<'_>,
    mut fill: impl FnMut(&Part, &mut [Field]),
    mut add_group: impl FnMut(&[Field], &Group<'_>, usize, Rows, &mut Output<'_>),
) {
    let mut panel = [Field::ZERO; CHUNK_FIELDS];
    for (tile, rows) in panel::tiles(rows) {
        tokens.begin(rows, out);
        for fields in tokens.chunks(unit, CHUNK_FIELDS) {
            let first_field = fields.start;
            let panel = &mut panel[..fields.len()];
            fill(&Part { tile, fields }, panel);
            for group in tokens.groups() {
                add_group(panel, &group, first_field, rows, out);
            }
        }
    }
}

/// A block's vectors of a field.
#[inline]
#[target_feature(enable = "neon")]
fn load_block(field: &Field, block: usize) -> [uint8x16_t; BLOCK_VECTORS] {
    let (vectors, _) = field.0.as_chunks();
    core::array::from_fn(|v| load(&vectors[block * BLOCK_VECTORS + v]))
}

/// The words of a group from one field and one token of it on.
fn words_from<'a>(group: &Group<'a>, field: usize, token: usize) -> &'a [[u8; 4]] {
    &group.bytes.as_chunks().0[field * group.num_tokens + token..]
}

/// The first `N` words, up to four in each vector; lanes beyond hold anything.
#[inline]
#[target_feature(enable = "neon")]
fn load_words<const N: usize>(words: &[[u8; 4]]) -> [uint8x16_t; 2] {
    let words = &words[..N];
    match *words {
        [a] => [splat_word(a); 2],
        [a, b] => [splat_words(a, b); 2],
        [a, b, c] => [join_halves(splat_words(a, b), splat_word(c)); 2],
        [_, _, _, _, ref rest @ ..] => {
            let low = load(words[..4].as_flattened().try_into().expect("four words"));
            match *rest {
                [] => [low; 2],
                [a] => [low, splat_word(a)],
                [a, b] => [low, splat_words(a, b)],
                _ => unreachable!("{N} words don't fit"),
            }
        }
        [] => unreachable!("no words"),
    }
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn splat_word(word: [u8; 4]) -> uint8x16_t {
    vreinterpretq_u8_u32(vdupq_n_u32(u32::from_ne_bytes(word)))
}

#[inline]
#[target_feature(enable = "neon")]
fn splat_words(a: [u8; 4], b: [u8; 4]) -> uint8x16_t {
    let [a, b] = [a, b].map(u32::from_ne_bytes);
    vreinterpretq_u8_u64(vdupq_n_u64(u64::from(b) << 32 | u64::from(a)))
}

/// The low half of one vector, then that of another.
#[inline]
#[target_feature(enable = "neon")]
fn join_halves(low: uint8x16_t, high: uint8x16_t) -> uint8x16_t {
    let [low, high] = [low, high].map(|half| vreinterpretq_u64_u8(half));
    vreinterpretq_u8_u64(vzip1q_u64(low, high))
}

/// Adds the sums of a block's rows and `N` tokens to the output.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn add_sums<const N: usize>(
    sums: [[int32x4_t; BLOCK_VECTORS]; N],
    block: usize,
    first_token: usize,
    rows: Rows,
    out: &mut Output<'_>,
) {
    let first_row = block * BLOCK_ROWS;
    let num_rows = rows.num.saturating_sub(first_row).min(BLOCK_ROWS);
    for (lane, sums) in sums.into_iter().enumerate() {
        let first = rows.first + first_row.min(rows.num);
        let out = out.of_token(first_token + lane, first, num_rows);
        if let Ok(out) = <&mut [i32; BLOCK_ROWS]>::try_from(&mut *out) {
            for (out, sums) in out.as_chunks_mut().0.iter_mut().zip(sums) {
                add_to(out, sums);
            }
        } else {
            let mut all = [0; BLOCK_ROWS];
            for (all, sums) in all.as_chunks_mut().0.iter_mut().zip(sums) {
                store(all, sums);
            }
            for (out, sum) in out.iter_mut().zip(all) {
                *out = out.wrapping_add(sum);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn splat(byte: u8) -> uint8x16_t {
    vdupq_n_u8(byte)
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn load(bytes: &[u8; VECTOR]) -> uint8x16_t {
    // SAFETY: the reference is to as many bytes as a vector has, and this load
    // needs no alignment.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn store_bytes(bytes: &mut [u8; VECTOR], vector: uint8x16_t) {
    // SAFETY: as for `load`, and the reference is exclusive.
    unsafe { vst1q_u8(bytes.as_mut_ptr(), vector) }
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn store(lanes: &mut [i32; LANES], vector: int32x4_t) {
    // SAFETY: as for `load`, and the reference is exclusive.
    unsafe { vst1q_s32(lanes.as_mut_ptr(), vector) }
}

#[inline]
#[target_feature(enable = "neon")]
fn add_to(lanes: &mut [i32; LANES], vector: int32x4_t) {
    // SAFETY: as for `load`.
    let old = unsafe { vld1q_s32(lanes.as_ptr()) };
    store(lanes, vaddq_s32(old, vector));
}
