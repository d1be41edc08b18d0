//! How packed matrices get into the cache.

use std::time::Duration;

use crate::cache_dir::CacheDir;
use crate::packed_matrix::PackedMatrix;
use crate::packed_plan::PackedPlan;
use crate::parts_file::Origin;
use crate::parts_writer::{PackedWriterError, PartsWriter};

/// A file of packed matrices that is being written. Dropped before it is
/// finished, it is removed.
#[derive(Debug)]
pub struct PackedWriter<'a> {
    plan: &'a PackedPlan,
    parts: PartsWriter<'a>,
}

impl<'a> PackedWriter<'a> {
    /// As [`PartsWriter::begin`].
    pub fn begin(
        cache: &'a CacheDir,
        plan: &'a PackedPlan,
        patience: Duration,
    ) -> Result<PackedWriter<'a>, PackedWriterError> {
        let parts = PartsWriter::begin(cache, &plan.parts, patience)?;
        Ok(PackedWriter { plan, parts })
    }

    /// As [`PartsWriter::reserve`].
    pub fn reserve(&self, limit: u64) -> Result<(), PackedWriterError> {
        self.parts.reserve(limit)
    }

    /// Writes a matrix, that the kernel of the plan packed for this place;
    /// several may be written at once from several threads.
    ///
    /// # Panics
    ///
    /// If the matrix has another shape or kernel than the plan.
    pub fn put(
        &self,
        index: usize,
        matrix: &PackedMatrix,
        scale: f32,
    ) -> Result<(), PackedWriterError> {
        assert!(self.plan.kernel.is(matrix.kernel()), "another kernel's");
        assert_eq!((matrix.rows(), matrix.cols()), self.plan.shapes[index]);
        self.parts
            .put(index, matrix.as_bytes(), scale.to_le_bytes())
    }

    /// As [`PartsWriter::finish`].
    pub fn finish(self, origin: &Origin) -> Result<(), PackedWriterError> {
        self.parts.finish(origin)
    }
}
