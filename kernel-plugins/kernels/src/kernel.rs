//! What every kernel is to its callers, whatever its packing.

use core::ffi::CStr;
use core::ops::Range;

use crate::layout::{Layout, Packing};
use crate::output::Output;

/// One implementation of a packing's product that this CPU can run.
pub trait Kernel: Copy + 'static {
    /// Alignment in bytes at which packed and prepared buffers are fastest.
    const ALIGNMENT: usize;

    /// What it reads.
    type Packing: Packing;
    /// Sizes and places of prepared activations.
    type Activations: Copy;

    /// The instruction set it uses: `avx2`.
    fn isa(self) -> &'static CStr;
    /// How well it expects to do against other kernels: more than 0.
    fn score(self) -> i32;

    /// None if there are none, or more than the kernel can prepare. The form
    /// may be another for another implementation, and for another batch.
    fn activations(self, cols: usize, batch: usize) -> Option<Self::Activations>;
    /// Bytes of the prepared activations.
    fn prepared_bytes(activations: Self::Activations) -> usize;
    /// Prepares row-major activations, one row a token.
    fn prepare(self, activations: Self::Activations, x: &[i8], prepared: &mut [u8]);

    /// Writes the integers of some rows' products, all of them and nothing
    /// else.
    ///
    /// # Panics
    ///
    /// If a buffer is not of its layout's size, if matrix and activations have
    /// different columns, if the rows aren't whole tiles of the matrix, or if
    /// the output's rows or tokens are others.
    fn multiply(
        self,
        weights: Weights<'_, Self>,
        activations: Self::Activations,
        prepared: &[u8],
        out: Output<'_>,
    );
}

/// Some rows of a packed matrix.
#[derive(Clone, Debug)]
pub struct Weights<'a, K: Kernel> {
    /// The matrix' layout.
    pub layout: Layout<K::Packing>,
    /// The whole packed matrix.
    pub packed: &'a [u8],
    /// The rows.
    pub rows: Range<usize>,
}
