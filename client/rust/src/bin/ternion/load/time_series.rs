use std::time::Duration;

use serde::Serialize;

use super::observation::{Observation, Outcome};

/// What happened in each second since the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct TimeSeries {
    seconds: Vec<Second>,
}

/// Requests are counted where they were due and where they ended, tokens where
/// they came; those of a prompt with the first token.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Second {
    pub(crate) due: u64,
    pub(crate) complete: u64,
    pub(crate) refused: u64,
    pub(crate) errors: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) output_tokens: u64,
    /// Unanswered requests, on average.
    pub(crate) in_flight: f64,
    /// Requests whose first token came.
    pub(crate) first_tokens: u64,
    /// Of those.
    pub(crate) ttft_seconds_sum: f64,
    pub(crate) ttft_seconds_max: f64,
}

/// What comes later is counted in the last second.
const MAX_SECONDS: usize = 86_400;

impl TimeSeries {
    pub(crate) fn seconds(&self) -> &[Second] {
        &self.seconds
    }

    /// Prompt and output tokens of the whole seconds from one time to another.
    pub(crate) fn tokens_between(&self, from: Duration, to: Duration) -> (u64, u64) {
        let from = from.as_secs_f64().ceil() as usize;
        let to = (to.as_secs() as usize).min(self.seconds.len());
        let seconds = self.seconds.get(from..to).unwrap_or_default();
        let sum = |of: fn(&Second) -> u64| seconds.iter().map(of).sum();
        (
            sum(|second| second.prompt_tokens),
            sum(|second| second.output_tokens),
        )
    }

    /// Times are since the start, which `since_start` knows.
    pub(crate) fn add(
        &mut self,
        observation: &Observation,
        since_start: impl Fn(std::time::Instant) -> Duration,
    ) {
        let ended = since_start(observation.ended);
        self.at(since_start(observation.due)).due += 1;
        let end = self.at(ended);
        match &observation.outcome {
            outcome if outcome.is_complete() => end.complete += 1,
            Outcome::Finished(_) => {}
            Outcome::Refused(_) => end.refused += 1,
            Outcome::Failed(_) => end.errors += 1,
        }
        self.add_in_flight(since_start(observation.due), ended);
        for (time, tokens) in &observation.deltas {
            self.at(since_start(*time)).output_tokens += u64::from(*tokens);
        }
        if let (Some(first), Some(ttft)) =
            (observation.first_token(), observation.time_to_first_token())
        {
            let ttft = ttft.as_secs_f64();
            let second = self.at(since_start(first));
            second.prompt_tokens += observation.prompt_tokens;
            second.first_tokens += 1;
            second.ttft_seconds_sum += ttft;
            second.ttft_seconds_max = second.ttft_seconds_max.max(ttft);
        }
    }

    fn add_in_flight(&mut self, from: Duration, to: Duration) {
        let (from, to) = (from.as_secs_f64(), to.as_secs_f64());
        self.at(Duration::from_secs_f64(to));
        let last = (to as usize).min(self.seconds.len() - 1);
        for (i, second) in self.seconds[..=last]
            .iter_mut()
            .enumerate()
            .skip(from as usize)
        {
            let begin = i as f64;
            second.in_flight += (to.min(begin + 1.0) - from.max(begin)).max(0.0);
        }
    }

    fn at(&mut self, time: Duration) -> &mut Second {
        let index = (time.as_secs() as usize).min(MAX_SECONDS - 1);
        if index >= self.seconds.len() {
            self.seconds.resize(index + 1, Second::default());
        }
        &mut self.seconds[index]
    }
}

#[cfg(test)]
mod tests {
    use super::super::observation::{Failure, Refusal};
    use super::*;
    use std::time::Instant;
    use ternion_client::proto::FinishReason;

    #[test]
    fn an_ending_is_complete_refused_an_error_or_none_of_them() {
        let start = Instant::now();
        let mut series = TimeSeries::default();
        let refusal = Refusal {
            code: "FULL".into(),
            reason: String::new(),
            busy: true,
            retry_after: false,
        };
        for outcome in [
            Outcome::Finished(FinishReason::Length),
            Outcome::Finished(FinishReason::Stop),
            Outcome::Finished(FinishReason::Stop),
            Outcome::Finished(FinishReason::Drained),
            Outcome::Refused(refusal),
            Outcome::Failed(Failure::new("transport", "cut")),
            Outcome::Failed(Failure::new("transport", "cut")),
        ] {
            let observation = Observation {
                tenant: 0,
                due: start,
                sent: start,
                accepted: None,
                ended: start,
                deltas: Vec::new(),
                prompt_tokens: 7,
                cached_tokens: 0,
                output_tokens: 0,
                queued: None,
                outcome,
            };
            series.add(&observation, |time| time - start);
        }
        let [second] = series.seconds() else {
            panic!("all within one second");
        };
        let told = (second.due, second.complete, second.refused, second.errors);
        assert_eq!(told, (7, 3, 1, 2));
        assert_eq!(second.prompt_tokens, 0, "of no prompt a token came");
    }

    #[test]
    fn each_thing_is_counted_in_its_second() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let observation = Observation {
            tenant: 0,
            due: at(500),
            sent: at(600),
            accepted: None,
            ended: at(3250),
            deltas: vec![(at(1500), 2), (at(2500), 1), (at(2900), 1)],
            prompt_tokens: 7,
            cached_tokens: 0,
            output_tokens: 4,
            queued: None,
            outcome: Outcome::Finished(FinishReason::Length),
        };
        let mut series = TimeSeries::default();
        series.add(&observation, |time| time - start);
        series.add(&observation, |time| time - start);
        let seconds = series.seconds();
        let of = |what: fn(&Second) -> u64| seconds.iter().map(what).collect::<Vec<_>>();
        assert_eq!(of(|second| second.due), [2, 0, 0, 0]);
        assert_eq!(of(|second| second.complete), [0, 0, 0, 2]);
        assert_eq!(of(|second| second.output_tokens), [0, 4, 4, 0]);
        assert_eq!(of(|second| second.prompt_tokens), [0, 14, 0, 0]);
        let in_flight: Vec<f64> = seconds.iter().map(|second| second.in_flight).collect();
        assert_eq!(in_flight, [1.0, 2.0, 2.0, 0.5]);
        assert_eq!(seconds[1].ttft_seconds_max, 1.0);
        let tokens = |from, to| {
            series.tokens_between(Duration::from_millis(from), Duration::from_millis(to))
        };
        assert_eq!(tokens(500, 2999), (14, 4));
        assert_eq!(tokens(0, 60_000), (14, 8));
        assert_eq!(tokens(2500, 2600), (0, 0));
    }
}
