//! `InferenceService.Session`: many requests on one stream.
//!
//! One task reads frames; each request is a task of its own that writes to
//! the stream's one bounded channel. A client that reads too slowly fills that
//! channel, then the outboxes of its requests, and then they are parked:
//! nobody else notices.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use opentelemetry::Context;
use ternion_policy::{Authorised, Ticket};
use ternion_proto::v1;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::Instrument;

use crate::{
    access::caller,
    admission::admit,
    audit::Audit,
    deadline,
    drain::{Delivery, Draining, Phase},
    frames::{Ending, Frame},
    live_requests::{Claim, Scope},
    reader::{LastWord, Reader},
    refusal::Refusal,
    request::{MAX_REQUEST_ID_BYTES, Violations},
    request_run::{Ended, RequestRun},
    request_span::{self, RequestSpan},
    retained::{Begin, By, Line, Registration},
    retained_run::RetainedRun,
    served::Served,
    status::{self, refusal_reason},
};

pub(crate) type Frames = Delivery<ReceiverStream<Result<v1::SessionResponse, Status>>>;

const METHOD: &str = "ternion.v1.InferenceService/Session";

/// Frames between the requests' tasks and the connection.
const FRAMES_AHEAD: usize = 32;

struct Session {
    served: Arc<Served>,
    caller: Authorised,
    scope: Scope,
    parent: Context,
    deadline: Option<Instant>,
    out: mpsc::Sender<Result<v1::SessionResponse, Status>>,
    /// Dropping it ends all of them.
    requests: JoinSet<()>,
}

pub(crate) fn session(
    served: Arc<Served>,
    call: Request<Streaming<v1::SessionRequest>>,
) -> Result<Response<Frames>, Status> {
    let caller = caller(&call)?;
    // Told at once, where a client tries another server, and not after it
    // has sent requests.
    if served.drain.phase() >= Phase::Draining {
        return Err(Refusal::from(Draining).into());
    }
    let (out, frames) = mpsc::channel(FRAMES_AHEAD);
    let frames = served.drain.deliver(ReceiverStream::new(frames));
    let session = Session {
        scope: served.live.session(caller.tenant()),
        caller,
        parent: request_span::parent(call.metadata()),
        deadline: deadline::of_call(call.metadata()),
        served,
        out,
        requests: JoinSet::new(),
    };
    tokio::spawn(session.run(call.into_inner()));
    Ok(Response::new(frames))
}

/// How a session goes on after something happened.
enum Next {
    Read,
    /// The client has said all it wants, or may say no more: only its running
    /// requests remain, and then comes the status, if it is not OK.
    Finish(Option<Status>),
    /// The client has gone, or sent what can't be read.
    Broken(Option<Status>),
}

impl Session {
    async fn run(mut self, mut inbound: Streaming<v1::SessionRequest>) {
        let status = loop {
            match self.read(&mut inbound).await {
                Next::Read => {}
                Next::Finish(status) => break status,
                Next::Broken(status) => {
                    if let Some(status) = status {
                        let _ = self.out.try_send(Err(status));
                    }
                    return;
                }
            }
        };
        // A client that breaks the stream after it half-closed closes `out`.
        let served = self.served.clone();
        let out = self.out.clone();
        tokio::select! {
            () = out.closed() => return,
            () = async { while self.requests.join_next().await.is_some() {} } => {}
        }
        let status = match served.drain.phase() {
            Phase::Ending => Some(status::drained()),
            _ => status,
        };
        if let Some(status) = status {
            // An error means that the client has gone.
            let _ = self.out.send(Err(status)).await;
        }
    }

    async fn read(&mut self, inbound: &mut Streaming<v1::SessionRequest>) -> Next {
        let deadline = self.deadline;
        let drain = self.served.drain.clone();
        tokio::select! {
            biased;
            () = self.out.closed() => Next::Broken(None),
            () = until(deadline) => Next::Finish(Some(status::deadline_exceeded())),
            // A session with nothing to do must not hold up the shutdown.
            () = drain.reached(Phase::Draining), if self.requests.is_empty() => {
                Next::Finish(Some(status::drained()))
            }
            Some(_) = self.requests.join_next(), if !self.requests.is_empty() => Next::Read,
            message = inbound.message() => match message {
                Ok(Some(message)) => {
                    self.take(message).await;
                    Next::Read
                }
                Ok(None) => Next::Finish(None),
                Err(status) => Next::Broken(Some(status)),
            }
        }
    }

