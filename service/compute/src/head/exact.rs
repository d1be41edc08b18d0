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
        widen(head, row, wide);
        for (position, hidden) in hidden.chunks_exact(head.cols()).enumerate() {
            columns.row(position)[i] = dot(hidden, wide);
        }
    }
}

/// One logit, as [`logits`] has it.
pub(super) fn logit(
    head: &DenseMatrix<'_>,
    row: usize,
    hidden: &[f32],
    wide: &mut Vec<f32>,
) -> f32 {
    if let Some(stored) = stored(head.format()) {
        return stored.dot(hidden, head.row(row));
    }
    wide.resize(head.cols(), 0.0);
    widen(head, row, wide);
    dot(hidden, wide)
}

/// Decodes a row, exactly; the common formats at full width.
pub(crate) fn widen(matrix: &DenseMatrix<'_>, row: usize, out: &mut [f32]) {
    match matrix.format() {
        DenseFormat::F16 => widen_f16(matrix.row(row), out),
        DenseFormat::BF16 => widen_bf16(matrix.row(row), out),
        DenseFormat::F32 | DenseFormat::Q8_0 | DenseFormat::Q6K => matrix.row_into(row, out),
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
