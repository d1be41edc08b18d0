//! The fake model on a machine: its steps take time, on a clock that nothing
//! else moves.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::fake::{FakeModel, FakeVocabulary};
use crate::{
    Batch, Engine, Event, Executor, ExecutorError, Limits, Logits, Request, SequenceId, Span,
    StepReport, Time,
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
    max_model_len: 8192,
};

const BASE_US: u64 = 12_000;
const ROW_US: u64 = 400;
const TOKEN_US: u64 = 2_500;
const ATTENDED_NS: u64 = 3_000;

/// What the machine takes for a batch of these.
fn time_of<'a>(spans: impl Iterator<Item = &'a Span>) -> Time {
    let attended = |len: usize, position: usize| (len * position + len * (len + 1) / 2) as u64;
    let spans = spans.map(|span| {
        let micros = ROW_US * span.num_logits as u64 + TOKEN_US * span.len as u64;
        1000 * micros + ATTENDED_NS * attended(span.len, span.position)
    });
    Time::from_nanos(1000 * BASE_US + spans.sum::<u64>())
}

struct TimedModel {
    model: FakeModel,
    /// What the last step would have taken without unfinished prompts.
    without_prompts: Time,
    clock: Rc<Cell<Time>>,
}

impl Executor for TimedModel {
    fn execute(&mut self, batch: &Batch) -> Result<&Logits, ExecutorError> {
        let is_sampled = |span: &&Span| span.num_logits > 0;
        self.without_prompts = time_of(batch.spans.iter().filter(is_sampled));
        let time = time_of(batch.spans.iter());
        self.clock.set(self.clock.get() + time);
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
                without_prompts: Time::ZERO,
                clock: clock.clone(),
            },
            clock,
            events: Vec::new(),
        }
    }

    pub(super) fn now(&self) -> Time {
        self.clock.get()
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
        (report, self.now() - begin, self.executor.without_prompts)
    }
}
