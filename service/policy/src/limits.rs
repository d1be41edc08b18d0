//! What a tenant may use.

/// Limits of one tenant. `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) requests_per_minute: Option<u64>,
    /// Prompt and generated tokens together.
    pub(crate) tokens_per_minute: Option<u64>,
    pub(crate) concurrent_requests: Option<u64>,
    pub(crate) max_prompt_tokens: Option<u64>,
    pub(crate) max_output_tokens: Option<u64>,
}

/// Highest value of any limit: far beyond what a CPU can serve, and small
/// enough that a [`TokenBucket`] counts exactly.
///
/// [`TokenBucket`]: crate::token_bucket::TokenBucket
pub(crate) const MAX_LIMIT: u64 = 1_000_000_000_000;
