//! Parts of one matrix that go to different workers.

use std::marker::PhantomData;
use std::ops::Range;

/// A pointer that may be copied to the workers of one region.
pub(super) struct Shareable<T>(pub(super) *mut T);

impl<T> Shareable<T> {
    pub(super) fn pointer(&self) -> *mut T {
        self.0
    }
}

// SAFETY: what the pointer reaches is `Send`, and the methods that use one
// give every element to one worker only.
unsafe impl<T: Send> Send for Shareable<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shareable<T> {}

/// A matrix whose rows go to different workers.
pub(super) struct RowsOf<'a, T> {
    base: Shareable<T>,
    num_rows: usize,
    row_len: usize,
    _borrow: PhantomData<&'a ()>,
}

impl<'a, T> RowsOf<'a, T> {
    pub(super) fn new(matrix: &'a mut [T], num_rows: usize) -> RowsOf<'a, T> {
        let row_len = matrix.len().checked_div(num_rows).unwrap_or(0);
        assert_eq!(
            matrix.len(),
            num_rows * row_len,
            "not {num_rows} whole rows"
        );
        RowsOf {
            base: Shareable(matrix.as_mut_ptr()),
            num_rows,
            row_len,
            _borrow: PhantomData,
        }
    }

    /// # Safety
    ///
    /// No two slices of one row may live at the same time.
    #[expect(
        clippy::mut_from_ref,
        reason = "the caller sees to it that rows don't alias"
    )]
    pub(super) unsafe fn row(&self, row: usize) -> &mut [T] {
        assert!(row < self.num_rows, "row {row} of {}", self.num_rows);
        // SAFETY: the row lies inside the matrix that `self` borrows; that no
        // other slice overlaps it is the caller's promise.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.base.pointer().add(row * self.row_len),
                self.row_len,
            )
        }
    }
}

/// Some columns of every row of a matrix; no other worker has them.
pub struct Columns<'a, T> {
    pub(super) base: *mut T,
    pub(super) num_rows: usize,
    pub(super) stride: usize,
    pub(super) range: Range<usize>,
    pub(super) _borrow: PhantomData<&'a mut [T]>,
}

impl<T> Columns<'_, T> {
    /// Rows of the matrix.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Which columns these are.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// This part of one row.
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.num_rows, "row {row} of {}", self.num_rows);
        // SAFETY: `row` and the range lie inside the matrix, which is borrowed
        // for as long as this value; ranges are disjoint, each is given to one
        // call, and `&mut self` lets only one slice live at a time.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.base.add(row * self.stride + self.range.start),
                self.range.len(),
            )
        }
    }
}
