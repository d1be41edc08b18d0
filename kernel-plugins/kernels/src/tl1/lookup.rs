//! Few tokens, by looking up.

use core::ops::Range;

use super::activations::Activations;
use super::layout::{Layout, ROW_TILE, Step};
use super::table::TABLE_BYTES;
use crate::output::{Output, Rows};
use crate::panel;

/// Steps of a chunk: a token's tables of 1024 columns take 16 KiB, half of the
/// smallest first-level cache, and serve all rows before the next columns do.
const CHUNK_STEPS: usize = 256;
/// Tables of a step.
pub(super) const STEP_TABLES: usize = 2;

/// The bytes of a pair's table.
pub(super) type TableBytes = [u8; TABLE_BYTES];

/// Some rows times some tokens, by a function that takes one tile's steps of a
/// chunk and one token's tables.
pub(super) fn multiply(
    layout: Layout,
    packed: &[u8],
    rows: &Range<usize>,
    activations: Activations,
    prepared: &[u8],
    out: &mut Output<'_>,
    dot: impl Fn(&[Step], &[TableBytes]) -> [i32; ROW_TILE],
) {
    for token in 0..activations.batch() {
        out.of_token(token, 0, rows.len()).fill(0);
    }
    let num_steps = activations.tables(prepared, 0).len() / STEP_TABLES;
    for first in (0..num_steps).step_by(CHUNK_STEPS) {
        let steps = first..num_steps.min(first + CHUNK_STEPS);
        let tables = STEP_TABLES * steps.start..STEP_TABLES * steps.end;
        for (tile, rows) in panel::tiles(rows) {
            let steps = &layout.tile(packed, tile)[steps.clone()];
            for token in 0..activations.batch() {
                let tables = &activations.tables(prepared, token)[tables.clone()];
                add(dot(steps, tables), token, rows, out);
            }
        }
    }
}

fn add(sums: [i32; ROW_TILE], token: usize, rows: Rows, out: &mut Output<'_>) {
    let out = out.of_token(token, rows.first, rows.num);
    for (out, sum) in out.iter_mut().zip(sums) {
        *out += sum;
    }
}
