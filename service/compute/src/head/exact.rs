//! The head as it is stored, in f32 with the order of
//! [`ternion_kernels::float`].

use std::ops::Range;

use ternion_kernels::float::{dot, widen_bf16, widen_f16};
use ternion_kernels::head::{Stored, dense_product};
use ternion_kernels::team::Columns;

use super::{DenseFormat, DenseMatrix, Workers};

/// `logits[i] = head · hidden[i]`. `hidden` is `[n, cols]`, `logits`
/// `[n, rows]`.
pub(super) fn logits(
    head: &DenseMatrix<'_>,
    hidden: &[f32],
    workers: &Workers<'_>,
    logits: &mut [f32],
) {
    if hidden.is_empty() {
        return;
    }
    workers.columns(logits, head.rows(), |worker, mut columns| {
        let rows = columns.range();
        match stored(head.format()) {
            Some(stored) => {
                let row_bytes = stored.bytes() * head.cols();
                let bytes = &head.bytes()[rows.start * row_bytes..rows.end * row_bytes];
                dense_product(
                    stored,
                    bytes,
                    hidden,
                    head.cols(),
                    &mut |row, position, sum| {
                        columns.row(position)[row] = sum;
                    },
                );
            }
            None => blocks(head, rows, hidden, &mut worker.wide, &mut columns),
        }
    });
}

/// Formats in blocks: a row is decoded once for all positions.
fn blocks(
    head: &DenseMatrix<'_>,
    rows: Range<usize>,
    hidden: &[f32],
    wide: &mut Vec<f32>,
    columns: &mut Columns<'_, f32>,
) {
    wide.resize(head.cols(), 0.0);
    for (i, row) in rows.enumerate() {
        widen_row(head, head.row(row), wide);
        for (position, hidden) in hidden.chunks_exact(head.cols()).enumerate() {
            columns.row(position)[i] = dot(hidden, wide);
        }
    }
}

/// Memory for one row.
#[derive(Default)]
pub(crate) struct Row {
    /// As it is stored.
    bytes: Vec<u8>,
    wide: Vec<f32>,
}

/// One logit, as [`logits`] has it.
pub(super) fn logit(head: &DenseMatrix<'_>, row: usize, hidden: &[f32], memory: &mut Row) -> f32 {
    let bytes = head.read_row(row, &mut memory.bytes);
    if let Some(stored) = stored(head.format()) {
        return stored.dot(hidden, bytes);
    }
    memory.wide.resize(head.cols(), 0.0);
    widen_row(head, bytes, &mut memory.wide);
    dot(hidden, &memory.wide)
}

/// Reads and decodes a row, exactly.
pub(crate) fn read(matrix: &DenseMatrix<'_>, row: usize, memory: &mut Row, out: &mut [f32]) {
    widen_row(matrix, matrix.read_row(row, &mut memory.bytes), out);
}

/// The common formats at full width.
fn widen_row(matrix: &DenseMatrix<'_>, bytes: &[u8], out: &mut [f32]) {
    match matrix.format() {
        DenseFormat::F16 => widen_f16(bytes, out),
        DenseFormat::BF16 => widen_bf16(bytes, out),
        DenseFormat::F32 | DenseFormat::Q8_0 | DenseFormat::Q6K => matrix.decode_row(bytes, out),
    }
}

fn stored(format: DenseFormat) -> Option<Stored> {
    match format {
        DenseFormat::F32 => Some(Stored::F32),
        DenseFormat::F16 => Some(Stored::F16),
        DenseFormat::BF16 => Some(Stored::Bf16),
        DenseFormat::Q8_0 | DenseFormat::Q6K => None,
    }
}
