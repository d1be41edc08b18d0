//! Memory at the alignment a plugin asks for.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Bytes, zero at first, aligned to what was asked for.
#[derive(Debug)]
pub(crate) struct Buffer {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is this value's own, as a `Vec<u8>`'s is.
unsafe impl Send for Buffer {}
// SAFETY: as above; through `&Buffer` the bytes are only read.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// None if there is no such memory. `alignment` is a power of two.
    pub(crate) fn zeroed(bytes: usize, alignment: usize) -> Option<Buffer> {
        let layout = Layout::from_size_align(bytes.max(1), alignment).ok()?;
        // SAFETY: the layout's size isn't zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Buffer { start, layout })
    }

    pub(crate) fn len(&self) -> usize {
        self.layout.size()
    }

    pub(crate) fn alignment(&self) -> usize {
        self.layout.align()
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and dropped once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::Buffer;

    #[test]
    fn memory_is_aligned_and_zero() {
        for alignment in [1, 64, 4096] {
            let buffer = Buffer::zeroed(100, alignment).unwrap();
            assert!(buffer.as_ptr().addr().is_multiple_of(alignment));
            // SAFETY: a hundred bytes were asked for.
            let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr(), 100) };
            assert_eq!(bytes, [0; 100]);
        }
    }

    #[test]
    fn what_cannot_be_had_is_none() {
        assert!(Buffer::zeroed(usize::MAX, 64).is_none());
    }
}
