use std::time::{Duration, Instant};

use ternion_client::proto::{FinishReason, Finished};
use ternion_client::{Error, Event, Generate};
use tonic::Code;
use tonic_types::StatusExt;

use super::event_source::{EventSource, Target};

/// One request as its client saw it.
#[derive(Debug)]
pub(crate) struct Observation {
    /// When it should have been sent; a generator that lags must not make the
    /// server look better.
    pub(crate) due: Instant,
    pub(crate) sent: Instant,
    /// The first delta with a token in it.
    pub(crate) first_token: Option<Instant>,
    pub(crate) ended: Instant,
    /// Between one delta with tokens and the next.
    pub(crate) gaps: Vec<Duration>,
    pub(crate) prompt_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) outcome: Outcome,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// By a Finished frame with usage: stop, length, and also drained and past
    /// its deadline.
    Finished(FinishReason),
    /// By a status that says why, before the first token.
    Refused {
        code: Code,
        /// Of `google.rpc.ErrorInfo`; may be empty.
        reason: String,
        retry_after: bool,
    },
    Failed(Failure),
}

/// What a server or a network should not do to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: &'static str,
    pub(crate) message: String,
}

impl Failure {
    fn new(kind: &'static str, message: impl Into<String>) -> Failure {
        Failure {
            kind,
            message: message.into(),
        }
    }
}

impl Observation {
    pub(crate) async fn of(target: Target, generate: Generate, due: Instant) -> Observation {
        let sent = Instant::now();
        let mut observation = Observation {
            due,
            sent,
            first_token: None,
            ended: sent,
            gaps: Vec::new(),
            prompt_tokens: 0,
            output_tokens: 0,
            outcome: Outcome::Failed(cut()),
        };
        match target.open(generate).await {
            Ok(events) => observation.watch(events).await,
            Err(error) => observation.outcome = refused_or_failed(&error),
        }
        observation.ended = Instant::now();
        observation
    }

    pub(crate) fn time_to_first_token(&self) -> Option<Duration> {
        Some(self.first_token? - self.due)
    }

    pub(crate) fn end_to_end(&self) -> Duration {
        self.ended - self.due
    }

    /// Mean time of the tokens after the first.
    pub(crate) fn time_per_output_token(&self) -> Option<Duration> {
        let after_first = u32::try_from(self.output_tokens.checked_sub(1)?).ok()?;
        let time = self.ended - self.first_token?;
        time.checked_div(after_first)
    }

    async fn watch(&mut self, mut events: EventSource) {
        let mut finished = None;
        let mut last_token = None;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Queued(queued)) => self.prompt_tokens = queued.prompt_tokens.into(),
                Ok(Event::Started(_)) => {}
                Ok(Event::Delta(delta)) if delta.token_ids.is_empty() => {}
                Ok(Event::Delta(delta)) => {
                    let now = Instant::now();
                    self.output_tokens += delta.token_ids.len() as u64;
                    self.first_token.get_or_insert(now);
                    if let Some(last) = last_token.replace(now) {
                        self.gaps.push(now - last);
                    }
                }
                Ok(Event::Finished(end)) => finished = Some(end),
                Err(error) => {
                    self.outcome = self.after_error(finished.as_ref(), &error);
                    return;
                }
            }
        }
        self.outcome = match finished {
            Some(finished) => self.finished(&finished),
            None => Outcome::Failed(cut()),
        };
    }

    /// A drained request, and one past its deadline, has a Finished frame and
    /// then a status.
    fn after_error(&self, finished: Option<&Finished>, error: &Error) -> Outcome {
        match finished {
            Some(finished) if follows(finished.reason(), error.code()) => self.finished(finished),
            Some(_) => Outcome::Failed(Failure::new("error after Finished", error.to_string())),
            None if self.output_tokens > 0 => match refused_or_failed(error) {
                Outcome::Refused { .. } => {
                    Outcome::Failed(Failure::new("ended without Finished", error.to_string()))
                }
                failed => failed,
            },
            None => refused_or_failed(error),
        }
    }

    fn finished(&self, finished: &Finished) -> Outcome {
        let Some(usage) = finished.usage else {
            return Outcome::Failed(Failure::new("no usage", "Finished came without usage"));
        };
        let counted = u64::from(usage.completion_tokens);
        // Other endings may cut tokens that were computed already.
        if finished.reason() == FinishReason::Length && counted != self.output_tokens {
            let message = format!("{} tokens came, usage says {counted}", self.output_tokens);
            return Outcome::Failed(Failure::new("usage disagrees", message));
        }
        Outcome::Finished(finished.reason())
    }
}

fn cut() -> Failure {
    Failure::new(
        "ended without Finished",
        "the stream ended before the request",
    )
}

