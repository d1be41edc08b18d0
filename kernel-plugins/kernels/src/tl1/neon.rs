//! `tbl`, which looks up sixteen bytes in a table of sixteen.

use core::arch::aarch64::{
    int16x8_t, int32x4_t, uint8x16_t, uint8x16x4_t, uint16x8_t, vaddq_s32, vaddq_u8, vaddw_high_s8,
    vaddw_high_u8, vaddw_s8, vaddw_u8, vandq_u8, vdupq_n_s16, vdupq_n_u16, vget_high_s16,
    vget_low_s8, vget_low_s16, vget_low_u8, vmovl_s16, vqtbl1q_u8, vreinterpretq_s8_u8,
    vreinterpretq_s16_u16, vshlq_n_s32, vshrq_n_u8, vst4q_u8,
};

use super::layout::{ROW_TILE, STEP_BYTES, Step};
use super::lookup::{STEP_TABLES, TableBytes};
use super::table::{FIRST, HIGH, SECOND};
use crate::panel::Field;
use crate::panel::neon::{LANES, VECTOR, load, splat, store};

/// Vectors of a step, each of its own 16 rows.
const STEP_VECTORS: usize = STEP_BYTES / VECTOR;
/// Parts that a byte takes, after which it is widened: 8 low ones are at most
/// 8 · 16, and 8 high ones are in 8 · -16..=8 · 15, the range to its very end.
const ADDENDS: usize = 8;
/// Steps that add as many.
const BYTE_STEPS: usize = ADDENDS / STEP_TABLES;
/// Vectors of 32-bit sums of a tile.
const SUM_VECTORS: usize = ROW_TILE / LANES;

/// Sums of a vector's rows in 16 bits, the first eight and the other eight. A
/// chunk's 64 widenings of up to 128 leave them far from their end.
#[derive(Clone, Copy)]
struct Wide {
    low: [uint16x8_t; 2],
    high: [int16x8_t; 2],
}

/// A tile's rows times one token over one chunk.
#[target_feature(enable = "neon")]
pub(super) fn dot(steps: &[Step], tables: &[TableBytes]) -> [i32; ROW_TILE] {
    let zero = Wide {
        low: [vdupq_n_u16(0); 2],
        high: [vdupq_n_s16(0); 2],
    };
    let mut wide = [zero; STEP_VECTORS];
    let (steps, _) = steps.as_chunks::<BYTE_STEPS>();
    let (tables, _) = tables.as_chunks::<ADDENDS>();
    for (steps, tables) in steps.iter().zip(tables) {
        let mut low = [splat(0); STEP_VECTORS];
        let mut high = [splat(0); STEP_VECTORS];
        let (tables, _) = tables.as_chunks::<STEP_TABLES>();
        for (step, tables) in steps.iter().zip(tables) {
            let [first, second] = tables.each_ref().map(|table| load_table(table));
            let (vectors, _) = step.as_chunks();
            for v in 0..STEP_VECTORS {
                let codes = load(&vectors[v]);
                for (table, codes) in [first, second].into_iter().zip(codes_of(codes)) {
                    low[v] = vaddq_u8(low[v], vqtbl1q_u8(table[0], codes));
                    high[v] = vaddq_u8(high[v], vqtbl1q_u8(table[1], codes));
                }
            }
        }
        for v in 0..STEP_VECTORS {
            widen(&mut wide[v], low[v], high[v]);
        }
    }
    let mut out = [0; ROW_TILE];
    let (vectors, _) = out.as_chunks_mut::<LANES>();
    for (out, sums) in vectors
        .iter_mut()
        .zip(wide.map(|wide| sums(wide)).as_flattened())
    {
        store(out, *sums);
    }
    out
}

#[target_feature(enable = "neon")]
pub(super) fn unpack(steps: &[Step], panel: &mut [Field]) {
    let [first, second] = [FIRST, SECOND].map(|weights| {
        let codes = weights.map(|weight| (weight + 1).cast_unsigned());
        load(&codes)
    });
    for (step, field) in steps.iter().zip(panel) {
        let (places, _) = field.0.as_chunks_mut::<{ 4 * VECTOR }>();
        for (place, codes) in places.iter_mut().zip(step.as_chunks().0) {
            let [low, high] = codes_of(load(codes));
            let columns = uint8x16x4_t(
                vqtbl1q_u8(first, low),
                vqtbl1q_u8(second, low),
                vqtbl1q_u8(first, high),
                vqtbl1q_u8(second, high),
            );
            // SAFETY: the place is as large as four vectors and exclusive, and
            // this store needs no alignment.
            unsafe { vst4q_u8(place.as_mut_ptr(), columns) };
        }
    }
}

/// The two codes of every byte.
#[inline]
#[target_feature(enable = "neon")]
fn codes_of(bytes: uint8x16_t) -> [uint8x16_t; STEP_TABLES] {
    [vandq_u8(bytes, splat(15)), vshrq_n_u8::<4>(bytes)]
}

/// Low and high parts.
#[inline]
#[target_feature(enable = "neon")]
fn load_table(table: &TableBytes) -> [uint8x16_t; 2] {
    let (parts, _) = table.as_chunks();
    [load(&parts[0]), load(&parts[1])]
}

#[inline]
#[target_feature(enable = "neon")]
fn widen(wide: &mut Wide, low: uint8x16_t, high: uint8x16_t) {
    let high = vreinterpretq_s8_u8(high);
    wide.low[0] = vaddw_u8(wide.low[0], vget_low_u8(low));
    wide.low[1] = vaddw_high_u8(wide.low[1], low);
    wide.high[0] = vaddw_s8(wide.high[0], vget_low_s8(high));
    wide.high[1] = vaddw_high_s8(wide.high[1], high);
}

/// Low and high parts together, of 16 rows.
#[inline]
#[target_feature(enable = "neon")]
fn sums(wide: Wide) -> [int32x4_t; SUM_VECTORS / STEP_VECTORS] {
    let [low0, low1] = wide.low.map(|low| split(vreinterpretq_s16_u16(low)));
    let [high0, high1] = wide.high.map(|high| split(high));
    [
        join(low0[0], high0[0]),
        join(low0[1], high0[1]),
        join(low1[0], high1[0]),
        join(low1[1], high1[1]),
    ]
}

#[inline]
#[target_feature(enable = "neon")]
fn split(sums: int16x8_t) -> [int32x4_t; 2] {
    [
        vmovl_s16(vget_low_s16(sums)),
        vmovl_s16(vget_high_s16(sums)),
    ]
}

#[inline]
#[target_feature(enable = "neon")]
fn join(low: int32x4_t, high: int32x4_t) -> int32x4_t {
    vaddq_s32(low, vshlq_n_s32::<{ HIGH.ilog2() as i32 }>(high))
}
