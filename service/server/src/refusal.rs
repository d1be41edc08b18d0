//! Why a request is not served.

use std::time::Duration;

use crate::{
    drain::Draining, engine_loop::SubmitRefused, live_requests::AlreadyLive, queue::QueueFull,
    request::Violations,
};

/// Everything that can keep a request from running. `status.rs` says how a
/// client sees each.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Invalid(#[from] Violations),
    #[error("no model {name:?}; this server serves {served:?}")]
    UnknownModel { name: String, served: String },
    #[error("{field} takes {got} tokens, and the context of {limit} must hold at least one more")]
    TooLong {
        field: &'static str,
        got: usize,
        limit: usize,
    },
    #[error("text of {bytes} bytes takes at least {got} tokens, and the context has {limit}")]
    TooManyBytes {
        bytes: usize,
        got: usize,
        limit: usize,
    },
    #[error("model {model:?} has no chat template; send text or token_ids")]
    NoChatTemplate { model: String },
    #[error("chat template refuses the messages: {reason}")]
    Template { reason: String },
    #[error("chat template of model {model:?} is broken: {reason}; send text or token_ids")]
    BrokenTemplate { model: String, reason: String },
    #[error("text can't be tokenised: {reason}")]
    Tokenizer { reason: String },
    #[error(transparent)]
    AlreadyLive(#[from] AlreadyLive),
    #[error(transparent)]
    Draining(#[from] Draining),
    #[error("{live} requests are alive on this stream, at most {limit} may be")]
    StreamFull { live: usize, limit: usize },
    #[error(transparent)]
    Submit(#[from] SubmitRefused),
    #[error("{full}; there should be room in {retry_after:?}")]
    QueueFull {
        full: QueueFull,
        retry_after: Duration,
    },
    #[error("no request {id:?} can be resumed")]
    NotResumable { id: String },
    #[error("of the frames that are missing, those before {begin} are no longer kept")]
    FramesForgotten { begin: u64 },
    #[error("request {id:?} has just ended or been refused; send yours again")]
    JustGone { id: String },
    #[error("deadline passed before the request was accepted")]
    DeadlineExceeded,
    #[error("tokeniser failed")]
    TokenizerPanicked,
    #[error("{refused}")]
    Quota {
        /// The input's, where the prompt is what is too long, or that of the
        /// samples.
        field: &'static str,
        refused: Box<ternion_policy::Refusal>,
    },
}

impl Refusal {
    pub(crate) fn quota(field: &'static str, refused: ternion_policy::Refusal) -> Refusal {
        let refused = Box::new(refused);
        Refusal::Quota { field, refused }
    }
}

/// When a refused request may try again. A queue moves with every finished
/// request; a drained server is gone, and another may be up.
pub(crate) const RETRY_DELAY: Duration = Duration::from_secs(1);
