//! Where a model's numbers come from.

use std::ops::Range;

use ternion_model::{Architecture, DenseMatrix, Model, ModelError, Norm, Projection};

use crate::dialect::Dialect;

/// A model's numbers: those of a file, or random ones of a given shape.
pub trait WeightSource: Send + Sync {
    /// Shapes and choices of the forward pass.
    fn architecture(&self) -> &Architecture;

    /// Whose float arithmetic it is to be run in.
    fn dialect(&self) -> Dialect;

    /// Multiplier of a ternary matrix.
    fn scale(&self, layer: usize, projection: Projection) -> Result<f32, ModelError>;

    /// Rows of a ternary matrix, row-major, one int8 a weight.
    fn trits_into(
        &self,
        layer: usize,
        projection: Projection,
        rows: Range<usize>,
        out: &mut [i8],
    ) -> Result<(), ModelError>;

    /// Weights of a norm inside a layer, if the model has it.
    fn norm(&self, layer: usize, norm: Norm) -> Option<Vec<f32>>;

    /// Weights of the last norm.
    fn output_norm(&self) -> Vec<f32>;

    /// `[vocab, hidden]`.
    fn embedding(&self) -> DenseMatrix<'_>;

    /// `[vocab, hidden]`; the embedding where they are tied.
    fn head(&self) -> DenseMatrix<'_>;

    /// A ternary matrix has been packed: whatever memory can be had again is
    /// given back.
    fn packed(&self, _layer: usize, _projection: Projection) {}

    /// Everything has been packed that was to be, likewise.
    fn all_packed(&self) {}
}

impl WeightSource for Model {
    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn dialect(&self) -> Dialect {
        self.reference.into()
    }

    fn scale(&self, layer: usize, projection: Projection) -> Result<f32, ModelError> {
        Ok(self.weights.ternary(layer, projection)?.scale())
    }

    fn trits_into(
        &self,
        layer: usize,
        projection: Projection,
        rows: Range<usize>,
        out: &mut [i8],
    ) -> Result<(), ModelError> {
        self.weights
            .ternary(layer, projection)?
            .trits_into(rows, out)
    }

    fn norm(&self, layer: usize, norm: Norm) -> Option<Vec<f32>> {
        self.weights.norm(layer, norm).map(<[f32]>::to_vec)
    }

    fn output_norm(&self) -> Vec<f32> {
        self.weights.output_norm().to_vec()
    }

    fn embedding(&self) -> DenseMatrix<'_> {
        self.weights.embedding()
    }

    fn head(&self) -> DenseMatrix<'_> {
        self.weights.head()
    }

    fn packed(&self, layer: usize, projection: Projection) {
        self.weights.give_back_ternary(layer, projection);
    }

    fn all_packed(&self) {
        self.weights.give_back();
    }
}
