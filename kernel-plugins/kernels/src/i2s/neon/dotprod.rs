//! One token by `sdot`, as [`panel::neon`](crate::panel::neon) has it.

use core::arch::aarch64::{vaddq_s32, vandq_u8, vdupq_n_s32, vshrq_n_s32, vshrq_n_u8};

use super::super::layout::{ROW_TILE, Tile};
use super::super::{Output, Product};
use super::STEP_VECTORS;
use crate::panel::neon::{LANES, VECTOR, load, sdot, splat, store};

/// After so many steps the unshifted sums of [`dot`] are joined. The largest
/// are 16 times the product: at most `16 * 2 * 128` times 4 columns a step,
/// which reaches `2^30` here.
const JOINED_STEPS: usize = 1 << 16;

#[target_feature(enable = "neon,dotprod")]
pub(super) fn multiply_one(product: &Product<'_>, out: &mut Output<'_>) {
    for tile in product.tiles() {
        for group in product.groups() {
            let sums = dot(&tile, group.bytes.as_chunks().0, product.offset(0));
            out.of_token(0, tile.first_row - product.rows.start, tile.num_rows)
                .copy_from_slice(&sums[..tile.num_rows]);
        }
    }
}

/// 32 rows times one token.
///
/// Three of a vector's four fields are used where they stand in the byte, as
/// 1, 4 and 16 times the code; the fourth would not be positive there and is
/// shifted down. The sums are multiples of those factors, so shifting them
/// back is exact.
#[target_feature(enable = "neon,dotprod")]
fn dot(tile: &Tile<'_>, token: &[[u8; VECTOR]], offset: i32) -> [i32; ROW_TILE] {
    let masks = [0x03, 0x0c, 0x30].map(|mask| splat(mask));
    let zero = vdupq_n_s32(0);
    let mut total = [vdupq_n_s32(offset); STEP_VECTORS];
    let chunks = tile.steps.chunks(JOINED_STEPS);
    for (steps, token) in chunks.zip(token.chunks(JOINED_STEPS)) {
        let mut ones = [zero; STEP_VECTORS];
        let mut fours = [zero; STEP_VECTORS];
        let mut sixteens = [zero; STEP_VECTORS];
        for (step, x) in steps.iter().zip(token) {
            let x = load(x);
            let (vectors, _) = step.as_chunks();
            for v in 0..STEP_VECTORS {
                let codes = load(&vectors[v]);
                ones[v] = sdot::<0>(ones[v], vandq_u8(codes, masks[0]), x);
                fours[v] = sdot::<1>(fours[v], vandq_u8(codes, masks[1]), x);
                sixteens[v] = sdot::<2>(sixteens[v], vandq_u8(codes, masks[2]), x);
                ones[v] = sdot::<3>(ones[v], vshrq_n_u8::<6>(codes), x);
            }
        }
        for v in 0..STEP_VECTORS {
            let high = vaddq_s32(vshrq_n_s32::<2>(fours[v]), vshrq_n_s32::<4>(sixteens[v]));
            total[v] = vaddq_s32(total[v], vaddq_s32(ones[v], high));
        }
    }
    let mut out = [0; ROW_TILE];
    let (vectors, _) = out.as_chunks_mut::<LANES>();
    for (out, total) in vectors.iter_mut().zip(total) {
        store(out, total);
    }
    out
}
