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

use core::ops::Range;

use super::code;
use crate::panel::{self, MAX_COLS, Part};
use crate::trits::{self, NotATrit};

/// Rows of a tile: row ranges begin at multiples of it.
pub const ROW_TILE: usize = TILE_STRIPS * STRIP_ROWS;
/// Blocks side by side in a tile, which share what is loaded for a column.
pub(super) const TILE_STRIPS: usize = 4;
/// Rows of a block, and of the *strip* that the blocks below each other make.
pub(super) const STRIP_ROWS: usize = panel::ROWS;

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
        rows.div_ceil(STRIP_ROWS)
            .checked_mul(layout.strip_bytes())
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
        self.rows.div_ceil(STRIP_ROWS) * self.strip_bytes()
    }

    /// Whether the range lies in the matrix, begins at a tile, and ends at
    /// one or with the matrix.
    pub fn holds(self, rows: &Range<usize>) -> bool {
        rows.start <= rows.end
            && rows.end <= self.rows
            && rows.start.is_multiple_of(ROW_TILE)
            && (rows.end.is_multiple_of(ROW_TILE) || rows.end == self.rows)
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
        let strips = rows.start / STRIP_ROWS..rows.end.div_ceil(STRIP_ROWS);
        strips.start * self.strip_bytes()..strips.end * self.strip_bytes()
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
        for (trits, packed) in tiles.zip(packed.chunks_mut(TILE_STRIPS * self.strip_bytes())) {
            self.pack_tile(trits, packed);
        }
        Ok(())
    }

    fn pack_tile(self, trits: &[i8], packed: &mut [u8]) {
        let num_strips = packed.len() / self.strip_bytes();
        let (blocks, _) = packed.as_chunks_mut::<BLOCK_BYTES>();
        for (strip, trits) in trits.chunks(STRIP_ROWS * self.cols).enumerate() {
            let blocks = blocks[strip..].iter_mut().step_by(num_strips);
            for (group, block) in blocks.enumerate() {
                let (vectors, _) = block.as_chunks_mut();
                self.pack_block(trits, group * BLOCK_COLS, vectors);
            }
        }
    }

    /// Packs the columns from `first_col` on of up to 32 rows.
    fn pack_block(self, trits: &[i8], first_col: usize, vectors: &mut [[u8; VECTOR]]) {
        let num_cols = BLOCK_COLS.min(self.cols - first_col);
        let mut columns = [[0; BLOCK_COLS]; STRIP_ROWS];
        for (columns, row) in columns.iter_mut().zip(trits.chunks_exact(self.cols)) {
            columns[..num_cols].copy_from_slice(&row[first_col..][..num_cols]);
        }
        for lane in 0..STRIP_ROWS {
            let words = pack_words(&columns[row_of(lane)]);
            for (vector, word) in vectors.iter_mut().zip(words) {
                vector[2 * lane..][..2].copy_from_slice(&word.to_le_bytes());
            }
        }
    }

    /// Blocks of a strip.
    pub(super) fn num_groups(self) -> usize {
        self.cols.div_ceil(BLOCK_COLS)
    }

    fn strip_bytes(self) -> usize {
        self.num_groups() * BLOCK_BYTES
    }

    /// The tiles of some rows, each with its first row and its number of rows.
    pub(super) fn tiles<'a>(
        self,
        rows: &Range<usize>,
        packed: &'a [u8],
    ) -> impl Iterator<Item = Tile<'a>> + use<'a> {
        let rows = rows.clone();
        packed[self.bytes_of(&rows)]
            .chunks(TILE_STRIPS * self.strip_bytes())
            .zip((rows.start..).step_by(ROW_TILE))
            .map(move |(bytes, first_row)| Tile {
                blocks: bytes.as_chunks().0.as_chunks().0,
                first_row,
                num_rows: ROW_TILE.min(rows.end - first_row),
            })
    }

    /// The blocks that unpack to a part of a panel, whose fields begin with a
    /// block.
    pub(super) fn blocks<'a>(
        self,
        packed: &'a [u8],
        part: &Part,
    ) -> impl Iterator<Item = &'a Block> + use<'a> {
        let num_strips = self.rows.div_ceil(STRIP_ROWS);
        let first_strip = part.tile / TILE_STRIPS * TILE_STRIPS;
        let tile_strips = TILE_STRIPS.min(num_strips - first_strip);
        let tile = &packed[first_strip * self.strip_bytes()..];
        let blocks: &[Block] = tile.as_chunks().0.as_chunks().0;
        let first_group = part.fields.start / BLOCK_FIELDS;
        let num_groups = part.fields.len().div_ceil(BLOCK_FIELDS);
        blocks[first_group * tile_strips + part.tile - first_strip..]
            .iter()
            .step_by(tile_strips)
            .take(num_groups)
    }
}

/// Up to 128 rows of a packed matrix.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub(super) blocks: &'a [Block],
    pub(super) first_row: usize,
    pub(super) num_rows: usize,
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
        let num_blocks = layout.cols.div_ceil(48);
        let num_strips = layout.rows.div_ceil(32);
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

    #[test]
    fn packing_by_parts_gives_the_same_bytes() {
        let layout = Layout::new(300, 33).unwrap();
        let trits: Vec<i8> = (0..300 * 33).map(|i| trit_at(i / 33, i % 33)).collect();
        let mut whole = vec![0; layout.packed_bytes()];
        layout.pack(0..300, &trits, &mut whole).unwrap();
        let mut parts = vec![0; layout.packed_bytes()];
        for rows in [256..300, 0..128, 128..256] {
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
        let layout = Layout::new(300, 1).unwrap();
        for rows in [0..300, 128..256, 256..300, 256..256, 0..0] {
            assert!(layout.holds(&rows), "{rows:?}");
        }
        #[allow(clippy::reversed_empty_ranges, reason = "refused, as it should be")]
        for rows in [1..128, 0..127, 0..32, 256..301, 256..128, 384..384] {
            assert!(!layout.holds(&rows), "{rows:?}");
        }
    }
}
