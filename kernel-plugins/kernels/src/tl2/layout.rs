//! How weights lie in memory.
//!
//! A *block* is 32 rows x 48 columns in 320 bytes: five vectors of 32 16-bit
//! words, one word a row. A word has three codes of five bits, each for three
//! weights, and its top bit belongs to a sixteenth code, of which the five
//! words of a row hold one bit each. So a weight takes 5/3 bits, all of them
//! used.
//!
//! ```text
//! bit     15       14..10   9..5     4..0
//!       +--------+--------+--------+--------+
//! word  | spare  | code 2 | code 1 | code 0 |   spare: bit 4 - k of code 15 in word k
//!       +--------+--------+--------+--------+
//! ```
//!
//! The three weights of a code stand four columns apart, so that the codes of
//! four neighbouring columns unpack to three runs of four columns, which is
//! what a panel's fields are: [`FIRST_COLUMNS`]. Rows lie in lanes in the
//! order in which interleaving two vectors of words leaves them sorted, rows 0
//! to 15 in the low halves and the others in the high ones: [`row_of`].
//!
//! Up to four blocks, 128 rows, make the rows of a *tile*; the four blocks of
//! the first 48 columns are followed by those of the next. The last tile has
//! as many blocks as its rows need. What fills up a block has weight zero.

use super::code;
pub(super) use crate::layout::STRIP_ROWS;
use crate::layout::{self, Packing, Tile};
use crate::panel::{self, Part};

/// Rows of a tile: row ranges begin at multiples of it.
pub const ROW_TILE: usize = TILE_STRIPS * STRIP_ROWS;
/// Blocks side by side in a tile, which share what is loaded for a column.
pub(super) const TILE_STRIPS: usize = 4;

/// Columns of a block.
pub(super) const BLOCK_COLS: usize = 48;
/// Fields that a block unpacks to.
pub(super) const BLOCK_FIELDS: usize = BLOCK_COLS / panel::FIELD_COLS;
/// Words of a row in a block.
pub(super) const BLOCK_WORDS: usize = 5;
/// Codes of a word.
pub(super) const WORD_CODES: usize = 3;
/// Codes of a row in a block.
pub(super) const BLOCK_CODES: usize = BLOCK_WORDS * WORD_CODES + 1;

/// Bytes of a vector of words.
pub(super) const VECTOR: usize = STRIP_ROWS * 2;
/// 48 columns of 32 rows.
pub(super) type Block = [[u8; VECTOR]; BLOCK_WORDS];
const BLOCK_BYTES: usize = size_of::<Block>();

/// The column, within a block, of the first weight of each code; the second
/// stands four columns after it, the third eight. Code `c` is code `c % 3` of
/// word `c / 3`, and the last one the spare bits'.
pub(super) const FIRST_COLUMNS: [usize; BLOCK_CODES] =
    [0, 1, 36, 2, 3, 37, 12, 13, 38, 14, 15, 39, 24, 25, 26, 27];

/// The row, within a block, of a lane.
pub(super) fn row_of(lane: usize) -> usize {
    lane % 4 + lane / 8 * 4 + lane / 4 % 2 * (STRIP_ROWS / 2)
}

/// This packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Triples;

/// Sizes and places of a packed matrix of one shape.
pub type Layout = layout::Layout<Triples>;

impl Packing for Triples {
    const ROW_TILE: usize = ROW_TILE;

    fn strip_bytes(cols: usize) -> usize {
        cols.div_ceil(BLOCK_COLS) * BLOCK_BYTES
    }

    fn pack_tile(cols: usize, trits: &[i8], packed: &mut [u8]) {
        let num_strips = packed.len() / Triples::strip_bytes(cols);
        let (blocks, _) = packed.as_chunks_mut::<BLOCK_BYTES>();
        for (strip, trits) in trits.chunks(STRIP_ROWS * cols).enumerate() {
            let blocks = blocks[strip..].iter_mut().step_by(num_strips);
            for (group, block) in blocks.enumerate() {
                let (vectors, _) = block.as_chunks_mut();
                pack_block(cols, trits, group * BLOCK_COLS, vectors);
            }
        }
    }
}

