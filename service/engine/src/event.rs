//! What the engine says about a sequence.

use std::time::Duration;

use crate::{SequenceId, Time};

/// Something that happened to a sequence.
///
/// A sequence has at most one `Started`, then a `Token` for every completion
/// token, and in any case exactly one `Finished`, which is its last.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It has been given its first pages and a place in the batch.
    Started {
        /// Which sequence.
        id: SequenceId,
        /// When.
        at: Time,
    },
    /// It has a new token.
    Token {
        /// Which sequence.
        id: SequenceId,
        /// The token.
        token: u32,
        /// Bytes of the generated text, counted from its start, that may be
        /// shown now. The text is the bytes of all tokens so far, an ending
        /// token aside. What is held back is a stop string or could become the
        /// beginning of one. Never decreases.
        text_end: usize,
        /// Log-probability of the token in the model's own distribution, before
        /// penalties, temperature and truncation, if
        /// [`Sampling::num_logprobs`](crate::Sampling::num_logprobs) asks.
        logprob: Option<f32>,
        /// The likeliest tokens of that distribution, likeliest first, as many
        /// as were asked for.
        top: Vec<TokenLogprob>,
    },
    /// It has ended, and its pages are free.
    Finished {
        /// Which sequence.
        id: SequenceId,
        /// Why.
        reason: FinishReason,
        /// Bytes of the generated text to show in all: up to the stop string
        /// that ended it (or with it, if the request wants so), else all.
        text_end: usize,
        /// What it used.
        usage: Usage,
        /// Where its time went.
        timings: Timings,
    },
}

/// A token and its log-probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// Why a sequence ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// It has `max_tokens` tokens.
    Length,
    /// The model ended it.
    EndOfSequence {
        /// With this token.
        token: u32,
    },
    /// One of the request's stop tokens came.
    StopToken {
        /// This one.
        token: u32,
    },
    /// One of the request's stop strings came.
    StopString {
        /// Its place in [`Stopping::stop`](crate::Stopping::stop).
        index: usize,
    },
    /// Nobody wants it any more.
    Cancelled,
    /// Its deadline has passed.
    DeadlineExceeded,
    /// A step that it was part of could not be run, or gave logits that cannot
    /// be sampled from.
    Failed {
        /// What went wrong, for the log.
        message: String,
    },
}

impl FinishReason {
    /// Whether it ended by what was generated.
    pub(crate) fn is_natural(&self) -> bool {
        match self {
            FinishReason::Length
            | FinishReason::EndOfSequence { .. }
            | FinishReason::StopToken { .. }
            | FinishReason::StopString { .. } => true,
            FinishReason::Cancelled
            | FinishReason::DeadlineExceeded
            | FinishReason::Failed { .. } => false,
        }
    }
}

/// Tokens of a sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, an ending token included.
    pub completion_tokens: usize,
    /// Tokens of the prompt whose keys and values another sequence had
    /// computed when this one first ran. See
    /// [`Request::salt`](crate::Request::salt).
    pub cached_tokens: usize,
}

/// Where the time of a sequence went.
///
/// `queue + prefill + decode` is the time from submission to the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// From submission until it was given its first pages.
    pub queue: Duration,
    /// From then until its first token.
    pub prefill: Duration,
    /// From submission to its first token, if there was one.
    pub time_to_first_token: Option<Duration>,
    /// From its first token to its end, waits for pages and readers included.
    pub decode: Duration,
    /// How often it gave up its pages.
    pub preemptions: u32,
}
