//! Multiply-add over unpacked weights: the work of many tokens, whatever the
//! packing was.
//!
//! With many tokens it pays to unpack weights once for all of them. What is
//! unpacked is a *panel*: a few hundred columns of a tile of 32 rows, one code
//! a byte, a weight's value plus one. A [`Field`] of it is four columns, with
//! rows in lanes, so that the sums of a vector belong to one row each:
//!
//! ```text
//! field   row 0              row 31
//!       +----+----+----+----+-...-+----+----+----+----+
//!       | column 4f to 4f+3 |     | column 4f to 4f+3 |
//!       +----+----+----+----+-...-+----+----+----+----+
//! ```
//!
//! A packing tells how to fill a panel, and `multiply` of a module here does
//! the rest: it asks for the panels of all tiles in turn, multiplies them with
//! the tokens' [`Activations`], and adds up in the output. Codes of 0 where
//! columns have no activations do no harm: those are zero.

pub(crate) mod activations;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod portable;
#[cfg(target_arch = "x86_64")]
pub(crate) mod vnni;

use core::ops::Range;

pub use activations::{Activations, MAX_COLS};
pub(crate) use activations::{COLS_MULTIPLE, Group};

use crate::output::{Output, Rows};

/// Rows of a panel.
pub(crate) const ROWS: usize = 32;
/// Columns of a field.
pub(crate) const FIELD_COLS: usize = 4;
/// Bytes of a field.
pub(crate) const FIELD_BYTES: usize = ROWS * FIELD_COLS;

/// Four columns of 32 rows, one code a byte.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Field(pub(crate) [u8; FIELD_BYTES]);

impl Field {
    pub(crate) const ZERO: Field = Field([0; FIELD_BYTES]);
}

/// What a panel is to be filled with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The tile, counted in tiles of 32 rows from the matrix's first row.
    pub(crate) tile: usize,
    /// The fields, counted from column 0. The first is a multiple of the unit
    /// that the packing asked for.
    pub(crate) fields: Range<usize>,
}

/// All tokens of a product.
#[derive(Clone, Copy)]
pub(crate) struct Tokens<'a> {
    activations: Activations,
    prepared: &'a [u8],
}

impl<'a> Tokens<'a> {
    pub(crate) fn new(activations: Activations, prepared: &'a [u8]) -> Tokens<'a> {
        Tokens {
            activations,
            prepared,
        }
    }

    pub(crate) fn groups(self) -> impl Iterator<Item = Group<'a>> + use<'a> {
        (0..self.activations.num_groups()).map(move |g| self.activations.group(self.prepared, g))
    }

    /// Sets the results of some rows to what sums are added to.
    pub(crate) fn begin(self, rows: Rows, out: &mut Output<'_>) {
        for token in 0..self.activations.batch() {
            out.of_token(token, rows.first, rows.num)
                .fill(self.activations.offset(self.prepared, token));
        }
    }

    /// Fields in steps of as many whole units as fit `most`, or of one.
    fn chunks(self, unit: usize, most: usize) -> impl Iterator<Item = Range<usize>> + Clone {
        assert!(
            (1..=most).contains(&unit),
            "a panel takes {most} fields, not {unit}"
        );
        let num_fields = self.activations.num_fields();
        let chunk = most / unit * unit;
        (0..num_fields)
            .step_by(chunk)
            .map(move |first| first..num_fields.min(first + chunk))
    }
}

/// The tiles of some rows that begin with one, and where their results go.
pub(crate) fn tiles(rows: &Range<usize>) -> impl Iterator<Item = (usize, Rows)> + use<> {
    let Range { start, end } = *rows;
    (start..end).step_by(ROWS).map(move |first_row| {
        let rows = Rows {
            first: first_row - start,
            num: ROWS.min(end - first_row),
        };
        (first_row / ROWS, rows)
    })
}
