//! Activations in the form a plugin reads.

use crate::buffer::Buffer;
use crate::kernel::{Kernel, KernelError};

/// Memory for prepared activations, to be used again and again: it grows to
/// the largest batch it has seen and is then left alone.
#[derive(Debug, Default)]
pub struct Prepared {
    cols: usize,
    batch: usize,
    /// Who filled the buffer; None while it holds nothing.
    kernel: Option<Kernel>,
    buffer: Option<Buffer>,
}

impl Prepared {
    /// Columns of the activations; 0 if there are none.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of tokens; 0 if there are none.
    pub fn batch(&self) -> usize {
        self.batch
    }

    pub(crate) fn kernel(&self) -> Option<&Kernel> {
        self.kernel.as_ref().filter(|_| self.batch > 0)
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.buffer
            .as_ref()
            .map_or(std::ptr::null(), Buffer::as_ptr)
    }

    pub(crate) fn clear(&mut self) {
        self.cols = 0;
        self.batch = 0;
    }

    /// At least so many bytes at that alignment, of any content.
    pub(crate) fn reserve(
        &mut self,
        bytes: usize,
        alignment: usize,
    ) -> Result<*mut u8, KernelError> {
        let is_enough = |buffer: &Buffer| buffer.len() >= bytes && buffer.alignment() >= alignment;
        if !self.buffer.as_ref().is_some_and(is_enough) {
            let what = "prepared activations";
            // The old buffer goes first, as both together may be too much.
            self.buffer = None;
            self.buffer = Buffer::zeroed(bytes, alignment);
            if self.buffer.is_none() {
                return Err(KernelError::OutOfMemory { what, bytes });
            }
        }
        Ok(self
            .buffer
            .as_mut()
            .map_or(std::ptr::null_mut(), Buffer::as_mut_ptr))
    }

    pub(crate) fn fill(&mut self, kernel: &Kernel, cols: usize, batch: usize) {
        self.cols = cols;
        self.batch = batch;
        if !self.kernel.as_ref().is_some_and(|own| own.is(kernel)) {
            self.kernel = Some(kernel.clone());
        }
    }
}
