//! Plain Rust, written so that any compiler's vectoriser has an easy time:
//! codes side by side as 16-bit numbers, multiplied lane by lane with four
//! activations that repeat, and sums that stay in registers.

use core::array;

use super::layout::{ROW_TILE, STEP_BYTES, Step};
use super::{Output, Product};

/// Steps unpacked at a time, 16 KiB. In a lane each adds four products of a
/// code up to 2 and an activation from -128, so -16384..=16256 in all: inside
/// an `i16` for any activations, with room for half as many steps again.
const CHUNK_STEPS: usize = 16;

/// Four columns of 32 rows.
type Field = [i16; STEP_BYTES];

/// Lanes of the smallest vectors worth writing for.
const LANES: usize = 8;
/// Rows whose sums take eight such vectors, which leaves as many for operands
/// on the CPUs that have the fewest.
const BLOCK_ROWS: usize = 16;
/// Vectors for four columns of those rows.
const BLOCK_VECTORS: usize = BLOCK_ROWS * 4 / LANES;

pub(super) fn multiply(product: &Product<'_>, mut out: Output<'_>) {
    let mut panel = [[0; STEP_BYTES]; 4 * CHUNK_STEPS];
    for tile in product.tiles() {
        let rows = product.begin(&tile, &mut out);
        for (chunk, steps) in tile.steps.chunks(CHUNK_STEPS).enumerate() {
            let panel = &mut panel[..4 * steps.len()];
            unpack(steps, panel);
            for group in product.groups() {
                let (words, _) = group.bytes.as_chunks::<4>();
                let words = &words[chunk * 4 * CHUNK_STEPS * group.num_tokens..];
                for lane in 0..group.num_tokens {
                    let words = words[lane..].iter().step_by(group.num_tokens);
                    let sums = dot(panel, words);
                    let token = group.first_token + lane;
                    let out = out.of_token(token, rows.first, rows.num);
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = out.wrapping_add(sum);
                    }
                }
            }
        }
    }
}

fn unpack(steps: &[Step], panel: &mut [Field]) {
    for (step, fields) in steps.iter().zip(panel.as_chunks_mut::<4>().0) {
        for (f, field) in fields.iter_mut().enumerate() {
            for (code, byte) in field.iter_mut().zip(step) {
                *code = i16::from((byte >> (2 * f)) & 3);
            }
        }
    }
}

fn dot<'a>(panel: &[Field], words: impl Iterator<Item = &'a [u8; 4]> + Clone) -> [i32; ROW_TILE] {
    let mut out = [0; ROW_TILE];
    for (block, out) in out.chunks_exact_mut(BLOCK_ROWS).enumerate() {
        let sums = block_dot(panel, words.clone(), block);
        let rows = sums.as_flattened().as_chunks::<4>().0;
        for (out, columns) in out.iter_mut().zip(rows) {
            *out = columns.iter().map(|&sum| i32::from(sum)).sum();
        }
    }
    out
}

fn block_dot<'a>(
    panel: &[Field],
    words: impl Iterator<Item = &'a [u8; 4]>,
    block: usize,
) -> [[i16; LANES]; BLOCK_VECTORS] {
    let mut sums = [[0i16; LANES]; BLOCK_VECTORS];
    for (field, word) in panel.iter().zip(words) {
        let x: [i16; LANES] = array::from_fn(|i| i16::from(word[i % 4] as i8));
        let codes = &field.as_chunks::<LANES>().0.as_chunks::<BLOCK_VECTORS>().0[block];
        for (sums, codes) in sums.iter_mut().zip(codes) {
            *sums = array::from_fn(|i| sums[i].wrapping_add(codes[i].wrapping_mul(x[i])));
        }
    }
    sums
}
