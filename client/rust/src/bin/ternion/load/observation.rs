use std::time::{Duration, Instant};

use ternion_client::Error;
use ternion_client::proto::FinishReason;
use tonic::Code;
use tonic_types::StatusExt;

use super::event_source::EventSource;
use super::prompts::Request;
use super::target::Target;
use crate::json::code_name;

/// One request as its client saw it.
#[derive(Debug)]
pub(crate) struct Observation {
    pub(crate) tenant: usize,
    /// When it should have been sent; a generator that lags must not make the
    /// server look better.
    pub(crate) due: Instant,
    pub(crate) sent: Instant,
    /// When the server first said something of it, if it took it.
    pub(crate) accepted: Option<Instant>,
    pub(crate) ended: Instant,
    /// When tokens came, and how many.
    pub(crate) deltas: Vec<(Instant, u32)>,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) output_tokens: u64,
    /// In the server's queue, as it says itself.
    pub(crate) queued: Option<Duration>,
    pub(crate) outcome: Outcome,
}

/// What a server says of a request.
#[derive(Debug, PartialEq)]
pub(crate) enum Signal {
    Accepted { prompt_tokens: u32 },
    Tokens(u32),
    Finished(End),
}

#[derive(Debug, PartialEq)]
pub(crate) struct End {
    pub(crate) reason: FinishReason,
    pub(crate) output_tokens: Count,
    pub(crate) prompt_tokens: Option<u64>,
    pub(crate) cached_tokens: u64,
    pub(crate) queued: Option<Duration>,
}

/// Tokens of an output, as its server counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// As many as came.
    Same(u64),
    /// What came was counted in pieces of text.
    Instead(u64),
    /// Nothing better is known than what came.
    Untold,
}

/// What came in place of a signal.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) outcome: Outcome,
    /// If it was a status of gRPC.
    pub(crate) code: Option<Code>,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With its usage: stop, length, and also drained and past its deadline.
    Finished(FinishReason),
    /// By a status that says why, before the first token.
    Refused(Refusal),
    Failed(Failure),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Of gRPC, or `HTTP` and a number.
    pub(crate) code: String,
    /// Of `google.rpc.ErrorInfo` or an error's type; may be empty.
    pub(crate) reason: String,
    /// There is too much to do, or a quota is used up.
    pub(crate) busy: bool,
    /// It says when to come back.
    pub(crate) retry_after: bool,
}

/// What a server or a network should not do to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: &'static str,
    pub(crate) message: String,
}

impl Outcome {
    /// All tokens came, or an end token.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(
            self,
            Outcome::Finished(FinishReason::Length | FinishReason::Stop)
        )
    }
}

impl Failure {
    pub(crate) fn new(kind: &'static str, message: impl Into<String>) -> Failure {
        Failure {
            kind,
            message: message.into(),
        }
    }
}

impl Observation {
    pub(crate) async fn of(
        target: Target,
        tenant: usize,
        request: Request,
        due: Instant,
    ) -> Observation {
        let sent = Instant::now();
        let mut observation = Observation {
            tenant,
            due,
            sent,
            accepted: None,
            ended: sent,
            deltas: Vec::new(),
            prompt_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            queued: None,
            outcome: Outcome::Failed(cut()),
        };
        match target.open(tenant, request).await {
            Ok(events) => observation.watch(events).await,
            Err(problem) => observation.outcome = problem.outcome,
        }
        observation.ended = Instant::now();
        observation
    }

    pub(crate) fn first_token(&self) -> Option<Instant> {
        Some(self.deltas.first()?.0)
    }

    pub(crate) fn time_to_first_token(&self) -> Option<Duration> {
        Some(self.first_token()? - self.due)
    }

    pub(crate) fn end_to_end(&self) -> Duration {
        self.ended - self.due
    }

    /// Mean time of the tokens after the first.
    pub(crate) fn time_per_output_token(&self) -> Option<Duration> {
        let after_first = u32::try_from(self.output_tokens.checked_sub(1)?).ok()?;
        let time = self.ended - self.first_token()?;
        time.checked_div(after_first)
    }

    /// Between one delta with tokens and the next.
    pub(crate) fn gaps(&self) -> impl Iterator<Item = Duration> {
        self.deltas.windows(2).map(|pair| pair[1].0 - pair[0].0)
    }

    async fn watch(&mut self, mut events: EventSource) {
        let mut end = None;
        while let Some(signal) = events.next().await {
            match signal {
                Ok(Signal::Accepted { prompt_tokens }) => {
                    // One that waits is told again as it comes nearer.
                    self.accepted.get_or_insert_with(Instant::now);
                    self.prompt_tokens = prompt_tokens.into();
                }
                Ok(Signal::Tokens(tokens)) => {
                    self.output_tokens += u64::from(tokens);
                    self.deltas.push((Instant::now(), tokens));
                }
                Ok(Signal::Finished(finished)) => end = Some(finished),
                Err(problem) => {
                    self.outcome = self.after_problem(end.as_ref(), problem);
                    return;
                }
            }
        }
        self.outcome = match end {
            Some(end) => self.finished(&end),
            None => Outcome::Failed(cut()),
        };
    }

