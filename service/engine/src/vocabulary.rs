//! What the engine asks of the tokenizer.

/// The tokens a model can produce, as bytes.
pub trait Vocabulary: Send + Sync {
    /// Bytes that a token adds to the text. Not always whole characters.
    ///
    /// Asked for tokens below [`Vocabulary::size`] only.
    fn token_bytes(&self, token: u32) -> &[u8];

    /// Number of tokens. Rows of logits may be longer, since output heads are
    /// padded; what lies behind is never sampled.
    fn size(&self) -> usize;

    /// Whether the model says with this token that it has finished.
    fn is_end(&self, token: u32) -> bool;
}
