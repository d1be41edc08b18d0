//! What an engine may use.

use std::time::Duration;

/// Sizes fixed for the life of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// KV blocks in the pool.
    pub num_blocks: usize,
    /// Tokens a block holds.
    pub block_size: usize,
    /// Sequences in one batch.
    pub max_num_seqs: usize,
    /// Tokens in one batch. Decoding sequences are served first, and prompts
    /// share what they leave.
    pub max_num_batched_tokens: usize,
    /// How long a step should take that has both decoding sequences and
    /// prompts in it: prompts are given as many tokens as fit, going by what
    /// steps have taken, and a quarter of the others' time at the very least.
    /// So a longer one makes prompts faster and the time between tokens longer.
    /// `None`: twice what the step would take without the prompts.
    pub step_budget: Option<Duration>,
    /// Tokens that may be guessed and verified with a sequence's next one,
    /// where that pays; 0 for none.
    pub max_draft_tokens: usize,
    /// Sequences that may be alive beyond `max_num_seqs`, be they waiting or
    /// parked. With all of them taken, [`Engine::submit`] refuses.
    ///
    /// [`Engine::submit`]: crate::Engine::submit
    pub max_queued: usize,
    /// Tokens that the prompts may have, all together, of those that were not
    /// started yet; a single one may have more. Beyond that, [`Engine::submit`]
    /// refuses.
    ///
    /// [`Engine::submit`]: crate::Engine::submit
    pub max_queued_tokens: usize,
    /// Longest sequence, prompt and generated tokens together.
    pub max_model_len: usize,
}

impl Limits {
    /// Panics on limits under which a sequence could wait for ever.
    pub(crate) fn check(&self) {
        assert!(self.num_blocks > 0, "num_blocks is 0");
        assert!(
            u32::try_from(self.num_blocks).is_ok(),
            "num_blocks {} is more than a block id can name",
            self.num_blocks,
        );
        assert!(self.block_size > 0, "block_size is 0");
        assert!(self.max_num_seqs > 0, "max_num_seqs is 0");
        assert!(
            self.max_num_batched_tokens >= self.max_num_seqs,
            "max_num_batched_tokens {} is less than max_num_seqs {}: some sequence would never get a token",
            self.max_num_batched_tokens,
            self.max_num_seqs,
        );
    }

    /// Blocks that hold `num_tokens` tokens.
    pub(crate) fn blocks_for(&self, num_tokens: usize) -> usize {
        num_tokens.div_ceil(self.block_size)
    }
}
