//! The one place where errors become gRPC statuses.

use std::collections::HashMap;

use prost::Message;
use ternion_engine::SubmitError;
use ternion_policy::{Cause, Role};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::{
    engine_loop::SubmitRefused,
    queue::QueueFull,
    refusal::{RETRY_DELAY, Refusal},
};

/// Domain of the reasons in `ErrorInfo`.
const DOMAIN: &str = "ternion";

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let (code, details) = answer(&refusal);
        Status::with_error_details(code, refusal.to_string(), details)
    }
}

fn answer(refusal: &Refusal) -> (Code, ErrorDetails) {
    match refusal {
        Refusal::Invalid(violations) => {
            let fields: Vec<FieldViolation> = violations
                .0
                .iter()
                .map(|v| FieldViolation::new(v.field.as_str(), v.description.as_str()))
                .collect();
            (
                Code::InvalidArgument,
                ErrorDetails::with_bad_request(fields),
            )
        }
        Refusal::UnknownModel { name, .. } => {
            let details = ErrorDetails::with_resource_info("model", name, "", refusal.to_string());
            (Code::NotFound, details)
        }
        Refusal::TooLong { field, got, limit } => out_of_range(refusal, field, *got, *limit),
        Refusal::TooManyBytes { got, limit, .. } => out_of_range(refusal, "text", *got, *limit),
        // The model's fault either way, whatever the messages are.
        Refusal::NoChatTemplate { .. } | Refusal::BrokenTemplate { .. } => (
            Code::FailedPrecondition,
            precondition("CHAT_TEMPLATE", refusal),
        ),
        Refusal::Template { .. } => bad_field("chat.messages", refusal),
        Refusal::Tokenizer { .. } => bad_field("text", refusal),
        Refusal::AlreadyLive(_) => {
            let mut details = plain_reason("REQUEST_ID_IN_USE");
            details.add_bad_request_violation("request_id", refusal.to_string());
            (Code::AlreadyExists, details)
        }
        Refusal::Draining(_) => (Code::Unavailable, retry(plain_reason("DRAINING"))),
        Refusal::StreamFull { live, limit } => queue_full("STREAM_FULL", *live, *limit),
        Refusal::Submit(refused) => submit(refusal, refused),
        Refusal::QueueFull { full, retry_after } => {
            let mut details = match *full {
                QueueFull::Requests { queued, limit } => {
                    reason("QUEUE_FULL", &[("queued", queued), ("limit", limit)])
                }
                QueueFull::Tokens {
                    queued,
                    limit,
                    asked,
                } => {
                    let numbers = [
                        ("queued_tokens", queued),
                        ("limit_tokens", limit),
                        ("asked_tokens", asked),
                    ];
                    reason("QUEUE_FULL", &numbers)
                }
            };
            details.set_retry_info(Some(*retry_after));
            (Code::ResourceExhausted, details)
        }
        Refusal::NotResumable { id } => {
            let mut details = plain_reason("REQUEST_NOT_FOUND");
            details.set_resource_info("request", id, "", refusal.to_string());
            (Code::NotFound, details)
        }
        Refusal::FramesForgotten { begin } => (
            Code::OutOfRange,
            reason("FRAMES_FORGOTTEN", &[("begin", begin)]),
        ),
        Refusal::JustGone { .. } => (Code::Unavailable, retry(plain_reason("JUST_GONE"))),
        Refusal::DeadlineExceeded => (Code::DeadlineExceeded, ErrorDetails::new()),
        Refusal::TokenizerPanicked => (Code::Internal, plain_reason("TOKENIZER_FAILED")),
        Refusal::Quota { field, refused } => quota(field, refused),
    }
}

