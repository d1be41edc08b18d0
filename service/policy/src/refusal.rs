//! Why a tenant's request is not admitted.

use std::{fmt, time::Duration};

use crate::tenant_id::TenantId;

/// A request of a known tenant that its limits do not allow, now or ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    tenant: TenantId,
    cause: Cause,
}

/// What stood in the way. `limit` is the tenant's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Too many requests of late.
    RequestsPerMinute {
        /// Requests a minute.
        limit: u64,
        /// Whole milliseconds after which the request is admitted, and not
        /// earlier, if nothing else of the tenant comes in between.
        retry_after: Duration,
    },
    /// Too many tokens of late for what this request may need.
    TokensPerMinute {
        /// Tokens a minute, prompt and output together.
        limit: u64,
        /// Tokens of the prompt, and the most that may be generated.
        asked: u64,
        /// Whole milliseconds after which the request is admitted, and not
        /// earlier, if nothing else of the tenant comes in between.
        retry_after: Duration,
    },
    /// As many requests as may run do.
    ConcurrentRequests {
        /// Requests at once.
        limit: u64,
        /// Whole milliseconds after which one can be expected to have ended:
        /// an estimate from how long the tenant's requests took lately.
        retry_after: Duration,
    },
    /// The request has more samples than the tenant may ever run, or begin in a
    /// minute.
    TooManySamples {
        /// Samples asked for.
        got: u64,
        /// The most there may be.
        limit: u64,
    },
    /// The prompt is longer than the tenant may send.
    PromptTooLong {
        /// Tokens of the prompt.
        got: u64,
        /// The most there may be.
        limit: u64,
    },
    /// The request asks for more output than the tenant may have.
    OutputTooLong {
        /// Tokens asked for.
        got: u64,
        /// The most that may be asked for.
        limit: u64,
    },
    /// The request may need more than a whole minute's tokens.
    NeverFits {
        /// Tokens of the prompt, and the most that may be generated.
        asked: u64,
        /// Tokens a minute, prompt and output together.
        limit: u64,
    },
    /// The credential was good when the caller came, and a reload has since
    /// taken it, its tenant, or the role `inference` away.
    Revoked,
}

impl Refusal {
    pub(crate) fn new(tenant: TenantId, cause: Cause) -> Refusal {
        Refusal { tenant, cause }
    }

    /// Whose request it was.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// What stood in the way.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// When to try again, in whole milliseconds; `None` if that is no use.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.cause {
            Cause::RequestsPerMinute { retry_after, .. }
            | Cause::TokensPerMinute { retry_after, .. }
            | Cause::ConcurrentRequests { retry_after, .. } => Some(retry_after),
            Cause::PromptTooLong { .. }
            | Cause::OutputTooLong { .. }
            | Cause::NeverFits { .. }
            | Cause::TooManySamples { .. }
            | Cause::Revoked => None,
        }
    }
}

impl Cause {
    /// All names, by [`Cause::index`].
    pub(crate) const NAMES: [&str; 8] = [
        "requests_per_minute",
        "tokens_per_minute",
        "concurrent_requests",
        "max_prompt_tokens",
        "max_output_tokens",
        "never_fits",
        "too_many_samples",
        "revoked",
    ];

    pub(crate) fn index(&self) -> usize {
        match self {
            Cause::RequestsPerMinute { .. } => 0,
            Cause::TokensPerMinute { .. } => 1,
            Cause::ConcurrentRequests { .. } => 2,
            Cause::PromptTooLong { .. } => 3,
            Cause::OutputTooLong { .. } => 4,
            Cause::NeverFits { .. } => 5,
            Cause::TooManySamples { .. } => 6,
            Cause::Revoked => 7,
        }
    }

    /// The limit's key in the tenants file; `never_fits`, `too_many_samples`
    /// and `revoked` for those that have none.
    pub fn name(&self) -> &'static str {
        Cause::NAMES[self.index()]
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenant = &self.tenant;
        match &self.cause {
            Cause::RequestsPerMinute { limit, retry_after } => write!(
                f,
                "tenant {tenant} may make {limit} requests a minute; retry in {retry_after:?}"
            ),
            Cause::TokensPerMinute {
                limit,
                asked,
                retry_after,
            } => write!(
                f,
                "tenant {tenant} may use {limit} tokens a minute, and this request needs {asked}; \
                 retry in {retry_after:?}"
            ),
            Cause::ConcurrentRequests { limit, retry_after } => write!(
                f,
                "tenant {tenant} may run {limit} requests at once; retry in about {retry_after:?}"
            ),
            Cause::PromptTooLong { got, limit } => {
                write!(
                    f,
                    "prompt has {got} tokens; tenant {tenant} may send {limit}"
                )
            }
            Cause::OutputTooLong { got, limit } => write!(
                f,
                "{got} output tokens are asked for; tenant {tenant} may have {limit}"
            ),
            Cause::NeverFits { asked, limit } => write!(
                f,
                "request needs {asked} tokens; tenant {tenant} may use {limit} a minute"
            ),
            Cause::TooManySamples { got, limit } => write!(
                f,
                "{got} samples are asked for; tenant {tenant} may run, or begin in a minute, {limit}"
            ),
            Cause::Revoked => {
                write!(
                    f,
                    "credential of tenant {tenant} no longer allows inference"
                )
            }
        }
    }
}
