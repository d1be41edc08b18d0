//! One matrix and one set of activations, computed both ways.

use std::convert::Infallible;
use std::ops::Range;
use std::thread;

use ternion_kernel_host::{Kernel, KernelError, PackError, PackedMatrix, Prepared};
use ternion_kernels::scalar;

use crate::mismatch::{Fault, Mismatch};
use crate::pattern::{Activations, Weights};

/// Elements between the results of two tokens, which must stay as they are.
const GAP: usize = 3;
/// What stands there. No sum of a test is so far from zero.
const UNTOUCHED: i32 = i32::MIN;

/// A matrix, tokens, and the results that are right.
pub(crate) struct Trial<'a> {
    kernel: &'a Kernel,
    matrix: PackedMatrix,
    activations: Vec<i8>,
    /// `expected[token * rows + row]`.
    expected: Vec<i32>,
    inputs: String,
}

impl<'a> Trial<'a> {
    pub(crate) fn new(
        kernel: &'a Kernel,
        rows: usize,
        cols: usize,
        batch: usize,
        weights: Weights,
        activations: Activations,
    ) -> Result<Trial<'a>, Mismatch> {
        let inputs = format!("{weights}, {activations}");
        let trits = weights.generate(rows * cols);
        let activations = activations.generate(batch * cols);
        let matrix = pack(kernel, rows, cols, &trits).map_err(|error| Mismatch {
            rows,
            cols,
            inputs: inputs.clone(),
            fault: error.into(),
        })?;
        let mut expected = vec![0; batch * rows];
        scalar::gemm(&trits, rows, cols, &activations, batch, &mut expected);
        Ok(Trial {
            kernel,
            matrix,
            activations,
            expected,
            inputs,
        })
    }

    /// Compares the first tokens, for each number of tokens: all rows in one
    /// call.
    pub(crate) fn run(&self, batches: &[usize]) -> Result<(), Mismatch> {
        let mut prepared = Prepared::default();
        for &batch in batches {
            self.prepare(batch, &mut prepared)
                .and_then(|()| self.check_rows(0..self.matrix.rows(), &prepared))
                .map_err(|fault| self.mismatch(batch, fault))?;
        }
        Ok(())
    }

    /// The same with every tile in a call of its own, on several threads that
    /// read one matrix and one set of activations, and then each its own, which
    /// they prepare side by side.
    pub(crate) fn run_on_threads(
        &self,
        batches: &[usize],
        num_threads: usize,
    ) -> Result<(), Mismatch> {
        let mut prepared = Prepared::default();
        for &batch in batches {
            self.prepare(batch, &mut prepared)
                .and_then(|()| self.check_tiles(&prepared, num_threads))
                .and_then(|()| self.check_side_by_side(batch, num_threads))
                .map_err(|fault| self.mismatch(batch, fault))?;
        }
        Ok(())
    }

    fn prepare(&self, batch: usize, prepared: &mut Prepared) -> Result<(), Fault> {
        let cols = self.matrix.cols();
        let activations = &self.activations[..batch * cols];
        Ok(self.kernel.prepare(cols, batch, activations, prepared)?)
    }

    fn check_tiles(&self, prepared: &Prepared, num_threads: usize) -> Result<(), Fault> {
        let rows = self.matrix.rows();
        let row_tile = self.kernel.row_tile();
        let check_share = |thread: usize| {
            (0..rows)
                .step_by(row_tile)
                .skip(thread)
                .step_by(num_threads)
                .try_for_each(|row| self.check_rows(row..rows.min(row + row_tile), prepared))
        };
        on_threads(num_threads, check_share)
    }

    fn check_side_by_side(&self, batch: usize, num_threads: usize) -> Result<(), Fault> {
        let rows = self.matrix.rows().min(self.kernel.row_tile());
        on_threads(num_threads, |_| {
            let mut prepared = Prepared::default();
            self.prepare(batch, &mut prepared)?;
            self.check_rows(0..rows, &prepared)
        })
    }

    fn check_rows(&self, rows: Range<usize>, prepared: &Prepared) -> Result<(), Fault> {
        let stride = rows.len() + GAP;
        let mut out = vec![UNTOUCHED; prepared.batch() * stride];
        self.kernel
            .gemm(&self.matrix, prepared, rows.clone(), &mut out, stride)?;
        let expected = self.expected.chunks_exact(self.matrix.rows());
        for (token, (out, expected)) in out.chunks_exact(stride).zip(expected).enumerate() {
            let (results, gap) = out.split_at(rows.len());
            let expected = &expected[rows.clone()];
            if let Some(i) = (0..rows.len()).find(|&i| results[i] != expected[i]) {
                return Err(Fault::Wrong {
                    row: rows.start + i,
                    token,
                    got: results[i],
                    want: expected[i],
                });
            }
            if let Some(beyond) = gap.iter().position(|&value| value != UNTOUCHED) {
                return Err(Fault::Strayed { token, beyond });
            }
        }
        Ok(())
    }

    fn mismatch(&self, batch: usize, fault: Fault) -> Mismatch {
        Mismatch {
            rows: self.matrix.rows(),
            cols: self.matrix.cols(),
            inputs: format!("batch {batch}, {}", self.inputs),
            fault,
        }
    }
}

/// A kernel that takes any byte for a weight hides a broken model file.
pub(crate) fn refuses_what_is_not_a_trit(
    kernel: &Kernel,
    rows: usize,
    cols: usize,
) -> Result<(), Mismatch> {
    for bad in [2, -2, 127, -128] {
        let mut trits = vec![0; rows * cols];
        trits[rows * cols - 1] = bad;
        if pack(kernel, rows, cols, &trits).is_ok() {
            return Err(Mismatch {
                rows,
                cols,
                inputs: "one bad weight".into(),
                fault: Fault::AcceptedWeight(bad),
            });
        }
    }
    Ok(())
}

fn pack(
    kernel: &Kernel,
    rows: usize,
    cols: usize,
    trits: &[i8],
) -> Result<PackedMatrix, KernelError> {
    let packed = kernel.pack(rows, cols, |range, out| {
        out.copy_from_slice(&trits[range.start * cols..range.end * cols]);
        Ok::<(), Infallible>(())
    });
    packed.map_err(|error| match error {
        PackError::Kernel(error) => error,
        PackError::Fill(never) => match never {},
    })
}

/// Runs a check of each thread's share on as many threads.
fn on_threads(
    num_threads: usize,
    check: impl Fn(usize) -> Result<(), Fault> + Sync,
) -> Result<(), Fault> {
    thread::scope(|scope| {
        let check = &check;
        let threads: Vec<_> = (0..num_threads)
            .map(|thread| scope.spawn(move || check(thread)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("a comparison doesn't panic"))
    })
}
