//! What a step did.

use crate::{FinishReason, SequenceId};

/// What one engine step did. Plain data: the server turns it into spans and
/// metrics, the simulator prints it, a test compares it.
///
/// The engine reuses one from step to step; clone it to keep it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepReport {
    /// Sequences of the batch and how many tokens of each were computed.
    pub scheduled: Vec<(SequenceId, usize)>,
    /// Sequences whose pages were taken away, and which will be recomputed.
    pub preempted: Vec<SequenceId>,
    /// Sequences that ended in the step, or since the one before.
    pub finished: Vec<(SequenceId, FinishReason)>,
    /// Tokens of the batch, guesses included.
    pub num_tokens: usize,
    /// Sequences that were sampled from.
    pub num_sampled: usize,
    /// Guesses at next tokens that were computed.
    pub num_drafted: usize,
    /// Those of them that came true.
    pub num_accepted: usize,
    /// Parts of a batch that failed, which were run after it.
    pub num_reruns: usize,
    /// Tokens of the prompts that were begun in the step.
    pub num_prompt: usize,
    /// Those of them that were in the prefix cache.
    pub num_cached: usize,
    /// Sequences of which some were.
    pub num_hits: usize,
    /// Tokens of prompts that samples had from others of their request, when
    /// they came to have pages.
    pub num_shared: usize,
    /// Samples whose first token was drawn from what another one computed.
    pub num_shared_rows: usize,
    /// Blocks that were copied, because samples went on in different ways.
    pub num_copied: usize,
    /// Tokens that preempted sequences found in the prefix cache when they
    /// came back.
    pub num_resumed: usize,
    /// Blocks that the prefix cache gave up to sequences.
    pub num_evicted: usize,
    /// Blocks after the step that no sequence holds. The prefix cache may.
    pub num_free_blocks: usize,
    /// Blocks after the step that are in the prefix cache, be they free in this
    /// sense or not.
    pub num_kept_blocks: usize,
    /// Sequences running after the step.
    pub num_running: usize,
    /// Sequences waiting for pages or a place in the batch after the step.
    pub num_waiting: usize,
    /// Sequences parked for their readers after the step.
    pub num_parked: usize,
}

impl StepReport {
    /// Empties the lists, keeping their memory. Of the numbers those that
    /// are counted up begin at 0.
    pub(crate) fn clear(&mut self) {
        self.scheduled.clear();
        self.preempted.clear();
        self.finished.clear();
        self.num_drafted = 0;
        self.num_accepted = 0;
        self.num_reruns = 0;
        self.num_prompt = 0;
        self.num_cached = 0;
        self.num_hits = 0;
        self.num_shared = 0;
        self.num_shared_rows = 0;
        self.num_copied = 0;
        self.num_resumed = 0;
    }
}
