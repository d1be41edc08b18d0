//! A ternary matrix in a plugin's own layout.

use std::ops::Range;

use crate::kernel::{Kernel, KernelError};
use crate::mapped_bytes::MappedBytes;
use crate::weights_memory::Share;

/// Trits of a matrix that wait for packing at a time. Large enough that the
/// calls don't count, small enough to stay in the cache between the reader and
/// the plugin.
const SCRATCH_TRITS: usize = 1 << 19;

/// A ternary matrix, packed by a kernel and of use to that kernel only.
#[derive(Debug)]
pub struct PackedMatrix {
    rows: usize,
    cols: usize,
    bytes: Bytes,
    kernel: Kernel,
}

/// Both begin at a page, which every alignment that a plugin may ask for
/// divides.
#[derive(Debug)]
enum Bytes {
    /// Untouched until it is packed into, then this process's alone.
    Own(Share),
    /// Part of a file.
    Mapped(MappedBytes),
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
        let mut memory = self.memory(rows, cols).map_err(PackError::Kernel)?;
        let tile_trits = self.row_tile().saturating_mul(cols);
        let tiles = (SCRATCH_TRITS / tile_trits).max(1);
        let rows_at_once = (tiles * self.row_tile()).min(rows);
        let mut scratch = vec![0; rows_at_once * cols];
        for first_row in (0..rows).step_by(rows_at_once) {
            let range = first_row..rows.min(first_row + rows_at_once);
            let trits = &mut scratch[..range.len() * cols];
            fill(range.clone(), trits).map_err(PackError::Fill)?;
            self.pack_rows((rows, cols), range, trits, &mut memory)
                .map_err(PackError::Kernel)?;
        }
        Ok(PackedMatrix {
            rows,
            cols,
            bytes: Bytes::Own(memory),
            kernel: self.clone(),
        })
    }

    /// Zeros for a packed matrix, which take no memory before they are written
    /// to.
    fn memory(&self, rows: usize, cols: usize) -> Result<Share, KernelError> {
        let bytes = self.packed_bytes(rows, cols)?;
        let what = "packed weights";
        self.weights_memory()
            .share(bytes)
            .map_err(|_| KernelError::OutOfMemory { what, bytes })
    }

    /// The rows are the caller's own arithmetic: `rows` lies in the matrix,
    /// begins at a tile, and `trits` holds it. `memory` is the matrix'.
    fn pack_rows(
        &self,
        (num_rows, cols): (usize, usize),
        rows: Range<usize>,
        trits: &[i8],
        memory: &mut Share,
    ) -> Result<(), KernelError> {
        self.check_rows(&rows, num_rows)?;
        assert_eq!(trits.len(), rows.len() * cols);
        // SAFETY: the two lines above checked the rows and the trits; the
        // memory has the bytes the plugin asked for, and is ours alone.
        let status = unsafe {
            (self.functions().pack)(
                num_rows as u64,
                cols as u64,
                rows.start as u64,
                rows.end as u64,
                trits.as_ptr(),
                memory.as_mut_ptr(),
            )
        };
        self.check_status("pack", status)
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
        self.as_bytes().len()
    }

    /// What the kernel reads for the rows from `row` on, as nearly as can be told
    /// of a layout that is the kernel's own business: rows of a matrix lie one
    /// after the other and take the same memory. Good for a hint.
    pub fn from_row(&self, row: usize) -> &[u8] {
        let bytes = self.as_bytes();
        &bytes[bytes.len() / self.rows.max(1) * row.min(self.rows)..]
    }

    /// The kernel that packed it.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The same in other memory: what a benchmark needs that is to read
    /// weights from beyond the caches.
    pub fn try_clone(&self) -> Result<PackedMatrix, KernelError> {
        let mut memory = self.kernel.memory(self.rows, self.cols)?;
        memory.copy_from_slice(self.as_bytes());
        Ok(PackedMatrix {
            rows: self.rows,
            cols: self.cols,
            bytes: Bytes::Own(memory),
            kernel: self.kernel.clone(),
        })
    }

    /// What was packed before, by this kernel for this shape.
    pub(crate) fn mapped(
        kernel: &Kernel,
        (rows, cols): (usize, usize),
        bytes: MappedBytes,
    ) -> PackedMatrix {
        PackedMatrix {
            rows,
            cols,
            bytes: Bytes::Mapped(bytes),
            kernel: kernel.clone(),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Own(memory) => memory,
            Bytes::Mapped(bytes) => bytes.as_ref(),
        }
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.as_bytes().as_ptr()
    }
}
