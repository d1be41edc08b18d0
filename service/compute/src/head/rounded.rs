//! A head's rows as codes.

use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;

use ternion_kernels::head::rounding::{Dither, largest, round};
use ternion_kernels::head::{Bits, Codes, Line, TILE_ROWS};
use ternion_kernels::team::Team;

use super::bound::{TileBounds, holds_for_norm, norm};
use super::{DenseMatrix, Row, read};

/// Codes, and what they stand for.
pub(super) struct Rounded {
    pub(super) codes: Codes,
    pub(super) dither: Dither,
    pub(super) bounds: Vec<TileBounds>,
}

/// What rounding made of a head: all that there is to know of it later.
pub(crate) struct Rounding {
    pub(crate) codes: Codes,
    pub(crate) dither: Dither,
    pub(crate) sizes: Vec<RowSize>,
}

/// A row's Euclidean norm, and the step between its levels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct RowSize {
    pub(crate) norm: f64,
    pub(crate) step: f32,
}

impl Rounding {
    /// # Errors
    ///
    /// If a row holds what is no number, or is far from all that models have:
    /// which one.
    pub(crate) fn new(
        matrix: &DenseMatrix<'_>,
        bits: Bits,
        team: &Team,
    ) -> Result<Rounding, String> {
        let dither = match bits {
            // Random, and shown to nobody: who doesn't know the shifts can't
            // make a head, or a prompt, that goes well with them.
            Bits::Four => {
                let seed = RandomState::new().hash_one("output head");
                Dither::random(seed, matrix.cols())
            }
            Bits::Eight => Dither::none(matrix.cols()),
        };
        let mut codes = Codes::new(bits, matrix.rows(), matrix.cols());
        let num_tiles = matrix.rows().div_ceil(TILE_ROWS);
        let mut sizes = vec![[RowSize::default(); TILE_ROWS]; num_tiles];
        let bad_row = Mutex::new(None);
        let nothing = &mut vec![(); num_tiles];
        team.zip_rows(
            num_tiles,
            (codes.lines_mut(), &mut sizes, nothing),
            |_, tile, (lines, sizes, _)| {
                if let Err(row) = round_tile(matrix, bits, &dither, tile, lines, &mut sizes[0]) {
                    *bad_row.lock().expect("nothing panics with it") = Some(row);
                }
            },
        );
        match bad_row.into_inner().expect("nothing panics with it") {
            None => Ok(Rounding {
                codes,
                dither,
                sizes: sizes.into_flattened(),
            }),
            Some(row) => Err(format!("row {row} of the output head has no usable norm")),
        }
    }

    /// Whether the first rows of this matrix become what they are here.
    pub(crate) fn begins_like(&self, matrix: &DenseMatrix<'_>) -> bool {
        let bits = self.codes.bits();
        let mut first = Codes::new(bits, matrix.rows().min(TILE_ROWS), matrix.cols());
        let mut sizes = [RowSize::default(); TILE_ROWS];
        let rounded = round_tile(matrix, bits, &self.dither, 0, first.lines_mut(), &mut sizes);
        let same_sizes = self.sizes.iter().zip(sizes).all(|(a, b)| *a == b);
        rounded.is_ok() && same_sizes && self.codes.as_bytes().starts_with(first.as_bytes())
    }
}

/// Rounds sixteen rows, or tells which can't be.
fn round_tile(
    matrix: &DenseMatrix<'_>,
    bits: Bits,
    dither: &Dither,
    tile: usize,
    lines: &mut [Line],
    sizes: &mut [RowSize; TILE_ROWS],
) -> Result<(), usize> {
    let mut memory = Row::default();
    let mut wide = vec![0.0; matrix.cols()];
    let mut codes = vec![0; matrix.cols()];
    let first = tile * TILE_ROWS;
    for row in first..matrix.rows().min(first + TILE_ROWS) {
        read(matrix, row, &mut memory, &mut wide);
        let norm = norm(&wide);
        if !holds_for_norm(norm) {
            return Err(row);
        }
        let largest = largest(&wide);
        // A little more, so that no weight is outside.
        let step = 2.0 * largest / f32::from(bits.max()) * 1.000_001;
        if step > 0.0 {
            round(&wide, bits.max(), step, dither, &mut codes);
            Codes::pack(bits, row - first, &codes, lines);
            sizes[row - first] = RowSize { norm, step };
        }
    }
    Ok(())
}

impl Rounded {
    pub(super) fn of(rounding: Rounding) -> Rounded {
        let Rounding {
            codes,
            dither,
            sizes,
        } = rounding;
        let bounds = sizes.chunks(TILE_ROWS).map(|sizes| {
            let mut bounds = TileBounds::ZERO;
            for (row, size) in sizes.iter().enumerate().filter(|(_, size)| size.step > 0.0) {
                bounds.set(row, codes.cols(), size.norm, size.step);
            }
            bounds
        });
        Rounded {
            bounds: bounds.collect(),
            codes,
            dither,
        }
    }

    /// Codes of all rows, and how many rows with those that fill the last tile.
    pub(super) fn codes(&self) -> (&[u8], usize) {
        (self.codes.as_bytes(), self.bounds.len() * TILE_ROWS)
    }

    pub(super) fn bytes(&self) -> usize {
        self.codes.bytes() + size_of_val(&*self.bounds)
    }
}
