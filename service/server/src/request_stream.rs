//! One running request, as its frames come.

use std::sync::Arc;

use ternion_engine::{Event, Vocabulary};
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
    assembler: Assembler,
    /// An event that came while others were collected into a delta.
    held: Option<Event>,
    /// The last frame, while the last delta goes out before it.
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
        RequestStream {
            queued: Some(taken.waiting.queued()),
            waiting: Some(taken.waiting),
            place: taken.place,
            events: taken.events,
            meter,
            assembler: Assembler::new(vocabulary),
            held: None,
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
        if let Some(ending) = self.ending.take() {
            return Err(ending);
        }
        loop {
            let event = match self.held.take() {
                Some(event) => event,
                None => match self.news().await {
                    News::Event(event) => event,
                    News::Moved(queued) => return Ok(Frame::Queued(queued)),
                    News::Lost => return Err(lost()),
                },
            };
            if let Some(next) = self.frame(event) {
                return next;
            }
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
                        self.span.event(&event);
                        News::Event(event)
                    }
                    None => News::Lost,
                },
                queued = moved(&mut self.waiting) => return News::Moved(queued),
            }
        }
    }

    fn frame(&mut self, event: Event) -> Option<Result<Frame, Ending>> {
        match event {
            Event::Started { .. } => {
                self.waiting = None;
                self.place.started();
                self.meter.started();
                Some(Ok(Frame::Started(v1::Started {
                    request_id: self.facts.request_id.clone(),
                    model: self.facts.model.clone(),
                    kernel: self.facts.kernel.clone(),
                    seed: self.facts.seed,
                })))
            }
            Event::Token {
                token,
                text_end,
                logprob,
                top,
                ..
            } => {
                self.meter.token();
                self.assembler.push(token, text_end, logprob, &top);
                self.collect();
                self.assembler.take().map(|delta| Ok(Frame::Delta(delta)))
            }
            Event::Finished {
                reason,
                text_end,
                usage: used,
                timings: times,
                ..
            } => {
                self.meter.finished(used.completion_tokens);
                self.assembler.finish(text_end);
                let drained = self.wanted.drained && !self.wanted.cancelled;
                let ending = Ending {
                    outcome: outcome(&reason, &self.facts.stop, drained, &self.facts.request_id),
                    usage: usage(&used),
                    timings: timings(&times),
                };
                match self.assembler.take() {
                    None => Some(Err(ending)),
                    Some(delta) => {
                        self.ending = Some(ending);
                        Some(Ok(Frame::Delta(delta)))
                    }
                }
            }
        }
    }

    /// Adds the tokens that are there already to the delta, so that a reader
    /// that is late gets few large frames. Not those that come meanwhile: a
    /// fast engine could go on like that to the end.
    fn collect(&mut self) {
        for _ in 0..self.events.len() {
            let event = self.events.try_recv();
            match event.inspect(|event| self.span.event(event)) {
                Some(Event::Token {
                    token,
                    text_end,
                    logprob,
                    top,
                    ..
                }) => {
                    self.meter.token();
                    self.assembler.push(token, text_end, logprob, &top);
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
        let unread = std::iter::from_fn(|| self.events.try_recv());
        for event in self.held.take().into_iter().chain(unread) {
            match event {
                Event::Started { .. } => self.meter.started(),
                Event::Token { .. } => self.meter.token(),
                Event::Finished { usage, .. } => self.meter.finished(usage.completion_tokens),
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
        usage: v1::Usage::default(),
        timings: v1::Timings::default(),
    }
}