/// A tenant's own limit, which its name is told with.
fn quota(field: &str, refused: &ternion_policy::Refusal) -> (Code, ErrorDetails) {
    let numbers: &[(&str, u64)] = match *refused.cause() {
        Cause::RequestsPerMinute { limit, .. } | Cause::ConcurrentRequests { limit, .. } => {
            &[("limit", limit)]
        }
        Cause::TokensPerMinute { limit, asked, .. } | Cause::NeverFits { limit, asked } => {
            &[("limit", limit), ("asked", asked)]
        }
        Cause::PromptTooLong { got, limit }
        | Cause::OutputTooLong { got, limit }
        | Cause::TooManySamples { got, limit } => &[("got", got), ("limit", limit)],
        Cause::Revoked => &[],
    };
    let why = refused.cause().name().to_uppercase();
    let mut details = reason(&why, numbers);
    let told = refused.to_string();
    let code = match refused.cause() {
        Cause::RequestsPerMinute { .. }
        | Cause::TokensPerMinute { .. }
        | Cause::ConcurrentRequests { .. } => {
            details.add_quota_failure_violation(refused.tenant().as_str(), told);
            details.set_retry_info(refused.retry_after());
            Code::ResourceExhausted
        }
        Cause::PromptTooLong { .. } | Cause::TooManySamples { .. } => {
            details.add_bad_request_violation(field, told);
            Code::OutOfRange
        }
        Cause::OutputTooLong { .. } => {
            details.add_bad_request_violation("stopping.max_tokens", told);
            Code::OutOfRange
        }
        Cause::NeverFits { .. } => {
            details.add_precondition_failure_violation("QUOTA", "tokens_per_minute", told);
            Code::FailedPrecondition
        }
        Cause::Revoked => Code::Unauthenticated,
    };
    (code, details)
}

fn submit(refusal: &Refusal, refused: &SubmitRefused) -> (Code, ErrorDetails) {
    let error = match refused {
        SubmitRefused::Engine(error) => error,
        SubmitRefused::Busy => return (Code::ResourceExhausted, retry(plain_reason("QUEUE_FULL"))),
        SubmitRefused::Stopped => return (Code::Unavailable, retry(plain_reason("STOPPED"))),
    };
    match error {
        SubmitError::PromptEmpty => bad_field("input", refusal),
        SubmitError::PromptTooLong { len, limit } => out_of_range(refusal, "input", *len, *limit),
        SubmitError::TooManyTokens {
            prompt_tokens,
            max_tokens,
            limit,
        } => {
            let got = prompt_tokens + max_tokens;
            out_of_range(refusal, "stopping.max_tokens", got, *limit)
        }
        SubmitError::NeverFits { .. } => (
            Code::FailedPrecondition,
            precondition("KV_CACHE_SIZE", refusal),
        ),
        SubmitError::QueueFull { queued, limit } => queue_full("QUEUE_FULL", *queued, *limit),
        SubmitError::TokensQueued { queued, limit, .. } => {
            queue_full("QUEUE_FULL", *queued, *limit)
        }
        SubmitError::DeadlineUnreachable { expected, left } => {
            let numbers = [
                ("expected_ms", expected.as_millis()),
                ("left_ms", left.as_millis()),
            ];
            (
                Code::DeadlineExceeded,
                reason("DEADLINE_UNREACHABLE", &numbers),
            )
        }
        SubmitError::TokenOutOfRange { field, .. } | SubmitError::BadParameter { field, .. } => {
            bad_field(field, refusal)
        }
    }
}

fn bad_field(field: &str, refusal: &Refusal) -> (Code, ErrorDetails) {
    let details = ErrorDetails::with_bad_request_violation(field, refusal.to_string());
    (Code::InvalidArgument, details)
}

fn out_of_range(refusal: &Refusal, field: &str, got: usize, limit: usize) -> (Code, ErrorDetails) {
    let mut details = reason("CONTEXT_LIMIT", &[("got", got), ("limit", limit)]);
    details.add_bad_request_violation(field, refusal.to_string());
    (Code::OutOfRange, details)
}

fn queue_full(why: &str, queued: usize, limit: usize) -> (Code, ErrorDetails) {
    let details = reason(why, &[("queued", queued), ("limit", limit)]);
    (Code::ResourceExhausted, retry(details))
}

fn precondition(subject: &str, refusal: &Refusal) -> ErrorDetails {
    ErrorDetails::with_precondition_failure_violation("MODEL", subject, refusal.to_string())
}

