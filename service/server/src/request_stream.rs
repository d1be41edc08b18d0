//! One running request, with all its samples, as its frames come.

use std::{collections::VecDeque, sync::Arc};

use ternion_engine::{Event, SequenceId, Vocabulary};
use ternion_proto::v1;
use tokio::sync::Notify;

use crate::{
    drain::{Drain, Phase},
    frames::{Assembler, Ending, Frame, Outcome, outcome, timings, usage},
    meter::Meter,
    outbox::OutboxReader,
    queue::Place,
    queue_position::Waiting,
    request_span::RequestSpan,
    status,
    tally::Tally,
};

/// The frames of a request. Dropping it ends the request.
pub(crate) struct RequestStream {
    /// The first frame, until it is asked for.
    queued: Option<v1::Queued>,
    /// Until it is started.
    waiting: Option<Waiting>,
    place: Place,
    events: OutboxReader,
    meter: Meter,
    /// Id of the first sample.
    first: SequenceId,
    /// One for each sample.
    assemblers: Vec<Assembler>,
    /// Samples that have not ended.
    remaining: u32,
    tally: Tally,
    /// A sample has failed, and with it the request.
    failed: Option<Outcome>,
    /// An event that came while others were collected into deltas.
    held: Option<Event>,
    /// Frames that go out before anything else happens.
    ready: VecDeque<Frame>,
    /// The last frame, behind those.
    ending: Option<Ending>,
    facts: Facts,
    wanted: Wanted,
    span: RequestSpan,
}

/// Whether anybody wants the request to go on.
pub(crate) struct Wanted {
    cancel: Arc<Notify>,
    drain: Arc<Drain>,
    cancelled: bool,
    drained: bool,
}

enum News {
    Event(Event),
    /// It still waits, but elsewhere.
    Moved(v1::Queued),
    /// The engine's thread is gone.
    Lost,
}

async fn moved(waiting: &mut Option<Waiting>) -> v1::Queued {
    match waiting {
        Some(waiting) => waiting.moved().await,
        None => std::future::pending().await,
    }
}

/// What is known about a request when it is accepted.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) request_id: String,
    pub(crate) model: String,
    pub(crate) kernel: String,
    pub(crate) seed: u64,
    pub(crate) stop: Vec<String>,
}

/// A place in the queue, and what comes of it.
pub(crate) struct Taken {
    pub(crate) place: Place,
    pub(crate) waiting: Waiting,
    /// Id of the first sample; those of the others follow.
    pub(crate) first: SequenceId,
    pub(crate) samples: usize,
    pub(crate) events: OutboxReader,
}

impl RequestStream {
    pub(crate) fn new(
        taken: Taken,
        meter: Meter,
        vocabulary: Arc<dyn Vocabulary>,
        facts: Facts,
        wanted: Wanted,
        span: RequestSpan,
    ) -> RequestStream {
        let samples = u32::try_from(taken.samples).expect("they are bounded");
        RequestStream {
            queued: Some(taken.waiting.queued()),
            waiting: Some(taken.waiting),
            place: taken.place,
            events: taken.events,
            meter,
            first: taken.first,
            assemblers: (0..samples)
                .map(|index| Assembler::new(index, vocabulary.clone()))
                .collect(),
            remaining: samples,
            tally: Tally::default(),
            failed: None,
            held: None,
            ready: VecDeque::new(),
            ending: None,
            facts,
            wanted,
            span,
        }
    }

