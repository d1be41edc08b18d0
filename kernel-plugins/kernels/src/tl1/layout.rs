//! How weights lie in memory.
//!
//! Two neighbouring columns of a row are one *code*, `3 (a + 1) + b + 1` for
//! weights a and b: 0 to 8. Rows lie in lanes, as what looks up one vector of
//! codes in one table needs them: a *step* is 32 rows x 4 columns in 32 bytes,
//! one a row, and the steps of a tile of 32 rows follow each other from column
//! 0 on.
//!
//! ```text
//! byte r of step s, bits 0-3: row r, columns 4s and 4s + 1
//!                   bits 4-7: row r, columns 4s + 2 and 4s + 3
//! ```
//!
//! Rows and columns that fill up the last tile and the last four steps have
//! weight zero, and the activations there are zero as well.

use super::table;
use crate::layout::{self, Packing};
use crate::panel::{COLS_MULTIPLE, FIELD_COLS, ROWS};

/// Rows of a tile: row ranges begin at multiples of it.
pub const ROW_TILE: usize = ROWS;
/// Columns of a step: those of a panel's field.
pub(super) const STEP_COLS: usize = FIELD_COLS;
/// Bytes of a step.
pub(super) const STEP_BYTES: usize = ROW_TILE;

/// Two pairs of zeros.
const ZERO_CODES: u8 = table::code(0, 0) | table::code(0, 0) << 4;

/// Four columns of 32 rows.
pub(super) type Step = [u8; STEP_BYTES];

/// This packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pairs;

/// Sizes and places of a packed matrix of one shape.
pub type Layout = layout::Layout<Pairs>;

impl Packing for Pairs {
    const ROW_TILE: usize = ROW_TILE;

    fn strip_bytes(cols: usize) -> usize {
        cols.next_multiple_of(COLS_MULTIPLE) / STEP_COLS * STEP_BYTES
    }

    fn pack_tile(cols: usize, trits: &[i8], packed: &mut [u8]) {
        packed.fill(ZERO_CODES);
        let (steps, _) = packed.as_chunks_mut::<STEP_BYTES>();
        for (lane, row) in trits.chunks_exact(cols).enumerate() {
            for (step, columns) in steps.iter_mut().zip(row.chunks(STEP_COLS)) {
                step[lane] = pack_byte(columns);
            }
        }
    }
}

impl Layout {
    /// The steps of a tile.
    pub(super) fn tile(self, packed: &[u8], tile: usize) -> &[Step] {
        let bytes = &packed[tile * self.strip_bytes()..][..self.strip_bytes()];
        bytes.as_chunks().0
    }
}

/// Up to four columns of one row.
fn pack_byte(columns: &[i8]) -> u8 {
    let weight = |i: usize| columns.get(i).copied().unwrap_or(0);
    table::code(weight(0), weight(1)) | table::code(weight(2), weight(3)) << 4
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The weight at (row, col), found by the text of the module.
    fn weight_at(layout: Layout, packed: &[u8], row: usize, col: usize) -> i8 {
        let tile = row / 32 * (layout.cols().div_ceil(16) * 128);
        let byte = packed[tile + col / 4 * 32 + row % 32];
        let code = if col % 4 < 2 { byte & 15 } else { byte >> 4 };
        let digit = if col.is_multiple_of(2) {
            code / 3
        } else {
            code % 3
        };
        digit as i8 - 1
    }

    #[test]
    fn every_weight_lies_where_the_text_says() {
        for (rows, cols) in [(1, 1), (31, 15), (32, 16), (33, 17), (70, 102)] {
            let layout = Layout::new(rows, cols).unwrap();
            let trit_at = |row: usize, col: usize| ((row * 7 + col * 5 + row * col) % 3) as i8 - 1;
            let trits: Vec<i8> = (0..rows * cols)
                .map(|i| trit_at(i / cols, i % cols))
                .collect();
            let mut packed = vec![0xff; layout.packed_bytes()];
            layout.pack(0..rows, &trits, &mut packed).unwrap();
            for row in 0..rows.next_multiple_of(32) {
                for col in 0..cols.next_multiple_of(16) {
                    let is_there = row < rows && col < cols;
                    let want = if is_there { trit_at(row, col) } else { 0 };
                    let got = weight_at(layout, &packed, row, col);
                    assert_eq!(got, want, "{rows}x{cols} at {row},{col}");
                }
            }
        }
    }
}
