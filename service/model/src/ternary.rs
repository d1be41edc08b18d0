//! Ternary matrices, in the layouts files have them, decoded to one trit per byte.
//!
//! Both packed layouts store `trit + 1` in two bits. They share nothing else:
//!
//! ```text
//! RowQuarters   (safetensors)   byte (r, c), bits 2i..2i+1   ->  row i*ceil(M/4) + r, column c
//! I2S           (GGUF)          byte 32b + j, bits 6-2i..7-2i -> flat element 128b + 32i + j
//! ```
//!
//! I2S counts through the whole matrix without regard to rows, so where the number of columns is
//! not a multiple of 128 a block belongs to two or more rows.

use std::ops::Range;

use crate::{ModelError, dense::DenseFormat};

/// A weight matrix of -1, 0 and +1 with one multiplier: `y = trits . x * scale`.
#[derive(Clone, Copy, Debug)]
pub struct TernaryMatrix<'a> {
    pub(crate) name: &'a str,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) scale: f32,
    pub(crate) packing: Packing<'a>,
    /// Where `packing`'s bytes start in their file, for error messages.
    pub(crate) file_offset: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Packing<'a> {
    RowQuarters(&'a [u8]),
    I2S(&'a [u8]),
    /// Float weights; the trit of `w` is `w * inverse` rounded to even and clamped. With `exact`
    /// the weights are ternary already, and one that is not is an error.
    Floats {
        format: DenseFormat,
        inverse: f32,
        exact: bool,
        bytes: &'a [u8],
    },
}

impl TernaryMatrix<'_> {
    /// The tensor's name in its file.
    pub fn name(&self) -> &str {
        self.name
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The multiplier of the whole matrix: finite and above zero.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Writes rows `rows` to `out`, row after row, one trit per element.
    ///
    /// # Errors
    ///
    /// [`ModelError::NotATrit`] if the file holds the one code of four that has no meaning.
    ///
    /// # Panics
    ///
    /// If the range is not within the matrix or `out` does not fit it exactly.
    pub fn trits_into(&self, rows: Range<usize>, out: &mut [i8]) -> Result<(), ModelError> {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows,
            "rows {rows:?} of {}",
            self.rows
        );
        assert_eq!(out.len(), rows.len() * self.cols, "room for rows {rows:?}");
        let wrong = match self.packing {
            Packing::RowQuarters(bytes) => self.unpack_quarters(bytes, rows, out),
            Packing::I2S(bytes) => unpack_i2s(bytes, rows.start * self.cols, out),
            Packing::Floats {
                format,
                inverse,
                exact,
                bytes,
            } => self.ternarise(format, inverse, exact, bytes, rows, out),
        };
        match wrong {
            None => Ok(()),
            Some(offset) => Err(ModelError::NotATrit {
                tensor: self.name.to_owned(),
                offset: self.file_offset + offset,
            }),
        }
    }

    /// Returns the offset of a byte with a meaningless code, as do the other decoders.
    fn unpack_quarters(&self, bytes: &[u8], rows: Range<usize>, out: &mut [i8]) -> Option<usize> {
        let quarter = self.rows.div_ceil(4);
        for (row, out) in rows.zip(out.chunks_exact_mut(self.cols)) {
            let start = row % quarter * self.cols;
            let packed = &bytes[start..start + self.cols];
            // A shift that the compiler knows is the difference between 16 weights at a time and one.
            let wrong = match row / quarter {
                0 => unpack_quarter::<0>(packed, out),
                1 => unpack_quarter::<2>(packed, out),
                2 => unpack_quarter::<4>(packed, out),
                _ => unpack_quarter::<6>(packed, out),
            };
            if wrong != 0 {
                let shift = 2 * (row / quarter);
                let at = packed.iter().position(|byte| byte >> shift & 3 == 3);
                return at.map(|at| start + at);
            }
        }
        None
    }

    fn ternarise(
        &self,
        format: DenseFormat,
        inverse: f32,
        exact: bool,
        bytes: &[u8],
        rows: Range<usize>,
        out: &mut [i8],
    ) -> Option<usize> {
        let row_bytes = bytes.len() / self.rows;
        let mut weights = vec![0.0; self.cols];
        for (row, out) in rows.zip(out.chunks_exact_mut(self.cols)) {
            format.decode(&bytes[row * row_bytes..(row + 1) * row_bytes], &mut weights);
            for (out, &w) in out.iter_mut().zip(&weights) {
                *out = trit(w, inverse);
            }
            if exact {
                let is_trit = |w: &f32| *w == f32::from(trit(*w, inverse));
                if let Some(col) = weights.iter().position(|w| !is_trit(w)) {
                    return Some(row * row_bytes + col * row_bytes / self.cols);
                }
            }
        }
        None
    }
}

