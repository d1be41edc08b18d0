//! A head's rows as codes.

use std::sync::Mutex;

use ternion_kernels::head::rounding::{Dither, largest, round};
use ternion_kernels::head::{Bits, Codes, TILE_ROWS};
use ternion_kernels::team::Team;

use super::bound::{TileBounds, holds_for_norm, norm};
use super::{DenseMatrix, Row, read};

/// Codes, and what they stand for.
pub(super) struct Rounded {
    pub(super) codes: Codes,
    pub(super) dither: Dither,
    pub(super) bounds: Vec<TileBounds>,
}

impl Rounded {
    /// # Errors
    ///
    /// If a row holds what is no number, or is far from all that models have:
    /// which one.
    pub(super) fn new(
        matrix: &DenseMatrix<'_>,
        bits: Bits,
        dither: Dither,
        team: &Team,
    ) -> Result<Rounded, String> {
        let mut codes = Codes::new(bits, matrix.rows(), matrix.cols());
        let num_tiles = matrix.rows().div_ceil(TILE_ROWS);
        let mut bounds = vec![TileBounds::ZERO; num_tiles];
        let bad_row = Mutex::new(None);
        let nothing = &mut vec![(); num_tiles];
        team.zip_rows(
            num_tiles,
            (codes.lines_mut(), &mut bounds, nothing),
            |_, tile, (lines, bounds, _)| {
                let mut wide = vec![0.0; matrix.cols()];
                let mut memory = Row::default();
                let mut row_codes = vec![0; matrix.cols()];
                let first = tile * TILE_ROWS;
                for row in first..matrix.rows().min(first + TILE_ROWS) {
                    read(matrix, row, &mut memory, &mut wide);
                    let row_norm = norm(&wide);
                    if !holds_for_norm(row_norm) {
                        *bad_row.lock().expect("nothing panics with it") = Some(row);
                        return;
                    }
                    let largest = largest(&wide);
                    // A little more, so that no weight is outside.
                    let step = 2.0 * largest / f32::from(bits.max()) * 1.000_001;
                    if step > 0.0 {
                        round(&wide, bits.max(), step, &dither, &mut row_codes);
                        Codes::pack(bits, row - first, &row_codes, lines);
                        bounds[0].set(row - first, matrix.cols(), row_norm, step);
                    }
                }
            },
        );
        match bad_row.into_inner().expect("nothing panics with it") {
            None => Ok(Rounded {
                codes,
                dither,
                bounds,
            }),
            Some(row) => Err(format!("row {row} of the output head has no usable norm")),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.codes.bytes() + size_of_val(&*self.bounds)
    }
}
