//! What every kernel is to its callers, whatever its packing.

use core::ffi::CStr;
use core::ops::Range;

use crate::output::Output;
use crate::trits::NotATrit;

/// A packing of ternary matrices, and one implementation of its product that
/// this CPU can run.
pub trait Kernel: Copy + 'static {
    /// Row ranges begin at multiples of this, and end at one or with the
    /// matrix.
    const ROW_TILE: usize;
    /// Alignment in bytes at which packed and prepared buffers are fastest.
    const ALIGNMENT: usize;

    /// Sizes and places of a packed matrix of one shape.
    type Layout: Copy;
    /// Sizes and places of prepared activations.
    type Activations: Copy;

    /// The instruction set it uses: `avx2`.
    fn isa(self) -> &'static CStr;
    /// How well it expects to do against other kernels: more than 0.
    fn score(self) -> i32;

    /// None if there is no such matrix, or none that the kernel can multiply.
    fn layout(rows: usize, cols: usize) -> Option<Self::Layout>;
    /// Bytes of the packed matrix.
    fn packed_bytes(layout: Self::Layout) -> usize;
    /// Where in the packed matrix these rows lie; None if they are not whole
    /// tiles of it. Ranges that don't overlap lie in bytes that don't.
    fn bytes_of(layout: Self::Layout, rows: &Range<usize>) -> Option<Range<usize>>;
    /// Packs some rows: `trits` holds them row-major, `packed` is their part
    /// of the packed matrix, as long as `bytes_of` says.
    fn pack(
        layout: Self::Layout,
        rows: Range<usize>,
        trits: &[i8],
        packed: &mut [u8],
    ) -> Result<(), NotATrit>;

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
    pub layout: K::Layout,
    /// The whole packed matrix.
    pub packed: &'a [u8],
    /// The rows.
    pub rows: Range<usize>,
}
