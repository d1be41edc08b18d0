//! How far a request has come, and the spans that this makes.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use opentelemetry::{
    Context, KeyValue,
    trace::{Span as _, SpanBuilder, SpanKind, TracerProvider},
};

use crate::{metrics::Phases, semconv, telemetry};

/// Two readings of one moment, to turn the one clock into the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    wall: SystemTime,
    pub(crate) monotonic: Instant,
}

impl Clock {
    pub(crate) fn now() -> Clock {
        Clock {
            wall: SystemTime::now(),
            monotonic: Instant::now(),
        }
    }

    fn wall(&self, at: Instant) -> SystemTime {
        self.wall + at.saturating_duration_since(self.monotonic)
    }
}

/// The moments that a request has passed. Each of a request's phases ends where
/// the next begins, or with the request.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Handed to the engine, which took it.
    pub(crate) submitted: Option<Instant>,
    /// Given its first pages.
    pub(crate) started: Option<Instant>,
    pub(crate) first_token: Option<Instant>,
    pub(crate) finished: Option<Instant>,
    /// The token of each sample that its task saw last.
    pub(crate) last_tokens: HashMap<u64, Instant>,
    /// The first token that its task saw.
    pub(crate) streaming: Option<Instant>,
    pub(crate) output_tokens: u64,
    pub(crate) preemptions: u32,
    pub(crate) num_frames: u64,
    /// How long frames waited for the reader.
    pub(crate) waited: Duration,
}

impl Progress {
    /// Replaces what the task saw by what the engine says.
    pub(crate) fn told(&mut self, timings: &ternion_engine::Timings) {
        let Some(submitted) = self.submitted else {
            return;
        };
        let started = submitted + timings.queue;
        let first_token = started + timings.prefill;
        self.finished = Some(first_token + timings.decode);
        // Whatever never happened has no moment.
        self.started = self.started.and(Some(started));
        self.first_token = self.first_token.and(Some(first_token));
        self.preemptions = timings.preemptions;
    }

    /// Times of the phases so far; `now` ends the last one.
    pub(crate) fn phases(&self, now: Instant) -> Phases {
        let end = self.finished.unwrap_or(now);
        let between = |from: Option<Instant>, to: Option<Instant>| {
            from.map(|from| to.unwrap_or(end).saturating_duration_since(from))
        };
        Phases {
            queue: between(self.submitted, self.started),
            prefill: between(self.started, self.first_token),
            decode: between(self.first_token, None),
        }
    }

    /// Spans of the phases below `request`, a context with the request's span.
    /// They are made when all is over, with the times that they had: the
    /// engine's own are known only then, and nobody has to close them on
    /// each of the ways in which a request can end.
    pub(crate) fn draw(&self, request: &Context, clock: &Clock) {
        let now = Instant::now();
        let end = self.finished.unwrap_or(now);
        let opened = Some(clock.monotonic);
        let phases = [
            (semconv::ADMISSION, opened, self.submitted, now),
            (semconv::QUEUE, self.submitted, self.started, end),
            (semconv::PREFILL, self.started, self.first_token, end),
            (semconv::DECODE, self.first_token, None, end),
            // Goes on after the last token, until its frame is with the connection.
            (semconv::STREAM_OUT, self.streaming, None, now),
        ];
        let tracer = opentelemetry::global::tracer_provider().tracer(telemetry::SCOPE);
        for (name, from, to, end) in phases {
            let Some(from) = from else {
                continue;
            };
            let to = to.unwrap_or(end).clamp(from, now.max(from));
            SpanBuilder::from_name(name)
                .with_kind(SpanKind::Internal)
                .with_start_time(clock.wall(from))
                .with_attributes(self.attributes(name))
                .start_with_context(&tracer, request)
                .end_with_timestamp(clock.wall(to));
        }
    }

    fn attributes(&self, phase: &str) -> Vec<KeyValue> {
        let int = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        match phase {
            semconv::DECODE => vec![KeyValue::new(
                semconv::USAGE_OUTPUT_TOKENS,
                int(self.output_tokens),
            )],
            semconv::STREAM_OUT => vec![
                KeyValue::new(semconv::STREAM_FRAMES, int(self.num_frames)),
                KeyValue::new(semconv::STREAM_WAIT, self.waited.as_secs_f64()),
            ],
            _ => Vec::new(),
        }
    }
}
