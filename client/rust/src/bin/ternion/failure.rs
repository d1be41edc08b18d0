use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use ternion_client::Error;
use ternion_client::proto::FinishReason;
use thiserror::Error;

use crate::json;

/// Why the command did not do what was asked.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    #[error("no connection to {endpoint}: {error}")]
    Connect { endpoint: String, error: Error },
    #[error(transparent)]
    Server(#[from] Error),
    /// Told by the last event already.
    #[error("{}", reason_text(*.0))]
    Ended(FinishReason),
    #[error("can't read {}: {source}", path.display())]
    Prompt { path: PathBuf, source: io::Error },
    #[error("{flag}: can't read {}: {source}", path.display())]
    Credential {
        flag: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("can't read standard input: {0}")]
    Input(io::Error),
    #[error("can't write to standard output: {0}")]
    Output(io::Error),
    #[error("{0}")]
    Usage(String),
    #[error("interrupted")]
    Interrupted,
    /// Told by the report already, as is the next.
    #[error("{0} requests failed without an explanation by the server")]
    Unexplained(u64),
    #[error("every request was refused")]
    AllRefused { busy: bool },
    #[error("can't write {}: {source}", path.display())]
    Page { path: PathBuf, source: io::Error },
    #[error("{:.1} % of the requests were within the service level, {:.1} % should be", share * 100.0, wanted * 100.0)]
    SloMissed { share: f64, wanted: f64 },
}

impl Failure {
    /// Tells the user: as the last line of JSON where JSON was asked for.
    pub(crate) fn report(&self, json: bool) {
        match self {
            // Whoever reads the output has gone, and needs no telling.
            Failure::Output(_) | Failure::Interrupted => {}
            Failure::Ended(_)
            | Failure::Unexplained(_)
            | Failure::AllRefused { .. }
            | Failure::SloMissed { .. }
                if json => {}
            failure if json => {
                // There is no other place to say that this failed too.
                let _ = json::print(&json::Line::error(failure));
            }
            failure => eprintln!("ternion: {failure}"),
        }
    }

    /// Another message may do better; a server that is gone will not.
    pub(crate) fn ends_one_answer(&self) -> bool {
        match self {
            Failure::Ended(_) => true,
            Failure::Server(error) => !matches!(error, Error::Transport { .. }),
            _ => false,
        }
    }

    pub(crate) fn error(&self) -> Option<&Error> {
        match self {
            Failure::Connect { error, .. } | Failure::Server(error) => Some(error),
            _ => None,
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Usage(_) => 2,
            Failure::Interrupted | Failure::Ended(FinishReason::Cancelled) => 130,
            Failure::Ended(FinishReason::DeadlineExceeded) => 5,
            Failure::Ended(FinishReason::Drained) => 4,
            Failure::Connect { error, .. } | Failure::Server(error) => match error {
                Error::Endpoint { .. } | Error::Credentials { .. } => 2,
                Error::InvalidArgument { .. } | Error::NotFound { .. } | Error::Denied { .. } => 3,
                Error::ResourceExhausted { .. } | Error::Unavailable { .. } => 4,
                Error::DeadlineExceeded { .. } => 5,
                _ => 1,
            },
            Failure::Prompt { .. } | Failure::Credential { .. } | Failure::Input(_) => 2,
            Failure::AllRefused { busy: false } => 3,
            Failure::AllRefused { busy: true } => 4,
            Failure::SloMissed { .. } => 6,
            Failure::Ended(_)
            | Failure::Output(_)
            | Failure::Unexplained(_)
            | Failure::Page { .. } => 1,
        })
    }
}

fn reason_text(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::DeadlineExceeded => "the deadline passed before the text was complete",
        FinishReason::Drained => "the server shut down before the text was complete",
        FinishReason::Cancelled => "cancelled",
        _ => "the text ended for an unknown reason",
    }
}
