//! One token's activations for a kernel that makes its tables itself: a quarter
//! of the tables' bytes. What one thread prepares the others fetch from its
//! cache, and the product of a single token is over too soon for 27 KiB of
//! that.
//!
//! First an `i32`, minus the sum of the activations: tables are made with
//! weights plus one, so a kernel begins at this number. Then eight bytes for
//! every code of a block's row: the first two activations, twice, and the
//! third twice, each beside a byte that may hold anything.

use super::code::{NUM_CODES, PANEL_CODES};
use super::layout::{BLOCK_CODES, BLOCK_COLS, FIRST_COLUMNS, VECTOR};
use crate::panel::MAX_COLS;

/// Numbers from such tables whose sum is inside 16 bits whatever they are:
/// three products of a weight plus one are at most 3 * 2 * 128 in magnitude.
pub(super) const MAX_SUMMED: usize = i16::MAX as usize / (3 * 2 * 128);

/// The activations of a code.
pub(super) type CodeFactors = [[u8; 4]; 2];
/// Those of a block's row.
pub(super) type BlockFactors = [CodeFactors; BLOCK_CODES];

/// The offset takes a cache line, so that what follows begins with one.
const OFFSET_BYTES: usize = 64;

/// Sizes and places of a token's factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factors {
    cols: usize,
}

impl Factors {
    /// None if there are none, or if there are more than [`MAX_COLS`] columns.
    pub(super) fn new(cols: usize) -> Option<Factors> {
        (1..=MAX_COLS).contains(&cols).then_some(Factors { cols })
    }

    pub(super) fn cols(self) -> usize {
        self.cols
    }

    pub(super) fn prepared_bytes(self) -> usize {
        OFFSET_BYTES + self.cols.div_ceil(BLOCK_COLS) * size_of::<BlockFactors>()
    }

    /// Prepares a token. `spread` writes the factors of a block's columns, in
    /// the order that [`SPREAD`] gives.
    #[inline(always)]
    pub(super) fn prepare(
        self,
        x: &[i8],
        prepared: &mut [u8],
        mut spread: impl FnMut(&[i8; BLOCK_COLS], &mut [[u8; VECTOR]; 2]),
    ) {
        let (offset, factors) = prepared.split_at_mut(OFFSET_BYTES);
        let total: i32 = x.iter().map(|&x| i32::from(x)).sum();
        offset[..4].copy_from_slice(&(-total).to_ne_bytes());
        let (factors, _) = factors.as_chunks_mut().0.as_chunks_mut();
        let (whole, rest) = x.as_chunks::<BLOCK_COLS>();
        let mut last = [0; BLOCK_COLS];
        last[..rest.len()].copy_from_slice(rest);
        for (factors, x) in factors.iter_mut().zip(whole.iter().chain([&last])) {
            spread(x, factors);
        }
    }

    /// What a kernel begins at.
    pub(super) fn offset(self, prepared: &[u8]) -> i32 {
        i32::from_ne_bytes(prepared.as_chunks().0[0])
    }

    /// The factors, block after block.
    pub(super) fn of(self, prepared: &[u8]) -> &[BlockFactors] {
        let (words, _) = prepared[OFFSET_BYTES..].as_chunks();
        words.as_chunks().0.as_chunks().0
    }
}

/// The column, within a block, of every byte of its factors.
pub(super) const SPREAD: [[u8; VECTOR]; 2] = {
    let mut spread = [[0; VECTOR]; 2];
    let mut code = 0;
    while code < BLOCK_CODES {
        let first = FIRST_COLUMNS[code] as u8;
        let of_code = [
            first,
            first + 4,
            first,
            first + 4,
            first + 8,
            0,
            first + 8,
            0,
        ];
        let mut byte = 0;
        while byte < of_code.len() {
            let at = of_code.len() * code + byte;
            spread[at / VECTOR][at % VECTOR] = of_code[byte];
            byte += 1;
        }
        code += 1;
    }
    spread
};

/// Two bytes for every code: what the first two activations are multiplied
/// with, and the third and the byte beside it.
pub(super) const WEIGHTS: [[u8; 2 * NUM_CODES]; 2] = {
    let mut weights = [[0; 2 * NUM_CODES]; 2];
    let mut code = 0;
    while code < NUM_CODES {
        weights[0][2 * code] = PANEL_CODES[0][code];
        weights[0][2 * code + 1] = PANEL_CODES[1][code];
        weights[1][2 * code] = PANEL_CODES[2][code];
        code += 1;
    }
    weights
};

#[cfg(test)]
mod tests {
    use super::super::code::trits_of;
    use super::*;

    #[test]
    fn sums_of_the_largest_numbers_fit() {
        assert_eq!(MAX_SUMMED, 42);
        assert!(42 * 768 <= i32::from(i16::MAX) && 43 * 768 > i32::from(i16::MAX));
    }

    /// What `vpmaddubsw` and an addition make of a code's factors.
    fn number(factors: &CodeFactors, code: usize) -> i32 {
        let product = |half: usize, byte: usize| {
            i32::from(WEIGHTS[half][2 * code + byte]) * i32::from(factors[half][byte] as i8)
        };
        product(0, 0) + product(0, 1) + product(1, 0) + product(1, 1)
    }

    #[test]
    fn numbers_are_the_sums_of_their_codes_and_the_activations() {
        for cols in [1, 48, 100] {
            let x: Vec<i8> = (0..cols).map(|i| (i * 37 + 128) as i8).collect();
            let layout = Factors::new(cols).unwrap();
            let mut prepared = vec![0xff; layout.prepared_bytes()];
            layout.prepare(&x, &mut prepared, |x, factors| {
                for (byte, column) in factors
                    .as_flattened_mut()
                    .iter_mut()
                    .zip(SPREAD.as_flattened())
                {
                    *byte = x[usize::from(*column)] as u8;
                }
            });
            let sum: i32 = x.iter().map(|&x| i32::from(x)).sum();
            assert_eq!(layout.offset(&prepared), -sum);
            assert_eq!(layout.of(&prepared).len(), cols.div_ceil(48));
            for (group, factors) in layout.of(&prepared).iter().enumerate() {
                for (factors, first) in factors.iter().zip(FIRST_COLUMNS) {
                    let [first_two, third] = factors;
                    assert_eq!(first_two[..2], first_two[2..]);
                    assert_eq!(third[0], third[2]);
                    for code in 0..NUM_CODES {
                        let weights = trits_of(code as u8);
                        let want: i32 = (0..3)
                            .map(|nth| (48 * group + first + 4 * nth, weights[nth]))
                            .filter(|&(col, _)| col < cols)
                            .map(|(col, w)| i32::from(x[col]) * (i32::from(w) + 1))
                            .sum();
                        assert_eq!(number(factors, code), want);
                    }
                }
            }
        }
    }

    #[test]
    fn sizes_beyond_what_is_supported_are_refused() {
        assert_eq!(Factors::new(0), None);
        assert_eq!(Factors::new(MAX_COLS + 1), None);
        assert!(Factors::new(MAX_COLS).is_some());
    }
}
