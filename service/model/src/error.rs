use std::path::PathBuf;

use crate::{
    chat::TemplateError, gguf::GgufError, safetensors::SafetensorsError, tokenizer::TokenizerError,
};

/// Why a model cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("cannot read {}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },

    #[error("{} is neither a GGUF file nor a directory with a config.json", path.display())]
    NotAModel { path: PathBuf },

    #[error("{file} is missing")]
    FileMissing { file: String },

    #[error("{file} has {bytes} bytes, more than the {limit} that are read")]
    FileTooLarge {
        file: String,
        bytes: u64,
        limit: u64,
    },

    #[error("{file} is not valid JSON: {source}")]
    Json {
        file: String,
        source: serde_json::Error,
    },

    /// A value in a config or in GGUF metadata that is absurd or not supported.
    #[error("{file}: {key}: {reason}")]
    Config {
        file: String,
        key: String,
        reason: String,
    },

    #[error(transparent)]
    Gguf(#[from] GgufError),

    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),

    #[error("tensor {name} is missing")]
    TensorMissing { name: String },

    #[error("tensor {name} has shape {got:?}, expected {want}")]
    TensorShape {
        name: String,
        got: Vec<u64>,
        want: String,
    },

    #[error("tensor {name} has type {got}, expected {want}")]
    TensorType {
        name: String,
        got: String,
        want: &'static str,
    },

    #[error("tensor {name} has scale {value}, expected a finite number above zero")]
    Scale { name: String, value: f32 },

    /// Two bits that mean none of -1, 0 and +1: a damaged file, or a layout this is not.
    #[error("tensor {tensor} holds a value that is no trit at byte {offset} of the file")]
    NotATrit { tensor: String, offset: usize },

    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),

    #[error(transparent)]
    Template(#[from] TemplateError),
}
