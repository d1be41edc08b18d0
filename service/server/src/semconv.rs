//! Names that telemetry shares with other tools: OpenTelemetry semantic
//! conventions 1.45.0 for RPC (stable) and the GenAI conventions as of
//! November 2026 (still in development, so the names stand in one place).

pub(crate) const OPERATION_NAME: &str = "gen_ai.operation.name";
pub(crate) const PROVIDER_NAME: &str = "gen_ai.provider.name";
pub(crate) const REQUEST_MODEL: &str = "gen_ai.request.model";
pub(crate) const REQUEST_MAX_TOKENS: &str = "gen_ai.request.max_tokens";
pub(crate) const REQUEST_TEMPERATURE: &str = "gen_ai.request.temperature";
pub(crate) const REQUEST_TOP_P: &str = "gen_ai.request.top_p";
pub(crate) const REQUEST_TOP_K: &str = "gen_ai.request.top_k";
pub(crate) const REQUEST_SEED: &str = "gen_ai.request.seed";
pub(crate) const RESPONSE_ID: &str = "gen_ai.response.id";
pub(crate) const RESPONSE_FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
pub(crate) const USAGE_INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
pub(crate) const USAGE_OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";

pub(crate) const RPC_SYSTEM_NAME: &str = "rpc.system.name";
pub(crate) const RPC_METHOD: &str = "rpc.method";
pub(crate) const RPC_STATUS_CODE: &str = "rpc.status_code";

/// Ours: name and instruction set of the kernel plugin.
pub(crate) const KERNEL: &str = "ternion.kernel";

/// Values of [`OPERATION_NAME`].
pub(crate) const CHAT: &str = "chat";
pub(crate) const TEXT_COMPLETION: &str = "text_completion";
/// Value of [`PROVIDER_NAME`].
pub(crate) const PROVIDER: &str = "ternion";
