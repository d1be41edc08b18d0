use std::ops::Range;

use half::{bf16, f16};

use crate::mapped::FileBytes;

/// How the numbers of a matrix that is not ternary are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenseFormat {
    F32,
    F16,
    BF16,
    /// Blocks of 32: an f16 scale, then 32 signed bytes.
    Q8_0,
    /// Super-blocks of 256: 6-bit values in two bit planes, 16 signed byte scales, an f16 scale.
    Q6K,
}

impl DenseFormat {
    /// Elements and bytes of the smallest unit the format can store.
    pub const fn block(self) -> (usize, usize) {
        match self {
            DenseFormat::F32 => (1, 4),
            DenseFormat::F16 | DenseFormat::BF16 => (1, 2),
            DenseFormat::Q8_0 => (32, 34),
            DenseFormat::Q6K => (256, 210),
        }
    }

    /// Bytes of a row, or `None` if `cols` is not a whole number of blocks or overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        let (elements, bytes) = self.block();
        if !cols.is_multiple_of(elements) {
            return None;
        }
        (cols / elements).checked_mul(bytes)
    }

    /// Decodes whole blocks: `out` must be as long as `bytes` say.
    pub(crate) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        let (elements, block_bytes) = self.block();
        assert_eq!(bytes.len() / block_bytes, out.len() / elements);
        let blocks = bytes.chunks_exact(block_bytes);
        match self {
            DenseFormat::F32 => {
                for (out, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *out = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            DenseFormat::F16 => {
                for (out, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *out = f16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
            DenseFormat::BF16 => {
                for (out, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *out = bf16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
            DenseFormat::Q8_0 => out
                .chunks_exact_mut(elements)
                .zip(blocks)
                .for_each(q8_0_block),
            DenseFormat::Q6K => out
                .chunks_exact_mut(elements)
                .zip(blocks)
                .for_each(q6k_block),
        }
    }
}

fn q8_0_block((out, block): (&mut [f32], &[u8])) {
    let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
    for (out, &q) in out.iter_mut().zip(&block[2..]) {
        *out = d * f32::from(q.cast_signed());
    }
}

/// ```text
/// byte   0        128       192          208
///        ql[128]  qh[64]    scales[16]   d
/// ```
/// Element `128h + 32p + l` takes its low four bits from `ql[64h + 32(p mod 2) + l]` (the low
/// nibble for p < 2, else the high one) and its upper two from bits 2p of `qh[32h + l]`.
fn q6k_block((out, block): (&mut [f32], &[u8])) {
    let (ql, rest) = block.split_at(128);
    let (qh, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = f16::from_le_bytes([d[0], d[1]]).to_f32();
    for (e, out) in out.iter_mut().enumerate() {
        let (h, p, l) = (e / 128, e / 32 % 4, e % 32);
        let low = ql[64 * h + 32 * (p % 2) + l] >> (4 * (p / 2)) & 15;
        let high = qh[32 * h + l] >> (2 * p) & 3;
        let q = (low | high << 4).cast_signed() - 32;
        *out = d * f32::from(scales[e / 16].cast_signed()) * f32::from(q);
    }
}

/// A matrix that is not ternary: the embedding, the head.
#[derive(Clone, Copy, Debug)]
pub struct DenseMatrix<'a> {
    rows: usize,
    cols: usize,
    format: DenseFormat,
    row_bytes: usize,
    bytes: &'a [u8],
    /// The file that the bytes are of, and where they begin in it.
    file: Option<(&'a FileBytes, usize)>,
}

impl<'a> DenseMatrix<'a> {
    /// `None` if `bytes` is not exactly `rows` rows of `cols` elements.
    pub fn new(
        rows: usize,
        cols: usize,
        format: DenseFormat,
        bytes: &'a [u8],
    ) -> Option<DenseMatrix<'a>> {
        let row_bytes = format.row_bytes(cols)?;
        (row_bytes.checked_mul(rows)? == bytes.len()).then_some(DenseMatrix {
            rows,
            cols,
            format,
            row_bytes,
            bytes,
            file: None,
        })
    }

    /// Likewise, of the bytes of a file.
    pub(crate) fn in_file(
        rows: usize,
        cols: usize,
        format: DenseFormat,
        file: &'a FileBytes,
        range: Range<usize>,
    ) -> Option<DenseMatrix<'a>> {
        let matrix = DenseMatrix::new(rows, cols, format, &file[range.clone()])?;
        Some(DenseMatrix {
            file: Some((file, range.start)),
            ..matrix
        })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    pub fn format(&self) -> DenseFormat {
        self.format
    }

    /// The stored bytes, row after row. Not aligned for anything wider than a byte.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The stored bytes of row `row`.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &'a [u8] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }

    /// The same, read to `memory` if they are a mapped file's, whose pages then don't become part of this process's
    /// memory: for who looks at few rows of a large matrix, or once at all.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub fn read_row<'b>(&self, row: usize, memory: &'b mut Vec<u8>) -> &'b [u8]
    where
        'a: 'b,
    {
        let stored = self.row(row);
        let Some((file, start)) = self.file else {
            return stored;
        };
        memory.resize(stored.len(), 0);
        let first = start + row * self.row_bytes;
        file.read_into(first..first + stored.len(), memory);
        memory
    }

    /// Decodes a row that has been read.
    ///
    /// # Panics
    ///
    /// If `stored` or `out` is not one row long.
    pub fn decode_row(&self, stored: &[u8], out: &mut [f32]) {
        assert_eq!(stored.len(), self.row_bytes, "bytes of a row");
        assert_eq!(out.len(), self.cols, "a row has {} columns", self.cols);
        self.format.decode(stored, out);
    }

    /// Decodes row `row`.
    ///
    /// # Panics
    ///
    /// If there is no such row or `out` is not one row long.
    pub fn row_into(&self, row: usize, out: &mut [f32]) {
        self.decode_row(self.row(row), out);
    }
}

#[cfg(test)]
mod tests;
