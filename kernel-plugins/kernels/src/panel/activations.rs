//! How activations lie in memory.
//!
//! First one `i32` a token, minus the sum of its activations: with weights
//! stored plus one, `sum (w + 1) x - sum x` is the product, so a kernel begins
//! at this number. Then the activations, in groups of up to [`GROUP_TOKENS`]
//! tokens, or as many as a kernel wants: four columns of the first token, the
//! same four of the second, and so on, so that a kernel that runs a group
//! against a vector of weights walks through one stream. Groups are as few as
//! can be and as even as can be: seven tokens are four and three. One token
//! alone lies as it came.
//!
//! Columns beyond the last, up to a multiple of [`COLS_MULTIPLE`], are zero.

use core::ops::Range;

use super::FIELD_COLS;
use crate::float::two_widths;

/// Largest `cols`: `128 * 2^23` is `2^30`, so that no sum leaves `i32`.
pub const MAX_COLS: usize = 1 << 23;
/// Activations end at a multiple of so many columns.
pub(crate) const COLS_MULTIPLE: usize = 16;

/// Tokens whose sums fit the registers of an AVX2 core beside two vectors of
/// weights, which makes it the width of a group.
pub(crate) const GROUP_TOKENS: usize = 6;
/// Tokens of a group for a kernel that has twice as many registers, and for
/// which unpacking again for each group costs much.
pub(crate) const WIDE_GROUP_TOKENS: usize = 2 * GROUP_TOKENS;

/// The sums take whole cache lines, so that the activations begin with one.
const CACHE_LINE: usize = 64;

/// Sizes and places of prepared activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activations {
    cols: usize,
    batch: usize,
    group_tokens: usize,
}

impl Activations {
    /// None if there are none, if there are more than [`MAX_COLS`] columns, or
    /// if they would not fit into an address space.
    pub fn new(cols: usize, batch: usize) -> Option<Activations> {
        Activations::in_groups(cols, batch, GROUP_TOKENS)
    }

    /// Likewise, in groups of up to so many tokens.
    pub(crate) fn in_groups(cols: usize, batch: usize, group_tokens: usize) -> Option<Activations> {
        if cols == 0 || cols > MAX_COLS || batch == 0 {
            return None;
        }
        let activations = Activations {
            cols,
            batch,
            group_tokens,
        };
        // A bound above the true size, in terms that can't overflow before it.
        let token_bytes = activations.padded_cols() + 2 * CACHE_LINE;
        batch
            .checked_mul(token_bytes)
            .filter(|&bytes| bytes <= isize::MAX as usize)
            .map(|_| activations)
    }

    /// Columns of a token.
    pub fn cols(self) -> usize {
        self.cols
    }

    /// Number of tokens.
    pub fn batch(self) -> usize {
        self.batch
    }

    /// Bytes of the prepared activations.
    pub fn prepared_bytes(self) -> usize {
        self.sums_bytes() + self.batch * self.padded_cols()
    }

    /// Prepares row-major activations, one row a token.
    ///
    /// # Panics
    ///
    /// If a slice is not of the size that the columns and the batch give it.
    pub fn prepare(self, activations: &[i8], prepared: &mut [u8]) {
        assert_eq!(activations.len(), self.batch * self.cols, "activations");
        assert_eq!(prepared.len(), self.prepared_bytes(), "prepared bytes");
        lay_out(self, activations, prepared);
    }

    #[inline(always)]
    fn interleave(self, tokens: &[i8], group: &mut [u8]) {
        match tokens.len() / self.cols {
            1 => self.take_turns::<1>(tokens, group),
            2 => self.take_turns::<2>(tokens, group),
            3 => self.take_turns::<3>(tokens, group),
            4 => self.take_turns::<4>(tokens, group),
            5 => self.take_turns::<5>(tokens, group),
            6 => self.take_turns::<6>(tokens, group),
            7 => self.take_turns::<7>(tokens, group),
            8 => self.take_turns::<8>(tokens, group),
            9 => self.take_turns::<9>(tokens, group),
            10 => self.take_turns::<10>(tokens, group),
            11 => self.take_turns::<11>(tokens, group),
            WIDE_GROUP_TOKENS => self.take_turns::<WIDE_GROUP_TOKENS>(tokens, group),
            _ => unreachable!("a group has at most {WIDE_GROUP_TOKENS} tokens"),
        }
    }

    /// With the number of tokens known, so that a field's words are written one
    /// after another and not, token by token, with gaps.
    #[inline(always)]
    fn take_turns<const TOKENS: usize>(self, tokens: &[i8], group: &mut [u8]) {
        let (fields, _) = group.as_chunks_mut::<FIELD_COLS>().0.as_chunks_mut();
        let (whole, padding) = fields.split_at_mut(self.cols / FIELD_COLS);
        let of_token: [&[u8]; TOKENS] = core::array::from_fn(|token| {
            bytemuck::cast_slice(&tokens[token * self.cols..][..self.cols])
        });
        let mut words = of_token.map(|token| token.as_chunks::<FIELD_COLS>().0.iter());
        for field in whole {
            let field: &mut [[u8; FIELD_COLS]; TOKENS] = field;
            for (field, words) in field.iter_mut().zip(&mut words) {
                *field = *words.next().expect("a word of each field");
            }
        }
        for field in &mut *padding {
            *field = [[0; FIELD_COLS]; TOKENS];
        }
        if let Some(field) = padding.first_mut() {
            for (word, token) in field.iter_mut().zip(of_token) {
                let rest = token.as_chunks::<FIELD_COLS>().1;
                word[..rest.len()].copy_from_slice(rest);
            }
        }
    }

