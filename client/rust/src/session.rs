use std::collections::HashMap;
use std::time::Duration;

use ternion_proto::v1::inference_service_client::InferenceServiceClient;
use ternion_proto::v1::session_request::Frame as Request;
use ternion_proto::v1::session_response::Frame as Response;
use ternion_proto::v1::{Cancel, Finished, SessionRequest, SessionResponse, Start, Timings, Usage};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::replicas::Calls;
use crate::resume::{patiently, resume_request};
use crate::{Error, Event, Generate};

/// Frames that may wait for the connection before `start` does.
const UNSENT_FRAMES: usize = 16;

/// Many requests on one stream, each under an id of the caller's choice.
///
/// A request that fails does not end the session. Dropping the session
/// cancels what runs on it; what is [`resumable`](Generate::resumable) waits
/// for a while, in vain, unless it was cancelled before.
#[derive(Debug)]
pub struct Session {
    service: InferenceServiceClient<Calls>,
    requests: Option<mpsc::Sender<SessionRequest>>,
    responses: Streaming<SessionResponse>,
    timeout: Option<Duration>,
    /// Resumable requests that have not ended, and the last frame of each.
    resumable: HashMap<String, Option<u64>>,
}

/// What one request of a session tells.
#[derive(Debug)]
#[non_exhaustive]
pub enum SessionEvent {
    /// The request goes on, or has ended as it should.
    Event {
        /// Id given to [`Session::start`].
        id: String,
        /// As from [`Client::generate`](crate::Client::generate).
        event: Event,
    },
    /// The request was refused or failed, and has ended.
    Failed {
        /// Id given to [`Session::start`].
        id: String,
        /// The error that [`Client::generate`](crate::Client::generate) would
        /// have given.
        error: Error,
        /// Absent if it was refused before it ran.
        usage: Option<Usage>,
        /// Absent if it was refused before it ran.
        timings: Option<Timings>,
    },
}

impl Session {
    pub(crate) async fn open(
        mut service: InferenceServiceClient<Calls>,
        timeout: Option<Duration>,
    ) -> Result<Session, Error> {
        let (requests, responses) = open_stream(&mut service).await?;
        Ok(Session {
            service,
            requests: Some(requests),
            responses,
            timeout,
            resumable: HashMap::new(),
        })
    }

    /// After [`next`](Session::next) gave an [`Error::Transport`]: connects
    /// again, and goes on with the resumable requests that had not ended. Each
    /// is told on without a gap; one that the server did not keep fails. All
    /// others are lost.
    pub async fn reconnect(&mut self) -> Result<(), Error> {
        let service = &self.service;
        let open = || {
            let mut service = service.clone();
            async move { open_stream(&mut service).await }
        };
        let was_closed = self.requests.is_none();
        let (requests, responses) = patiently(open).await?;
        self.requests = Some(requests);
        self.responses = responses;
        for (id, last_seq) in &self.resumable {
            let start = Start {
                request: Some(resume_request(id, *last_seq)),
                timeout_ms: None,
            };
            self.send(id, Request::Start(start)).await?;
        }
        if was_closed {
            self.close();
        }
        Ok(())
    }

    /// Starts a request. Its id, 1 to 128 bytes, comes back with each of its
    /// events and may be used again once it has ended.
    pub async fn start(
        &mut self,
        id: impl Into<String>,
        generate: impl Into<Generate>,
    ) -> Result<(), Error> {
        let Generate { request, timeout } = generate.into();
        let timeout = timeout.or(self.timeout);
        let id = id.into();
        if request.resumable {
            self.resumable.insert(id.clone(), None);
        }
        self.send(
            id,
            Request::Start(Start {
                request: Some(request),
                timeout_ms: timeout.map(whole_milliseconds),
            }),
        )
        .await
    }

    /// Ends a running request, which then tells so by a `Finished` event. An
    /// id that is not running is ignored: the request may just have ended.
    pub async fn cancel(&self, id: impl Into<String>) -> Result<(), Error> {
        self.send(id, Request::Cancel(Cancel {})).await
    }

    /// Says that nothing more will be started. What runs goes on, and
    /// [`next`](Session::next) gives `None` after the last event.
    pub fn close(&mut self) {
        self.requests = None;
    }

    /// The next event of any request. An error here has ended the session.
    pub async fn next(&mut self) -> Option<Result<SessionEvent, Error>> {
        loop {
            let SessionResponse {
                request_id: id,
                seq,
                frame,
            } = match self.responses.message().await {
                Ok(response) => response?,
                Err(status) => return Some(Err(status.into())),
            };
            match &frame {
                Some(Response::Finished(Finished { remaining: 0, .. }))
                | Some(Response::Failed(_)) => {
                    self.resumable.remove(&id);
                }
                _ => {
                    if let Some(last_seq) = self.resumable.get_mut(&id) {
                        *last_seq = Some(seq);
                    }
                }
            }
            let event = match frame {
                Some(Response::Queued(queued)) => Event::Queued(queued),
                Some(Response::Started(started)) => Event::Started(started),
                Some(Response::Delta(delta)) => Event::Delta(delta),
                Some(Response::Finished(finished)) => Event::Finished(finished),
                Some(Response::Failed(failed)) => {
                    return Some(Ok(SessionEvent::Failed {
                        id,
                        error: failed.status.unwrap_or_default().into(),
                        usage: failed.usage,
                        timings: failed.timings,
                    }));
                }
                // A newer server may have frames that this client can't know.
                None => continue,
            };
            return Some(Ok(SessionEvent::Event { id, event }));
        }
    }

    async fn send(&self, id: impl Into<String>, frame: Request) -> Result<(), Error> {
        let request = SessionRequest {
            request_id: id.into(),
            frame: Some(frame),
        };
        let sent = match &self.requests {
            Some(requests) => requests.send(request).await.is_ok(),
            None => false,
        };
        if sent {
            return Ok(());
        }
        Err(Error::Transport {
            source: "the session is closed".into(),
        })
    }
}

async fn open_stream(
    service: &mut InferenceServiceClient<Calls>,
) -> Result<(mpsc::Sender<SessionRequest>, Streaming<SessionResponse>), Error> {
    let (requests, outgoing) = mpsc::channel(UNSENT_FRAMES);
    let responses = service.session(ReceiverStream::new(outgoing)).await?;
    Ok((requests, responses.into_inner()))
}

/// Rounded up, so that a short time does not become none.
fn whole_milliseconds(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(u32::MAX)
}
