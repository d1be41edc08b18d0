//! What telemetry hears of one request: a span from its arrival to its last
//! frame, with a child for each of its phases, and its share of the metrics.
//! Prompts and answers are no part of it.
//!
//! Nothing here can fail a request: a span that isn't recorded swallows what it
//! is told.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use opentelemetry::{
    Array, Context, StringValue, Value, propagation::Extractor, propagation::TextMapPropagator,
    trace::Status as SpanStatus,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use ternion_engine::{Event, SequenceId, Timings};
use ternion_proto::v1;
use tonic::{Code, Status, metadata::MetadataMap};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{
    finish_reasons::{self, ABANDONED, FinishReasons},
    frames::{Ending, Outcome},
    metrics::{End, RequestMetrics},
    request::Checked,
    request_progress::{Clock, Progress},
    semconv,
    served::Served,
    status::{code_name, refusal_reason},
};

/// A request as telemetry sees it. The last one dropped closes the span, and
/// if nothing was said of the request's end, then its client has gone.
#[derive(Debug, Clone)]
pub(crate) struct RequestSpan(Arc<Open>);

#[derive(Debug)]
struct Open {
    span: Span,
    clock: Clock,
    metrics: RequestMetrics,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    progress: Progress,
    samples: usize,
    reasons: FinishReasons,
    /// Its end was told, and is in the metrics.
    over: bool,
}

/// The W3C trace context that a call came with.
pub(crate) fn parent(metadata: &MetadataMap) -> Context {
    TraceContextPropagator::new().extract(&Carrier(metadata))
}

struct Carrier<'a>(&'a MetadataMap);

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        // The propagator asks for the two headers it knows by name.
        Vec::new()
    }
}

/// Integers of telemetry are signed.
fn int(n: impl TryInto<i64>) -> Value {
    Value::I64(n.try_into().unwrap_or(i64::MAX))
}

impl RequestSpan {
    pub(crate) fn open(
        served: &Served,
        parent: &Context,
        rpc_method: &'static str,
        request_id: &str,
        request: &v1::GenerateRequest,
    ) -> RequestSpan {
        let operation = match &request.input {
            Some(v1::generate_request::Input::Chat(_)) => semconv::CHAT,
            _ => semconv::TEXT_COMPLETION,
        };
        let span = tracing::info_span!(
            "request",
            otel.name = format!("{operation} {}", served.name),
            otel.kind = "server",
            request_id,
        );
        // Must come before the span is first entered, which starts it. Fails
        // if the span is filtered out: then there is nothing that a parent
        // would matter to.
        let _ = span.set_parent(parent.clone());
        span.set_attribute(semconv::OPERATION_NAME, operation);
        span.set_attribute(semconv::PROVIDER_NAME, semconv::PROVIDER);
        span.set_attribute(semconv::REQUEST_MODEL, served.name.clone());
        span.set_attribute(semconv::RESPONSE_MODEL, served.name.clone());
        span.set_attribute(semconv::RESPONSE_ID, request_id.to_owned());
        span.set_attribute(semconv::RPC_SYSTEM_NAME, semconv::GRPC);
        span.set_attribute(semconv::RPC_METHOD, rpc_method);
        span.set_attribute(semconv::KERNEL, served.kernel.clone());
        span.set_attribute(semconv::MODEL_DIGEST, served.model.digest.to_string());
        RequestSpan(Arc::new(Open {
            span,
            clock: Clock::now(),
            metrics: served.metrics.request(operation),
            told: Mutex::default(),
        }))
    }

    /// For running futures in it.
    pub(crate) fn span(&self) -> Span {
        self.0.span.clone()
    }

    /// What was asked for, the model's defaults included.
    pub(crate) fn asked(&self, checked: &Checked) {
        let Checked {
            sampling, stopping, ..
        } = checked;
        self.0.told().samples = checked.samples;
        let span = &self.0.span;
        if checked.samples > 1 {
            span.set_attribute(semconv::REQUEST_CHOICE_COUNT, int(checked.samples));
        }
        if checked.max_tokens_given {
            span.set_attribute(semconv::REQUEST_MAX_TOKENS, int(stopping.max_tokens));
        }
        let float = |value: f32| Value::F64(value.into());
        span.set_attribute(semconv::REQUEST_TEMPERATURE, float(sampling.temperature));
        span.set_attribute(semconv::REQUEST_TOP_P, float(sampling.top_p));
        span.set_attribute(semconv::REQUEST_TOP_K, int(sampling.top_k));
        // All bits of the seed, the sign aside: an integer of telemetry can
        // be read back as the seed, a saturated one could not.
        let seed = Value::I64(sampling.seed.cast_signed());
        span.set_attribute(semconv::REQUEST_SEED, seed);
    }

    /// The engine, to which it was handed at this moment, has taken it.
    pub(crate) fn accepted(&self, submitted: Instant, prompt_tokens: usize) {
        self.0.told().progress.submitted = Some(submitted);
        self.0.metrics.accepted(prompt_tokens);
    }

