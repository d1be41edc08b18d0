//! Plain Rust, written so that any compiler's vectoriser has an easy time:
//! rows side by side, one activation against 32 weights of a column.

use super::layout::{ROW_TILE, STEP_COLS, Step};
use super::{Output, Product};

/// Steps between two widenings. A code is at most 2 and an activation at least
/// -128, so a column adds -256..=254 and the 128 columns of eight steps reach
/// -32768..=32512: exactly what an `i16` holds, for any activations.
const NARROW_STEPS: usize = 8;

type Narrow = [i16; ROW_TILE];

pub(super) fn multiply(product: &Product<'_>, mut out: Output<'_>) {
    let mut codes = [[0; ROW_TILE]; NARROW_STEPS * STEP_COLS];
    for tile in product.tiles() {
        let first_row = tile.first_row - product.rows.start;
        for token in 0..product.activations.batch() {
            let offset = product.offset(token);
            out.of_token(token, first_row, tile.num_rows).fill(offset);
        }
        for (chunk, steps) in tile.steps.chunks(NARROW_STEPS).enumerate() {
            let codes = &mut codes[..steps.len() * STEP_COLS];
            unpack(steps, codes);
            for group in product.groups() {
                let width = group.num_tokens;
                let words = group.bytes.as_chunks::<4>().0.chunks_exact(width);
                let words = words.skip(chunk * NARROW_STEPS * STEP_COLS / 4);
                for lane in 0..width {
                    let sums = dot(codes, words.clone().map(|words| words[lane]));
                    let token = group.first_token + lane;
                    let out = out.of_token(token, first_row, tile.num_rows);
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = out.wrapping_add(sum.into());
                    }
                }
            }
        }
    }
}

/// One array of 32 codes for each column of the steps.
fn unpack(steps: &[Step], codes: &mut [Narrow]) {
    for (step, columns) in steps.iter().zip(codes.chunks_exact_mut(STEP_COLS)) {
        let words = step.as_chunks::<4>().0;
        for (col, codes) in columns.iter_mut().enumerate() {
            let shift = 8 * (col % 4) + 2 * (col / 4);
            for (code, word) in codes.iter_mut().zip(words) {
                *code = ((u32::from_le_bytes(*word) >> shift) & 3) as i16;
            }
        }
    }
}

fn dot(codes: &[Narrow], words: impl Iterator<Item = [u8; 4]>) -> Narrow {
    let mut sums = [0i16; ROW_TILE];
    for (columns, word) in codes.as_chunks::<4>().0.iter().zip(words) {
        for (codes, x) in columns.iter().zip(word) {
            let x = i16::from(x as i8);
            for (sum, code) in sums.iter_mut().zip(codes) {
                *sum = sum.wrapping_add(code * x);
            }
        }
    }
    sums
}