/// Packs the columns from `first_col` on of up to 32 rows.
fn pack_block(cols: usize, trits: &[i8], first_col: usize, vectors: &mut [[u8; VECTOR]]) {
    let num_cols = BLOCK_COLS.min(cols - first_col);
    let mut columns = [[0; BLOCK_COLS]; STRIP_ROWS];
    for (columns, row) in columns.iter_mut().zip(trits.chunks_exact(cols)) {
        columns[..num_cols].copy_from_slice(&row[first_col..][..num_cols]);
    }
    for lane in 0..STRIP_ROWS {
        let words = pack_words(&columns[row_of(lane)]);
        for (vector, word) in vectors.iter_mut().zip(words) {
            vector[2 * lane..][..2].copy_from_slice(&word.to_le_bytes());
        }
    }
}

impl Layout {
    /// The blocks that unpack to a part of a panel, whose fields begin with a
    /// block.
    pub(super) fn blocks<'a>(
        self,
        packed: &'a [u8],
        part: &Part,
    ) -> impl Iterator<Item = &'a Block> + use<'a> {
        let first_strip = part.tile / TILE_STRIPS * TILE_STRIPS;
        let tile_strips = TILE_STRIPS.min(self.num_strips() - first_strip);
        let blocks = blocks(&packed[first_strip * self.strip_bytes()..]);
        let first_group = part.fields.start / BLOCK_FIELDS;
        let num_groups = part.fields.len().div_ceil(BLOCK_FIELDS);
        blocks[first_group * tile_strips + part.tile - first_strip..]
            .iter()
            .step_by(tile_strips)
            .take(num_groups)
    }
}

/// The blocks of some tiles.
pub(super) fn blocks(tiles: &[u8]) -> &[Block] {
    tiles.as_chunks().0.as_chunks().0
}

impl Tile<'_> {
    /// Blocks of the same columns.
    pub(super) fn num_strips(&self) -> usize {
        self.num_rows.div_ceil(STRIP_ROWS)
    }
}

/// 48 columns of one row in five words.
fn pack_words(columns: &[i8; BLOCK_COLS]) -> [u16; BLOCK_WORDS] {
    let (runs, _) = columns.as_chunks::<{ 3 * code::LANES }>();
    let [a, b, c, d] = [0, 1, 2, 3].map(|run| code::of_columns(&runs[run]));
    // A run's four codes come as bytes; two of them make ten bits of a word.
    let pairs = |codes: u32| (codes & 0x001f_001f) | ((codes >> 3) & 0x03e0_03e0);
    let first = pairs(a) | ((d & 0xff) << 10) | ((d & 0xff00) << 18);
    let second = pairs(b) | ((d & 0xff_0000) >> 6) | ((d >> 24) << 26);
    let last = (pairs(c) & 0x03ff) | (((c >> 16) & 0x1f) << 10);
    let words = [first, first >> 16, second, second >> 16, last];
    let spare = c >> 24;
    let mut k = BLOCK_WORDS as u32;
    words.map(|word| {
        k -= 1;
        (word | ((spare >> k) << 15)) as u16
    })
}

/// The codes of a row's words, in the order of [`FIRST_COLUMNS`].
pub(super) fn codes_of(words: [u16; BLOCK_WORDS]) -> [u8; BLOCK_CODES] {
    let mut codes = [0; BLOCK_CODES];
    let (of_words, spare) = codes.split_at_mut(BLOCK_CODES - 1);
    for (word, codes) in words.into_iter().zip(of_words.chunks_exact_mut(WORD_CODES)) {
        for (i, code) in codes.iter_mut().enumerate() {
            *code = (word >> (5 * i)) as u8 & code::MASK;
        }
        spare[0] = (spare[0] << 1) | (word >> 15) as u8;
    }
    codes
}

