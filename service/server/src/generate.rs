//! `InferenceService.Generate`: one request, one stream of frames.

use std::{sync::Arc, time::Instant};

use ternion_policy::Authorised;
use ternion_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use crate::{
    access::caller,
    admission::{admit, random},
    audit::Audit,
    deadline,
    drain::Delivery,
    frames::{Frame, Outcome},
    live_requests::Scope,
    refusal::Refusal,
    request::MAX_REQUEST_ID_BYTES,
    request_run::{Ended, RequestRun},
    request_span::{self, RequestSpan},
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

/// The client's id, or a drawn one. An id that is too long is not used, not
/// even for the answer that it is.
fn request_id(wanted: &str) -> String {
    match (1..=MAX_REQUEST_ID_BYTES).contains(&wanted.len()) {
        true => wanted.to_owned(),
        false => format!("{:016x}", random()),
    }
}

async fn begin(
    served: Arc<Served>,
    caller: &Authorised,
    request: v1::GenerateRequest,
    id: String,
    deadline: Option<Instant>,
    span: RequestSpan,
    audit: Audit,
) -> Result<Frames, Refusal> {
    let in_flight = served.drain.enter()?;
    let ticket = served.access.enter(caller)?;
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
    tokio::spawn(send(run, out).instrument(entered));
    Ok(served.drain.deliver(ReceiverStream::new(frames)))
}

async fn send(run: RequestRun, out: mpsc::Sender<Result<v1::GenerateResponse, Status>>) {
    let Some(ended) = run.forward(&out, response).await else {
        return;
    };
    let Ended {
        seq,
        ending,
        in_flight: _in_flight,
        span: _span,
    } = ended;
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
    // Errors mean that the client has gone, and there is nothing left to stop.
    let _ = out.send(last).await;
    if let Some(status) = status {
        let _ = out.send(Err(status)).await;
    }
}

fn response(seq: u64, frame: Frame) -> v1::GenerateResponse {
    use v1::generate_response::Frame as To;
    let frame = match frame {
        Frame::Queued(queued) => To::Queued(queued),
        Frame::Started(started) => To::Started(started),
        Frame::Delta(delta) => To::Delta(delta),
    };
    v1::GenerateResponse {
        seq,
        frame: Some(frame),
    }
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
