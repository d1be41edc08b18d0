use std::time::Duration;

use prost::Message;
use thiserror::Error;
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt;

/// Why a call failed, by what its caller can do about it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The request is wrong, or this server can't do it at all: sending it
    /// again gives the same answer.
    #[error("{}{}", status.message(), Unsaid(status.message(), violations))]
    InvalidArgument {
        /// `INVALID_ARGUMENT`, `OUT_OF_RANGE`, `ALREADY_EXISTS`,
        /// `FAILED_PRECONDITION` or `UNIMPLEMENTED`.
        status: Box<Status>,
        /// What is wrong, field by field.
        violations: Vec<Violation>,
    },
    /// The named thing, usually a model, is not there.
    #[error("{}", status.message())]
    NotFound {
        /// As received.
        status: Box<Status>,
        /// What was asked for.
        resource: Option<Resource>,
    },
    /// The caller is unknown or may not do this.
    #[error("{}", status.message())]
    Denied {
        /// `UNAUTHENTICATED` or `PERMISSION_DENIED`.
        status: Box<Status>,
    },
    /// A queue is full or a quota is used up.
    #[error("{}", status.message())]
    ResourceExhausted {
        /// As received.
        status: Box<Status>,
        /// How long the server asks to wait before trying again.
        retry_after: Option<Duration>,
    },
    /// The server takes no requests now: it is starting or draining.
    #[error("{}", status.message())]
    Unavailable {
        /// As received.
        status: Box<Status>,
        /// How long the server asks to wait before trying again.
        retry_after: Option<Duration>,
    },
    /// The request's time was over before it was through.
    #[error("{}", status.message())]
    DeadlineExceeded {
        /// As received, or made here when the server did not answer in time.
        status: Box<Status>,
    },
    /// The request was cancelled.
    #[error("{}", status.message())]
    Cancelled {
        /// As received.
        status: Box<Status>,
    },
    /// The server failed; its operator finds more in its log.
    #[error("{}", status.message())]
    Internal {
        /// As received, of any code not named by another variant.
        status: Box<Status>,
    },
    /// The address can't be used as an endpoint.
    #[error("not an endpoint: {endpoint:?}: {source}")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// The API key or a certificate can't be used.
    #[error("{reason}")]
    Credentials {
        /// Which one, and why.
        reason: String,
    },
    /// No connection to the server, or the one there was broke.
    #[error("{}", chain(source.as_ref()))]
    Transport {
        /// What the transport reported.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// One field of a request and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, such as `sampling.temperature`.
    pub field: String,
    /// What it must be, and what it was.
    pub description: String,
}

/// What was not found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Kind of thing, such as `model`.
    pub kind: String,
    /// Its name, as asked for.
    pub name: String,
}

impl Error {
    /// The gRPC status code. [`Code::Unavailable`] when no status was
    /// received because the transport failed.
    pub fn code(&self) -> Code {
        match self.status() {
            Some(status) => status.code(),
            None => match self {
                Error::Endpoint { .. } | Error::Credentials { .. } => Code::InvalidArgument,
                _ => Code::Unavailable,
            },
        }
    }

