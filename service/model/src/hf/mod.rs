//! A model as a directory in the layout of the Hugging Face hub.

mod config;
mod directory;
mod tensors;
mod text;

use crate::{Model, ModelError, digest::Digest, model::Outline};

pub(crate) use directory::Directory;
pub(crate) use tensors::projection_name;

pub(crate) fn open(
    name: &str,
    directory: &Directory,
    tell: &mut dyn FnMut(Outline),
) -> Result<Model, ModelError> {
    let config = config::Config::read(directory)?;
    tell(Outline {
        reference: config.reference,
        architecture: config.architecture.clone(),
    });
    let text = text::Text::read(directory, &config.json, config.architecture.vocab)?;
    let mut digest = Digest::new();
    digest.small("config.json", &config.bytes);
    digest.small("tokenizer.json", &text.tokenizer_bytes);
    let weights = tensors::read(directory, &config, &mut digest)?;
    Ok(Model {
        reference: config.reference,
        name: name.to_owned(),
        digest: digest.finish(),
        architecture: config.architecture,
        tokenizer: text.tokenizer,
        chat: text.chat,
        generation: text.generation,
        weights,
    })
}
