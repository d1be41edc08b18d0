//! The output head: logits from the last hidden state.

use std::ops::Range;
use std::sync::Mutex;

use ternion_kernels::float::{dot, dot_bf16, dot_f16, dot_f32_bytes, widen_bf16, widen_f16};
use ternion_kernels::team::Team;
use ternion_model::{DenseFormat, DenseMatrix};

/// Vocabulary rows a worker takes at a time.
const CHUNK: usize = 512;

/// Splits the vocabulary into chunks.
pub(crate) fn chunks(vocab: usize) -> Vec<Range<usize>> {
    (0..vocab)
        .step_by(CHUNK)
        .map(|first| first..vocab.min(first + CHUNK))
        .collect()
}

/// `logits[i] = head · hidden[i]`, in f32 with the order of
/// [`ternion_kernels::float`]. `hidden` is `[n, cols]`, `logits` `[n, rows]`.
pub(crate) fn logits(
    head: &DenseMatrix<'_>,
    chunks: &[Range<usize>],
    hidden: &[f32],
    team: &Team,
    workers: &[Mutex<Vec<f32>>],
    logits: &mut [f32],
) {
    let one = hidden.len() == head.cols();
    team.columns(logits, head.rows(), chunks, |worker, _, mut columns| {
        let rows = columns.range();
        if let (true, Some(dot)) = (one, dot_of(head.format())) {
            // One position: no need to convert a row before it is used once.
            for (row, logit) in rows.zip(columns.row(0)) {
                *logit = dot(hidden, head.row(row));
            }
            return;
        }
        let mut scratch = workers[worker].lock().expect("a worker's own scratch");
        scratch.resize(head.cols(), 0.0);
        for (i, row) in rows.enumerate() {
            widen(head, row, &mut scratch);
            for (position, hidden) in hidden.chunks_exact(head.cols()).enumerate() {
                columns.row(position)[i] = dot(hidden, &scratch);
            }
        }
    });
}

/// Decodes a row, exactly; the common formats at full width.
pub(crate) fn widen(matrix: &DenseMatrix<'_>, row: usize, out: &mut [f32]) {
    match matrix.format() {
        DenseFormat::F16 => widen_f16(matrix.row(row), out),
        DenseFormat::BF16 => widen_bf16(matrix.row(row), out),
        DenseFormat::F32 | DenseFormat::Q8_0 | DenseFormat::Q6K => matrix.row_into(row, out),
    }
}

/// Activations and a stored row to their dot product.
type DotWithRow = fn(&[f32], &[u8]) -> f32;

/// The dot product that reads a stored row directly.
fn dot_of(format: DenseFormat) -> Option<DotWithRow> {
    match format {
        DenseFormat::F32 => Some(dot_f32_bytes),
        DenseFormat::F16 => Some(dot_f16),
        DenseFormat::BF16 => Some(dot_bf16),
        DenseFormat::Q8_0 | DenseFormat::Q6K => None,
    }
}
