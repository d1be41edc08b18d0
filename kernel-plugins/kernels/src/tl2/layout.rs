//! How weights lie in memory.
//!
//! Three weights are a code of five bits: [`code`]. A *block* is 32 rows x 96
//! columns in 640 bytes, and the blocks of a tile of 32 rows follow each other
//! from column 0 on. Its two *halves* have 16 rows each, and are five vectors of
//! one 32-bit word a row, as in a panel: four with two magnitudes in every byte,
//! and one with eight signs in every byte. So a weight takes 5/3 bits, all of
//! them used.
//!
//! ```text
//! half     row 0      row 1           row 15
//!        +----------+----------+-...-+----------+   byte j:
//! v 0    | 4 bytes  | 4 bytes  |     | 4 bytes  |   magnitudes of codes (0, j), (1, j), lower bits first
//!   1..3 |          |          |     |          |   ... of codes (2v, j), (2v + 1, j)
//!   4    |          |          |     |          |   signs of codes (0, j) to (7, j), bit i that of (i, j)
//!        +----------+----------+-...-+----------+
//! ```
//!
//! The code `(i, j)` of a row has its columns `12 i + j`, `12 i + 4 + j` and
//! `12 i + 8 + j` in the block: the four codes of a word unpack to three runs of
//! four columns, which is what a panel's fields are. What fills up a block has
//! weight zero.

use super::code;
use crate::layout::{self, Packing};
use crate::panel::{self, FIELD_COLS, Part};

/// Rows of a tile: row ranges begin at multiples of it.
pub const ROW_TILE: usize = panel::ROWS;

/// Words of codes of a row in a block.
pub(super) const BLOCK_RUNS: usize = 8;
/// Columns of a word of codes.
const RUN_COLS: usize = code::WEIGHTS * FIELD_COLS;
/// Columns of a block.
pub(super) const BLOCK_COLS: usize = BLOCK_RUNS * RUN_COLS;
/// Fields that a block unpacks to.
pub(super) const BLOCK_FIELDS: usize = BLOCK_COLS / FIELD_COLS;

/// Rows of half a block.
const HALF_ROWS: usize = ROW_TILE / 2;
/// Vectors of magnitudes.
pub(super) const MAGNITUDES: usize = BLOCK_RUNS / 2;
/// A word of each of 16 rows.
pub(super) type Words = [u8; HALF_ROWS * FIELD_COLS];
/// The magnitudes of 16 rows, and last their signs.
pub(super) type Half = [Words; MAGNITUDES + 1];
/// 96 columns of 32 rows.
pub(super) type Block = [Half; 2];

/// This packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Triples;

/// Sizes and places of a packed matrix of one shape.
pub type Layout = layout::Layout<Triples>;

impl Packing for Triples {
    const ROW_TILE: usize = ROW_TILE;

    fn strip_bytes(cols: usize) -> usize {
        cols.div_ceil(BLOCK_COLS) * size_of::<Block>()
    }

    fn pack_tile(cols: usize, trits: &[i8], packed: &mut [u8]) {
        let (words, _) = packed.as_chunks_mut();
        let (halves, _) = words.as_chunks_mut();
        for (index, block) in halves.as_chunks_mut().0.iter_mut().enumerate() {
            pack_block(cols, trits, index * BLOCK_COLS, block);
        }
    }
}

/// Packs the columns from `first_col` on of up to 32 rows.
fn pack_block(cols: usize, trits: &[i8], first_col: usize, block: &mut Block) {
    let num_cols = BLOCK_COLS.min(cols - first_col);
    let mut rows = trits.chunks_exact(cols);
    for half in block {
        for lane in 0..HALF_ROWS {
            let mut columns = [0; BLOCK_COLS];
            if let Some(row) = rows.next() {
                columns[..num_cols].copy_from_slice(&row[first_col..][..num_cols]);
            }
            for (words, word) in half.iter_mut().zip(pack_words(&columns)) {
                words.as_chunks_mut().0[lane] = word.to_le_bytes();
            }
        }
    }
}

