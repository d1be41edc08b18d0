//! A model's ternary matrices, one after the other, for a kernel.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use ternion_kernel_host::{Kernel, PackError, PackedMatrix};
use ternion_kernels::team::Team;
use ternion_model::{ModelError, Projection};

use crate::loaded::LoadError;
use crate::source::WeightSource;

/// A ternary matrix in the kernel's layout, with its multiplier.
pub(crate) struct Packed {
    pub(crate) weights: PackedMatrix,
    pub(crate) scale: f32,
}

/// Where a matrix stands in its model.
#[derive(Clone, Copy)]
pub(crate) struct Matrix {
    /// Among all of the model, in the order in which a forward pass uses them.
    pub(crate) index: usize,
    pub(crate) layer: usize,
    pub(crate) projection: Projection,
}

/// Who packs what, for whom.
pub(crate) struct Packing<'a> {
    pub(crate) source: &'a dyn WeightSource,
    pub(crate) kernel: &'a Kernel,
    pub(crate) team: &'a Team,
    /// Called with the number of matrices that are done, and of all.
    pub(crate) progress: &'a (dyn Fn(usize, usize) + Sync),
}

impl Packing<'_> {
    /// All matrices, in order.
    pub(crate) fn matrices(&self) -> impl ExactSizeIterator<Item = Matrix> + use<> {
        let of_a_layer = Projection::ALL.len();
        let total = self.source.architecture().layers * of_a_layer;
        (0..total).map(move |index| Matrix {
            index,
            layer: index / of_a_layer,
            projection: Projection::ALL[index % of_a_layer],
        })
    }

    /// Rows and columns of a matrix.
    pub(crate) fn shape(&self, matrix: Matrix) -> (usize, usize) {
        matrix.projection.shape(self.source.architecture())
    }

    /// What `work` makes of each matrix, in order, made by all threads.
    pub(crate) fn each<T: Send, E: Send>(
        &self,
        work: impl Fn(Matrix) -> Result<T, E> + Sync,
    ) -> Result<Vec<T>, E> {
        let mut slots: Vec<_> = self.matrices().map(|matrix| (matrix, None)).collect();
        let (done, total) = (AtomicUsize::new(0), slots.len());
        self.team.rows(&mut slots, 1, |_, _, slot| {
            let (matrix, result) = &mut slot[0];
            *result = Some(work(*matrix));
            (self.progress)(done.fetch_add(1, Ordering::Relaxed) + 1, total);
        });
        let results = slots.into_iter().map(|(_, result)| result);
        results
            .map(|result| result.expect("each row ran"))
            .collect()
    }

    /// Reads a matrix from the source and packs it.
    pub(crate) fn pack(&self, matrix: Matrix) -> Result<Packed, LoadError> {
        let Matrix {
            layer, projection, ..
        } = matrix;
        let (rows, cols) = self.shape(matrix);
        if !self.kernel.supports(rows, cols) {
            return Err(LoadError::Unsupported {
                kernel: self.kernel.name().to_owned(),
                projection,
                rows,
                cols,
            });
        }
        let fill = |range: Range<usize>, trits: &mut [i8]| -> Result<(), ModelError> {
            self.source.trits_into(layer, projection, range, trits)
        };
        let weights = self
            .kernel
            .pack(rows, cols, fill)
            .map_err(|error| match error {
                PackError::Fill(error) => LoadError::Model(error),
                PackError::Kernel(error) => LoadError::Pack {
                    layer,
                    projection,
                    reason: error.to_string(),
                },
            })?;
        let scale = self.source.scale(layer, projection)?;
        self.source.packed(layer, projection);
        Ok(Packed { weights, scale })
    }
}
