//! Which file of the cache a model's matrices in a plugin's layout are.

use crate::kernel::{Kernel, KernelError};
use crate::parts_plan::PartsPlan;

/// A model's matrices in a plugin's layout, as a file.
#[derive(Clone, Debug)]
pub struct PackedPlan {
    pub(crate) kernel: Kernel,
    pub(crate) shapes: Vec<(usize, usize)>,
    pub(crate) parts: PartsPlan,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum PlanError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("{0} matrices take more bytes than there are addresses")]
    TooLarge(usize),
}

impl PackedPlan {
    /// `model` is what tells one model from another, `shapes` the rows and
    /// columns of its matrices.
    pub fn new(
        kernel: &Kernel,
        model: &str,
        shapes: &[(usize, usize)],
    ) -> Result<PackedPlan, PlanError> {
        let sizes = shapes
            .iter()
            .map(|&(rows, cols)| kernel.packed_bytes(rows, cols))
            .collect::<Result<Vec<_>, _>>()?;
        let key = |starts: &[usize]| key(kernel, model, shapes, &sizes, starts);
        let parts = PartsPlan::new("packed", &sizes, key);
        Ok(PackedPlan {
            kernel: kernel.clone(),
            shapes: shapes.to_vec(),
            parts: parts.ok_or(PlanError::TooLarge(shapes.len()))?,
        })
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> usize {
        self.parts.bytes()
    }
}

/// Names the model, the very plugin, and all sizes.
fn key(
    kernel: &Kernel,
    model: &str,
    shapes: &[(usize, usize)],
    sizes: &[usize],
    starts: &[usize],
) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let isa = kernel.isa();
    for text in [model, kernel.name(), kernel.version(), isa] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    // Builds of one version may differ in their layout. A table that is part
    // of this program has no file.
    if let Some(sha256) = kernel.sha256() {
        hasher.update(sha256.to_string().as_bytes());
    }
    for ((&(rows, cols), bytes), start) in shapes.iter().zip(sizes).zip(starts) {
        for number in [rows, cols, *bytes, *start] {
            hasher.update(&(number as u64).to_le_bytes());
        }
    }
    hasher.finalize().into()
}