    /// The status as received, for details that have no place here.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Error::InvalidArgument { status, .. }
            | Error::NotFound { status, .. }
            | Error::Denied { status }
            | Error::ResourceExhausted { status, .. }
            | Error::Unavailable { status, .. }
            | Error::DeadlineExceeded { status }
            | Error::Cancelled { status }
            | Error::Internal { status } => Some(status),
            Error::Endpoint { .. } | Error::Credentials { .. } | Error::Transport { .. } => None,
        }
    }

    /// How long the server asks to wait before trying again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::ResourceExhausted { retry_after, .. }
            | Error::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the request never left this side: its connection was told to
    /// go, and closed, before it was its turn.
    pub(crate) fn was_never_sent(&self) -> bool {
        let Error::Transport { source } = self else {
            return false;
        };
        sources(source.as_ref())
            .filter_map(|error| error.downcast_ref::<hyper::Error>())
            .any(hyper::Error::is_canceled)
    }

    /// Fields of the request that the server named as wrong.
    pub fn violations(&self) -> &[Violation] {
        match self {
            Error::InvalidArgument { violations, .. } => violations,
            _ => &[],
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Error {
        // Only a status made on this side, out of a failure to talk to the
        // server, has a source.
        if let Some(source) = std::error::Error::source(&status) {
            return if is_timeout(source) {
                Error::DeadlineExceeded {
                    status: Box::new(Status::deadline_exceeded(
                        "the server did not answer within the request's time",
                    )),
                }
            } else {
                Error::Transport {
                    source: status.into(),
                }
            };
        }
        let details = status.get_error_details();
        let retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
        let status = Box::new(status);
        match status.code() {
            Code::InvalidArgument
            | Code::OutOfRange
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Unimplemented => Error::InvalidArgument {
                status,
                violations: violations(&details),
            },
            Code::NotFound => Error::NotFound {
                status,
                resource: details.resource_info().map(|info| Resource {
                    kind: info.resource_type.clone(),
                    name: info.resource_name.clone(),
                }),
            },
            Code::Unauthenticated | Code::PermissionDenied => Error::Denied { status },
            Code::ResourceExhausted => Error::ResourceExhausted {
                status,
                retry_after,
            },
            Code::Unavailable => Error::Unavailable {
                status,
                retry_after,
            },
            Code::DeadlineExceeded => Error::DeadlineExceeded { status },
            Code::Cancelled => Error::Cancelled { status },
            _ => Error::Internal { status },
        }
    }
}

/// A status that came in a frame of a session instead of in trailers.
impl From<tonic_types::Status> for Error {
    fn from(status: tonic_types::Status) -> Error {
        let details = status.encode_to_vec();
        Status::with_details(Code::from_i32(status.code), status.message, details.into()).into()
    }
}

impl From<tonic::transport::Error> for Error {
    fn from(source: tonic::transport::Error) -> Error {
        Error::Transport {
            source: source.into(),
        }
    }
}

fn violations(details: &tonic_types::ErrorDetails) -> Vec<Violation> {
    details
        .bad_request()
        .into_iter()
        .flat_map(|bad| &bad.field_violations)
        .map(|violation| Violation {
            field: violation.field.clone(),
            description: violation.description.clone(),
        })
        .collect()
}

fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    sources(error).any(|error| error.is::<TimeoutExpired>())
}

/// "transport error" alone helps nobody: the cause is further down.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    for error in sources(error) {
        let message = match error.downcast_ref::<Status>() {
            Some(status) => status.message().to_owned(),
            None => error.to_string(),
        };
        if text.contains(&message) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&message);
    }
    text
}

fn sources<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// The violations that a message does not spell out already.
struct Unsaid<'a>(&'a str, &'a [Violation]);

impl std::fmt::Display for Unsaid<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for Violation { field, description } in self.1 {
            if !self.0.contains(description.as_str()) {
                write!(f, "\n  {field}: {description}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn fields_of_a_bad_request_are_named() {
        let details = ErrorDetails::with_bad_request_violation("sampling.top_p", "is 0");
        let status = Status::with_error_details(Code::InvalidArgument, "bad request", details);
        let error = Error::from(status);
        assert_eq!(
            error.violations(),
            [Violation {
                field: "sampling.top_p".into(),
                description: "is 0".into()
            }]
        );
        assert_eq!(error.to_string(), "bad request\n  sampling.top_p: is 0");
    }

    #[test]
    fn a_delay_survives_both_ways_a_status_travels() {
        let delay = Duration::from_millis(1500);
        let details = ErrorDetails::with_retry_info(Some(delay));
        let trailers = Status::with_error_details(Code::Unavailable, "draining", details);
        let frame = tonic_types::Status::decode(trailers.details()).expect("made above");
        for error in [Error::from(trailers), Error::from(frame)] {
            assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
            assert_eq!(error.retry_after(), Some(delay));
        }
    }

    #[test]
    fn a_broken_connection_is_not_a_server_that_asks_to_wait() {
        let mut status = Status::unavailable("tcp connect error");
        status.set_source(std::sync::Arc::new(std::io::Error::other("refused")));
        let error = Error::from(status);
        assert!(matches!(error, Error::Transport { .. }), "{error:?}");
        assert_eq!(error.to_string(), "tcp connect error: refused");
    }
}
