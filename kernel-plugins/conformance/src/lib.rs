//! Any kernel against the scalar reference, exactly.
//!
//! [`quick`] is for startup: the shapes a model has, in tens of milliseconds.
//! [`full`] is for tests of a plugin: shapes that fill no tile, the widest
//! matrices of the model families, weights and activations at the ends of
//! their ranges, batches around every width a kernel might have tiled by, and
//! row ranges from several threads at once. The program of this crate runs it
//! on any file and tells what is wrong where.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod mismatch;
mod pattern;
mod trial;

use ternion_kernel_host::Kernel;

pub use mismatch::{Fault, Mismatch};
use pattern::{Activations, Weights};
use trial::Trial;

/// Shapes that fill tiles and those that just don't.
const SMALL: [(usize, usize); 14] = [
    (1, 1),
    (1, 16),
    (1, 17),
    (2, 3),
    (7, 4),
    (31, 15),
    (32, 16),
    (33, 17),
    (63, 255),
    (64, 256),
    (65, 257),
    (96, 640),
    (70, 300),
    (200, 1025),
];

/// The longest rows of the families: the inputs of the down projections of
/// 2B-4T, Llama3-8B, Falcon3-10B and Falcon-E-3B and of their likes.
const WIDE: [(usize, usize); 4] = [(70, 6912), (35, 14336), (33, 23040), (40, 27648)];

/// Around the widths that kernels tile tokens by.
const BATCHES: [usize; 22] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 31, 32, 33, 64, 65,
];

/// The ends of the ranges, where narrow accumulators overflow.
const EXTREMES: [(Weights, Activations); 12] = [
    (Weights::AllOnes, Activations::All(127)),
    (Weights::AllOnes, Activations::All(-128)),
    (Weights::AllMinusOnes, Activations::All(127)),
    (Weights::AllMinusOnes, Activations::All(-128)),
    (Weights::AllZeros, Activations::All(-128)),
    (Weights::AllZeros, Activations::All(127)),
    (Weights::AllOnes, Activations::All(0)),
    (Weights::Alternating, Activations::Alternating),
    (Weights::Alternating, Activations::All(-128)),
    (Weights::AllOnes, Activations::Alternating),
    (Weights::Random(1), Activations::All(-128)),
    (Weights::Alternating, Activations::Random(2)),
];

/// Where kernels that a model's first batches meet go other ways: one token,
/// few, a tile of them, a tile and a rest, several.
const QUICK_BATCHES: [usize; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 13, 33, 40, 64];

/// Checks a kernel on some shapes, of which it computes as many rows as tell
/// something: two tiles and what the last tile lacks.
pub fn quick(kernel: &Kernel, shapes: &[(usize, usize)]) -> Result<(), Mismatch> {
    let largest_batch = QUICK_BATCHES[QUICK_BATCHES.len() - 1];
    for &(rows, cols) in shapes {
        if !kernel.supports(rows, cols) {
            return Err(Mismatch::unsupported(kernel, rows, cols));
        }
        let tile = kernel.row_tile();
        let rows = rows.min(2 * tile + rows % tile);
        let (weights, activations) = (Weights::Random(3), Activations::Random(4));
        Trial::new(kernel, rows, cols, largest_batch, weights, activations)?.run(&QUICK_BATCHES)?;
        for (weights, activations) in &EXTREMES[..4] {
            Trial::new(kernel, rows, cols, 8, *weights, *activations)?.run(&[1, 2, 8])?;
        }
    }
    Ok(())
}

/// Checks a kernel on everything, of what it supports.
pub fn full(kernel: &Kernel) -> Result<(), Mismatch> {
    shapes()
        .filter(|&(rows, cols)| kernel.supports(rows, cols))
        .try_for_each(|(rows, cols)| full_on_shape(kernel, rows, cols))
}

/// The shapes of [`full`].
pub fn shapes() -> impl Iterator<Item = (usize, usize)> {
    SMALL.into_iter().chain(WIDE)
}

/// What [`full`] does for one shape, which the kernel has to support.
pub fn full_on_shape(kernel: &Kernel, rows: usize, cols: usize) -> Result<(), Mismatch> {
    let largest_batch = BATCHES[BATCHES.len() - 1];
    let (weights, activations) = (Weights::Random(5), Activations::Random(6));
    let trial = Trial::new(kernel, rows, cols, largest_batch, weights, activations)?;
    trial.run(&BATCHES)?;
    trial.run_on_threads(&[1, 2, 65], 4)?;
    for (weights, activations) in EXTREMES {
        Trial::new(kernel, rows, cols, 13, weights, activations)?.run(&[1, 2, 13])?;
    }
    trial::refuses_what_is_not_a_trit(kernel, rows, cols)
}