    /// A drained request, and one past its deadline, has a Finished frame and
    /// then a status.
    fn after_problem(&mut self, end: Option<&End>, problem: Problem) -> Outcome {
        let message = problem.message();
        match (end, problem.outcome) {
            (Some(end), _) if problem.code.is_some_and(|code| follows(end.reason, code)) => {
                self.finished(end)
            }
            (Some(_), _) => Outcome::Failed(Failure::new("error after Finished", message)),
            (None, Outcome::Refused(_)) if self.output_tokens > 0 => {
                Outcome::Failed(Failure::new("ended without Finished", message))
            }
            (None, outcome) => outcome,
        }
    }

    fn finished(&mut self, end: &End) -> Outcome {
        self.queued = end.queued;
        self.cached_tokens = end.cached_tokens;
        if let Some(prompt_tokens) = end.prompt_tokens {
            self.prompt_tokens = prompt_tokens;
        }
        match end.output_tokens {
            // Other endings may cut tokens that were computed already.
            Count::Same(told)
                if end.reason == FinishReason::Length && told != self.output_tokens =>
            {
                let message = format!("{} tokens came, usage says {told}", self.output_tokens);
                return Outcome::Failed(Failure::new("usage disagrees", message));
            }
            Count::Instead(told) => self.output_tokens = told,
            Count::Same(_) | Count::Untold => {}
        }
        Outcome::Finished(end.reason)
    }
}

impl Problem {
    pub(crate) fn failed(kind: &'static str, message: impl Into<String>) -> Problem {
        Problem {
            outcome: Outcome::Failed(Failure::new(kind, message)),
            code: None,
        }
    }

