//! One line for each request's end, whatever the end: who asked, what it came
//! to, how long it took. Neither prompts nor answers nor keys are part of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ternion_policy::{Caller, TenantId};
use ternion_proto::v1;
use tonic::{Code, body::Body};

use crate::{
    authorisation::row,
    connection::Peer,
    frames::{Ending, Outcome},
    status::code_name,
};

/// A request that will have its line. It is written when the request is told
/// to have ended, or else when the last clone goes away: nobody can forget it.
#[derive(Debug, Clone)]
pub(crate) struct Audit(Arc<Record>);

#[derive(Debug)]
struct Record {
    tenant: TenantId,
    /// Id of the key or name in the certificate.
    identity: String,
    request_id: String,
    method: &'static str,
    arrived: Instant,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    written: AtomicBool,
}

/// What a line tells beyond who and what.
struct End {
    code: Code,
    finish_reason: Option<String>,
    queue: Option<Duration>,
    time_to_first_token: Option<Duration>,
}

impl Audit {
    /// `request_id` is empty for calls that have none.
    pub(crate) fn open(caller: &Caller, method: &'static str, request_id: &str) -> Audit {
        Audit(Arc::new(Record {
            tenant: caller.tenant().clone(),
            identity: caller.identity().to_owned(),
            request_id: request_id.to_owned(),
            method,
            arrived: Instant::now(),
            prompt_tokens: AtomicU64::new(0),
            completion_tokens: AtomicU64::new(0),
            written: AtomicBool::new(false),
        }))
    }

    pub(crate) fn prompt_tokens(&self, tokens: u64) {
        self.0.prompt_tokens.store(tokens, Ordering::Relaxed);
    }

    pub(crate) fn completion_tokens(&self, tokens: u64) {
        self.0.completion_tokens.store(tokens, Ordering::Relaxed);
    }

    /// A call without frames ended.
    pub(crate) fn answered(&self, code: Code) {
        self.0.write(&End::of(code));
    }

    /// The request did not get to run.
    pub(crate) fn refused(&self, code: Code) {
        self.0.write(&End::of(code));
    }

    /// The request ran, and its last frame is about to be sent.
    pub(crate) fn ended(&self, ending: &Ending) {
        let (usage, timings) = (&ending.usage, &ending.timings);
        self.prompt_tokens(usage.prompt_tokens.into());
        self.completion_tokens(usage.completion_tokens.into());
        let reason = match &ending.outcome {
            Outcome::Failed(_) => None,
            Outcome::Finished(reason, _) => Some(finish_reason(*reason)),
        };
        let seconds = |seconds| Duration::try_from_secs_f64(seconds).ok();
        self.0.write(&End {
            code: ending.code(),
            finish_reason: reason,
            queue: seconds(timings.queue_seconds),
            // Zero says that none came.
            time_to_first_token: seconds(timings.time_to_first_token_seconds)
                .filter(|time| !time.is_zero()),
        });
    }
}

impl End {
    fn of(code: Code) -> End {
        End {
            code,
            finish_reason: None,
            queue: None,
            time_to_first_token: None,
        }
    }
}

impl Record {
    fn write(&self, end: &End) {
        if self.written.swap(true, Ordering::Relaxed) {
            return;
        }
        let request_id = (!self.request_id.is_empty()).then_some(self.request_id.as_str());
        tracing::info!(
            tenant = %self.tenant,
            identity = self.identity,
            request_id,
            method = self.method,
            code = code_name(end.code),
            finish_reason = end.finish_reason,
            prompt_tokens = self.prompt_tokens.load(Ordering::Relaxed),
            completion_tokens = self.completion_tokens.load(Ordering::Relaxed),
            queue_ms = end.queue.map(milliseconds),
            ttft_ms = end.time_to_first_token.map(milliseconds),
            total_ms = milliseconds(self.arrived.elapsed()),
            "request ended",
        );
    }
}

impl Drop for Record {
    /// Its client has gone, or its task.
    fn drop(&mut self) {
        let mut end = End::of(Code::Cancelled);
        end.finish_reason = Some("abandoned".to_owned());
        self.write(&end);
    }
}

/// A call that was not let in. Who made it isn't known.
pub(crate) fn turned_away(call: &http::Request<Body>, code: Code) {
    let peer = call
        .extensions()
        .get::<Peer>()
        .and_then(|peer| peer.address);
    // A path that isn't one of ours is whatever the client wrote.
    let method = row(call.uri().path()).map(|(path, _)| path.trim_start_matches('/'));
    tracing::info!(
        peer = peer.map(|peer| peer.to_string()),
        method,
        code = code_name(code),
        "call turned away",
    );
}

/// Whole microseconds, as milliseconds.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// `FINISH_REASON_LENGTH` is `length`.
fn finish_reason(reason: v1::FinishReason) -> String {
    let name = reason.as_str_name();
    name.trim_start_matches("FINISH_REASON_").to_lowercase()
}
