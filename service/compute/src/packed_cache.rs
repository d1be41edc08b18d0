//! Packed weights that outlive the process that packed them.
//!
//! A file of the cache is used if it is the one that the model's digest, the
//! plugin and all sizes ask for; if it was made of this model's weights; if
//! every byte of it has its checksum; and if some rows of each kind of matrix,
//! multiplied by the plugin, give what the model's own weights do. Otherwise
//! the model is packed anew and the file replaced.
//!
//! **Which weights.** A model's digest doesn't cover every byte of a large
//! file, as reading all of it takes longer than the rest of a start. So the
//! file says what it was made of: of all ternary weights the BLAKE3, and of the
//! model's files the stamp (`ternion_model::Weights::stamp`). Files with that
//! stamp are those that were read; with any other, as that of a copy, the
//! weights are hashed.

use std::time::Duration;

use ternion_kernel_host::{
    CacheDir, KernelError, Origin, PackedFile, PackedFileError, PackedPlan, PackedWriter,
    PackedWriterError, Prepared,
};
use ternion_model::Model;

use crate::loaded::LoadError;
use crate::packing::{Matrix, Packed, Packing};

/// How long another process may take to pack the same model. Afterwards it is
/// packed without the cache: it costs memory, and no more time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where packed weights are kept, and those of which model are wanted.
#[derive(Clone, Copy, Debug)]
pub struct PackedCache<'a> {
    /// Where.
    pub dir: &'a CacheDir,
    /// Most bytes of packed weights in it, of all models.
    pub limit: u64,
    /// Of which model.
    pub model: &'a Model,
}

/// What came of the cache of packed weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheUse {
    /// The weights were there.
    Hit,
    /// They weren't, and are now.
    Written {
        /// Why what was there isn't used.
        rejected: Option<String>,
    },
    /// They weren't, and could not be put there.
    Failed {
        /// Why not.
        reason: String,
        /// Why what was there isn't used.
        rejected: Option<String>,
    },
}

/// Why a file of the cache isn't used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Rejected {
    #[error(transparent)]
    File(#[from] PackedFileError),
    #[error("the weights in it are not the model's")]
    OtherWeights,
    #[error("the output head in it is not what the model's becomes")]
    OtherHead,
    #[error("layer 0, {projection:?}: the weights in it don't give what the model's do")]
    OtherProduct {
        projection: ternion_model::Projection,
    },
    #[error("layer 0: {0}")]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Model(#[from] ternion_model::ModelError),
}

/// Why nothing was written.
enum Failure {
    /// There is no model to serve.
    Load(LoadError),
    /// There is one, which isn't in the cache.
    Cache(String),
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Failure {
        Failure::Load(error)
    }
}

impl From<PackedWriterError> for Failure {
    fn from(error: PackedWriterError) -> Failure {
        Failure::Cache(error.to_string())
    }
}