/// The words of a lane.
pub(super) fn words_at(block: &Block, lane: usize) -> [u16; BLOCK_WORDS] {
    block
        .each_ref()
        .map(|vector| u16::from_le_bytes(vector.as_chunks().0[lane]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The weight at (row, col), found by the drawing in the module's text.
    fn weight_at(layout: Layout, packed: &[u8], row: usize, col: usize) -> i8 {
        let num_blocks = layout.cols().div_ceil(48);
        let num_strips = layout.rows().div_ceil(32);
        let tile = row / 128;
        let in_tile = 4.min(num_strips - 4 * tile);
        let block = 4 * tile * num_blocks + col / 48 * in_tile + row % 128 / 32;
        let lane = (0..32).find(|&lane| row_of(lane) == row % 32).unwrap();
        let word = |k| {
            let at = block * 320 + k * 64 + 2 * lane;
            u16::from_le_bytes([packed[at], packed[at + 1]])
        };
        let (code, nth) = (0..16)
            .flat_map(|code| [0, 1, 2].map(|nth| (code, nth)))
            .find(|&(code, nth)| FIRST_COLUMNS[code] + 4 * nth == col % 48)
            .unwrap();
        let bits = match code {
            15 => (0..5).map(|k| (word(k) >> 15) << (4 - k)).sum(),
            _ => (word(code / 3) >> (5 * (code % 3))) & 31,
        };
        let (magnitude, sign) = ((bits & 15) as i32, 1 - 2 * (bits >> 4) as i32);
        // Balanced ternary, the lowest digit first.
        let digits = |value: i32| {
            let low = (value + 1).rem_euclid(3) - 1;
            let rest = (value - low) / 3;
            let middle = (rest + 1).rem_euclid(3) - 1;
            [low, middle, (rest - middle) / 3]
        };
        (sign * digits(magnitude)[nth]) as i8
    }

    fn trit_at(row: usize, col: usize) -> i8 {
        ((row * 7 + col * 5 + row * col + col * col / 11) % 3) as i8 - 1
    }

    #[test]
    fn lanes_interleave_to_sorted_rows() {
        let mut sorted = [0; 32];
        for (lane, row) in sorted.iter_mut().enumerate() {
            let (quarter, place) = (lane % 16 / 4, lane % 4);
            *row = row_of(8 * quarter + 4 * (lane / 16) + place);
        }
        assert_eq!(sorted, core::array::from_fn(|row| row));
    }

    #[test]
    fn every_column_has_one_code() {
        let mut columns: Vec<_> = FIRST_COLUMNS
            .iter()
            .flat_map(|first| [0, 4, 8].map(|nth| first + nth))
            .collect();
        columns.sort_unstable();
        assert_eq!(columns, (0..48).collect::<Vec<_>>());
    }

    #[test]
    fn every_weight_lies_where_the_drawing_says() {
        for (rows, cols) in [
            (1, 1),
            (31, 47),
            (32, 48),
            (33, 49),
            (128, 5),
            (170, 100),
            (300, 3),
        ] {
            let layout = Layout::new(rows, cols).unwrap();
            let trits: Vec<i8> = (0..rows * cols)
                .map(|i| trit_at(i / cols, i % cols))
                .collect();
            let mut packed = vec![0xff; layout.packed_bytes()];
            layout.pack(0..rows, &trits, &mut packed).unwrap();
            for row in 0..rows.next_multiple_of(32) {
                for col in 0..cols.next_multiple_of(48) {
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
    fn codes_are_read_as_they_were_written() {
        let columns: [i8; 48] = core::array::from_fn(|col| trit_at(3, col));
        let codes = codes_of(pack_words(&columns));
        for (code, first) in codes.into_iter().zip(FIRST_COLUMNS) {
            let trits = [0, 4, 8].map(|nth| columns[first + nth]);
            assert_eq!(code::trits_of(code), trits);
        }
    }
}