fn reason<N: ToString>(reason: &str, numbers: &[(&str, N)]) -> ErrorDetails {
    let metadata: HashMap<String, String> = numbers
        .iter()
        .map(|(name, number)| ((*name).to_owned(), number.to_string()))
        .collect();
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

fn plain_reason(why: &str) -> ErrorDetails {
    ErrorDetails::with_error_info(why, DOMAIN, HashMap::new())
}

fn retry(mut details: ErrorDetails) -> ErrorDetails {
    details.set_retry_info(Some(RETRY_DELAY));
    details
}

/// The call brings no credential, and needs one.
pub(crate) fn no_credential() -> Status {
    Status::with_error_details(
        Code::Unauthenticated,
        "this call needs an API key (authorization: Bearer) or a client certificate",
        plain_reason("CREDENTIAL_MISSING"),
    )
}

/// The call's credential is nobody's. Which part of it is wrong stays untold.
pub(crate) fn bad_credential() -> Status {
    Status::with_error_details(
        Code::Unauthenticated,
        "the credential of this call is not accepted",
        plain_reason("CREDENTIAL_INVALID"),
    )
}

/// The caller is known, and may not do this.
pub(crate) fn role_missing(role: Role) -> Status {
    let metadata = HashMap::from([("role".to_owned(), role.to_string())]);
    Status::with_error_details(
        Code::PermissionDenied,
        format!("this call needs the role {role}"),
        ErrorDetails::with_error_info("ROLE_MISSING", DOMAIN, metadata),
    )
}

/// Nobody may call what has no row in the table of authorisation.
pub(crate) fn no_such_rpc() -> Status {
    Status::with_error_details(
        Code::PermissionDenied,
        "nobody may call this",
        plain_reason("RPC_UNKNOWN"),
    )
}

/// A call came to a service past the door. It can't, and is not served.
pub(crate) fn no_caller() -> Status {
    Status::with_error_details(
        Code::Unauthenticated,
        "this call was made by nobody",
        plain_reason("CREDENTIAL_MISSING"),
    )
}

/// The deadline passed while tokens ran.
pub(crate) fn deadline_exceeded() -> Status {
    Status::deadline_exceeded("deadline passed; the last frame says how far it came")
}

/// The server ended before the request did.
pub(crate) fn drained() -> Status {
    let details = retry(plain_reason("DRAINING"));
    Status::with_error_details(
        Code::Unavailable,
        "server shut down before the request was through",
        details,
    )
}

/// A step failed. What exactly is in the log, under this id.
pub(crate) fn step_failed(request_id: &str) -> Status {
    let metadata = HashMap::from([("request_id".to_owned(), request_id.to_owned())]);
    let details = ErrorDetails::with_error_info("STEP_FAILED", DOMAIN, metadata);
    Status::with_error_details(Code::Internal, "the model could not be run", details)
}

/// Nobody read what the request said.
pub(crate) fn reader_too_slow(request_id: &str) -> Status {
    let metadata = HashMap::from([("request_id".to_owned(), request_id.to_owned())]);
    Status::with_error_details(
        Code::ResourceExhausted,
        "frames of the request waited too long for their reader",
        ErrorDetails::with_error_info("READER_TOO_SLOW", DOMAIN, metadata),
    )
}

/// The request goes on, and somebody else reads it.
pub(crate) fn taken_over() -> Status {
    Status::with_error_details(
        Code::Aborted,
        "another stream reads this request on",
        plain_reason("TAKEN_OVER"),
    )
}

/// A status as a message, for frames that carry one.
pub(crate) fn as_message(status: &Status) -> tonic_types::Status {
    let plain = || tonic_types::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: Vec::new(),
    };
    match status.details() {
        [] => plain(),
        // Written by `with_error_details`, as this very message.
        details => tonic_types::Status::decode(details).unwrap_or_else(|_| plain()),
    }
}

/// Why a request was refused, in one word: the reason of the `ErrorInfo` that
/// its client reads, or else the code.
pub(crate) fn refusal_reason(status: &Status) -> String {
    match status.get_details_error_info() {
        Some(info) => info.reason,
        None => code_name(status.code()).to_owned(),
    }
}

/// Name of a code as gRPC spells it, for telemetry.
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
