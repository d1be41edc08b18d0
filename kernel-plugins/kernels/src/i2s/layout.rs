//! How weights lie in memory.
//!
//! A weight is two bits, its value plus one: 0, 1, 2. Rows lie in lanes, so
//! that a dot product needs no sum across a vector: a *step* is 32 rows x 16
//! columns in 128 bytes, one 32-bit word a row, and the steps of a tile of 32
//! rows follow each other from column 0 on.
//!
//! ```text
//! step   row 0      row 1           row 31
//!      +----------+----------+-...-+----------+
//!      | 4 bytes  | 4 bytes  |     | 4 bytes  |
//!      +----------+----------+-...-+----------+
//! word   byte j, bits 2f and 2f+1: column 16 * step + 4 * f + j
//! ```
//!
//! Masking one field `f` of a vector leaves, in every 32-bit lane, four
//! consecutive columns of one row as bytes: what `vpmaddubsw`, `vpdpbusd` and
//! `sdot` multiply with a broadcast of four activations. The bytes mean the
//! same for vectors of 128, 256 and 512 bits, so every instruction set reads
//! one packed matrix.
//!
//! Rows and columns that fill up the last tile and the last step have weight
//! zero, and the activations there are zero as well.

use crate::layout::{self, Packing};
pub use crate::panel::MAX_COLS;
use crate::panel::{self, COLS_MULTIPLE, FIELD_BYTES, FIELD_COLS, Part};

/// Rows of a tile: row ranges begin at multiples of it.
pub const ROW_TILE: usize = panel::ROWS;
/// Columns of a step.
pub(super) const STEP_COLS: usize = 16;
/// Fields of a step.
pub(super) const STEP_FIELDS: usize = STEP_COLS / FIELD_COLS;
/// Bytes of a step: as many as one of its four fields has when unpacked.
pub(super) const STEP_BYTES: usize = FIELD_BYTES;

// Activations end with a whole step.
const _: () = assert!(COLS_MULTIPLE.is_multiple_of(STEP_COLS));

/// Steps that are packed for all rows of a tile before the next: what is
/// written then stays in the first-level cache until it is complete.
const BLOCK_STEPS: usize = 64;

/// The codes of eight weights of zero, a byte each.
const ZERO_CODES: u64 = 0x0101_0101_0101_0101;

/// Sixteen columns of 32 rows.
pub(super) type Step = [u8; STEP_BYTES];

/// This packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwoBits;

/// Sizes and places of a packed matrix of one shape.
pub type Layout = layout::Layout<TwoBits>;

impl Packing for TwoBits {
    const ROW_TILE: usize = ROW_TILE;

    fn strip_bytes(cols: usize) -> usize {
        cols.div_ceil(STEP_COLS) * STEP_BYTES
    }

    fn pack_tile(cols: usize, trits: &[i8], packed: &mut [u8]) {
        let (steps, _) = packed.as_chunks_mut::<STEP_BYTES>();
        if trits.len() < ROW_TILE * cols {
            steps.as_flattened_mut().fill(pack_word(&[0; STEP_COLS])[0]);
        }
        for (block, steps) in steps.chunks_mut(BLOCK_STEPS).enumerate() {
            let first = block * BLOCK_STEPS * STEP_COLS;
            for (lane, row) in trits.chunks_exact(cols).enumerate() {
                pack_row(&row[first..], lane, steps);
            }
        }
    }
}

impl Layout {
    /// The steps that unpack to a part of a panel.
    pub(super) fn steps<'a>(self, packed: &'a [u8], part: &Part) -> &'a [Step] {
        let tile = &packed[part.tile * self.strip_bytes()..][..self.strip_bytes()];
        &steps(tile)[part.fields.start / STEP_FIELDS..part.fields.end.div_ceil(STEP_FIELDS)]
    }
}

/// The steps of a tile.
pub(super) fn steps(tile: &[u8]) -> &[Step] {
    tile.as_chunks().0
}

/// As many columns of one row as the steps have.
fn pack_row(row: &[i8], lane: usize, steps: &mut [Step]) {
    let (whole, rest) = row.as_chunks::<STEP_COLS>();
    for (step, columns) in steps.iter_mut().zip(whole) {
        step[4 * lane..][..4].copy_from_slice(&pack_word(columns));
    }
    if let Some(step) = steps.get_mut(whole.len()) {
        let mut last = [0; STEP_COLS];
        last[..rest.len()].copy_from_slice(rest);
        step[4 * lane..][..4].copy_from_slice(&pack_word(&last));
    }
}

/// Sixteen columns of one row in four bytes.
fn pack_word(columns: &[i8; STEP_COLS]) -> [u8; 4] {
    let (halves, _) = columns.as_chunks::<8>();
    let [low, high] = [codes(&halves[0]), codes(&halves[1])];
    // Fields 0 and 2 in the lower half, 1 and 3 in the upper.
    let pairs = low | high << 4;
    ((pairs | pairs >> 30) as u32).to_le_bytes()
}

/// The codes of eight weights, a byte each.
fn codes(trits: &[i8; 8]) -> u64 {
    // All bytes at once. The low two bits of -1, 0, 1 are 3, 0, 1; one more is
    // 4, 1, 2, which never carries into the next byte.
    let trits = u64::from_le_bytes(trits.map(|trit| trit as u8));
    ((trits & 0x0303_0303_0303_0303) + ZERO_CODES) & 0x0303_0303_0303_0303
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The weight at (row, col), found by the drawing in the module's text.
    fn weight_at(layout: Layout, packed: &[u8], row: usize, col: usize) -> i8 {
        let tile = row / 32 * (layout.cols().div_ceil(16) * 128);
        let byte = packed[tile + col / 16 * 128 + row % 32 * 4 + col % 4];
        ((byte >> (2 * (col % 16 / 4))) & 3) as i8 - 1
    }

    fn trit_at(row: usize, col: usize) -> i8 {
        ((row * 7 + col * 5 + row * col) % 3) as i8 - 1
    }

    #[test]
    fn every_weight_lies_where_the_drawing_says() {
        for (rows, cols) in [(1, 1), (31, 15), (32, 16), (33, 17), (70, 100), (33, 2065)] {
            let layout = Layout::new(rows, cols).unwrap();
            let trits: Vec<i8> = (0..rows * cols)
                .map(|i| trit_at(i / cols, i % cols))
                .collect();
            let mut packed = vec![0xff; layout.packed_bytes()];
            layout.pack(0..rows, &trits, &mut packed).unwrap();
            for row in 0..rows.next_multiple_of(32) {
                for col in 0..cols.next_multiple_of(16) {
                    let want = if row < rows && col < cols {
                        trit_at(row, col)
                    } else {
                        0
                    };
                    let got = weight_at(layout, &packed, row, col);
                    assert_eq!(got, want, "{rows}x{cols} at {row},{col}");
                }
            }
        }
    }
}
