//! The fake model on a machine: its steps take time, on a clock that nothing
//! else moves.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::fake::{FakeModel, FakeVocabulary};
use crate::{
    Batch, BlockCopy, Engine, Event, Executor, ExecutorError, Limits, Logits, Request, SequenceId,
    Span, StepReport, Time,
};

/// About a model of 2 billion weights on two cores.
pub(super) const LIMITS: Limits = Limits {
    num_blocks: 2048,
    block_size: 16,
    max_num_seqs: 16,
    max_num_batched_tokens: 256,
    step_budget: None,
    max_draft_tokens: 0,
    max_queued: 256,
    max_queued_tokens: usize::MAX,
    max_model_len: 8192,
};

const BASE_US: u64 = 12_000;
const ROW_US: u64 = 400;
const TOKEN_US: u64 = 2_500;
const ATTENDED_NS: u64 = 3_000;

const BASE: Time = Time::from_micros(BASE_US);

/// What the machine takes for a part of a batch.
fn time_of(span: &Span) -> Time {
    let (len, position) = (span.len as u64, span.position as u64);
    let attended = len * position + len * (len + 1) / 2;
    let micros = ROW_US * span.num_logits as u64 + TOKEN_US * len;
    Time::from_nanos(1000 * micros + ATTENDED_NS * attended)
}

#[derive(Debug, Clone, Copy)]
struct Part {
    took: Time,
    is_sampled: bool,
}

struct TimedModel {
    model: FakeModel,
    /// The parts of the last step.
    parts: Vec<Part>,
    clock: Rc<Cell<Time>>,
}

impl Executor for TimedModel {
    fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        self.model.copy_blocks(copies);
    }

    fn execute(&mut self, batch: &Batch) -> Result<&Logits, ExecutorError> {
        let parts = batch.spans.iter().map(|span| Part {
            took: time_of(span),
            is_sampled: span.num_logits > 0,
        });
        self.parts = parts.collect();
        let sum: Time = self.parts.iter().map(|part| part.took).sum();
        self.clock.set(self.clock.get() + BASE + sum);
        self.model.execute(batch)
    }

    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }
}

pub(super) struct Machine {
    pub(super) engine: Engine,
    executor: TimedModel,
    clock: Rc<Cell<Time>>,
    pub(super) events: Vec<Event>,
}

impl Machine {
    pub(super) fn new(limits: Limits) -> Machine {
        let clock = Rc::new(Cell::new(Time::from_secs(1)));
        Machine {
            engine: Engine::new(limits, Arc::new(FakeVocabulary)),
            executor: TimedModel {
                model: FakeModel::new(limits.num_blocks, limits.block_size),
                parts: Vec::new(),
                clock: clock.clone(),
            },
            clock,
            events: Vec::new(),
        }
    }

    pub(super) fn now(&self) -> Time {
        self.clock.get()
    }

    /// Time goes by.
    pub(super) fn pass(&mut self, time: Time) {
        self.clock.set(self.clock.get() + time);
    }

    pub(super) fn submit(&mut self, request: Request) -> SequenceId {
        self.engine.submit(request, self.now()).unwrap()
    }

    pub(super) fn step(&mut self) -> StepReport {
        let clock = self.clock.clone();
        let report = self
            .engine
            .step(|| clock.get(), &mut self.executor, &mut self.events);
        report.clone()
    }

    /// A step, how long it took, and how long it would have taken without
    /// unfinished prompts.
    pub(super) fn timed_step(&mut self) -> (StepReport, Time, Time) {
        let begin = self.now();
        let report = self.step();
        let sampled = self.executor.parts.iter().filter(|part| part.is_sampled);
        let sampled: Time = sampled.map(|part| part.took).sum();
        (report, self.now() - begin, BASE + sampled)
    }

    /// A step, and how many seconds of it were for each of its sequences.
    pub(super) fn step_by_parts(&mut self) -> Vec<(SequenceId, f64)> {
        let report = self.step();
        let parts = self.executor.parts.iter().map(|part| part.took);
        let parts: Vec<f64> = parts.map(|took| took.as_secs_f64()).collect();
        let sum: f64 = parts.iter().sum();
        let scale = 1.0 + BASE.as_secs_f64() / sum;
        let ids = report.scheduled.iter().map(|(id, _)| *id);
        ids.zip(parts)
            .map(|(id, part)| (id, part * scale))
            .collect()
    }
}