/// 96 columns of one row.
fn pack_words(columns: &[i8; BLOCK_COLS]) -> [u32; MAGNITUDES + 1] {
    let (runs, _) = columns.as_chunks();
    let mut words = [0; MAGNITUDES + 1];
    let (magnitudes, signs) = words.split_at_mut(MAGNITUDES);
    for (i, run) in runs.iter().enumerate() {
        let codes = code::of_columns(run);
        magnitudes[i / 2] |= (codes & 0x0f0f_0f0f) << (4 * (i % 2));
        signs[0] |= ((codes >> 4) & 0x0101_0101) << i;
    }
    words
}

impl Layout {
    /// The blocks that unpack to a part of a panel, whose fields begin with a
    /// block.
    pub(super) fn blocks<'a>(self, packed: &'a [u8], part: &Part) -> &'a [Block] {
        let tile = &packed[part.tile * self.strip_bytes()..][..self.strip_bytes()];
        &blocks(tile)[part.fields.start / BLOCK_FIELDS..part.fields.end.div_ceil(BLOCK_FIELDS)]
    }
}

/// The blocks of a tile.
pub(super) fn blocks(tile: &[u8]) -> &[Block] {
    tile.as_chunks().0.as_chunks().0.as_chunks().0
}

/// The codes of a run of twelve columns: of one word, or of many.
pub(super) fn codes_of<const N: usize>(
    magnitudes: &[u8; N],
    signs: &[u8; N],
    run: usize,
) -> [u8; N] {
    core::array::from_fn(|byte| {
        let magnitude = (magnitudes[byte] >> (4 * (run % 2))) & 0x0f;
        let sign = (signs[byte] >> run) & 1;
        magnitude | sign << 4
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The weight at (row, col), found by the drawing in the module's text.
    fn weight_at(layout: Layout, packed: &[u8], row: usize, col: usize) -> i8 {
        let num_blocks = layout.cols().div_ceil(96);
        let half = ((row / 32 * num_blocks + col / 96) * 2 + row % 32 / 16) * 320;
        let (i, nth, j) = (col % 96 / 12, col % 12 / 4, col % 4);
        let byte = |vector: usize| packed[half + 64 * vector + 4 * (row % 16) + j];
        let magnitude = i32::from((byte(i / 2) >> (4 * (i % 2))) & 15);
        let sign = 1 - 2 * i32::from((byte(4) >> i) & 1);
        // Balanced ternary, the lowest digit first.
        let low = (magnitude + 1).rem_euclid(3) - 1;
        let rest = (magnitude - low) / 3;
        let middle = (rest + 1).rem_euclid(3) - 1;
        (sign * [low, middle, (rest - middle) / 3][nth]) as i8
    }

    fn trit_at(row: usize, col: usize) -> i8 {
        ((row * 7 + col * 5 + row * col + col * col / 11) % 3) as i8 - 1
    }

    #[test]
    fn every_weight_lies_where_the_drawing_says() {
        for (rows, cols) in [(1, 1), (31, 95), (32, 96), (33, 97), (100, 5), (70, 300)] {
            let layout = Layout::new(rows, cols).unwrap();
            let trits: Vec<i8> = (0..rows * cols)
                .map(|i| trit_at(i / cols, i % cols))
                .collect();
            let mut packed = vec![0xff; layout.packed_bytes()];
            layout.pack(0..rows, &trits, &mut packed).unwrap();
            for row in 0..rows.next_multiple_of(32) {
                for col in 0..cols.next_multiple_of(96) {
                    let is_there = row < rows && col < cols;
                    let want = if is_there { trit_at(row, col) } else { 0 };
                    let got = weight_at(layout, &packed, row, col);
                    assert_eq!(got, want, "{rows}x{cols} at {row},{col}");
                }
            }
        }
    }

    #[test]
    fn a_weight_takes_five_thirds_of_a_bit() {
        let layout = Layout::new(32, 96).unwrap();
        assert_eq!(layout.packed_bytes() * 8 * 3, 32 * 96 * 5);
    }
}
