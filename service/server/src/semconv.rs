//! Names that telemetry shares with other tools.
//!
//! Pinned: OpenTelemetry semantic conventions 1.45.0 for RPC (stable), and the
//! GenAI conventions as of November 2026 (in development, in a repository of
//! their own since 1.42.0). Every name stands here, so that a new version of
//! the conventions is a change of this file.

use tonic::Code;

pub(crate) const OPERATION_NAME: &str = "gen_ai.operation.name";
pub(crate) const PROVIDER_NAME: &str = "gen_ai.provider.name";
pub(crate) const REQUEST_MODEL: &str = "gen_ai.request.model";
pub(crate) const REQUEST_MAX_TOKENS: &str = "gen_ai.request.max_tokens";
pub(crate) const REQUEST_TEMPERATURE: &str = "gen_ai.request.temperature";
pub(crate) const REQUEST_TOP_P: &str = "gen_ai.request.top_p";
pub(crate) const REQUEST_TOP_K: &str = "gen_ai.request.top_k";
pub(crate) const REQUEST_CHOICE_COUNT: &str = "gen_ai.request.choice.count";
pub(crate) const REQUEST_SEED: &str = "gen_ai.request.seed";
pub(crate) const RESPONSE_ID: &str = "gen_ai.response.id";
pub(crate) const RESPONSE_MODEL: &str = "gen_ai.response.model";
pub(crate) const RESPONSE_FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
pub(crate) const USAGE_INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
pub(crate) const USAGE_OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
pub(crate) const USAGE_CACHE_READ_INPUT_TOKENS: &str = "gen_ai.usage.cache_read.input_tokens";
pub(crate) const SERVER_REQUEST_DURATION: &str = "gen_ai.server.request.duration";
pub(crate) const SERVER_TIME_TO_FIRST_TOKEN: &str = "gen_ai.server.time_to_first_token";
pub(crate) const SERVER_TIME_PER_OUTPUT_TOKEN: &str = "gen_ai.server.time_per_output_token";

// Of no convention yet, but vLLM and SGLang agree on them.
pub(crate) const LATENCY_TIME_IN_QUEUE: &str = "gen_ai.latency.time_in_queue";
pub(crate) const LATENCY_TIME_IN_PREFILL: &str = "gen_ai.latency.time_in_model_prefill";
pub(crate) const LATENCY_TIME_IN_DECODE: &str = "gen_ai.latency.time_in_model_decode";
pub(crate) const LATENCY_TIME_IN_INFERENCE: &str = "gen_ai.latency.time_in_model_inference";
pub(crate) const LATENCY_TIME_TO_FIRST_TOKEN: &str = "gen_ai.latency.time_to_first_token";
pub(crate) const LATENCY_E2E: &str = "gen_ai.latency.e2e";

pub(crate) const RPC_SYSTEM_NAME: &str = "rpc.system.name";
pub(crate) const RPC_METHOD: &str = "rpc.method";
/// What the conventions put for a method that the server doesn't have.
pub(crate) const RPC_METHOD_OTHER: &str = "_OTHER";
pub(crate) const RPC_STATUS_CODE: &str = "rpc.status_code";
pub(crate) const RPC_SERVER_CALL_DURATION: &str = "rpc.server.call.duration";
pub(crate) const ERROR_TYPE: &str = "error.type";

// Ours.
/// Name and instruction set of the kernel plugin.
pub(crate) const KERNEL: &str = "ternion.kernel";
pub(crate) const MODEL_DIGEST: &str = "ternion.model.digest";
/// How often the request gave up its pages.
pub(crate) const PREEMPTIONS: &str = "ternion.preemptions";
/// Why the request was refused: the reason of the client's `ErrorInfo`.
pub(crate) const REFUSAL: &str = "ternion.refusal";
pub(crate) const STREAM_FRAMES: &str = "ternion.stream.frames";
/// Seconds that frames waited for the reader.
pub(crate) const STREAM_WAIT: &str = "ternion.stream.wait";

/// Names of the spans below a request's.
pub(crate) const ADMISSION: &str = "admission";
pub(crate) const QUEUE: &str = "queue";
pub(crate) const PREFILL: &str = "prefill";
pub(crate) const DECODE: &str = "decode";
pub(crate) const STREAM_OUT: &str = "stream-out";

/// Labels of our metrics.
pub(crate) const MODEL: &str = "model";
pub(crate) const FINISH_REASON: &str = "finish_reason";
pub(crate) const CODE: &str = "code";
pub(crate) const REASON: &str = "reason";

/// Values of [`OPERATION_NAME`].
pub(crate) const CHAT: &str = "chat";
pub(crate) const TEXT_COMPLETION: &str = "text_completion";
/// Value of [`PROVIDER_NAME`].
pub(crate) const PROVIDER: &str = "ternion";
/// Value of [`RPC_SYSTEM_NAME`].
pub(crate) const GRPC: &str = "grpc";

/// Whether the RPC conventions count a code as the server's fault.
pub(crate) fn is_server_error(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}
