//! Sums to look up.
//!
//! For every code of a block's row, and so for three of a token's activations,
//! a table of sixteen 16-bit numbers: what the three weights of each code make
//! of them. Codes with a sign have the same numbers, negated. Three products
//! are at most 3 * 128 in magnitude, so the numbers are exact, and 85 of them
//! add up in 16 bits.
//!
//! The sixteen tables of 48 columns lie together, half a KiB, and after those
//! of one token come the same columns' of the next. So those of 2560 columns
//! take 27 KiB, and stay in the first-level cache beside the weights that pass
//! through it.

use super::code::{self, NUM_MAGNITUDES};
use super::layout::{BLOCK_CODES, BLOCK_COLS, FIRST_COLUMNS};
use crate::panel::MAX_COLS;

/// Numbers from tables whose sum is inside 16 bits whatever they are.
#[cfg(any(target_arch = "x86_64", test))]
pub(super) const MAX_SUMMED: usize = i16::MAX as usize / (3 * 128);

/// What the magnitudes of a code find.
pub(super) type Table = [[u8; 2]; NUM_MAGNITUDES];
/// Tables of a token for all codes of a block's row.
pub(super) type BlockTables = [Table; BLOCK_CODES];

/// Sizes and places of some tokens' tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    cols: usize,
    batch: usize,
}

impl Tables {
    /// None if there are none, if there are more than [`MAX_COLS`] columns, or
    /// if they would not fit into an address space.
    pub(super) fn new(cols: usize, batch: usize) -> Option<Tables> {
        if cols == 0 || cols > MAX_COLS || batch == 0 {
            return None;
        }
        let tables = Tables { cols, batch };
        (tables.num_groups() * size_of::<BlockTables>())
            .checked_mul(batch)
            .filter(|&bytes| bytes <= isize::MAX as usize)
            .map(|_| tables)
    }

    pub(super) fn cols(self) -> usize {
        self.cols
    }

    pub(super) fn batch(self) -> usize {
        self.batch
    }

    pub(super) fn prepared_bytes(self) -> usize {
        self.num_groups() * self.batch * size_of::<BlockTables>()
    }

    /// The tables of all tokens, block after block.
    pub(super) fn of(self, prepared: &[u8]) -> &[BlockTables] {
        let (entries, _) = prepared.as_chunks();
        let (tables, _) = entries.as_chunks();
        tables.as_chunks().0
    }

    /// Computes the tables of row-major activations, one row a token. Inlined,
    /// so that callers compile it for the instructions they have.
    #[inline(always)]
    pub(super) fn fill(self, activations: &[i8], prepared: &mut [u8]) {
        let (entries, _) = prepared.as_chunks_mut();
        let (tables, _) = entries.as_chunks_mut();
        let (tables, _) = tables.as_chunks_mut::<BLOCK_CODES>();
        for (token, x) in activations.chunks_exact(self.cols).enumerate() {
            let tables = tables[token..].iter_mut().step_by(self.batch);
            let (whole, rest) = x.as_chunks::<BLOCK_COLS>();
            let mut last = [0; BLOCK_COLS];
            last[..rest.len()].copy_from_slice(rest);
            for (tables, x) in tables.zip(whole.iter().chain([&last])) {
                fill_block(x, tables);
            }
        }
    }

    fn num_groups(self) -> usize {
        self.cols.div_ceil(BLOCK_COLS)
    }
}

/// The weights of codes without a sign: `[nth][code]`.
const TRITS: [[i16; NUM_MAGNITUDES]; 3] = {
    let mut trits = [[0; NUM_MAGNITUDES]; 3];
    let mut code = 0;
    while code < NUM_MAGNITUDES {
        let mut nth = 0;
        while nth < 3 {
            trits[nth][code] = code::trits_of(code as u8)[nth] as i16;
            nth += 1;
        }
        code += 1;
    }
    trits
};

/// What a code finds in its table.
#[inline]
pub(super) fn number(table: &Table, code: u8) -> i16 {
    let number = i16::from_ne_bytes(table[usize::from(code % code::SIGN)]);
    if code & code::SIGN == 0 {
        number
    } else {
        -number
    }
}

#[inline(always)]
fn fill_block(x: &[i8; BLOCK_COLS], tables: &mut BlockTables) {
    for (table, first) in tables.iter_mut().zip(FIRST_COLUMNS) {
        let [x, y, z] = [0, 4, 8].map(|nth| i16::from(x[first + nth]));
        for (code, entry) in table.iter_mut().enumerate() {
            let sum = TRITS[0][code] * x + TRITS[1][code] * y + TRITS[2][code] * z;
            *entry = sum.to_ne_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_the_largest_numbers_fit() {
        assert_eq!(MAX_SUMMED, 85);
        assert!(85 * 3 * -128 >= i32::from(i16::MIN) && 86 * 3 * 128 > i32::from(i16::MAX));
    }

    #[test]
    fn entries_are_the_sums_of_their_codes() {
        for (cols, batch) in [(1, 1), (48, 2), (100, 3)] {
            let x: Vec<i8> = (0..cols * batch).map(|i| (i * 37 + 128) as i8).collect();
            let layout = Tables::new(cols, batch).unwrap();
            let mut prepared = vec![0xff; layout.prepared_bytes()];
            layout.fill(&x, &mut prepared);
            let tables = layout.of(&prepared);
            assert_eq!(tables.len(), cols.div_ceil(48) * batch);
            for (i, tables) in tables.iter().enumerate() {
                let (group, token) = (i / batch, i % batch);
                for (table, first) in tables.iter().zip(FIRST_COLUMNS) {
                    for code in (0..14).chain(16..30) {
                        let weights = code::trits_of(code);
                        let want: i32 = (0..3)
                            .map(|nth| (48 * group + first + 4 * nth, weights[nth]))
                            .filter(|&(col, _)| col < cols)
                            .map(|(col, w)| i32::from(x[token * cols + col]) * i32::from(w))
                            .sum();
                        assert_eq!(i32::from(number(table, code)), want);
                    }
                }
            }
        }
    }

    #[test]
    fn sizes_beyond_memory_are_refused() {
        assert_eq!(Tables::new(0, 1), None);
        assert_eq!(Tables::new(1, 0), None);
        assert_eq!(Tables::new(MAX_COLS + 1, 1), None);
        assert_eq!(Tables::new(1, usize::MAX), None);
        assert_eq!(Tables::new(MAX_COLS, usize::MAX / MAX_COLS / 16), None);
    }
}
