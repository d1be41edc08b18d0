//! A model that recites a given text, on a clock that its steps move: what is
//! counted is steps and what they would take, not how long a test runs.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ternion_engine::{
    Batch, BlockCopy, Engine, Event, Executor, ExecutorError, Limits, Logits, Request, Sampling,
    Share, StepReport, Stopping, TokenLogit, Vocabulary,
};

pub(crate) const VOCAB_SIZE: usize = 1024;

struct Textless;

impl Vocabulary for Textless {
    fn token_bytes(&self, _: u32) -> &[u8] {
        b""
    }

    fn size(&self) -> usize {
        VOCAB_SIZE
    }

    fn is_end(&self, _: u32) -> bool {
        false
    }
}

struct Model<F> {
    text: Vec<u32>,
    /// Seconds of a step of so many tokens.
    step_time: F,
    clock: Rc<Cell<f64>>,
    logits: Logits,
}

impl<F: FnMut(usize) -> f64> Executor for Model<F> {
    fn copy_blocks(&mut self, _: &[BlockCopy]) {}

    fn execute(&mut self, batch: &Batch) -> Result<&Logits, ExecutorError> {
        let took = (self.step_time)(batch.tokens.len());
        self.clock.set(self.clock.get() + took);
        self.logits.begin(VOCAB_SIZE, 0);
        for span in &batch.spans {
            let end = span.position + span.len;
            for next in end + 1 - span.num_logits..end + 1 {
                // Behind the text nothing is delivered.
                let token = self.text.get(next).copied().unwrap_or(0);
                self.logits.push_some([TokenLogit { token, logit: 1.0 }]);
            }
        }
        Ok(&self.logits)
    }

    fn vocab_size(&self) -> usize {
        VOCAB_SIZE
    }
}

/// An engine that is asked for the rest of a text, its beginning being the
/// prompt.
pub(crate) struct Recital<F> {
    engine: Engine,
    model: Model<F>,
    prompt: usize,
    events: Vec<Event>,
    answer: Vec<u32>,
}

impl<F: FnMut(usize) -> f64> Recital<F> {
    pub(crate) fn new(
        text: &[u32],
        prompt: usize,
        max_draft_tokens: usize,
        step_time: F,
    ) -> Recital<F> {
        let limits = Limits {
            num_blocks: 512,
            block_size: 16,
            max_num_seqs: 1,
            max_num_batched_tokens: 512,
            step_budget: None,
            max_draft_tokens,
            max_queued: 0,
            max_queued_tokens: 4096,
            max_model_len: 4096,
        };
        let mut engine = Engine::new(limits, Arc::new(Textless));
        let request = Request {
            prompt: text[..prompt].to_vec(),
            sampling: Sampling::default(),
            stopping: Stopping {
                max_tokens: text.len() - prompt,
                ..Stopping::default()
            },
            share: Share::default(),
            priority: 0,
            salt: None,
            num_public: 0,
            deadline: None,
            credit: usize::MAX,
        };
        engine.submit(request, Duration::ZERO).expect("it fits");
        Recital {
            engine,
            model: Model {
                text: text.to_vec(),
                step_time,
                clock: Rc::new(Cell::new(1.0)),
                logits: Logits::default(),
            },
            prompt,
            events: Vec::with_capacity(64),
            answer: Vec::with_capacity(text.len()),
        }
    }

    /// The next step; `None` at the end.
    pub(crate) fn step(&mut self) -> Option<&StepReport> {
        if !self.engine.has_work() {
            assert_eq!(self.answer, self.model.text[self.prompt..]);
            return None;
        }
        let clock = self.model.clock.clone();
        let now = || Duration::from_secs_f64(clock.get());
        let report = self.engine.step(now, &mut self.model, &mut self.events);
        for event in self.events.drain(..) {
            if let Event::Token { token, .. } = event {
                self.answer.push(token);
            }
        }
        Some(report)
    }

    /// Seconds so far.
    pub(crate) fn seconds(&self) -> f64 {
        self.model.clock.get() - 1.0
    }
}
