//! Whoever reads a request's frames: a call of its own, or one id of a session.

use ternion_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::{
    frames::{Ending, Frame},
    generate, session, status,
};

#[derive(Debug)]
pub(crate) enum Reader {
    Call(mpsc::Sender<Result<v1::GenerateResponse, Status>>),
    Session {
        /// The stream's id for the request.
        id: String,
        out: mpsc::Sender<Result<v1::SessionResponse, Status>>,
        /// Dropped with the reader: that is how the session learns that
        /// nothing more comes.
        _done: oneshot::Sender<()>,
    },
}

/// Held by the task of a request: should that panic, its reader is told, and
/// nobody else notices.
#[derive(Debug)]
pub(crate) struct LastWord {
    reader: Option<Reader>,
    request_id: String,
}

impl LastWord {
    pub(crate) fn to(reader: Reader, request_id: &str) -> LastWord {
        LastWord {
            reader: Some(reader),
            request_id: request_id.to_owned(),
        }
    }
}

impl Drop for LastWord {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(reader) = self.reader.take()
        {
            tracing::error!(self.request_id, "request's task panicked");
            tokio::spawn(reader.fail(status::step_failed(&self.request_id)));
        }
    }
}

/// A place for one frame.
pub(crate) enum Place<'a> {
    Call(mpsc::Permit<'a, Result<v1::GenerateResponse, Status>>),
    Session(
        &'a str,
        mpsc::Permit<'a, Result<v1::SessionResponse, Status>>,
    ),
}

impl Reader {
    /// For one id of a session that knows by itself when that is done.
    pub(crate) fn of_session(
        id: &str,
        out: &mpsc::Sender<Result<v1::SessionResponse, Status>>,
    ) -> Reader {
        Reader::Session {
            id: id.to_owned(),
            out: out.clone(),
            _done: oneshot::channel().0,
        }
    }

    /// Returns when the reader has gone.
    pub(crate) async fn closed(&self) {
        match self {
            Reader::Call(out) => out.closed().await,
            Reader::Session { out, .. } => out.closed().await,
        }
    }

    /// Waits for a place; `None` if the reader has gone.
    pub(crate) async fn place(&self) -> Option<Place<'_>> {
        match self {
            Reader::Call(out) => out.reserve().await.ok().map(Place::Call),
            Reader::Session { id, out, .. } => {
                let permit = out.reserve().await.ok()?;
                Some(Place::Session(id, permit))
            }
        }
    }

    /// The last of it. Errors mean that the reader has gone.
    pub(crate) async fn end(self, seq: u64, ending: Ending) {
        match self {
            Reader::Call(out) => {
                for last in generate::ended_responses(seq, ending) {
                    let _ = out.send(last).await;
                }
            }
            Reader::Session { id, out, .. } => {
                let _ = out
                    .send(Ok(session::ended_response(&id, seq, ending)))
                    .await;
            }
        }
    }

    /// Nothing more comes, and this is why.
    pub(crate) async fn fail(self, status: Status) {
        match self {
            Reader::Call(out) => {
                let _ = out.send(Err(status)).await;
            }
            Reader::Session { id, out, .. } => {
                let _ = out.send(Ok(session::refused(&id, &status))).await;
            }
        }
    }
}

impl Place<'_> {
    pub(crate) fn send(self, seq: u64, frame: Frame) {
        match self {
            Place::Call(permit) => {
                permit.send(Ok(generate::response(seq, frame)));
            }
            Place::Session(id, permit) => {
                permit.send(Ok(session::response(id, seq, frame)));
            }
        }
    }
}
