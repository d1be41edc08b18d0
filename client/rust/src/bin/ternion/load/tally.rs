use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use ternion_client::proto::FinishReason;
use tonic::Code;

use super::observation::{Failure as Unexplained, Observation, Outcome};
use super::report::Slo;
use crate::failure::Failure;
use crate::json::reason_name;

/// All requests of a run, in memory that does not grow with their number.
#[derive(Debug)]
pub(crate) struct Tally {
    slo: Slo,
    pub(crate) elapsed: Duration,
    pub(crate) sent: u64,
    pub(crate) not_sent: u64,
    /// Those within the service level.
    pub(crate) good: u64,
    pub(crate) good_output_tokens: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) finished: BTreeMap<&'static str, u64>,
    pub(crate) refused: BTreeMap<Refusal, Refused>,
    pub(crate) failed: BTreeMap<&'static str, Failed>,
    pub(crate) times: Times,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Refusal {
    /// The number of its code.
    pub(crate) code: i32,
    pub(crate) reason: String,
}

#[derive(Debug, Default)]
pub(crate) struct Refused {
    pub(crate) count: u64,
    /// Those that said when to come back.
    pub(crate) with_retry_after: u64,
}

#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) count: u64,
    pub(crate) example: String,
}

#[derive(Debug)]
pub(crate) struct Times {
    pub(crate) ttft: Latency,
    pub(crate) itl: Latency,
    /// The largest gap of each request.
    pub(crate) largest_gap: Latency,
    pub(crate) tpot: Latency,
    pub(crate) e2e: Latency,
    /// From when a request was due to when it was sent.
    pub(crate) lag: Latency,
    /// From sending to a refusal.
    pub(crate) refusal: Latency,
}

/// Microseconds, to a thousandth.
#[derive(Debug)]
pub(crate) struct Latency(Histogram<u64>);

/// Reasons come from the server, and nobody has bounded their number.
const MAX_REASONS: usize = 64;

const LONGEST: Duration = Duration::from_secs(86_400);

impl Latency {
    fn new() -> Latency {
        let longest = LONGEST.as_micros() as u64;
        Latency(Histogram::new_with_bounds(1, longest, 3).expect("the bounds are good"))
    }

    fn record(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.0.mean() / 1e6)
    }

    pub(crate) fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(quantile))
    }

    pub(crate) fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }
}

impl Tally {
    pub(crate) fn new(slo: Slo) -> Tally {
        Tally {
            slo,
            elapsed: Duration::ZERO,
            sent: 0,
            not_sent: 0,
            good: 0,
            good_output_tokens: 0,
            prompt_tokens: 0,
            output_tokens: 0,
            finished: BTreeMap::new(),
            refused: BTreeMap::new(),
            failed: BTreeMap::new(),
            times: Times {
                ttft: Latency::new(),
                itl: Latency::new(),
                largest_gap: Latency::new(),
                tpot: Latency::new(),
                e2e: Latency::new(),
                lag: Latency::new(),
                refusal: Latency::new(),
            },
        }
    }

    pub(crate) fn add(&mut self, observation: &Observation) {
        self.sent += 1;
        self.prompt_tokens += observation.prompt_tokens;
        self.output_tokens += observation.output_tokens;
        self.times.lag.record(observation.sent - observation.due);
        self.add_token_times(observation);
        match &observation.outcome {
            Outcome::Finished(reason) => self.add_finished(*reason, observation),
            Outcome::Refused {
                code,
                reason,
                retry_after,
            } => {
                self.times
                    .refusal
                    .record(observation.ended - observation.sent);
                self.add_refused(*code, reason, *retry_after);
            }
            Outcome::Failed(failure) => self.add_failed(failure),
        }
    }

    fn add_token_times(&mut self, observation: &Observation) {
        if let Some(time) = observation.time_to_first_token() {
            self.times.ttft.record(time);
        }
        for gap in &observation.gaps {
            self.times.itl.record(*gap);
        }
        if let Some(largest) = observation.gaps.iter().max() {
            self.times.largest_gap.record(*largest);
        }
    }

    fn add_finished(&mut self, reason: FinishReason, observation: &Observation) {
        *self.finished.entry(reason_name(reason)).or_default() += 1;
        if !matches!(reason, FinishReason::Length | FinishReason::Stop) {
            return;
        }
        self.times.e2e.record(observation.end_to_end());
        let tpot = observation.time_per_output_token();
        if let Some(tpot) = tpot {
            self.times.tpot.record(tpot);
        }
        if self.slo.is_met(observation.time_to_first_token(), tpot) {
            self.good += 1;
            self.good_output_tokens += observation.output_tokens;
        }
    }

    fn add_refused(&mut self, code: Code, reason: &str, retry_after: bool) {
        let mut refusal = Refusal {
            code: code.into(),
            reason: reason.to_owned(),
        };
        if self.refused.len() >= MAX_REASONS && !self.refused.contains_key(&refusal) {
            refusal.reason = "other".to_owned();
        }
        let refused = self.refused.entry(refusal).or_default();
        refused.count += 1;
        refused.with_retry_after += u64::from(retry_after);
    }

    fn add_failed(&mut self, failure: &Unexplained) {
        let failed = self.failed.entry(failure.kind).or_insert_with(|| Failed {
            count: 0,
            example: failure.message.clone(),
        });
        failed.count += 1;
    }

    /// Finished as they should: all their tokens, or an end token.
    pub(crate) fn num_complete(&self) -> u64 {
        let reasons = [FinishReason::Length, FinishReason::Stop];
        reasons.map(|reason| self.num_finished(reason)).iter().sum()
    }

    pub(crate) fn num_finished(&self, reason: FinishReason) -> u64 {
        self.finished.get(reason_name(reason)).copied().unwrap_or(0)
    }

    pub(crate) fn num_refused(&self) -> u64 {
        self.refused.values().map(|refused| refused.count).sum()
    }

    pub(crate) fn num_failed(&self) -> u64 {
        self.failed.values().map(|failed| failed.count).sum()
    }

    /// Fails the command if the server owes an explanation, or if there was no
    /// load to speak of.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        let failed = self.num_failed();
        if failed > 0 {
            return Err(Failure::Unexplained(failed));
        }
        if self.finished.is_empty() && self.num_refused() > 0 {
            let busy = [Code::ResourceExhausted, Code::Unavailable].map(i32::from);
            return Err(Failure::AllRefused {
                busy: self
                    .refused
                    .keys()
                    .all(|refusal| busy.contains(&refusal.code)),
            });
        }
        Ok(())
    }
}
