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

use core::ops::Range;

use super::table;
use crate::panel::{COLS_MULTIPLE, FIELD_COLS, MAX_COLS, ROWS};
use crate::trits::{self, NotATrit};

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

/// Sizes and places of a packed matrix of one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    rows: usize,
    cols: usize,
}

impl Layout {
    /// None if the matrix is empty, has more than
    /// [`MAX_COLS`](crate::i2s::MAX_COLS) columns, or would not fit into an address space.
    pub fn new(rows: usize, cols: usize) -> Option<Layout> {
        if rows == 0 || cols == 0 || cols > MAX_COLS {
            return None;
        }
        let layout = Layout { rows, cols };
        rows.div_ceil(ROW_TILE)
            .checked_mul(layout.tile_bytes())
            .filter(|&bytes| bytes <= isize::MAX as usize)
            .map(|_| layout)
    }

    /// Columns of the matrix.
    pub fn cols(self) -> usize {
        self.cols
    }

    /// Bytes of the packed matrix.
    pub fn packed_bytes(self) -> usize {
        self.rows.div_ceil(ROW_TILE) * self.tile_bytes()
    }

    /// Where in the packed matrix these rows lie; None if they are not whole
    /// tiles of it. Ranges that don't overlap lie in bytes that don't.
    pub fn bytes_of(self, rows: &Range<usize>) -> Option<Range<usize>> {
        let are_tiles = rows.start <= rows.end
            && rows.end <= self.rows
            && rows.start.is_multiple_of(ROW_TILE)
            && (rows.end.is_multiple_of(ROW_TILE) || rows.end == self.rows);
        let tiles = rows.start / ROW_TILE..rows.end.div_ceil(ROW_TILE);
        are_tiles.then(|| tiles.start * self.tile_bytes()..tiles.end * self.tile_bytes())
    }

    /// Packs some rows: `trits` holds them row-major, `packed` is the part
    /// [`bytes_of`](Layout::bytes_of) those rows.
    ///
    /// # Panics
    ///
    /// If a length doesn't fit the rows, or the rows aren't whole tiles.
    pub fn pack(self, rows: Range<usize>, trits: &[i8], packed: &mut [u8]) -> Result<(), NotATrit> {
        let bytes = self.bytes_of(&rows).expect("whole tiles");
        assert_eq!(packed.len(), bytes.len(), "packed bytes");
        assert_eq!(trits.len(), rows.len() * self.cols, "weights");
        trits::validate(trits)?;
        packed.fill(ZERO_CODES);
        let tiles = trits.chunks(ROW_TILE * self.cols);
        for (trits, packed) in tiles.zip(packed.chunks_exact_mut(self.tile_bytes())) {
            let (steps, _) = packed.as_chunks_mut::<STEP_BYTES>();
            for (lane, row) in trits.chunks_exact(self.cols).enumerate() {
                for (step, columns) in steps.iter_mut().zip(row.chunks(STEP_COLS)) {
                    step[lane] = pack_byte(columns);
                }
            }
        }
        Ok(())
    }

    /// The steps of a tile.
    pub(super) fn tile(self, packed: &[u8], tile: usize) -> &[Step] {
        let bytes = &packed[tile * self.tile_bytes()..][..self.tile_bytes()];
        bytes.as_chunks().0
    }

    fn tile_bytes(self) -> usize {
        self.cols.next_multiple_of(COLS_MULTIPLE) / STEP_COLS * STEP_BYTES
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
        let tile = row / 32 * (layout.cols.div_ceil(16) * 128);
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

    #[test]
    fn packing_by_parts_gives_the_same_bytes() {
        let layout = Layout::new(70, 33).unwrap();
        let trits: Vec<i8> = (0..70 * 33).map(|i| (i * i % 3) as i8 - 1).collect();
        let mut whole = vec![0; layout.packed_bytes()];
        layout.pack(0..70, &trits, &mut whole).unwrap();
        let mut parts = vec![0; layout.packed_bytes()];
        for rows in [64..70, 0..32, 32..64] {
            let bytes = layout.bytes_of(&rows).unwrap();
            let trits = &trits[rows.start * 33..rows.end * 33];
            layout.pack(rows, trits, &mut parts[bytes]).unwrap();
        }
        assert_eq!(whole, parts);
    }

    #[test]
    fn what_is_no_matrix_or_no_tile_is_refused() {
        assert_eq!(Layout::new(0, 16), None);
        assert_eq!(Layout::new(16, 0), None);
        assert_eq!(Layout::new(1, MAX_COLS + 1), None);
        assert_eq!(Layout::new(usize::MAX, MAX_COLS), None);
        let layout = Layout::new(70, 16).unwrap();
        for rows in [1..70, 0..31, 0..71] {
            assert_eq!(layout.bytes_of(&rows), None, "{rows:?}");
        }
        let mut packed = vec![0; layout.packed_bytes()];
        let mut trits = vec![0; 70 * 16];
        trits[40] = 2;
        let error = layout.pack(0..70, &trits, &mut packed);
        assert_eq!(
            error,
            Err(NotATrit {
                index: 40,
                value: 2
            })
        );
    }
}
