//! The trace of one request: a span from its arrival to its last frame.
//! Prompts and answers are not part of it.

use opentelemetry::{
    Array, Context, StringValue, Value, propagation::Extractor, propagation::TextMapPropagator,
    trace::Status as SpanStatus,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use ternion_proto::v1;
use tonic::{Code, metadata::MetadataMap};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{
    frames::{Ending, Outcome},
    request::Checked,
    semconv,
    served::Served,
    status::code_name,
};

/// The open span. What it is told becomes attributes.
#[derive(Debug, Clone)]
pub(crate) struct RequestSpan(Span);

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
        // if nothing is exported or the span is filtered out: then there is
        // nothing that a parent would matter to.
        let _ = span.set_parent(parent.clone());
        span.set_attribute(semconv::OPERATION_NAME, operation);
        span.set_attribute(semconv::PROVIDER_NAME, semconv::PROVIDER);
        span.set_attribute(semconv::REQUEST_MODEL, served.name.clone());
        span.set_attribute(semconv::RESPONSE_ID, request_id.to_owned());
        span.set_attribute(semconv::RPC_SYSTEM_NAME, "grpc");
        span.set_attribute(semconv::RPC_METHOD, rpc_method);
        span.set_attribute(semconv::KERNEL, served.kernel.clone());
        RequestSpan(span)
    }

    /// For running futures in it.
    pub(crate) fn span(&self) -> Span {
        self.0.clone()
    }

    /// What was asked for, the model's defaults included.
    pub(crate) fn asked(&self, checked: &Checked) {
        let Checked {
            sampling, stopping, ..
        } = checked;
        if checked.max_tokens_given {
            let max_tokens = int(stopping.max_tokens);
            self.0
                .set_attribute(semconv::REQUEST_MAX_TOKENS, max_tokens);
        }
        let float = |value: f32| Value::F64(value.into());
        self.0
            .set_attribute(semconv::REQUEST_TEMPERATURE, float(sampling.temperature));
        self.0
            .set_attribute(semconv::REQUEST_TOP_P, float(sampling.top_p));
        self.0
            .set_attribute(semconv::REQUEST_TOP_K, int(sampling.top_k));
        // All bits of the seed, the sign aside: an integer of telemetry can
        // be read back as the seed, a saturated one could not.
        let seed = Value::I64(sampling.seed.cast_signed());
        self.0.set_attribute(semconv::REQUEST_SEED, seed);
    }

    /// How it ended.
    pub(crate) fn ended(&self, ending: &Ending) {
        let usage = &ending.usage;
        self.0
            .set_attribute(semconv::USAGE_INPUT_TOKENS, int(usage.prompt_tokens));
        self.0
            .set_attribute(semconv::USAGE_OUTPUT_TOKENS, int(usage.completion_tokens));
        let reason = match &ending.outcome {
            Outcome::Failed(_) => "error",
            Outcome::Finished(reason, _) => finish_reason_name(*reason),
        };
        let reasons = Array::String(vec![StringValue::from(reason)]);
        self.0
            .set_attribute(semconv::RESPONSE_FINISH_REASONS, Value::Array(reasons));
        self.0.in_scope(|| {
            tracing::debug!(
                reason,
                prompt_tokens = usage.prompt_tokens,
                completion_tokens = usage.completion_tokens,
                "request ended",
            );
        });
        self.code(ending.code());
    }

    /// The request was refused. Why stays out of the log: messages of
    /// templates and tokenizers may quote the prompt.
    pub(crate) fn refused(&self, code: Code) {
        self.0
            .in_scope(|| tracing::debug!(code = code_name(code), "request refused"));
        self.code(code);
    }

    /// The reader went away before the last frame.
    pub(crate) fn abandoned(&self) {
        self.0.in_scope(|| tracing::debug!("reader has gone"));
        self.code(Code::Cancelled);
    }

    fn code(&self, code: Code) {
        self.0
            .set_attribute(semconv::RPC_STATUS_CODE, code_name(code));
        // Those that the RPC conventions count as the server's fault.
        if matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        ) {
            self.0.set_status(SpanStatus::error(code_name(code)));
        }
    }
}

fn finish_reason_name(reason: v1::FinishReason) -> &'static str {
    match reason {
        v1::FinishReason::Unspecified => "unspecified",
        v1::FinishReason::Stop => "stop",
        v1::FinishReason::Length => "length",
        v1::FinishReason::Cancelled => "cancelled",
        v1::FinishReason::DeadlineExceeded => "deadline_exceeded",
        v1::FinishReason::Drained => "drained",
    }
}