    /// The engine said something, and the request's task has read it. `first` is
    /// the request's first sample.
    pub(crate) fn event(&self, event: &Event, first: SequenceId) {
        let mut told = self.0.told();
        let progress = &mut told.progress;
        let now = Instant::now();
        match event {
            Event::Started { .. } => {
                progress.started.get_or_insert(now);
            }
            Event::Token { id, .. } => {
                progress.output_tokens += 1;
                let last = progress.last_tokens.insert(id.0 - first.0, now);
                match (last, progress.first_token) {
                    (Some(last), _) => self.0.metrics.next_token(now - last),
                    // Another sample's first.
                    (None, Some(_)) => self.0.metrics.one_more_token(),
                    (None, None) => {
                        progress.first_token = Some(now);
                        progress.streaming = Some(now);
                        self.0.metrics.first_token(self.0.age(now));
                    }
                }
            }
            Event::Finished { .. } => {}
        }
    }

    /// One of its samples has ended.
    pub(crate) fn sample_ended(&self, index: u32, outcome: &Outcome) {
        self.0.told().reasons.add(index, outcome);
    }

    /// All its samples have ended, and this is where its time went.
    pub(crate) fn took(&self, timings: &Timings) {
        self.0.told().progress.told(timings);
    }

    /// A frame is with the connection, for which it waited so long.
    pub(crate) fn sent(&self, waited: Duration) {
        let mut told = self.0.told();
        told.progress.num_frames += 1;
        told.progress.waited += waited;
    }

    /// How it ended.
    pub(crate) fn ended(&self, ending: &Ending) {
        let usage = &ending.usage;
        let reason = finish_reasons::of(&ending.outcome);
        let mut told = self.0.told();
        // What the engine counts, should the task not have seen every token.
        told.progress.output_tokens = usage.completion_tokens.into();
        self.0
            .span
            .set_attribute(semconv::USAGE_INPUT_TOKENS, int(usage.prompt_tokens));
        self.0.span.set_attribute(
            semconv::USAGE_CACHE_READ_INPUT_TOKENS,
            int(usage.cached_tokens),
        );
        self.0.over(&mut told, reason, ending.code());
        drop(told);
        self.0.span.in_scope(|| {
            tracing::debug!(
                reason,
                prompt_tokens = usage.prompt_tokens,
                completion_tokens = usage.completion_tokens,
                "request ended",
            );
        });
    }

    /// The request was refused. The message stays out of the log: those of
    /// templates and tokenizers may quote the prompt.
    pub(crate) fn refused(&self, status: &Status) {
        let mut told = self.0.told();
        if std::mem::replace(&mut told.over, true) {
            return;
        }
        drop(told);
        let (code, reason) = (status.code(), refusal_reason(status));
        self.0
            .metrics
            .refused(&reason, code, self.0.age(Instant::now()));
        self.0
            .span
            .in_scope(|| tracing::debug!(code = code_name(code), reason, "request refused"));
        self.0.span.set_attribute(semconv::REFUSAL, reason);
        self.0.code(code);
    }
}

impl Open {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.clock.monotonic)
    }

    /// Writes the end down, in the metrics as well, unless that was done.
    fn over(&self, told: &mut Told, reason: &'static str, code: Code) {
        if std::mem::replace(&mut told.over, true) {
            return;
        }
        let now = Instant::now();
        let reasons = told.reasons.each(reason, told.samples);
        let progress = &told.progress;
        let phases = progress.phases(now);
        self.metrics.ended(&End {
            reason: finish_reasons::worst(&reasons),
            code,
            after: self.age(now),
            output_tokens: progress.output_tokens,
            samples: told.samples.max(1) as u64,
            phases,
        });
        let reasons = reasons.into_iter().map(StringValue::from);
        let reasons = Array::String(reasons.collect());
        self.span
            .set_attribute(semconv::RESPONSE_FINISH_REASONS, Value::Array(reasons));
        self.span
            .set_attribute(semconv::USAGE_OUTPUT_TOKENS, int(progress.output_tokens));
        self.span
            .set_attribute(semconv::PREEMPTIONS, int(progress.preemptions));
        let to_first_token = progress.streaming.map(|first| self.age(first));
        let inference = phases
            .prefill
            .map(|prefill| prefill + phases.decode.unwrap_or_default());
        let latencies = [
            (semconv::LATENCY_TIME_IN_QUEUE, phases.queue),
            (semconv::LATENCY_TIME_IN_PREFILL, phases.prefill),
            (semconv::LATENCY_TIME_IN_DECODE, phases.decode),
            (semconv::LATENCY_TIME_IN_INFERENCE, inference),
            (semconv::LATENCY_TIME_TO_FIRST_TOKEN, to_first_token),
            (semconv::LATENCY_E2E, Some(self.age(now))),
        ];
        for (name, time) in latencies {
            if let Some(time) = time {
                self.span.set_attribute(name, time.as_secs_f64());
            }
        }
        self.code(code);
    }

    fn code(&self, code: Code) {
        self.span
            .set_attribute(semconv::RPC_STATUS_CODE, code_name(code));
        if semconv::is_server_error(code) {
            self.span
                .set_attribute(semconv::ERROR_TYPE, code_name(code));
            self.span.set_status(SpanStatus::error(code_name(code)));
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // A span ends when it was left for the last time, and its children
        // must not end later.
        let _entered = self.span.enter();
        let mut told = self.told();
        if !told.over {
            tracing::debug!("reader has gone");
            // Before the engine took it, it was no request that could end.
            match told.progress.submitted {
                Some(_) => self.over(&mut told, ABANDONED, Code::Cancelled),
                None => self.code(Code::Cancelled),
            }
        }
        told.progress.draw(&self.span.context(), &self.clock);
    }
}
