//! What a file of packed weights has to look like.
//!
//! Everything about such a file but the weights, their checksums and their
//! scales follows from the model and the plugin, so a reader computes what it
//! must find and compares. Nothing in a file says where to look for anything.
//!
//! ```text
//! 0     "TRNPACK1"
//! 8     BLAKE3 of everything from 40 to the first matrix
//! 40    the plan's key
//! 72    the model files' stamp    } of the model that was packed
//! 104   digest of its weights     }
//! 136   for each matrix: BLAKE3 of its bytes and of those that fill up its
//!       last page, and its scale as a little-endian f32
//!       zeros up to a page, then the matrices, each at a page
//! ```

use std::ops::Range;

use crate::kernel::{Kernel, KernelError};

pub(crate) const MAGIC: &[u8; 8] = b"TRNPACK1";
/// Covered by the digest in front of it.
pub(crate) const SEALED: usize = 40;
pub(crate) const KEY: Range<usize> = 40..72;
pub(crate) const STAMP: Range<usize> = 72..104;
pub(crate) const CONTENT: Range<usize> = 104..136;
pub(crate) const CHECKS: usize = 136;
pub(crate) const CHECK: usize = 36;

/// Matrices lie at multiples of this: what any page and any plugin's alignment
/// divides.
const PAGE: usize = 4096;

/// A model's matrices in a plugin's layout, as a file.
#[derive(Clone, Debug)]
pub struct PackedPlan {
    pub(crate) kernel: Kernel,
    pub(crate) key: [u8; 32],
    pub(crate) places: Vec<Place>,
    /// Of the file.
    pub(crate) len: usize,
}

/// Where a matrix lies.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) bytes: usize,
    /// Whole pages of the file.
    pub(crate) pages: Range<usize>,
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
        let too_large = || PlanError::TooLarge(shapes.len());
        let mut len = CHECK
            .checked_mul(shapes.len())
            .and_then(|checks| checks.checked_add(CHECKS)?.checked_next_multiple_of(PAGE))
            .ok_or_else(too_large)?;
        let mut places = Vec::with_capacity(shapes.len());
        for &(rows, cols) in shapes {
            let bytes = kernel.packed_bytes(rows, cols)?;
            let end = bytes
                .checked_next_multiple_of(PAGE)
                .and_then(|bytes| len.checked_add(bytes))
                .filter(|&end| i64::try_from(end).is_ok())
                .ok_or_else(too_large)?;
            let pages = len..end;
            places.push(Place {
                rows,
                cols,
                bytes,
                pages,
            });
            len = end;
        }
        Ok(PackedPlan {
            key: key(kernel, model, &places),
            kernel: kernel.clone(),
            places,
            len,
        })
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> usize {
        self.len
    }

    /// Bytes of the file in front of the matrices.
    pub(crate) fn header_len(&self) -> usize {
        self.places
            .first()
            .map_or(self.len, |place| place.pages.start)
    }

    /// Where the check of a matrix stands.
    pub(crate) fn check(&self, matrix: usize) -> Range<usize> {
        let start = CHECKS + matrix * CHECK;
        start..start + CHECK
    }
}

/// Names the model, the very plugin, and all sizes.
fn key(kernel: &Kernel, model: &str, places: &[Place]) -> [u8; 32] {
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
    for place in places {
        for number in [place.rows, place.cols, place.bytes, place.pages.start] {
            hasher.update(&(number as u64).to_le_bytes());
        }
    }
    hasher.finalize().into()
}
