//! `InferenceService.Generate`: one request, one stream of frames.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ternion_policy::Authorised;
use ternion_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};
use tracing::Instrument;

use crate::{
    access::caller,
    admission::{admit, random},
    audit::Audit,
    deadline,
    drain::Delivery,
    frames::{Ending, Frame, Outcome},
    live_requests::Scope,
    reader::{LastWord, Reader},
    refusal::Refusal,
    request::{MAX_REQUEST_ID_BYTES, Violations},
    request_run::{Ended, RequestRun},
    request_span::{self, RequestSpan},
    retained::{Begin, By, Line, Registration},
    retained_run::RetainedRun,
    served::Served,
    status,
};

pub(crate) type Frames = Delivery<ReceiverStream<Result<v1::GenerateResponse, Status>>>;

const METHOD: &str = "ternion.v1.InferenceService/Generate";

/// Frames between a request's task and its connection. Few, because tokens
/// for a slow reader belong into its outbox, which the engine can see.
const FRAMES_AHEAD: usize = 4;

pub(crate) async fn generate(
    served: Arc<Served>,
    call: Request<v1::GenerateRequest>,
) -> Result<Response<Frames>, Status> {
    let caller = caller(&call)?;
    let parent = request_span::parent(call.metadata());
    let deadline = deadline::of_call(call.metadata());
    let request = call.into_inner();
    let id = request_id(&request.request_id);
    let registration = match look_up(&served, &caller, &id, &request) {
        Ok(Begin::Ordinary) => None,
        Ok(Begin::Retained(registration)) => Some(registration),
        Ok(Begin::Attach { line, last, by }) => {
            let audit = Audit::open(&caller, METHOD, &id);
            let attached = attach(&served, &line, last, by).await;
            if attached.is_ok() {
                audit.answered(Code::Ok);
            }
            return attached
                .map(Response::new)
                .map_err(|refusal| refused(&served, &audit, refusal));
        }
        Err(refusal) => {
            let audit = Audit::open(&caller, METHOD, &id);
            return Err(refused(&served, &audit, refusal));
        }
    };
    let span = RequestSpan::open(&served, &parent, METHOD, &id, &request);
    let audit = Audit::open(&caller, METHOD, &id);
    let begun = begin(
        served,
        &caller,
        request,
        id,
        deadline,
        span.clone(),
        audit.clone(),
        registration,
    );
    match begun.instrument(span.span()).await {
        Ok(frames) => Ok(Response::new(frames)),
        Err(refusal) => {
            let status = Status::from(refusal);
            span.refused(&status);
            audit.refused(status.code());
            Err(status)
        }
    }
}

fn look_up(
    served: &Served,
    caller: &Authorised,
    id: &str,
    request: &v1::GenerateRequest,
) -> Result<Begin, Refusal> {
    // Under a drawn id nobody could resume it before it starts.
    if request.resumable && request.request_id.is_empty() && request.idempotency_key.is_empty() {
        return Err(Violations::one("request_id", "is needed to resume a request").into());
    }
    served.retained.begin(caller.tenant(), id, request)
}

/// Reads on what is there already.
async fn attach(
    served: &Served,
    line: &Line,
    last: Option<u64>,
    by: By,
) -> Result<Frames, Refusal> {
    let (out, frames) = mpsc::channel(FRAMES_AHEAD);
    line.attach(Reader::Call(out), last, None).await?;
    served.metrics.attached(by);
    Ok(served.drain.deliver(ReceiverStream::new(frames)))
}

fn refused(served: &Served, audit: &Audit, refusal: Refusal) -> Status {
    let status = Status::from(refusal);
    served.metrics.refused(&status::refusal_reason(&status));
    audit.refused(status.code());
    status
}

/// The client's id, or a drawn one. An id that is too long is not used, not
/// even for the answer that it is.
fn request_id(wanted: &str) -> String {
    match (1..=MAX_REQUEST_ID_BYTES).contains(&wanted.len()) {
        true => wanted.to_owned(),
        false => format!("{:016x}", random()),
    }
}

#[expect(clippy::too_many_arguments, reason = "each is a part of one call")]
async fn begin(
    served: Arc<Served>,
    caller: &Authorised,
    request: v1::GenerateRequest,
    id: String,
    deadline: Option<Instant>,
    span: RequestSpan,
    audit: Audit,
    registration: Option<Registration>,
) -> Result<Frames, Refusal> {
    let in_flight = served.drain.enter()?;
    let ticket = served
        .access
        .enter(caller, served.bounds.samples(&request))?;
    let claim = served.live.claim(&Scope::calls(caller.tenant()), id)?;
    let stream = admit(&served, request, ticket, &claim, deadline, &span, &audit).await?;
    let (out, frames) = mpsc::channel(FRAMES_AHEAD);
    let entered = span.span();
    let run = RequestRun {
        stream,
        claim,
        span,
        audit,
        in_flight,
    };
    match registration {
        None => tokio::spawn(send(run, out, served.read_timeout).instrument(entered)),
        Some(registration) => {
            let reader = Reader::Call(out);
            tokio::spawn(RetainedRun::new(&served, registration, run, reader).run())
        }
    };
    Ok(served.drain.deliver(ReceiverStream::new(frames)))
}

async fn send(
    run: RequestRun,
    out: mpsc::Sender<Result<v1::GenerateResponse, Status>>,
    read_timeout: Option<Duration>,
) {
    let _last_word = LastWord::to(Reader::Call(out.clone()), run.claim.id());
    let Some(ended) = run.forward(&out, read_timeout, response).await else {
        return;
    };
    let Ended {
        seq,
        ending,
        in_flight: _in_flight,
        span: _span,
    } = ended;
    for last in ended_responses(seq, ending) {
        // Errors mean that the client has gone, and there is nothing left to stop.
        let _ = out.send(last).await;
    }
}

/// The last frame, and the call's status if it is not OK.
pub(crate) fn ended_responses(
    seq: u64,
    ending: Ending,
) -> impl Iterator<Item = Result<v1::GenerateResponse, Status>> {
    let status = match &ending.outcome {
        Outcome::Finished(v1::FinishReason::DeadlineExceeded, _) => {
            Some(status::deadline_exceeded())
        }
        Outcome::Finished(v1::FinishReason::Drained, _) => Some(status::drained()),
        _ => None,
    };
    let last = ending.into_finished().map(|finished| v1::GenerateResponse {
        seq,
        frame: Some(v1::generate_response::Frame::Finished(finished)),
    });
    [last].into_iter().chain(status.map(Err))
}

pub(crate) fn response(seq: u64, frame: Frame) -> v1::GenerateResponse {
    use v1::generate_response::Frame as To;
    let frame = match frame {
        Frame::Queued(queued) => To::Queued(queued),
        Frame::Started(started) => To::Started(started),
        Frame::Delta(delta) => To::Delta(delta),
        Frame::Finished(finished) => To::Finished(finished),
    };
    v1::GenerateResponse {
        seq,
        frame: Some(frame),
    }
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "retained_tests.rs"]
mod retained_tests;

#[cfg(test)]
#[path = "samples_tests.rs"]
mod samples_tests;
