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
    /// Blocks free after the step.
    pub num_free_blocks: usize,
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
    }
}