    async fn take(&mut self, message: v1::SessionRequest) {
        use v1::session_request::Frame as From;
        let id = message.request_id;
        // Of a request that is there, its span tells; of a bad frame, nothing.
        let mut span = None;
        let refusal: Refusal = match message.frame {
            Some(From::Cancel(v1::Cancel {})) => {
                self.served.live.cancel(&self.scope, &id);
                return;
            }
            _ if !(1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) => {
                let len = id.len();
                let range = format!("has {len} bytes, from 1 to {MAX_REQUEST_ID_BYTES}");
                Violations::one("request_id", range).into()
            }
            None => Violations::one("frame", "is missing: one of start, cancel").into(),
            Some(From::Start(v1::Start { request: None, .. })) => {
                Violations::one("start.request", "is missing").into()
            }
            Some(From::Start(v1::Start {
                request: Some(request),
                timeout_ms,
            })) => {
                let begin = self
                    .served
                    .retained
                    .begin(self.caller.tenant(), &id, &request);
                let registration = match begin {
                    Ok(Begin::Ordinary) => None,
                    Ok(Begin::Retained(registration)) => Some(registration),
                    Ok(Begin::Attach { line, last, by }) => {
                        match self.attach(&id, line, last, by) {
                            Ok(()) => return,
                            Err(refusal) => return self.refuse(&id, None, refusal).await,
                        }
                    }
                    Err(refusal) => return self.refuse(&id, None, refusal).await,
                };
                let opened = RequestSpan::open(&self.served, &self.parent, METHOD, &id, &request);
                let opened = span.insert(opened).clone();
                match self.start(&id, request, timeout_ms, opened, registration) {
                    Ok(()) => return,
                    Err(refusal) => refusal,
                }
            }
        };
        self.refuse(&id, span, refusal).await;
    }

    async fn refuse(&self, id: &str, span: Option<RequestSpan>, refusal: Refusal) {
        let status = Status::from(refusal);
        match span {
            Some(span) => span.refused(&status),
            None => self.served.metrics.refused(&refusal_reason(&status)),
        }
        let response = refused(id, &status);
        Audit::open(&self.caller, METHOD, &response.request_id).refused(status.code());
        // If the client doesn't read what is wrong with its frames, no more
        // of them are read.
        let _ = self.out.send(Ok(response)).await;
    }

    /// Reads on what is there already, under an id of this stream.
    fn attach(
        &mut self,
        id: &str,
        line: Arc<Line>,
        last: Option<u64>,
        by: By,
    ) -> Result<(), Refusal> {
        let claim = self.claim(id)?;
        let (id, out) = (id.to_owned(), self.out.clone());
        let (served, caller) = (self.served.clone(), self.caller.clone());
        self.requests.spawn(async move {
            let (done, over) = oneshot::channel();
            let reader = Reader::Session {
                id: id.clone(),
                out: out.clone(),
                _done: done,
            };
            match line.attach(reader, last, Some(claim)).await {
                Ok(()) => {
                    served.metrics.attached(by);
                    Audit::open(&caller, METHOD, &id).answered(Code::Ok);
                    // It ends without a word.
                    let _ = over.await;
                }
                Err(refusal) => {
                    let status = Status::from(refusal);
                    served.metrics.refused(&refusal_reason(&status));
                    Audit::open(&caller, METHOD, &id).refused(status.code());
                    let _ = out.send(Ok(refused(&id, &status))).await;
                }
            }
        });
        Ok(())
    }

    fn claim(&self, id: &str) -> Result<Claim, Refusal> {
        let live = self.requests.len();
        let limit = self.served.max_stream_requests;
        if live >= limit {
            return Err(Refusal::StreamFull { live, limit });
        }
        Ok(self.served.live.claim(&self.scope, id.to_owned())?)
    }

    /// Starts the task of a request. Its id is taken from now on, so that a
    /// Cancel right behind finds it.
    fn start(
        &mut self,
        id: &str,
        request: v1::GenerateRequest,
        timeout_ms: Option<u32>,
        span: RequestSpan,
        registration: Option<Registration>,
    ) -> Result<(), Refusal> {
        let claim = self.claim(id)?;
        let samples = self.served.bounds.samples(&request);
        let timeout = timeout_ms.map(|ms| Duration::from_millis(ms.into()));
        let own = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let task = Start {
            served: self.served.clone(),
            caller: self.caller.clone(),
            // In the order of the frames: which of them is one too many must
            // not depend on which task runs first.
            ticket: self.served.access.enter(&self.caller, samples),
            // The frame's id is the one that counts.
            request: v1::GenerateRequest {
                request_id: String::new(),
                ..request
            },
            deadline: [self.deadline, own].into_iter().flatten().min(),
            span,
            registration,
        };
        self.requests.spawn(task.run(claim, self.out.clone()));
        Ok(())
    }
}

