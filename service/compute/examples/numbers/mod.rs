//! A vocabulary of tokens without text, for examples that run the engine.

use ternion_engine::Vocabulary;

/// So many of them.
pub(crate) struct Numbers(pub(crate) usize);

impl Vocabulary for Numbers {
    fn token_bytes(&self, _: u32) -> &[u8] {
        b""
    }

    fn size(&self) -> usize {
        self.0
    }

    fn is_end(&self, _: u32) -> bool {
        false
    }
}
