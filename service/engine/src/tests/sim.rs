//! An engine, a fake model and a clock that ticks once a step.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use super::fake::{FakeModel, FakeVocabulary};
use crate::{
    Engine, Event, Limits, Request, Sampling, SequenceId, Share, StepReport, Stopping, Time,
    Vocabulary,
};

pub(super) const TINY: Limits = Limits {
    num_blocks: 4,
    block_size: 2,
    max_num_seqs: 4,
    max_num_batched_tokens: 16,
    step_budget: Some(Time::from_secs(3600)),
    max_draft_tokens: 0,
    max_queued: 8,
    max_queued_tokens: usize::MAX,
    max_model_len: 32,
};

pub(super) const ROOMY: Limits = Limits {
    num_blocks: 64,
    ..TINY
};

/// Generates `max_tokens` tokens, whatever they are.
pub(super) fn request(prompt_len: usize, max_tokens: usize) -> Request {
    Request {
        prompt: (0..prompt_len).map(|n| 1 + n as u32 % 9).collect(),
        sampling: Sampling::default(),
        stopping: Stopping {
            max_tokens,
            ignore_eos: true,
            ..Stopping::default()
        },
        share: Share::default(),
        priority: 0,
        salt: None,
        num_public: 0,
        deadline: None,
        credit: usize::MAX,
    }
}

pub(super) struct Sim {
    pub(super) engine: Engine,
    pub(super) model: FakeModel,
    pub(super) events: Vec<Event>,
    /// Seconds; a step begins at a whole one.
    pub(super) step: u64,
    /// How long one takes.
    pub(super) takes: Time,
    names: HashMap<SequenceId, &'static str>,
    trace: String,
}

impl Sim {
    pub(super) fn new(limits: Limits) -> Sim {
        Sim::with_vocabulary(limits, FakeVocabulary)
    }

    pub(super) fn with_vocabulary(limits: Limits, vocabulary: impl Vocabulary + 'static) -> Sim {
        Sim {
            engine: Engine::new(limits, Arc::new(vocabulary)),
            model: FakeModel::new(limits.num_blocks, limits.block_size),
            events: Vec::new(),
            step: 0,
            takes: Time::from_millis(250),
            names: HashMap::new(),
            trace: String::new(),
        }
    }

    pub(super) fn now(&self) -> Time {
        Time::from_secs(self.step)
    }

    pub(super) fn submit(&mut self, name: &'static str, request: Request) -> SequenceId {
        let id = self.engine.submit(request, self.now()).unwrap();
        self.names.insert(id, name);
        id
    }

    /// The ids of samples follow each other.
    pub(super) fn submit_samples<const N: usize>(
        &mut self,
        names: [&'static str; N],
        request: Request,
    ) -> [SequenceId; N] {
        let first = self.engine.submit_samples(request, N, self.now()).unwrap();
        let ids = std::array::from_fn(|index| SequenceId(first.0 + index as u64));
        self.names.extend(ids.into_iter().zip(names));
        ids
    }

    /// For sequences whose trace nobody reads.
    pub(super) fn name(&mut self, id: SequenceId) {
        self.names.insert(id, "x");
    }

    pub(super) fn step(&mut self) -> StepReport {
        self.step += 1;
        let (begin, end) = (self.now(), self.now() + self.takes);
        let mut times = std::iter::once(begin).chain(std::iter::repeat(end));
        let now = || times.next().expect("it has no end");
        self.model.last.clear();
        self.model.copied.clear();
        let report = self.engine.step(now, &mut self.model, &mut self.events);
        let report = report.clone();
        self.engine.check();
        self.describe(&report);
        report
    }

    /// `+n` computes n tokens, `-` is preempted, `.` is finished.
    fn describe(&mut self, report: &StepReport) {
        write!(self.trace, "{} ", self.step).unwrap();
        for (id, len) in &report.scheduled {
            write!(self.trace, " {}+{len}", self.names[id]).unwrap();
        }
        for id in &report.preempted {
            write!(self.trace, " {}-", self.names[id]).unwrap();
        }
        for (id, _) in &report.finished {
            write!(self.trace, " {}.", self.names[id]).unwrap();
        }
        writeln!(self.trace, "  free {}", report.num_free_blocks).unwrap();
    }

    pub(super) fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.step();
        }
    }

    /// Steps until there is nothing to do. Returns the trace.
    pub(super) fn run(&mut self) -> &str {
        let begin = self.step;
        while self.engine.has_work() {
            assert!(self.step - begin < 1000, "{}", self.trace);
            self.step();
        }
        &self.trace
    }

    pub(super) fn tokens(&self, of: SequenceId) -> Vec<u32> {
        let token = |event: &Event| match event {
            Event::Token { id, token, .. } if *id == of => Some(*token),
            _ => None,
        };
        self.events.iter().filter_map(token).collect()
    }

    /// The last event of a sequence, which has ended.
    pub(super) fn end(&self, of: SequenceId) -> &Event {
        let is_end = |event: &&Event| matches!(event, Event::Finished { id, .. } if *id == of);
        let mut ends = self.events.iter().filter(is_end);
        let end = ends.next().expect("the sequence has ended");
        assert_eq!(ends.next(), None, "it ended twice");
        end
    }
}
