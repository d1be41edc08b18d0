//! Packed matrices in a file of the cache.

use crate::cache_dir::CacheDir;
use crate::packed_matrix::PackedMatrix;
use crate::packed_plan::PackedPlan;
use crate::parts_file::{Origin, PackedFileError, PartsFile};

/// A file of a model's packed matrices that is what its plan says. The matrices
/// are checked as they are asked for.
#[derive(Debug)]
pub struct PackedFile {
    plan: PackedPlan,
    parts: PartsFile,
}

impl PackedFile {
    /// The file in the cache, if it is there.
    pub fn open(
        cache: &CacheDir,
        plan: &PackedPlan,
    ) -> Result<Option<PackedFile>, PackedFileError> {
        let parts = PartsFile::open(cache, &plan.parts)?;
        let plan = plan.clone();
        Ok(parts.map(|parts| PackedFile { plan, parts }))
    }

    /// What was packed.
    pub fn origin(&self) -> Origin {
        self.parts.origin()
    }

    /// A matrix and its scale, all of its bytes checked.
    pub fn matrix(&self, index: usize) -> Result<(PackedMatrix, f32), PackedFileError> {
        let scale = f32::from_le_bytes(self.parts.check(index)?);
        let shape = self.plan.shapes[index];
        let matrix = PackedMatrix::mapped(&self.plan.kernel, shape, self.parts.part(index));
        Ok((matrix, scale))
    }
}
