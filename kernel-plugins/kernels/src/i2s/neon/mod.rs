//! NEON, in three steps of what a CPU may have: `smlal` on any of them, `sdot`
//! where it has `dotprod`, `smmla` where it has `i8mm` as well.
//!
//! A vector of 16 bytes is four rows, a 32-bit word each, so a step is eight
//! vectors. Multiplied as bytes with sixteen activations, of which `sdot`
//! takes any four as its "element", a vector leaves one sum a row.
//!
//! One token unpacks as it goes. More run over a panel of unpacked bytes: a
//! loop that unpacked for each of a few tokens would keep the same units as
//! busy as the panel's loads and stores keep others.

mod dotprod;
mod i8mm;
mod mlal;

use core::arch::aarch64::{
    int32x4_t, uint8x16_t, vaddq_s32, vandq_u8, vdupq_n_u8, vdupq_n_u32, vdupq_n_u64, vld1q_s32,
    vld1q_u8, vreinterpretq_u8_u32, vreinterpretq_u8_u64, vreinterpretq_u64_u8, vshrq_n_u8,
    vst1q_s32, vst1q_u8, vzip1q_u64,
};

use super::activations::Group;
use super::layout::{ROW_TILE, STEP_BYTES, Step};
use super::{Output, Rows};

pub(super) use dotprod::Dotprod;
pub(super) use i8mm::I8mm;
pub(super) use mlal::Mlal;

/// Bytes of a vector: four columns of four rows.
const VECTOR: usize = size_of::<uint8x16_t>();
/// Rows of a vector.
const LANES: usize = VECTOR / 4;
/// Vectors of a step, each of its own four rows.
const STEP_VECTORS: usize = STEP_BYTES / VECTOR;

/// Vectors whose sums a loop keeps in registers together.
const BLOCK_VECTORS: usize = 4;
const BLOCK_ROWS: usize = BLOCK_VECTORS * LANES;
const TILE_BLOCKS: usize = ROW_TILE / BLOCK_ROWS;

/// Four columns of 32 rows, one code a byte.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Field([[u8; VECTOR]; STEP_VECTORS]);

const EMPTY_FIELD: Field = Field([[0; VECTOR]; STEP_VECTORS]);

#[inline]
#[target_feature(enable = "neon")]
fn unpack(steps: &[Step], panel: &mut [Field]) {
    for (step, fields) in steps.iter().zip(panel.as_chunks_mut::<4>().0) {
        for (v, vector) in step.as_chunks().0.iter().enumerate() {
            for (field, codes) in fields.iter_mut().zip(codes_of(load(vector))) {
                store_bytes(&mut field.0[v], codes);
            }
        }
    }
}

/// The four fields of a vector, each as its codes.
#[inline]
#[target_feature(enable = "neon")]
fn codes_of(packed: uint8x16_t) -> [uint8x16_t; 4] {
    let low = splat(0x03);
    [
        vandq_u8(packed, low),
        vandq_u8(vshrq_n_u8::<2>(packed), low),
        vandq_u8(vshrq_n_u8::<4>(packed), low),
        vshrq_n_u8::<6>(packed),
    ]
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
fn splat_word(word: [u8; 4]) -> uint8x16_t {
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
fn add_sums<const N: usize>(
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
fn splat(byte: u8) -> uint8x16_t {
    vdupq_n_u8(byte)
}

#[inline]
#[target_feature(enable = "neon")]
fn load(bytes: &[u8; VECTOR]) -> uint8x16_t {
    // SAFETY: the reference is to as many bytes as a vector has, and this load
    // needs no alignment.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store_bytes(bytes: &mut [u8; VECTOR], vector: uint8x16_t) {
    // SAFETY: as for `load`, and the reference is exclusive.
    unsafe { vst1q_u8(bytes.as_mut_ptr(), vector) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store(lanes: &mut [i32; LANES], vector: int32x4_t) {
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