fn follows(reason: FinishReason, code: Code) -> bool {
    matches!(
        (reason, code),
        (FinishReason::Drained, Code::Unavailable)
            | (FinishReason::DeadlineExceeded, Code::DeadlineExceeded)
    )
}

/// A status is an explanation if the server meant it: it knows UNKNOWN and
/// its kind no more than we do, and an UNAVAILABLE without a reason comes from
/// something in between.
fn refused_or_failed(error: &Error) -> Outcome {
    let Some(status) = error.status() else {
        return Outcome::Failed(Failure::new("transport", error.to_string()));
    };
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone());
    let kind = match status.code() {
        Code::Unknown => "UNKNOWN",
        Code::Internal => "INTERNAL",
        Code::DataLoss => "DATA_LOSS",
        Code::Cancelled => "CANCELLED",
        Code::Unavailable if reason.is_none() => "UNAVAILABLE without a reason",
        code => {
            return Outcome::Refused {
                code,
                reason: reason.unwrap_or_default(),
                retry_after: error.retry_after().is_some(),
            };
        }
    };
    Outcome::Failed(Failure::new(kind, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ternion_client::proto::Usage;
    use tonic::Status;
    use tonic_types::ErrorDetails;

    fn observation(output_tokens: u64) -> Observation {
        let now = Instant::now();
        Observation {
            due: now,
            sent: now,
            first_token: Some(now + Duration::from_millis(40)),
            ended: now + Duration::from_millis(100),
            gaps: Vec::new(),
            prompt_tokens: 1,
            output_tokens,
            outcome: Outcome::Failed(cut()),
        }
    }

    fn finished(reason: FinishReason, completion_tokens: u32) -> Finished {
        Finished {
            reason: reason.into(),
            usage: Some(Usage {
                completion_tokens,
                ..Usage::default()
            }),
            ..Finished::default()
        }
    }

    fn kind(outcome: Outcome) -> &'static str {
        match outcome {
            Outcome::Failed(failure) => failure.kind,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn times_are_those_of_the_definitions() {
        let observation = observation(4);
        let ms = Duration::from_millis;
        assert_eq!(observation.time_to_first_token(), Some(ms(40)));
        assert_eq!(observation.end_to_end(), ms(100));
        // (e2e - TTFT) / (output - 1)
        assert_eq!(observation.time_per_output_token(), Some(ms(20)));
    }

    #[test]
    fn one_token_has_no_time_per_further_token() {
        assert_eq!(observation(1).time_per_output_token(), None);
        assert_eq!(observation(0).time_per_output_token(), None);
    }

    #[test]
    fn only_a_status_with_a_reason_explains_a_refusal() {
        let details = ErrorDetails::with_error_info("DRAINING", "ternion", []);
        let told = Status::with_error_details(Code::Unavailable, "draining", details);
        let outcome = refused_or_failed(&told.into());
        let Outcome::Refused { code, reason, .. } = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!((code, reason.as_str()), (Code::Unavailable, "DRAINING"));
        let proxy = Status::unavailable("bad gateway").into();
        assert_eq!(
            kind(refused_or_failed(&proxy)),
            "UNAVAILABLE without a reason"
        );
        let unknown = Status::unknown("?").into();
        assert_eq!(kind(refused_or_failed(&unknown)), "UNKNOWN");
    }

    #[test]
    fn an_ending_must_have_usage_that_agrees() {
        let observation = observation(4);
        let outcome = observation.finished(&finished(FinishReason::Length, 4));
        assert_eq!(outcome, Outcome::Finished(FinishReason::Length));
        let outcome = observation.finished(&finished(FinishReason::Length, 5));
        assert_eq!(kind(outcome), "usage disagrees");
        let without = Finished {
            usage: None,
            ..finished(FinishReason::Length, 4)
        };
        assert_eq!(kind(observation.finished(&without)), "no usage");
    }

    #[test]
    fn a_status_after_the_end_must_say_the_same() {
        let observation = observation(4);
        let drained = finished(FinishReason::Drained, 4);
        let unavailable = Status::unavailable("drained").into();
        assert_eq!(
            observation.after_error(Some(&drained), &unavailable),
            Outcome::Finished(FinishReason::Drained)
        );
        let complete = finished(FinishReason::Length, 4);
        let outcome = observation.after_error(Some(&complete), &unavailable);
        assert_eq!(kind(outcome), "error after Finished");
        let details = ErrorDetails::with_error_info("DRAINING", "ternion", []);
        let told = Status::with_error_details(Code::Unavailable, "draining", details);
        let outcome = observation.after_error(None, &told.into());
        assert_eq!(kind(outcome), "ended without Finished");
    }
}
