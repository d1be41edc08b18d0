//! The lines that `--json` prints. Scripts read them: fields are only ever
//! added.

use serde::Serialize;
use ternion_client::Event;
use ternion_client::proto::{self, FinishReason, finished::Matched};
use tonic::Code;

use crate::failure::Failure;
use crate::stdout;

#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Line {
    Queued {
        prompt_tokens: u32,
        ahead: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        wait_seconds: Option<f64>,
    },
    Started {
        request_id: String,
        model: String,
        kernel: String,
        seed: u64,
    },
    Delta {
        index: u32,
        text: String,
        token_ids: Vec<u32>,
        logprobs: Option<Vec<Logprob>>,
    },
    Finished {
        index: u32,
        finish_reason: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        stop_token_id: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        stop_string: Option<String>,
        /// The request's, with the last of its samples.
        #[serde(skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        #[serde(skip_serializing_if = "Option::is_none")]
        timings: Option<Timings>,
    },
    Error {
        code: &'static str,
        message: String,
        violations: Vec<Violation>,
        retry_after_seconds: Option<f64>,
    },
}

#[derive(Debug, Serialize)]
pub(crate) struct Logprob {
    token_id: u32,
    logprob: f32,
    top: Vec<TopLogprob>,
}

#[derive(Debug, Serialize)]
pub(crate) struct TopLogprob {
    token_id: u32,
    logprob: f32,
}

#[derive(Debug, Serialize)]
pub(crate) struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    cached_tokens: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct Timings {
    queue_seconds: f64,
    prefill_seconds: f64,
    time_to_first_token_seconds: f64,
    decode_seconds: f64,
    preemptions: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct Violation {
    field: String,
    description: String,
}

/// Prints one value on one line.
pub(crate) fn print(value: &impl Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value).expect("these types have string keys only");
    stdout::write_lines(&[line])
}

impl From<&Event> for Line {
    fn from(event: &Event) -> Line {
        match event {
            Event::Queued(queued) => Line::Queued {
                prompt_tokens: queued.prompt_tokens,
                ahead: queued.ahead,
                wait_seconds: queued.wait_seconds,
            },
            Event::Started(started) => Line::Started {
                request_id: started.request_id.clone(),
                model: started.model.clone(),
                kernel: started.kernel.clone(),
                seed: started.seed,
            },
            Event::Delta(delta) => Line::Delta {
                index: delta.index,
                text: delta.text.clone(),
                token_ids: delta.token_ids.clone(),
                logprobs: (!delta.logprobs.is_empty())
                    .then(|| delta.logprobs.iter().map(Logprob::from).collect()),
            },
            Event::Finished(finished) => Line::finished(finished),
        }
    }
}

impl Line {
    fn finished(finished: &proto::Finished) -> Line {
        let (stop_token_id, stop_string) = match &finished.matched {
            Some(Matched::StopTokenId(id)) => (Some(*id), None),
            Some(Matched::StopString(text)) => (None, Some(text.clone())),
            None => (None, None),
        };
        Line::Finished {
            index: finished.index,
            finish_reason: reason_name(finished.reason()),
            stop_token_id,
            stop_string,
            usage: finished.usage.map(|usage| Usage {
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                cached_tokens: usage.cached_tokens,
            }),
            timings: finished.timings.map(|timings| Timings {
                queue_seconds: timings.queue_seconds,
                prefill_seconds: timings.prefill_seconds,
                time_to_first_token_seconds: timings.time_to_first_token_seconds,
                decode_seconds: timings.decode_seconds,
                preemptions: timings.preemptions,
            }),
        }
    }

    pub(crate) fn error(failure: &Failure) -> Line {
        let error = failure.error();
        Line::Error {
            code: code_name(error.map_or(Code::InvalidArgument, |error| error.code())),
            message: match error.and_then(|error| error.status()) {
                Some(status) => status.message().to_owned(),
                None => failure.to_string(),
            },
            violations: error
                .map_or(&[][..], |error| error.violations())
                .iter()
                .map(|violation| Violation {
                    field: violation.field.clone(),
                    description: violation.description.clone(),
                })
                .collect(),
            retry_after_seconds: error
                .and_then(|error| error.retry_after())
                .map(|delay| delay.as_secs_f64()),
        }
    }
}

impl From<&proto::TokenLogprob> for Logprob {
    fn from(token: &proto::TokenLogprob) -> Logprob {
        Logprob {
            token_id: token.token_id,
            logprob: token.logprob,
            top: token
                .top
                .iter()
                .map(|top| TopLogprob {
                    token_id: top.token_id,
                    logprob: top.logprob,
                })
                .collect(),
        }
    }
}

pub(crate) fn reason_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Unspecified => "unspecified",
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
        FinishReason::DeadlineExceeded => "deadline_exceeded",
        FinishReason::Drained => "drained",
    }
}

pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
