//! The engine.

use std::sync::Arc;

use crate::{
    Event, Executor, Limits, Request, SequenceId, StepReport, SubmitError, Time, Vocabulary,
};

/// Takes requests, and runs them a step at a time.
pub struct Engine {
    limits: Limits,
    vocabulary: Arc<dyn Vocabulary>,
    report: StepReport,
}

impl Engine {
    /// An idle engine.
    ///
    /// # Panics
    ///
    /// On limits under which a sequence could wait for ever: a size of 0, or
    /// fewer `max_num_batched_tokens` than `max_num_seqs`.
    pub fn new(limits: Limits, vocabulary: Arc<dyn Vocabulary>) -> Engine {
        limits.check();
        Engine {
            limits,
            vocabulary,
            report: StepReport::default(),
        }
    }

    /// Takes a request, or says why not.
    pub fn submit(&mut self, request: Request, _now: Time) -> Result<SequenceId, SubmitError> {
        request.check(&self.limits, self.vocabulary.size())?;
        Ok(SequenceId(0))
    }

    /// Ends a sequence and frees its pages now; its `Finished` comes with the
    /// next [`Engine::step`] or [`Engine::drain_events`]. Does nothing to a
    /// sequence that has ended already.
    pub fn cancel(&mut self, _id: SequenceId, _now: Time) {}

    /// Says how many more tokens the reader of a sequence has room for.
    ///
    /// Every token uses up one. At 0 the sequence is parked until there is
    /// room again: it keeps its pages unless others need them, and takes no
    /// place in the batch. `Finished` needs no credit. Does nothing to a
    /// sequence that has ended already.
    pub fn set_credit(&mut self, _id: SequenceId, _tokens: usize) {}

    /// Appends the events of what happened between steps.
    pub fn drain_events(&mut self, _events: &mut Vec<Event>) {}

    /// Expires deadlines, runs one batch, and appends to `events` what
    /// happened.
    ///
    /// `now` is asked twice: before the batch, for deadlines, and after it, for
    /// the times of tokens and endings.
    pub fn step<E: Executor>(
        &mut self,
        _now: impl FnMut() -> Time,
        _executor: &mut E,
        _events: &mut Vec<Event>,
    ) -> &StepReport {
        &self.report
    }

    /// Whether a step would do something now. Without work, the next thing to
    /// happen is a call or [`Engine::next_deadline`].
    pub fn has_work(&self) -> bool {
        false
    }

    /// The earliest deadline of all sequences, parked ones included.
    pub fn next_deadline(&self) -> Option<Time> {
        None
    }

    /// Sequences with pages and a reader.
    pub fn num_running(&self) -> usize {
        0
    }

    /// Sequences without pages.
    pub fn num_waiting(&self) -> usize {
        0
    }

    /// Sequences whose readers have no room.
    pub fn num_parked(&self) -> usize {
        0
    }

    /// Blocks nobody holds.
    pub fn num_free_blocks(&self) -> usize {
        self.limits.num_blocks
    }

    /// Blocks of the pool.
    pub fn num_blocks(&self) -> usize {
        self.limits.num_blocks
    }
}
