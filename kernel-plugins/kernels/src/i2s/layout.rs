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

use core::ops::Range;

pub use crate::panel::MAX_COLS;
use crate::panel::{self, COLS_MULTIPLE, FIELD_BYTES, FIELD_COLS, Part};
use crate::trits::{self, NotATrit};

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

/// Sizes and places of a packed matrix of one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    rows: usize,
    cols: usize,
}

impl Layout {
    /// None if the matrix is empty, has more than [`MAX_COLS`] columns, or
    /// would not fit into an address space.
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

    /// Rows of the matrix.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Columns of the matrix.
    pub fn cols(self) -> usize {
        self.cols
    }

    /// Bytes of the packed matrix.
    pub fn packed_bytes(self) -> usize {
        self.rows.div_ceil(ROW_TILE) * self.tile_bytes()
    }

    /// Where in the packed matrix these rows lie. Ranges that don't overlap
    /// lie in bytes that don't.
    ///
    /// # Panics
    ///
    /// If [`holds`](Layout::holds) is false for the range.
    pub fn bytes_of(self, rows: &Range<usize>) -> Range<usize> {
        assert!(
            self.holds(rows),
            "rows {rows:?} of {} are not whole tiles",
            self.rows
        );
        let tiles = rows.start / ROW_TILE..rows.end.div_ceil(ROW_TILE);
        tiles.start * self.tile_bytes()..tiles.end * self.tile_bytes()
    }

    /// Whether the range lies in the matrix, begins at a tile, and ends at
    /// one or with the matrix.
    pub fn holds(self, rows: &Range<usize>) -> bool {
        rows.start <= rows.end
            && rows.end <= self.rows
            && rows.start.is_multiple_of(ROW_TILE)
            && (rows.end.is_multiple_of(ROW_TILE) || rows.end == self.rows)
    }

    /// Packs some rows: `trits` holds them row-major, `packed` is the part
    /// [`bytes_of`](Layout::bytes_of) those rows.
    ///
    /// # Panics
    ///
    /// If a length doesn't fit the rows, or the rows aren't whole tiles.
    pub fn pack(self, rows: Range<usize>, trits: &[i8], packed: &mut [u8]) -> Result<(), NotATrit> {
        assert_eq!(packed.len(), self.bytes_of(&rows).len(), "packed bytes");
        assert_eq!(trits.len(), rows.len() * self.cols, "weights");
        trits::validate(trits)?;
        let tiles = trits.chunks(ROW_TILE * self.cols);
        for (trits, packed) in tiles.zip(packed.chunks_exact_mut(self.tile_bytes())) {
            self.pack_tile(trits, packed);
        }
        Ok(())
    }

    fn pack_tile(self, trits: &[i8], packed: &mut [u8]) {
        let (steps, _) = packed.as_chunks_mut::<STEP_BYTES>();
        if trits.len() < ROW_TILE * self.cols {
            steps.as_flattened_mut().fill(pack_word(&[0; STEP_COLS])[0]);
        }
        for (block, steps) in steps.chunks_mut(BLOCK_STEPS).enumerate() {
            let first = block * BLOCK_STEPS * STEP_COLS;
            for (lane, row) in trits.chunks_exact(self.cols).enumerate() {
                pack_row(&row[first..], lane, steps);
            }
        }
    }

    /// Steps of a tile.
    pub(super) fn num_steps(self) -> usize {
        self.cols.div_ceil(STEP_COLS)
    }

    /// The steps that unpack to a part of a panel.
    pub(super) fn steps<'a>(self, packed: &'a [u8], part: &Part) -> &'a [Step] {
        let (steps, _) = packed.as_chunks();
        let tile = &steps[part.tile * self.num_steps()..][..self.num_steps()];
        &tile[part.fields.start / STEP_FIELDS..part.fields.end.div_ceil(STEP_FIELDS)]
    }

    fn tile_bytes(self) -> usize {
        self.num_steps() * STEP_BYTES
    }

    /// The tiles of some rows, each with its first row and its number of rows.
    pub(super) fn tiles<'a>(
        self,
        rows: &Range<usize>,
        packed: &'a [u8],
    ) -> impl Iterator<Item = Tile<'a>> + use<'a> {
        let rows = rows.clone();
        packed[self.bytes_of(&rows)]
            .chunks_exact(self.tile_bytes())
            .zip((rows.start..).step_by(ROW_TILE))
            .map(move |(bytes, first_row)| Tile {
                steps: bytes.as_chunks().0,
                first_row,
                num_rows: ROW_TILE.min(rows.end - first_row),
            })
    }
}

/// Up to 32 rows of a packed matrix.
pub(super) struct Tile<'a> {
    pub(super) steps: &'a [Step],
    pub(super) first_row: usize,
    pub(super) num_rows: usize,
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
        let tile = row / 32 * (layout.cols.div_ceil(16) * 128);
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

    #[test]
    fn packing_by_parts_gives_the_same_bytes() {
        let layout = Layout::new(70, 33).unwrap();
        let trits: Vec<i8> = (0..70 * 33).map(|i| trit_at(i / 33, i % 33)).collect();
        let mut whole = vec![0; layout.packed_bytes()];
        layout.pack(0..70, &trits, &mut whole).unwrap();
        let mut parts = vec![0; layout.packed_bytes()];
        for rows in [64..70, 0..32, 32..64] {
            let bytes = layout.bytes_of(&rows);
            let trits = &trits[rows.start * 33..rows.end * 33];
            layout.pack(rows, trits, &mut parts[bytes]).unwrap();
        }
        assert_eq!(whole, parts);
    }

    #[test]
    fn what_is_not_a_trit_is_refused() {
        let layout = Layout::new(2, 3).unwrap();
        let mut packed = vec![0; layout.packed_bytes()];
        let error = layout.pack(0..2, &[0, 1, -1, 0, 2, 0], &mut packed);
        assert_eq!(error, Err(NotATrit { index: 4, value: 2 }));
    }

    #[test]
    fn shapes_beyond_memory_are_refused() {
        assert_eq!(Layout::new(0, 16), None);
        assert_eq!(Layout::new(16, 0), None);
        assert_eq!(Layout::new(1, MAX_COLS + 1), None);
        assert_eq!(Layout::new(usize::MAX, MAX_COLS), None);
        assert_eq!(Layout::new(usize::MAX, 1), None);
        assert!(Layout::new(1, MAX_COLS).is_some());
    }

    #[test]
    fn ranges_are_whole_tiles() {
        let layout = Layout::new(70, 1).unwrap();
        for rows in [0..70, 32..64, 64..70, 64..64, 0..0] {
            assert!(layout.holds(&rows), "{rows:?}");
        }
        #[allow(clippy::reversed_empty_ranges, reason = "refused, as it should be")]
        for rows in [1..32, 0..31, 64..71, 64..32, 96..96] {
            assert!(!layout.holds(&rows), "{rows:?}");
        }
    }
}
