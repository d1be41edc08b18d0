//! The model's tokens, as the engine asks for them.

use std::sync::Arc;

use ternion_engine::Vocabulary;
use ternion_model::Model;

pub(crate) struct ModelVocabulary {
    model: Arc<Model>,
    size: usize,
}

impl ModelVocabulary {
    pub(crate) fn new(model: Arc<Model>) -> ModelVocabulary {
        // Heads are padded beyond the tokenizer's ids, and tokenizers list
        // tokens the head never learnt. Only what both have can be spoken.
        let size = model.tokenizer.vocab_size().min(model.architecture.vocab);
        ModelVocabulary { model, size }
    }
}

impl Vocabulary for ModelVocabulary {
    fn token_bytes(&self, token: u32) -> &[u8] {
        self.model.tokenizer.token_bytes(token)
    }

    fn size(&self) -> usize {
        self.size
    }

    fn is_end(&self, token: u32) -> bool {
        self.model.generation.end_tokens.contains(&token)
    }
}