/// The absmean rule. A float cast saturates, so this is total even for what is not a number.
fn trit(weight: f32, inverse: f32) -> i8 {
    (weight * inverse).round_ties_even().clamp(-1.0, 1.0) as i8
}

/// Returns other than zero if a code has no meaning.
fn unpack_quarter<const SHIFT: u8>(packed: &[u8], out: &mut [i8]) -> u8 {
    let mut wrong = 0;
    for (out, &byte) in out.iter_mut().zip(packed) {
        let code = byte >> SHIFT & 3;
        wrong |= code & (code >> 1);
        *out = code.cast_signed() - 1;
    }
    wrong
}

const I2S_BLOCK: usize = 128;
const I2S_BLOCK_BYTES: usize = I2S_BLOCK / 4;

/// `first` is the flat place of the first element wanted.
fn unpack_i2s(bytes: &[u8], first: usize, mut out: &mut [i8]) -> Option<usize> {
    let (blocks, _) = bytes.as_chunks::<I2S_BLOCK_BYTES>();
    let mut block = first / I2S_BLOCK;
    let skipped = first % I2S_BLOCK;
    // What is wrong is looked for at the end: looking at every block would take as long as the rest.
    let mut wrong = 0;
    let mut cut = |block: usize, skipped: usize, out: &mut [i8]| {
        let mut trits = [0; I2S_BLOCK];
        wrong |= unpack_i2s_block(&blocks[block], &mut trits);
        out.copy_from_slice(&trits[skipped..skipped + out.len()]);
    };
    let begun = block;
    if skipped > 0 {
        let n = (I2S_BLOCK - skipped).min(out.len());
        cut(
            block,
            skipped,
            out.split_off_mut(..n).expect("no longer than `out`"),
        );
        block += 1;
    }
    let (whole, rest) = out.as_chunks_mut::<I2S_BLOCK>();
    if !rest.is_empty() {
        cut(block + whole.len(), 0, rest);
    }
    let ended = block + whole.len() + usize::from(!rest.is_empty());
    for (packed, trits) in blocks[block..].iter().zip(whole) {
        wrong |= unpack_i2s_block(packed, trits);
    }
    if wrong == 0 {
        return None;
    }
    let seen = blocks[begun..ended].as_flattened();
    let at = seen.iter().position(|byte| byte & (byte >> 1) & 0x55 != 0);
    at.map(|at| begun * I2S_BLOCK_BYTES + at)
}

/// Returns other than zero if a code has no meaning.
fn unpack_i2s_block(packed: &[u8; I2S_BLOCK_BYTES], trits: &mut [i8; I2S_BLOCK]) -> u8 {
    let (quarters, _) = trits.as_chunks_mut::<I2S_BLOCK_BYTES>();
    for (i, quarter) in quarters.iter_mut().enumerate() {
        for (trit, byte) in quarter.iter_mut().zip(packed) {
            *trit = (byte >> (6 - 2 * i) & 3).cast_signed() - 1;
        }
    }
    packed
        .iter()
        .fold(0, |wrong, byte| wrong | byte & (byte >> 1) & 0x55)
}

#[cfg(test)]
mod tests;
