//! Plain Rust, written so that any compiler's vectoriser has an easy time:
//! codes side by side as 16-bit numbers, multiplied lane by lane with four
//! activations that repeat, and sums that stay in registers.

use core::array;
use core::ops::Range;

use super::{FIELD_BYTES, Field, Part, ROWS, Tokens};
use crate::output::{Output, Rows};
use crate::panel;

/// Fields unpacked at a time, 16 KiB as 16-bit numbers. In a lane each adds a
/// product of a code up to 2 and an activation from -128, so -16384..=16256 in
/// all: inside an `i16` for any activations, with room for as many again.
pub(crate) const CHUNK_FIELDS: usize = 64;

/// Four columns of 32 rows.
type WideField = [i16; FIELD_BYTES];

/// Lanes of the smallest vectors worth writing for.
const LANES: usize = 8;
/// Rows whose sums take eight such vectors, which leaves as many for operands
/// on the CPUs that have the fewest.
const BLOCK_ROWS: usize = 16;
/// Vectors for four columns of those rows.
const BLOCK_VECTORS: usize = BLOCK_ROWS * 4 / LANES;

/// Multiplies some rows, which begin with a tile, with all tokens. `fill` gets
/// panels to fill, of at most [`CHUNK_FIELDS`] fields that begin at a multiple
/// of `unit`.
pub(crate) fn multiply(
    tokens: Tokens<'_>,
    rows: &Range<usize>,
    unit: usize,
    out: &mut Output<'_>,
    mut fill: impl FnMut(&Part, &mut [Field]),
) {
    let mut panel = [Field::ZERO; CHUNK_FIELDS];
    let mut wide = [[0; FIELD_BYTES]; CHUNK_FIELDS];
    for (tile, rows) in panel::tiles(rows) {
        tokens.begin(rows, out);
        for fields in tokens.chunks(unit, CHUNK_FIELDS) {
            let first_field = fields.start;
            let panel = &mut panel[..fields.len()];
            fill(&Part { tile, fields }, panel);
            add(panel, &mut wide, first_field, tokens, rows, out);
        }
    }
}

/// Adds a panel's sums to the output.
fn add(
    panel: &[Field],
    wide: &mut [WideField; CHUNK_FIELDS],
    first_field: usize,
    tokens: Tokens<'_>,
    rows: Rows,
    out: &mut Output<'_>,
) {
    let wide = &mut wide[..panel.len()];
    for (wide, field) in wide.iter_mut().zip(panel) {
        *wide = field.0.map(i16::from);
    }
    for group in tokens.groups() {
        let (words, _) = group.bytes.as_chunks::<4>();
        let words = &words[first_field * group.num_tokens..];
        for lane in 0..group.num_tokens {
            let words = words[lane..].iter().step_by(group.num_tokens);
            let sums = dot(wide, words);
            let out = out.of_token(group.first_token + lane, rows.first, rows.num);
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = out.wrapping_add(sum);
            }
        }
    }
}

fn dot<'a>(panel: &[WideField], words: impl Iterator<Item = &'a [u8; 4]> + Clone) -> [i32; ROWS] {
    let mut out = [0; ROWS];
    for (block, out) in out.chunks_exact_mut(BLOCK_ROWS).enumerate() {
        let sums = block_dot(panel, words.clone(), block);
        let rows = sums.as_flattened().as_chunks::<4>().0;
        for (out, columns) in out.iter_mut().zip(rows) {
            *out = columns.iter().map(|&sum| i32::from(sum)).sum();
        }
    }
    out
}

/// Not inlined: in its surroundings the vectoriser finds shuffles instead of
/// rows, at half the speed.
#[inline(never)]
fn block_dot<'a>(
    panel: &[WideField],
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
