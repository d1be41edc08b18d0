//! A ternary matrix in a plugin's own layout.

use std::ops::Range;

use crate::buffer::Buffer;
use crate::kernel::{Kernel, KernelError};

/// Trits of a matrix that wait for packing at a time. Large enough that the
/// calls don't count, small enough to stay in the cache between the reader and
/// the plugin.
const SCRATCH_TRITS: usize = 1 << 19;

/// A ternary matrix, packed by a kernel and of use to that kernel only.
#[derive(Debug)]
pub struct PackedMatrix {
    rows: usize,
    cols: usize,
    buffer: Buffer,
    kernel: Kernel,
}

/// Why a matrix wasn't packed: the plugin's reason, or the reader's.
#[derive(Debug, thiserror::Error)]
pub enum PackError<E> {
    /// From the kernel.
    #[error(transparent)]
    Kernel(KernelError),
    /// From the callback that reads the weights.
    #[error(transparent)]
    Fill(E),
}

impl Kernel {
    /// Packs a matrix. `fill` is given ranges of rows, in order, to write
    /// their trits to, row-major; several matrices may be packed at once from
    /// several threads.
    pub fn pack<E>(
        &self,
        rows: usize,
        cols: usize,
        mut fill: impl FnMut(Range<usize>, &mut [i8]) -> Result<(), E>,
    ) -> Result<PackedMatrix, PackError<E>> {
        let mut matrix = self.allocate(rows, cols).map_err(PackError::Kernel)?;
        let tile_trits = self.row_tile().saturating_mul(cols);
        let tiles = (SCRATCH_TRITS / tile_trits).max(1);
        let rows_at_once = (tiles * self.row_tile()).min(rows);
        let mut scratch = vec![0; rows_at_once * cols];
        for first_row in (0..rows).step_by(rows_at_once) {
            let range = first_row..rows.min(first_row + rows_at_once);
            let trits = &mut scratch[..range.len() * cols];
            fill(range.clone(), trits).map_err(PackError::Fill)?;
            matrix.pack_rows(range, trits).map_err(PackError::Kernel)?;
        }
        Ok(matrix)
    }

    fn allocate(&self, rows: usize, cols: usize) -> Result<PackedMatrix, KernelError> {
        let bytes = self.packed_bytes(rows, cols)?;
        let what = "packed weights";
        let buffer = Buffer::zeroed(bytes, self.alignment())
            .ok_or(KernelError::OutOfMemory { what, bytes })?;
        Ok(PackedMatrix {
            rows,
            cols,
            buffer,
            kernel: self.clone(),
        })
    }
}

impl PackedMatrix {
    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The kernel that packed it.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The same in other memory: what a benchmark needs that is to read
    /// weights from beyond the caches.
    pub fn try_clone(&self) -> Result<PackedMatrix, KernelError> {
        let mut copy = self.kernel.allocate(self.rows, self.cols)?;
        copy.buffer.copy_from(&self.buffer);
        Ok(copy)
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.buffer.as_ptr()
    }

    /// The rows are the caller's own arithmetic: `rows` lies in the matrix,
    /// begins at a tile, and `trits` holds it.
    fn pack_rows(&mut self, rows: Range<usize>, trits: &[i8]) -> Result<(), KernelError> {
        self.kernel.check_rows(&rows, self.rows)?;
        assert_eq!(trits.len(), rows.len() * self.cols);
        // SAFETY: the two lines above checked the rows and the trits; the
        // buffer has the bytes the plugin asked for, and is ours alone.
        let status = unsafe {
            (self.kernel.functions().pack)(
                self.rows as u64,
                self.cols as u64,
                rows.start as u64,
                rows.end as u64,
                trits.as_ptr(),
                self.buffer.as_mut_ptr(),
            )
        };
        self.kernel.check_status("pack", status)
    }
}
