//! What a step says about the tokens that may come next.

use std::ops::Range;

/// Rows of logits, one a position: whole ones, or what was asked for of them.
///
/// Reused from step to step.
#[derive(Debug, Default)]
pub struct Logits {
    row_len: usize,
    whole: Vec<f32>,
    num_whole: usize,
    some: Vec<TokenLogit>,
    rows: Vec<Place>,
}

/// Where a row is.
#[derive(Debug, Clone)]
enum Place {
    /// Which of the whole ones.
    Whole(usize),
    /// A range of the others' entries.
    Some(Range<usize>),
}

/// A token and its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogit {
    /// Which token.
    pub token: u32,
    /// As a whole row has it.
    pub logit: f32,
}

/// The logits of one position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Row<'a> {
    /// Those of all tokens, by id.
    Whole(&'a [f32]),
    /// What was [`Wanted`](crate::Wanted) of them, by ascending id: the named
    /// tokens, and of the others the winner, or as many of the largest as were
    /// asked for and whatever equals the last of these. May hold more unless a
    /// draw is cut; what it does not hold comes behind all it was asked for but
    /// the named.
    Some(&'a [TokenLogit]),
}

impl<'a> Row<'a> {
    /// Without what pads the matrix.
    pub(crate) fn of_the_first(self, num_tokens: usize) -> Row<'a> {
        match self {
            Row::Whole(logits) => Row::Whole(&logits[..num_tokens]),
            Row::Some(_) => self,
        }
    }
}

impl Logits {
    /// Empties them and makes room for `num_whole` whole rows of `row_len`,
    /// which are to be written.
    pub fn begin(&mut self, row_len: usize, num_whole: usize) -> &mut [f32] {
        self.row_len = row_len;
        self.whole.resize(num_whole * row_len, 0.0);
        self.num_whole = 0;
        self.some.clear();
        self.rows.clear();
        &mut self.whole
    }

    /// The next position has the next of the whole rows.
    pub fn push_whole(&mut self) {
        self.rows.push(Place::Whole(self.num_whole));
        self.num_whole += 1;
    }

    /// The next position has these, in ascending order of their ids.
    pub fn push_some(&mut self, logits: impl IntoIterator<Item = TokenLogit>) {
        let begin = self.some.len();
        self.some.extend(logits);
        self.rows.push(Place::Some(begin..self.some.len()));
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether no position needed any.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows, in the order of positions.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        (0..self.rows.len()).map(|row| self.row(row))
    }

    /// One of the rows.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub fn row(&self, row: usize) -> Row<'_> {
        match &self.rows[row] {
            Place::Whole(place) => Row::Whole(&self.whole[place * self.row_len..][..self.row_len]),
            Place::Some(range) => Row::Some(&self.some[range.clone()]),
        }
    }

    /// All rows one after the other, for who asked for whole ones only.
    ///
    /// # Panics
    ///
    /// If a row is not whole.
    pub fn whole_rows(&self) -> &[f32] {
        assert_eq!(self.num_whole, self.rows.len(), "all rows are whole");
        &self.whole
    }
}
