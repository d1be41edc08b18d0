use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ternion_client::proto::FinishReason;

use super::observation::{Failure as Unexplained, Observation, Outcome, Refusal};
use super::report::Slo;
use super::time_series::TimeSeries;
use crate::failure::Failure;
use crate::json::reason_name;

/// All requests of a run, in memory that does not grow with their number.
#[derive(Debug)]
pub(crate) struct Tally {
    start: Instant,
    /// Since the start; requests due before it are not measured.
    pub(crate) warm_up: Duration,
    /// Since the start: when the last request was due.
    pub(crate) last_due: Duration,
    /// From the end of the warm-up to that of the last request.
    pub(crate) elapsed: Duration,
    /// Most unanswered requests at a time.
    pub(crate) peak_in_flight: usize,
    /// By a person, who wants no further run either.
    pub(crate) interrupted: bool,
    pub(crate) all: Figures,
    pub(crate) tenants: Vec<Figures>,
}

/// Those of all, or of a tenant.
#[derive(Debug)]
pub(crate) struct Figures {
    slo: Slo,
    pub(crate) sent: u64,
    pub(crate) not_sent: u64,
    /// Those within the service level.
    pub(crate) good: u64,
    pub(crate) good_output_tokens: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) finished: BTreeMap<&'static str, u64>,
    pub(crate) refused: BTreeMap<(String, String), Refused>,
    pub(crate) failed: BTreeMap<&'static str, Failed>,
    pub(crate) times: Times,
    /// Of the warm-up too.
    pub(crate) series: TimeSeries,
}

#[derive(Debug, Default)]
pub(crate) struct Refused {
    pub(crate) count: u64,
    /// Those that said when to come back.
    pub(crate) with_retry_after: u64,
    /// Those for want of room or quota.
    pub(crate) busy: u64,
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
    /// From sending to the server's first word.
    pub(crate) accept: Latency,
    /// In the server's queue, as it says itself.
    pub(crate) queue: Latency,
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
    pub(crate) fn new() -> Latency {
        let longest = LONGEST.as_micros() as u64;
        Latency(Histogram::new_with_bounds(1, longest, 3).expect("the bounds are good"))
    }

    pub(crate) fn record(&mut self, time: Duration) {
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
    pub(crate) fn new(slo: Slo, warm_up: Duration, tenants: usize) -> Tally {
        Tally {
            start: Instant::now(),
            warm_up,
            last_due: Duration::ZERO,
            elapsed: Duration::ZERO,
            peak_in_flight: 0,
            interrupted: false,
            all: Figures::new(slo),
            tenants: (0..tenants).map(|_| Figures::new(slo)).collect(),
        }
    }

    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    pub(crate) fn since_start(&self, time: Instant) -> Duration {
        time.saturating_duration_since(self.start)
    }

    pub(crate) fn add(&mut self, observation: &Observation) {
        let start = self.start;
        let since_start = |time: Instant| time.saturating_duration_since(start);
        let measured = since_start(observation.due) >= self.warm_up;
        for figures in [&mut self.all, &mut self.tenants[observation.tenant]] {
            figures.series.add(observation, since_start);
            if measured {
                figures.add(observation);
            }
        }
    }

    /// A request that was due, and not sent as too many were unanswered.
    pub(crate) fn add_not_sent(&mut self, tenant: usize, due: Instant) {
        if self.since_start(due) >= self.warm_up {
            self.all.not_sent += 1;
            self.tenants[tenant].not_sent += 1;
        }
    }

    /// Nothing more is to come.
    pub(crate) fn end(&mut self) {
        self.elapsed = self.start.elapsed().saturating_sub(self.warm_up);
    }

    /// Fails the command if the server owes an explanation, or if there was no
    /// load to speak of.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        let failed = self.all.num_failed();
        if failed > 0 {
            return Err(Failure::Unexplained(failed));
        }
        if self.all.finished.is_empty() && self.all.num_refused() > 0 {
            let mut refused = self.all.refused.values();
            return Err(Failure::AllRefused {
                busy: refused.all(|refused| refused.busy == refused.count),
            });
        }
        Ok(())
    }
}