    /// What a kernel starts token `token` at: minus the sum of its activations.
    pub(crate) fn offset(self, prepared: &[u8], token: usize) -> i32 {
        i32::from_ne_bytes(prepared.as_chunks().0[token])
    }

    pub(crate) fn num_groups(self) -> usize {
        self.batch.div_ceil(self.group_tokens)
    }

    /// Groups differ by one token at most: a kernel's cost of a group has a
    /// fixed part, and a group of one or two has too little work at a time.
    fn tokens_of(self, index: usize) -> Range<usize> {
        let num_groups = self.num_groups();
        let (least, rest) = (self.batch / num_groups, self.batch % num_groups);
        let first = index * least + index.min(rest);
        first..first + least + usize::from(index < rest)
    }

    /// A group of tokens, as bytes whose order the module's text gives.
    pub(crate) fn group(self, prepared: &[u8], index: usize) -> Group<'_> {
        let tokens = self.tokens_of(index);
        let num_tokens = tokens.len();
        let start = self.sums_bytes() + tokens.start * self.padded_cols();
        Group {
            first_token: tokens.start,
            num_tokens,
            bytes: &prepared[start..][..num_tokens * self.padded_cols()],
        }
    }

    /// Column groups of four.
    pub(crate) fn num_fields(self) -> usize {
        self.padded_cols() / FIELD_COLS
    }

    fn padded_cols(self) -> usize {
        self.cols.next_multiple_of(COLS_MULTIPLE)
    }

    fn sums_bytes(self) -> usize {
        (self.batch * size_of::<i32>()).next_multiple_of(CACHE_LINE)
    }
}

two_widths! {
    /// Prepares activations; both slices are of the right size.
    fn lay_out(sizes: Activations, activations: &[i8], prepared: &mut [u8]) {
        let (sums, groups) = prepared.split_at_mut(sizes.sums_bytes());
        let tokens = activations.chunks_exact(sizes.cols);
        for (token, sum) in tokens.zip(sums.as_chunks_mut().0) {
            let total: i32 = token.iter().map(|&x| i32::from(x)).sum();
            *sum = (-total).to_ne_bytes();
        }
        for index in 0..sizes.num_groups() {
            let tokens = sizes.tokens_of(index);
            let group = &mut groups[tokens.start * sizes.padded_cols()..];
            sizes.interleave(
                &activations[tokens.start * sizes.cols..tokens.end * sizes.cols],
                &mut group[..tokens.len() * sizes.padded_cols()],
            );
        }
    }
}

/// Up to [`GROUP_TOKENS`] tokens, four columns of each in turn.
#[derive(Clone, Copy)]
pub(crate) struct Group<'a> {
    pub(crate) first_token: usize,
    pub(crate) num_tokens: usize,
    pub(crate) bytes: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(cols: usize, batch: usize) -> (Vec<i8>, Vec<u8>) {
        let x: Vec<i8> = (0..cols * batch).map(|i| (i * 37 + 11) as i8).collect();
        let activations = Activations::new(cols, batch).unwrap();
        let mut bytes = vec![0xff; activations.prepared_bytes()];
        activations.prepare(&x, &mut bytes);
        (x, bytes)
    }

    #[test]
    fn one_token_lies_as_it_came() {
        let (x, bytes) = prepared(21, 1);
        let x: Vec<u8> = x.iter().map(|&x| x as u8).collect();
        assert_eq!(&bytes[64..85], &x[..]);
        assert_eq!(&bytes[85..], &[0; 11]);
    }

    #[test]
    fn tokens_of_a_group_take_turns() {
        // Where groups begin; the last number is where they end.
        let cases = [
            (1, 2, vec![0, 2]),
            (5, 6, vec![0, 6]),
            (16, 7, vec![0, 4, 7]),
            (21, 13, vec![0, 5, 9, 13]),
        ];
        for (cols, batch, groups) in cases {
            let (x, bytes) = prepared(cols, batch);
            let padded = cols.next_multiple_of(16);
            let start = (4 * batch).next_multiple_of(64);
            assert_eq!(bytes.len(), start + batch * padded);
            for token in 0..batch {
                let index = groups.partition_point(|&begin| begin <= token);
                let (first, width) = (groups[index - 1], groups[index] - groups[index - 1]);
                for col in 0..padded {
                    let at = start
                        + first * padded
                        + col / 4 * 4 * width
                        + (token - first) * 4
                        + col % 4;
                    let want = if col < cols { x[token * cols + col] } else { 0 };
                    assert_eq!(bytes[at] as i8, want, "{batch} x {cols} at {token},{col}");
                }
            }
        }
    }

    #[test]
    fn offsets_are_minus_the_sums() {
        let (x, bytes) = prepared(300, 3);
        for token in 0..3 {
            let sum: i32 = x[token * 300..][..300].iter().map(|&x| i32::from(x)).sum();
            let activations = Activations::new(300, 3).unwrap();
            assert_eq!(activations.offset(&bytes, token), -sum);
        }
    }

    #[test]
    fn sizes_beyond_memory_are_refused() {
        assert_eq!(Activations::new(0, 1), None);
        assert_eq!(Activations::new(1, 0), None);
        assert_eq!(Activations::new(MAX_COLS + 1, 1), None);
        assert_eq!(Activations::new(1, usize::MAX), None);
        assert_eq!(Activations::new(MAX_COLS, usize::MAX / MAX_COLS), None);
    }
}