    fn message(&self) -> String {
        match &self.outcome {
            Outcome::Finished(reason) => format!("{reason:?}"),
            Outcome::Refused(Refusal { code, reason, .. }) => format!("{code} {reason}"),
            Outcome::Failed(failure) => failure.message.clone(),
        }
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
impl From<&Error> for Problem {
    fn from(error: &Error) -> Problem {
        let Some(status) = error.status() else {
            return Problem::failed("transport", error.to_string());
        };
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.clone());
        let kind = match status.code() {
            Code::Unknown => Some("UNKNOWN"),
            Code::Internal => Some("INTERNAL"),
            Code::DataLoss => Some("DATA_LOSS"),
            Code::Cancelled => Some("CANCELLED"),
            Code::Unavailable if reason.is_none() => Some("UNAVAILABLE without a reason"),
            _ => None,
        };
        let code = status.code();
        let outcome = match kind {
            Some(kind) => Outcome::Failed(Failure::new(kind, error.to_string())),
            None => Outcome::Refused(Refusal {
                code: code_name(code).to_owned(),
                reason: reason.unwrap_or_default(),
                busy: matches!(code, Code::ResourceExhausted | Code::Unavailable),
                retry_after: error.retry_after().is_some(),
            }),
        };
        Problem {
            outcome,
            code: Some(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use ternion_client::Event;
    use ternion_client::proto::{Delta, Finished, Queued, Usage};
    use tokio::sync::mpsc;
    use tonic::Status;
    use tonic_types::ErrorDetails;

    fn observation(output_tokens: u32) -> Observation {
        let now = Instant::now();
        let mut deltas = vec![(now + Duration::from_millis(40), output_tokens)];
        deltas.retain(|(_, tokens)| *tokens > 0);
        Observation {
            tenant: 0,
            due: now,
            sent: now,
            accepted: None,
            ended: now + Duration::from_millis(100),
            deltas,
            prompt_tokens: 1,
            cached_tokens: 0,
            output_tokens: output_tokens.into(),
            queued: None,
            outcome: Outcome::Failed(cut()),
        }
    }

    fn end(reason: FinishReason, output_tokens: Count) -> End {
        End {
            reason,
            output_tokens,
            prompt_tokens: None,
            cached_tokens: 0,
            queued: None,
        }
    }

    fn problem(error: impl Into<Error>) -> Problem {
        Problem::from(&error.into())
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
    fn times_count_from_when_a_request_was_due() {
        let mut observation = observation(4);
        let late = Duration::from_millis(1000);
        observation.due -= late;
        let ttft = observation.time_to_first_token();
        assert_eq!(ttft, Some(Duration::from_millis(1040)));
        assert_eq!(observation.end_to_end(), Duration::from_millis(1100));
    }

    #[test]
    fn a_gap_is_between_each_delta_and_the_next() {
        let mut observation = observation(4);
        let at = |ms| observation.due + Duration::from_millis(ms);
        observation.deltas = vec![(at(40), 1), (at(70), 2), (at(130), 1)];
        let gaps: Vec<u128> = observation.gaps().map(|gap| gap.as_millis()).collect();
        assert_eq!(gaps, [30, 60]);
    }

    #[tokio::test]
    async fn the_servers_first_word_is_when_it_accepted() {
        let mut observation = observation(0);
        let queued = |ahead| {
            Event::Queued(Queued {
                prompt_tokens: 7,
                ahead,
                ..Queued::default()
            })
        };
        let delta = Event::Delta(Delta {
            token_ids: vec![1, 2, 3],
            ..Delta::default()
        });
        let finished = Event::Finished(Finished {
            reason: FinishReason::Length.into(),
            usage: Some(Usage {
                prompt_tokens: 7,
                cached_tokens: 5,
                completion_tokens: 3,
            }),
            ..Finished::default()
        });
        let (events, received) = mpsc::channel(9);
        for event in [queued(2), queued(1), delta, finished] {
            events.send(Ok(event)).await.expect("there is room");
        }
        drop(events);
        // As if the first had come already.
        let first = observation.sent;
        observation.accepted = Some(first);
        observation.watch(EventSource::Session(received)).await;
        assert_eq!(observation.accepted, Some(first));
        assert_eq!(observation.outcome, Outcome::Finished(FinishReason::Length));
        assert_eq!(
            (
                observation.prompt_tokens,
                observation.cached_tokens,
                observation.output_tokens
            ),
            (7, 5, 3)
        );
    }

    #[tokio::test]
    async fn it_is_seen_at_all() {
        let mut observation = observation(0);
        let (events, received) = mpsc::channel(9);
        let queued = Event::Queued(Queued::default());
        events.send(Ok(queued)).await.expect("there is room");
        let error = Error::from(Status::resource_exhausted("full"));
        events.send(Err(Arc::new(error))).await.expect("likewise");
        observation.watch(EventSource::Session(received)).await;
        assert!(observation.accepted >= Some(observation.sent));
        assert!(matches!(observation.outcome, Outcome::Refused(_)));
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
        let refusal = Refusal {
            code: "UNAVAILABLE".to_owned(),
            reason: "DRAINING".to_owned(),
            busy: true,
            retry_after: false,
        };
        assert_eq!(problem(told).outcome, Outcome::Refused(refusal));
        let proxy = problem(Status::unavailable("bad gateway"));
        assert_eq!(kind(proxy.outcome), "UNAVAILABLE without a reason");
        assert_eq!(kind(problem(Status::unknown("?")).outcome), "UNKNOWN");
        for (status, expected) in [
            (Status::internal("?"), "INTERNAL"),
            (Status::data_loss("?"), "DATA_LOSS"),
            (Status::cancelled("?"), "CANCELLED"),
        ] {
            assert_eq!(kind(problem(status).outcome), expected);
        }
    }

    #[test]
    fn a_refusal_is_for_want_of_room_or_for_what_was_asked() {
        for (status, expected) in [
            (Status::resource_exhausted("?"), true),
            (Status::invalid_argument("?"), false),
            (Status::unauthenticated("?"), false),
            (Status::deadline_exceeded("?"), false),
        ] {
            let Outcome::Refused(Refusal { busy, .. }) = problem(status.clone()).outcome else {
                panic!("{status:?}");
            };
            assert_eq!(busy, expected, "{status:?}");
        }
    }

    #[test]
    fn an_ending_must_have_usage_that_agrees() {
        let mut observation = observation(4);
        let mut told = |count| observation.finished(&end(FinishReason::Length, count));
        assert_eq!(
            told(Count::Same(4)),
            Outcome::Finished(FinishReason::Length)
        );
        assert_eq!(kind(told(Count::Same(5))), "usage disagrees");
        assert_eq!(
            told(Count::Instead(5)),
            Outcome::Finished(FinishReason::Length)
        );
        assert_eq!(observation.output_tokens, 5);
    }

    #[test]
    fn a_status_after_the_end_must_say_the_same() {
        let mut observation = observation(4);
        let unavailable = || problem(Status::unavailable("drained"));
        let drained = end(FinishReason::Drained, Count::Same(4));
        assert_eq!(
            observation.after_problem(Some(&drained), unavailable()),
            Outcome::Finished(FinishReason::Drained)
        );
        let late = end(FinishReason::DeadlineExceeded, Count::Same(4));
        let past = problem(Status::deadline_exceeded("past"));
        assert_eq!(
            observation.after_problem(Some(&late), past),
            Outcome::Finished(FinishReason::DeadlineExceeded)
        );
        let outcome = observation.after_problem(Some(&late), unavailable());
        assert_eq!(kind(outcome), "error after Finished");
        let complete = end(FinishReason::Length, Count::Same(4));
        let outcome = observation.after_problem(Some(&complete), unavailable());
        assert_eq!(kind(outcome), "error after Finished");
        let details = ErrorDetails::with_error_info("DRAINING", "ternion", []);
        let told = Status::with_error_details(Code::Unavailable, "draining", details);
        let outcome = observation.after_problem(None, problem(told));
        assert_eq!(kind(outcome), "ended without Finished");
    }
}