/// A request before it is admitted.
struct Start {
    served: Arc<Served>,
    caller: Authorised,
    ticket: Result<Ticket, Refusal>,
    request: v1::GenerateRequest,
    deadline: Option<Instant>,
    span: RequestSpan,
    registration: Option<Registration>,
}

impl Start {
    async fn run(mut self, claim: Claim, out: mpsc::Sender<Result<v1::SessionResponse, Status>>) {
        let id = claim.id().to_owned();
        let _last_word = LastWord::to(Reader::of_session(&id, &out), &id);
        let span = self.span.clone();
        let audit = Audit::open(&self.caller, METHOD, &id);
        let entered = span.span();
        let (served, registration) = (self.served.clone(), self.registration.take());
        async {
            let last = match self.admit(claim, &audit).await {
                Ok(run) => match registration {
                    Some(registration) => {
                        drop((span, audit));
                        return read_retained(&served, registration, run, id, out).await;
                    }
                    None => {
                        let framed = |seq, frame| response(&id, seq, frame);
                        match run.forward(&out, served.read_timeout, framed).await {
                            Some(ended) => ended,
                            None => return,
                        }
                    }
                },
                Err(refusal) => {
                    let status = Status::from(refusal);
                    span.refused(&status);
                    audit.refused(status.code());
                    let _ = out.send(Ok(refused(&id, &status))).await;
                    return;
                }
            };
            let Ended {
                seq,
                ending,
                in_flight: _in_flight,
                span: _span,
            } = last;
            let _ = out.send(Ok(ended_response(&id, seq, ending))).await;
        }
        .instrument(entered)
        .await;
    }

    async fn admit(self, claim: Claim, audit: &Audit) -> Result<RequestRun, Refusal> {
        let Start {
            served,
            ticket,
            request,
            deadline,
            span,
            ..
        } = self;
        let in_flight = served.drain.enter()?;
        let stream = admit(&served, request, ticket?, &claim, deadline, &span, audit).await?;
        Ok(RequestRun {
            stream,
            claim,
            span,
            audit: audit.clone(),
            in_flight,
        })
    }
}

/// Runs a request on its own, so that it can outlive this stream, and waits
/// until this stream has all of it.
async fn read_retained(
    served: &Served,
    registration: Registration,
    run: RequestRun,
    id: String,
    out: mpsc::Sender<Result<v1::SessionResponse, Status>>,
) {
    let (done, over) = oneshot::channel();
    let reader = Reader::Session {
        id,
        out,
        _done: done,
    };
    tokio::spawn(RetainedRun::new(served, registration, run, reader).run());
    // It ends without a word.
    let _ = over.await;
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

pub(crate) fn response(id: &str, seq: u64, frame: Frame) -> v1::SessionResponse {
    use v1::session_response::Frame as To;
    let frame = match frame {
        Frame::Queued(queued) => To::Queued(queued),
        Frame::Started(started) => To::Started(started),
        Frame::Delta(delta) => To::Delta(delta),
        Frame::Finished(finished) => To::Finished(finished),
    };
    v1::SessionResponse {
        request_id: id.to_owned(),
        seq,
        frame: Some(frame),
    }
}

pub(crate) fn ended_response(id: &str, seq: u64, ending: Ending) -> v1::SessionResponse {
    use v1::session_response::Frame as To;
    let (usage, timings) = (ending.usage, ending.timings);
    let frame = match ending.into_finished() {
        Ok(finished) => To::Finished(finished),
        Err(status) => To::Failed(v1::Failed {
            status: Some(status::as_message(&status)),
            usage: Some(usage),
            timings: Some(timings),
        }),
    };
    v1::SessionResponse {
        request_id: id.to_owned(),
        seq,
        frame: Some(frame),
    }
}

pub(crate) fn refused(id: &str, status: &Status) -> v1::SessionResponse {
    v1::SessionResponse {
        // An id that is too long is told back as far as it may go.
        request_id: id[..id.floor_char_boundary(MAX_REQUEST_ID_BYTES)].to_owned(),
        seq: 0,
        frame: Some(v1::session_response::Frame::Failed(v1::Failed {
            status: Some(status::as_message(status)),
            usage: None,
            timings: None,
        })),
    }
}
