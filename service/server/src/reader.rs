//! Whoever reads a request's frames: a call of its own, or one id of a session.

use ternion_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::{
    frames::{Ending, Frame},
    generate, session,
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

/// A place for one frame.
pub(crate) enum Place<'a> {
    Call(mpsc::Permit<'a, Result<v1::GenerateResponse, Status>>),
    Session(
        &'a str,
        mpsc::Permit<'a, Result<v1::SessionResponse, Status>>,
    ),
}

impl Reader {
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
            Place::Call(permit) => drop(permit.send(Ok(generate::response(seq, frame)))),
            Place::Session(id, permit) => {
                permit.send(Ok(session::response(id, seq, frame)));
            }
        }
    }
}