impl PackedCache<'_> {
    /// The model's matrices, from the cache if they are there.
    pub(crate) fn matrices(
        &self,
        packing: &Packing<'_>,
    ) -> Result<(Vec<Packed>, CacheUse), LoadError> {
        let shapes: Vec<_> = packing.matrices().map(|m| packing.shape(m)).collect();
        let plan = match PackedPlan::new(packing.kernel, &self.model.digest, &shapes) {
            Ok(plan) => plan,
            // If it is the kernel's or the model's fault, packing will tell.
            Err(error) => return pack_without(packing, error.to_string(), None),
        };
        let rejected = match self.read(packing, &plan) {
            Ok(Some(matrices)) => return Ok((matrices, CacheUse::Hit)),
            Ok(None) => None,
            Err(rejected) => Some(rejected.to_string()),
        };
        match self.write(packing, &plan, rejected.clone()) {
            Ok(done) => Ok(done),
            Err(Failure::Load(error)) => Err(error),
            Err(Failure::Cache(reason)) => pack_without(packing, reason, rejected),
        }
    }

    fn read(
        &self,
        packing: &Packing<'_>,
        plan: &PackedPlan,
    ) -> Result<Option<Vec<Packed>>, Rejected> {
        let Some(file) = PackedFile::open(self.dir, plan)? else {
            return Ok(None);
        };
        let (origin, stamp) = (file.origin(), self.model.weights.stamp());
        if (stamp.is_none() || stamp != origin.stamp) && self.content(packing) != origin.content {
            return Err(Rejected::OtherWeights);
        }
        let matrices = packing.each(|matrix| -> Result<_, PackedFileError> {
            let (weights, scale) = file.matrix(matrix.index)?;
            Ok(Packed { weights, scale })
        })?;
        for (matrix, packed) in packing.matrices().zip(&matrices) {
            if matrix.layer == 0 {
                prove(packing, matrix, packed)?;
            }
        }
        Ok(Some(matrices))
    }

    fn write(
        &self,
        packing: &Packing<'_>,
        plan: &PackedPlan,
        rejected: Option<String>,
    ) -> Result<(Vec<Packed>, CacheUse), Failure> {
        let writer = PackedWriter::begin(self.dir, plan, PATIENCE)?;
        // Whoever was waited for may have left what was wanted.
        if let Ok(Some(matrices)) = self.read(packing, plan) {
            return Ok((matrices, CacheUse::Hit));
        }
        writer.reserve(self.limit)?;
        let digests = packing.each(|matrix| -> Result<_, Failure> {
            let packed = packing.pack(matrix)?;
            writer.put(matrix.index, &packed.weights, packed.scale)?;
            Ok(self.digest(matrix))
        })?;
        writer.finish(&Origin {
            stamp: self.model.weights.stamp(),
            content: content(&digests),
        })?;
        // Read like any other's, this process has no copy of its own.
        match self.read(packing, plan) {
            Ok(Some(matrices)) => Ok((matrices, CacheUse::Written { rejected })),
            Ok(None) => Err(Failure::Cache("it was removed at once".to_owned())),
            Err(again) => Err(Failure::Cache(again.to_string())),
        }
    }

    /// The digest of all ternary weights of the model.
    fn content(&self, packing: &Packing<'_>) -> [u8; 32] {
        let digests = packing.each(|matrix| Ok::<_, std::convert::Infallible>(self.digest(matrix)));
        let Ok(digests) = digests;
        content(&digests)
    }

    fn digest(&self, matrix: Matrix) -> [u8; 32] {
        let weights = &self.model.weights;
        let digest = weights.ternary_digest(matrix.layer, matrix.projection);
        weights.give_back_ternary(matrix.layer, matrix.projection);
        digest
    }
}

fn content(digests: &[[u8; 32]]) -> [u8; 32] {
    blake3::hash(digests.as_flattened()).into()
}

fn pack_without(
    packing: &Packing<'_>,
    reason: String,
    rejected: Option<String>,
) -> Result<(Vec<Packed>, CacheUse), LoadError> {
    let matrices = packing.each(|matrix| packing.pack(matrix))?;
    Ok((matrices, CacheUse::Failed { reason, rejected }))
}

/// Multiplies the first rows, and does it again from the model's file: a plugin
/// whose layout has changed, or a model that has, is found out whatever digests
/// say.
fn prove(packing: &Packing<'_>, matrix: Matrix, packed: &Packed) -> Result<(), Rejected> {
    let (rows, cols) = packing.shape(matrix);
    let kernel = packing.kernel;
    let num_rows = kernel.row_tile().min(rows);
    let activations: Vec<i8> = (0..cols).map(|i| (i * 89 % 255) as u8 as i8).collect();
    let mut prepared = Prepared::default();
    kernel.prepare(cols, 1, &activations, &mut prepared)?;
    let mut products = vec![0; num_rows];
    kernel.gemm(
        &packed.weights,
        &prepared,
        0..num_rows,
        &mut products,
        num_rows,
    )?;
    let Matrix {
        layer, projection, ..
    } = matrix;
    let mut trits = vec![0; num_rows * cols];
    packing
        .source
        .trits_into(layer, projection, 0..num_rows, &mut trits)?;
    let product = |row: &[i8]| -> i32 {
        let pairs = row.iter().zip(&activations);
        pairs.map(|(t, x)| i32::from(*t) * i32::from(*x)).sum()
    };
    if trits.chunks_exact(cols).map(product).eq(products) {
        Ok(())
    } else {
        Err(Rejected::OtherProduct { projection })
    }
}
