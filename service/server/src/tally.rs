//! What the samples of a request used and took, together.

use std::time::Duration;

use ternion_engine::{Timings, Usage};

/// Of those that have ended. All were submitted at the same time.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    usage: Usage,
    /// From then to the first step of any.
    started: Option<Duration>,
    /// To the first token of any.
    first_token: Option<Duration>,
    /// To the end of the last.
    end: Duration,
    has_token: bool,
    preemptions: u32,
}

impl Tally {
    pub(crate) fn add(&mut self, index: usize, usage: &Usage, timings: &Timings) {
        self.usage.prompt_tokens = usage.prompt_tokens;
        self.usage.completion_tokens += usage.completion_tokens;
        // What the others found there, the first one may just have computed.
        if index == 0 {
            self.usage.cached_tokens = usage.cached_tokens;
        }
        let started = timings.queue;
        let first_token = started + timings.prefill;
        self.end = self.end.max(first_token + timings.decode);
        self.started = earlier(self.started, started);
        self.first_token = earlier(self.first_token, first_token);
        self.has_token |= timings.time_to_first_token.is_some();
        self.preemptions += timings.preemptions;
    }

    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    pub(crate) fn timings(&self) -> Timings {
        let started = self.started.unwrap_or_default();
        let first_token = self.first_token.unwrap_or_default();
        Timings {
            queue: started,
            prefill: first_token.saturating_sub(started),
            time_to_first_token: self.has_token.then_some(first_token),
            decode: self.end.saturating_sub(first_token),
            preemptions: self.preemptions,
        }
    }
}

fn earlier(a: Option<Duration>, b: Duration) -> Option<Duration> {
    Some(a.map_or(b, |a| a.min(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn timings(queue: u64, prefill: u64, decode: u64, tokens: bool) -> Timings {
        Timings {
            queue: ms(queue),
            prefill: ms(prefill),
            time_to_first_token: tokens.then_some(ms(queue + prefill)),
            decode: ms(decode),
            preemptions: 1,
        }
    }

    fn usage(completion_tokens: usize, cached_tokens: usize) -> Usage {
        Usage {
            prompt_tokens: 9,
            completion_tokens,
            cached_tokens,
        }
    }

    #[test]
    fn one_sample_is_told_as_it_is() {
        for timings in [timings(3, 4, 5, true), timings(3, 0, 0, false)] {
            let mut tally = Tally::default();
            tally.add(0, &usage(2, 4), &timings);
            assert_eq!(tally.timings(), timings);
            assert_eq!(tally.usage(), usage(2, 4));
        }
    }

    #[test]
    fn samples_share_a_prompt_and_go_from_the_first_start_to_the_last_end() {
        let mut tally = Tally::default();
        tally.add(1, &usage(7, 9), &timings(5, 10, 100, true));
        tally.add(0, &usage(2, 4), &timings(3, 4, 50, true));
        // Ended without a token, before the others had one.
        tally.add(2, &usage(0, 0), &timings(60, 0, 0, false));
        let all = Timings {
            preemptions: 3,
            ..timings(3, 4, 108, true)
        };
        assert_eq!(tally.timings(), all);
        assert_eq!(tally.usage(), usage(9, 4));
    }
}
