//! Where a product's integers go.

use core::marker::PhantomData;

/// A strided matrix of results: `batch` tokens, `stride` elements apart, of
/// `rows` results each.
///
/// Threads that share the rows of a product between them write to one buffer,
/// and between two tokens' results of one thread lie those of the others. A
/// `&mut [i32]` over all of it would claim those as well, so this holds a
/// pointer and touches only its own elements.
#[derive(Debug)]
pub struct Output<'a> {
    start: *mut i32,
    rows: usize,
    batch: usize,
    stride: usize,
    buffer: PhantomData<&'a mut [i32]>,
}

impl<'a> Output<'a> {
    /// The results lie in a slice that nobody else writes to meanwhile.
    ///
    /// # Panics
    ///
    /// If `stride` is less than `rows`, or the slice ends before the results.
    pub fn new(buffer: &'a mut [i32], rows: usize, batch: usize, stride: usize) -> Output<'a> {
        assert!(stride >= rows, "stride {stride} is less than {rows} rows");
        let len = Output::span(rows, batch, stride).expect("results fit an address space");
        assert!(
            buffer.len() >= len,
            "results take {len} elements, not {}",
            buffer.len()
        );
        // SAFETY: every element `[b * stride + r]` lies in the slice, as the
        // assertions say, and the exclusive borrow lasts as long as `'a`.
        unsafe { Output::from_raw(buffer.as_mut_ptr(), rows, batch, stride) }
    }

    /// The results lie behind a pointer.
    ///
    /// # Safety
    ///
    /// For every `b < batch` and `r < rows`, `start[b * stride + r]` is valid
    /// for writes, and nobody else reads or writes it, for as long as `'a`;
    /// `stride >= rows`.
    pub unsafe fn from_raw(
        start: *mut i32,
        rows: usize,
        batch: usize,
        stride: usize,
    ) -> Output<'a> {
        Output {
            start,
            rows,
            batch,
            stride,
            buffer: PhantomData,
        }
    }

    /// Elements from the first result to the last, both included. None if
    /// that is more than `usize` counts.
    pub fn span(rows: usize, batch: usize, stride: usize) -> Option<usize> {
        match batch {
            0 => Some(0),
            _ => (batch - 1).checked_mul(stride)?.checked_add(rows),
        }
    }

    /// Number of results of a token.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of tokens.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Results `first_row..first_row + num_rows` of one token.
    pub(crate) fn of_token(
        &mut self,
        token: usize,
        first_row: usize,
        num_rows: usize,
    ) -> &mut [i32] {
        assert!(token < self.batch && first_row <= self.rows);
        assert!(num_rows <= self.rows - first_row);
        // SAFETY: the elements are among those that the constructor's caller
        // vouched for, `&mut self` keeps the borrows of two calls apart, and
        // no offset exceeds the buffer's size.
        unsafe {
            let start = self.start.add(token * self.stride + first_row);
            core::slice::from_raw_parts_mut(start, num_rows)
        }
    }
}

/// The rows of a tile, counted from the output's first.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) first: usize,
    pub(crate) num: usize,
}

#[cfg(test)]
mod tests {
    use super::Output;

    #[test]
    fn rows_of_a_token_are_found_by_the_stride() {
        let mut buffer: Vec<i32> = (0..13).collect();
        let mut out = Output::new(&mut buffer, 3, 3, 5);
        assert_eq!(out.of_token(0, 0, 3), [0, 1, 2]);
        assert_eq!(out.of_token(2, 1, 2), [11, 12]);
    }

    #[test]
    #[should_panic = "results take 13 elements, not 12"]
    fn a_short_buffer_is_refused() {
        Output::new(&mut [0; 12], 3, 3, 5);
    }
}
