use std::path::Path;

use crate::{Model, ModelError};

/// Why a GGUF file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    #[error("GGUF is not read yet")]
    Unsupported,
}

pub(crate) const MAGIC: &[u8; 4] = b"GGUF";

pub(crate) fn open(_path: &Path, _name: &str) -> Result<Model, ModelError> {
    Err(GgufError::Unsupported.into())
}
