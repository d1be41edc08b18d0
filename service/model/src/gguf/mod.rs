//! A model as one GGUF file, version 2 or 3.
//!
//! ```text
//! "GGUF" u32 version  u64 n_tensors  u64 n_kv  kv...  tensor infos...  padding  tensor data
//! ```
//!
//! `reader` turns bytes into a [`Header`](reader::Header) and checks everything that can be
//! checked without knowing what the file is about; `metadata` and `tensors` understand it as a
//! model; `vocabulary` builds its tokenizer.

mod error;
mod metadata;
mod reader;
mod tensor;
mod tensors;
mod value;
mod vocabulary;

use std::path::Path;

pub use error::GgufError;
pub(crate) use reader::MAGIC;

use crate::{
    Model, ModelError,
    chat::ChatTemplate,
    digest::Digest,
    mapped::FileBytes,
    model::{Outline, Reference},
};

pub(crate) fn open(
    path: &Path,
    stem: &str,
    tell: &mut dyn FnMut(Outline),
) -> Result<Model, ModelError> {
    let file = FileBytes::map(path)?;
    let header = reader::Header::parse(&file)?;
    let metadata = metadata::Metadata::new(&header)?;
    let architecture = metadata.architecture(&header)?;
    tell(Outline {
        reference: Reference::BitnetCpp,
        architecture: architecture.clone(),
    });
    let (tokenizer, generation) = vocabulary::read(&metadata)?;
    let chat = metadata
        .chat_template()?
        .map(|source| {
            let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id));
            let bos = text(tokenizer.bos());
            let eos = text(metadata.token_id("eos")?);
            ChatTemplate::new(source, bos.unwrap_or_default(), eos.unwrap_or_default())
                .map_err(ModelError::from)
        })
        .transpose()?;
    let stored = tensors::read(&header, &architecture, &file)?;
    let name = metadata.name()?.unwrap_or(stem).to_owned();
    let mut digest = Digest::new();
    digest.large("gguf", &file, header.data_start);
    Ok(Model {
        reference: Reference::BitnetCpp,
        name,
        digest: digest.finish(),
        architecture,
        tokenizer,
        chat,
        generation,
        weights: stored.weights(file),
    })
}