    /// The next frame, or how it ended. Not to be asked again after that.
    pub(crate) async fn next(&mut self) -> Result<Frame, Ending> {
        if let Some(queued) = self.queued.take() {
            return Ok(Frame::Queued(queued));
        }
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(frame);
            }
            if let Some(ending) = self.ending.take() {
                return Err(ending);
            }
            let event = match self.held.take() {
                Some(event) => event,
                None => match self.news().await {
                    News::Event(event) => event,
                    News::Moved(queued) => return Ok(Frame::Queued(queued)),
                    News::Lost => return Err(lost()),
                },
            };
            self.take(event);
        }
    }

    /// Ends the request as soon as it is no longer wanted. For whoever is kept
    /// from asking for the next frame, which sees to that as well.
    pub(crate) async fn heed(&mut self) {
        self.wanted.revoked().await;
        self.events.cancel();
    }

    /// Ends the request because nobody reads what it says, which is dropped.
    pub(crate) async fn give_up(&mut self) -> Ending {
        self.events.cancel();
        let ending = loop {
            if let Err(ending) = self.next().await {
                break ending;
            }
        };
        let status = status::reader_too_slow(&self.facts.request_id);
        Ending {
            outcome: Outcome::Failed(status),
            ..ending
        }
    }

    /// From now on, this is who may cancel it.
    pub(crate) fn listen(&mut self, cancel: Arc<Notify>) {
        self.wanted.cancel = cancel;
    }

    async fn news(&mut self) -> News {
        loop {
            tokio::select! {
                biased;
                () = self.wanted.revoked() => self.events.cancel(),
                event = self.events.recv() => return match event {
                    Some(event) => {
                        self.span.event(&event, self.first);
                        News::Event(event)
                    }
                    None => News::Lost,
                },
                queued = moved(&mut self.waiting) => return News::Moved(queued),
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Started { .. } => self.start(),
            Event::Token {
                id,
                token,
                text_end,
                logprob,
                top,
            } => {
                self.meter.token();
                let index = self.index(id);
                self.assemblers[index].push(token, text_end, logprob, &top);
                self.collect();
                for index in 0..self.assemblers.len() {
                    self.tell(index);
                }
            }
            Event::Finished {
                id,
                reason,
                text_end,
                usage: used,
                timings: times,
            } => {
                let index = self.index(id);
                self.tally.add(index, &used, &times);
                self.meter.finished(self.tally.usage().completion_tokens);
                self.assemblers[index].finish(text_end);
                self.tell(index);
                let drained = self.wanted.drained && !self.wanted.cancelled;
                let facts = &self.facts;
                let outcome = outcome(&reason, &facts.stop, drained, &facts.request_id);
                self.finish(index as u32, outcome);
            }
        }
    }

    fn index(&self, id: SequenceId) -> usize {
        // The engine's ids are those it was given, in this order.
        (id.0 - self.first.0) as usize
    }

    /// With the first of its samples.
    fn start(&mut self) {
        if self.waiting.take().is_none() {
            return;
        }
        self.place.started();
        self.meter.started();
        self.ready.push_back(Frame::Started(v1::Started {
            request_id: self.facts.request_id.clone(),
            model: self.facts.model.clone(),
            kernel: self.facts.kernel.clone(),
            seed: self.facts.seed,
        }));
    }

    /// What was collected of a sample.
    fn tell(&mut self, index: usize) {
        let delta = self.assemblers[index].take();
        if self.failed.is_none() {
            self.ready.extend(delta.map(Frame::Delta));
        }
    }

    fn finish(&mut self, index: u32, outcome: Outcome) {
        self.remaining -= 1;
        self.span.sample_ended(index, &outcome);
        if let Outcome::Failed(_) = outcome {
            self.failed.get_or_insert(outcome.clone());
        }
        if self.remaining == 0 {
            let timings_of_all = self.tally.timings();
            self.span.took(&timings_of_all);
            self.ending = Some(Ending {
                outcome: self.failed.take().unwrap_or(outcome),
                index,
                usage: usage(&self.tally.usage()),
                timings: timings(&timings_of_all),
            });
            return;
        }
        match (&self.failed, outcome) {
            // All is told with the last of them.
            (Some(_), _) | (None, Outcome::Failed(_)) => self.events.cancel(),
            (None, Outcome::Finished(reason, matched)) => {
                self.ready.push_back(Frame::Finished(v1::Finished {
                    reason: reason.into(),
                    matched,
                    usage: None,
                    timings: None,
                    index,
                    remaining: self.remaining,
                }));
            }
        }
    }

    /// Adds the tokens that are there already to the deltas, so that a reader
    /// that is late gets few large frames. Not those that come meanwhile: a
    /// fast engine could go on like that to the end.
    fn collect(&mut self) {
        for _ in 0..self.events.len() {
            let event = self.events.try_recv();
            match event.inspect(|event| self.span.event(event, self.first)) {
                Some(Event::Token {
                    id,
                    token,
                    text_end,
                    logprob,
                    top,
                }) => {
                    self.meter.token();
                    let index = self.index(id);
                    self.assemblers[index].push(token, text_end, logprob, &top);
                }
                other => {
                    self.held = other;
                    return;
                }
            }
        }
    }
}

impl Drop for RequestStream {
    /// What was generated counts, also where nobody came to read it.
    fn drop(&mut self) {
        self.events.cancel();
        while let Some(event) = self.held.take().or_else(|| self.events.try_recv()) {
            match event {
                Event::Started { .. } => self.meter.started(),
                Event::Token { .. } => self.meter.token(),
                Event::Finished {
                    id, usage, timings, ..
                } => {
                    self.tally.add(self.index(id), &usage, &timings);
                    self.meter.finished(self.tally.usage().completion_tokens);
                }
            }
        }
    }
}

impl Wanted {
    pub(crate) fn new(cancel: Arc<Notify>, drain: Arc<Drain>) -> Wanted {
        Wanted {
            cancel,
            drain,
            cancelled: false,
            drained: false,
        }
    }

    /// Returns when there is one more reason to end.
    async fn revoked(&mut self) {
        tokio::select! {
            biased;
            () = self.cancel.notified(), if !self.cancelled => self.cancelled = true,
            () = self.drain.reached(Phase::Ending), if !self.drained => self.drained = true,
            else => std::future::pending().await,
        }
    }
}

/// The engine's thread ended without a word. It does so only when the server
/// exits.
fn lost() -> Ending {
    Ending {
        outcome: Outcome::Failed(status::drained()),
        index: 0,
        usage: v1::Usage::default(),
        timings: v1::Timings::default(),
    }
}