impl Figures {
    fn new(slo: Slo) -> Figures {
        Figures {
            slo,
            sent: 0,
            not_sent: 0,
            good: 0,
            good_output_tokens: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
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
                accept: Latency::new(),
                queue: Latency::new(),
                lag: Latency::new(),
                refusal: Latency::new(),
            },
            series: TimeSeries::default(),
        }
    }

    fn add(&mut self, observation: &Observation) {
        self.sent += 1;
        self.prompt_tokens += observation.prompt_tokens;
        self.cached_tokens += observation.cached_tokens;
        self.output_tokens += observation.output_tokens;
        self.times.lag.record(observation.sent - observation.due);
        self.add_token_times(observation);
        match &observation.outcome {
            Outcome::Finished(reason) => self.add_finished(*reason, observation),
            Outcome::Refused(refusal) => {
                let time = observation.ended - observation.sent;
                self.times.refusal.record(time);
                self.add_refused(refusal);
            }
            Outcome::Failed(failure) => self.add_failed(failure),
        }
    }

    fn add_token_times(&mut self, observation: &Observation) {
        if let Some(time) = observation.time_to_first_token() {
            self.times.ttft.record(time);
        }
        for gap in observation.gaps() {
            self.times.itl.record(gap);
        }
        if let Some(largest) = observation.gaps().max() {
            self.times.largest_gap.record(largest);
        }
        if let Some(accepted) = observation.accepted {
            self.times.accept.record(accepted - observation.sent);
        }
        if let Some(queued) = observation.queued {
            self.times.queue.record(queued);
        }
    }

    fn add_finished(&mut self, reason: FinishReason, observation: &Observation) {
        *self.finished.entry(reason_name(reason)).or_default() += 1;
        if !observation.outcome.is_complete() {
            return;
        }
        let e2e = observation.end_to_end();
        self.times.e2e.record(e2e);
        let tpot = observation.time_per_output_token();
        if let Some(tpot) = tpot {
            self.times.tpot.record(tpot);
        }
        if self
            .slo
            .is_met(observation.time_to_first_token(), tpot, e2e)
        {
            self.good += 1;
            self.good_output_tokens += observation.output_tokens;
        }
    }

    fn add_refused(&mut self, refusal: &Refusal) {
        let mut key = (refusal.code.clone(), refusal.reason.clone());
        if self.refused.len() >= MAX_REASONS && !self.refused.contains_key(&key) {
            key.1 = "other".to_owned();
        }
        let refused = self.refused.entry(key).or_default();
        refused.count += 1;
        refused.busy += u64::from(refusal.busy);
        refused.with_retry_after += u64::from(refusal.retry_after);
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

    /// Of those that were to be sent, the part within the service level.
    pub(crate) fn goodput_share(&self) -> f64 {
        self.good as f64 / (self.sent + self.not_sent).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_hand_worked_cases() {
        let mut latency = Latency::new();
        for ms in 1..=100 {
            latency.record(Duration::from_millis(ms));
        }
        for (quantile, ms) in [(0.5, 50.0), (0.95, 95.0), (0.99, 99.0), (1.0, 100.0)] {
            let told = latency.quantile(quantile).as_secs_f64() * 1e3;
            assert!((told / ms - 1.0).abs() < 0.001, "{quantile}: {told}");
        }
        let mean = latency.mean().as_secs_f64() * 1e3;
        assert!((mean / 50.5 - 1.0).abs() < 0.001, "{mean}");
        assert_eq!(latency.count(), 100);
    }

    fn tally(slo: Slo) -> Tally {
        Tally::new(slo, Duration::from_secs(1), 2)
    }

    /// With its first token after a fifth of a second, and four more, one each
    /// tenth.
    fn finished(tally: &Tally, due_ms: u64) -> Observation {
        let at = |ms| tally.start + Duration::from_millis(ms);
        Observation {
            tenant: 1,
            due: at(due_ms),
            sent: at(due_ms + 1),
            accepted: Some(at(due_ms + 11)),
            ended: at(due_ms + 600),
            deltas: (0..5).map(|i| (at(due_ms + 200 + 100 * i), 1)).collect(),
            prompt_tokens: 7,
            cached_tokens: 3,
            output_tokens: 5,
            queued: None,
            outcome: Outcome::Finished(FinishReason::Length),
        }
    }

    fn ended(tally: &Tally, reason: FinishReason) -> Observation {
        Observation {
            outcome: Outcome::Finished(reason),
            ..finished(tally, 1000)
        }
    }

    fn refused(tally: &Tally, code: &str, busy: bool) -> Observation {
        Observation {
            deltas: Vec::new(),
            output_tokens: 0,
            outcome: Outcome::Refused(Refusal {
                code: code.into(),
                reason: String::new(),
                busy,
                retry_after: busy,
            }),
            ..finished(tally, 1000)
        }
    }

    fn failed(tally: &Tally) -> Observation {
        Observation {
            outcome: Outcome::Failed(Unexplained::new("transport", "cut")),
            ..finished(tally, 1000)
        }
    }

    /// Rounded, as a histogram knows three digits.
    fn millis(latency: &Latency) -> (u64, f64) {
        let longest = latency.max().as_secs_f64() * 1e3;
        (latency.count(), longest.round())
    }

    #[test]
    fn each_time_is_from_its_begin_to_its_end() {
        let mut tally = tally(Slo::default());
        tally.add(&Observation {
            queued: Some(Duration::from_millis(8)),
            ..finished(&tally, 1000)
        });
        let times = &tally.all.times;
        assert_eq!(millis(&times.ttft), (1, 200.0));
        assert_eq!(millis(&times.itl), (4, 100.0));
        assert_eq!(millis(&times.tpot), (1, 100.0));
        assert_eq!(millis(&times.e2e), (1, 600.0));
        assert_eq!(millis(&times.accept), (1, 10.0), "from when it was sent");
        assert_eq!(millis(&times.queue), (1, 8.0));
        assert_eq!(millis(&times.lag), (1, 1.0));
        assert_eq!(millis(&times.refusal), (0, 0.0));

        let mut uneven = finished(&tally, 1000);
        uneven.deltas.remove(2);
        tally.add(&uneven);
        assert_eq!(millis(&tally.all.times.largest_gap), (2, 200.0));
        tally.add(&refused(&tally, "X", true));
        let refusal = millis(&tally.all.times.refusal);
        assert_eq!(refusal, (1, 599.0), "from when it was sent");
    }

    #[test]
    fn only_what_is_complete_is_good() {
        let mut tally = tally(Slo::default());
        let reasons = [
            FinishReason::Length,
            FinishReason::Stop,
            FinishReason::Drained,
            FinishReason::DeadlineExceeded,
        ];
        for reason in reasons {
            tally.add(&ended(&tally, reason));
        }
        tally.add(&failed(&tally));
        let all = &tally.all;
        assert_eq!((all.sent, all.num_complete(), all.good), (5, 2, 2));
        assert_eq!((all.output_tokens, all.good_output_tokens), (25, 10));
        assert_eq!((all.prompt_tokens, all.cached_tokens), (35, 15));
        assert_eq!(
            (all.num_finished(FinishReason::Drained), all.num_failed()),
            (1, 1)
        );
        assert_eq!((all.times.e2e.count(), all.times.tpot.count()), (2, 2));
        assert_eq!(all.times.ttft.count(), 5);
        assert_eq!(all.goodput_share(), 0.4);
    }

    #[test]
    fn what_was_not_sent_is_no_goodput_and_not_of_the_warm_up() {
        let mut tally = tally(Slo::default());
        let at = |ms| tally.start + Duration::from_millis(ms);
        let (before, after) = (at(999), at(1000));
        tally.add_not_sent(0, before);
        tally.add_not_sent(0, after);
        tally.add(&finished(&tally, 1000));
        let not_sent = |figures: &Figures| figures.not_sent;
        assert_eq!(not_sent(&tally.all), 1);
        assert_eq!(
            tally.tenants.iter().map(not_sent).collect::<Vec<_>>(),
            [1, 0]
        );
        assert_eq!(tally.all.goodput_share(), 0.5);
        assert_eq!(tally.tenants[1].goodput_share(), 1.0);
    }

    #[test]
    fn the_time_of_the_warm_up_is_not_that_of_the_run() {
        let mut tally = Tally::new(Slo::default(), Duration::from_secs(3600), 1);
        tally.end();
        assert_eq!(tally.elapsed, Duration::ZERO);
    }

    #[test]
    fn a_verdict_is_what_the_server_owes_and_then_whether_anything_got_through() {
        type Observe = fn(&Tally) -> Observation;
        let verdict = |observe: &[Observe]| {
            let mut tally = tally(Slo::default());
            for observe in observe {
                tally.add(&observe(&tally));
            }
            tally.verdict()
        };
        let full: Observe = |tally| refused(tally, "FULL", true);
        let bad: Observe = |tally| refused(tally, "BAD", false);
        let drained = |tally: &Tally| ended(tally, FinishReason::Drained);
        assert!(verdict(&[]).is_ok());
        assert!(verdict(&[full, drained]).is_ok(), "one was served");
        for (observe, busy) in [(&[full][..], true), (&[bad], false), (&[full, bad], false)] {
            let Err(Failure::AllRefused { busy: told }) = verdict(observe) else {
                panic!("all were refused");
            };
            assert_eq!(told, busy);
        }
        let Err(Failure::Unexplained(1)) = verdict(&[full, drained, failed]) else {
            panic!("one was not explained");
        };
    }

    #[test]
    fn refusals_are_told_by_what_was_said() {
        let mut tally = tally(Slo::default());
        for (code, busy) in [("FULL", true), ("FULL", true), ("BAD", false)] {
            tally.add(&refused(&tally, code, busy));
        }
        let told = tally.all.refused.iter().map(|((code, _), refused)| {
            let Refused {
                count,
                with_retry_after,
                busy,
            } = *refused;
            (code.as_str(), count, with_retry_after, busy)
        });
        assert_eq!(
            told.collect::<Vec<_>>(),
            [("BAD", 1, 0, 0), ("FULL", 2, 2, 2)]
        );
    }

    #[test]
    fn the_warm_up_is_seen_and_not_measured() {
        let mut tally = tally(Slo::default());
        for due_ms in [0, 999, 1000] {
            tally.add(&finished(&tally, due_ms));
        }
        assert_eq!(
            (tally.all.sent, tally.tenants[1].sent, tally.tenants[0].sent),
            (1, 1, 0)
        );
        assert_eq!(tally.all.output_tokens, 5);
        let due: u64 = tally
            .all
            .series
            .seconds()
            .iter()
            .map(|second| second.due)
            .sum();
        assert_eq!(due, 3);
    }

    #[test]
    fn goodput_needs_every_bound_and_refusals_are_in_what_it_is_a_part_of() {
        let bounds = |ttft, tpot, e2e| Slo {
            ttft: Some(Duration::from_millis(ttft)),
            tpot: Some(Duration::from_millis(tpot)),
            e2e: Some(Duration::from_millis(e2e)),
        };
        for (slo, good) in [
            (bounds(200, 100, 600), 1),
            (bounds(199, 100, 600), 0),
            (bounds(200, 99, 600), 0),
            (bounds(200, 100, 599), 0),
        ] {
            let mut tally = tally(slo);
            tally.add(&finished(&tally, 1000));
            let refusal = Refusal {
                code: "RESOURCE_EXHAUSTED".into(),
                reason: "QUEUE_FULL".into(),
                busy: true,
                retry_after: true,
            };
            let mut refused = finished(&tally, 1000);
            refused.deltas.clear();
            refused.outcome = Outcome::Refused(refusal);
            tally.add(&refused);
            assert_eq!(tally.all.good, good, "{slo:?}");
            assert_eq!(tally.all.goodput_share(), good as f64 / 2.0);
        }
    }

    #[test]
    fn reasons_of_a_server_without_bounds_are_bounded() {
        let mut figures = Figures::new(Slo::default());
        for i in 0..1000 {
            figures.add_refused(&Refusal {
                code: "X".into(),
                reason: i.to_string(),
                busy: false,
                retry_after: false,
            });
        }
        assert!(figures.refused.len() <= MAX_REASONS + 1);
        assert_eq!(figures.num_refused(), 1000);
    }
}
