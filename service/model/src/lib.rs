//! Model files and text: what a BitNet b1.58 model *is* before anything computes with it.
//!
//! [`Model::open`] takes a Hugging Face directory (`config.json`, `model.safetensors`,
//! `tokenizer.json`) or a GGUF file, decides which by looking at it, and checks everything once:
//! every length against the bytes that are there, every shape against the [`Architecture`], every
//! scale for being a number one can multiply by. What passes is handed out as types that need no
//! second look: a [`TernaryMatrix`] always has the bytes its shape promises.
//!
//! Nothing here is trusted. A bad file is a [`ModelError`] that names the key or the tensor and,
//! for binary files, the offset; it is never a panic and never an allocation larger than the file.
//!
//! Weights stay where they are, in mapped memory; a kernel repacks them straight from there. The
//! one `unsafe` line of the crate is the mapping itself, in `mapped.rs`.

#![deny(unsafe_code)]

mod adapter;
mod architecture;
mod chat;
mod dense;
mod digest;
mod error;
mod generation;
mod gguf;
mod hf;
mod json_object;
#[allow(
    unsafe_code,
    reason = "mapping a file is unsafe; see the argument there"
)]
mod mapped;
mod model;
mod safetensors;
mod strftime;
mod ternary;
mod text_stream;
mod token_text;
mod tokenizer;
mod weights;

pub use adapter::{Adapter, LoraPair};
pub use architecture::{Activation, Architecture, Rope};
pub use chat::{ChatMessage, ChatTemplate, TemplateError};
pub use dense::{DenseFormat, DenseMatrix};
pub use error::ModelError;
pub use generation::GenerationDefaults;
pub use gguf::GgufError;
pub use model::{Model, Outline, Reference};
pub use safetensors::SafetensorsError;
pub use ternary::TernaryMatrix;
pub use text_stream::TextStream;
pub use tokenizer::{Specials, Tokenizer, TokenizerError};
pub use weights::{Norm, Projection, Weights};
