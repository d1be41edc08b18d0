use std::{fs::File, io::Read, path::Path};

use crate::{
    Architecture, ChatTemplate, GenerationDefaults, ModelError, Tokenizer, Weights, gguf, hf,
};

/// A model, opened and checked.
#[derive(Debug)]
pub struct Model {
    /// The name it gives itself, or that of its file or directory.
    pub name: String,
    /// Tells versions of a model apart; see `digest.rs` for what it covers.
    pub digest: String,
    /// Whose answers are the right ones.
    pub reference: Reference,
    pub architecture: Architecture,
    pub tokenizer: Tokenizer,
    /// `None` for a model that was not made to chat.
    pub chat: Option<ChatTemplate>,
    pub generation: GenerationDefaults,
    pub weights: Weights,
}

/// What is known of a model before its tokenizer and its weights are.
#[derive(Clone, Debug)]
pub struct Outline {
    pub reference: Reference,
    pub architecture: Architecture,
}

/// The implementation that a model's files are made for. They round in
/// different places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// transformers' `AutoBitLinear`, in f32: Hugging Face directories of that
    /// linear class, and master weights.
    AutoBitLinear,
    /// transformers' older `BitLinear`: Hugging Face directories of linear
    /// class `bitlinear`, or of none. It multiplies in the type that the model
    /// was saved in, and bfloat16 rounds each sum to 8 bits.
    BitLinear,
    /// bitnet.cpp: GGUF files.
    BitnetCpp,
}

impl Model {
    /// Opens a Hugging Face directory or a GGUF file; which of them is found by looking.
    pub fn open(path: &Path) -> Result<Model, ModelError> {
        Model::open_telling(path, &mut |_| {})
    }

    /// The same, telling what is known first: a large tokenizer is most of the work, and what doesn't depend on it need
    /// not wait for it. The model may still turn out to be none.
    pub fn open_telling(path: &Path, tell: &mut dyn FnMut(Outline)) -> Result<Model, ModelError> {
        let not_a_model = || ModelError::NotAModel {
            path: path.to_owned(),
        };
        if path.is_dir() {
            let directory = hf::Directory::Disk(path.to_owned());
            if !directory.contains("config.json") {
                return Err(not_a_model());
            }
            return hf::open(&stem(path), &directory, tell);
        }
        let io = |source| ModelError::Io {
            path: path.to_owned(),
            source,
        };
        let mut magic = Vec::new();
        let file = File::open(path).map_err(io)?;
        file.take(4).read_to_end(&mut magic).map_err(io)?;
        if magic != gguf::MAGIC {
            return Err(not_a_model());
        }
        gguf::open(path, &stem(path), tell)
    }

    /// Opens a Hugging Face directory that is part of the program, given as names and contents.
    pub fn from_files(name: &str, files: &[(&str, &'static [u8])]) -> Result<Model, ModelError> {
        Model::from_files_telling(name, files, &mut |_| {})
    }

    /// The same, telling what is known first.
    pub fn from_files_telling(
        name: &str,
        files: &[(&str, &'static [u8])],
        tell: &mut dyn FnMut(Outline),
    ) -> Result<Model, ModelError> {
        hf::open(name, &hf::Directory::Embedded(files), tell)
    }

    /// The ids of a conversation, ready for the model to answer.
    ///
    /// # Errors
    ///
    /// If the model has no chat template, or the template refuses the messages.
    pub fn encode_chat(&self, messages: &[crate::ChatMessage]) -> Result<Vec<u32>, ModelError> {
        let Some(template) = &self.chat else {
            return Err(crate::TemplateError::NoTemplate.into());
        };
        template.encode(&self.tokenizer, messages)
    }
}

fn stem(path: &Path) -> String {
    let named = if path.is_dir() {
        path.file_name()
    } else {
        path.file_stem()
    };
    named.map_or_else(|| "model".to_owned(), |n| n.to_string_lossy().into_owned())
}
