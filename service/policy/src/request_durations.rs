//! How long a tenant's requests take.

use std::time::Duration;

/// What a request is taken to last before any has ended.
const DEFAULT: Duration = Duration::from_secs(1);

/// A request counts as no longer than this: an estimate from few requests is
/// no reason to stay away for an hour.
const MAX: Duration = Duration::from_secs(60);

/// A moving average of request durations, newer ones weighing more.
#[derive(Debug, Default)]
pub(crate) struct RequestDurations {
    mean: Option<Duration>,
}

impl RequestDurations {
    pub(crate) fn add(&mut self, duration: Duration) {
        let duration = duration.min(MAX);
        // An eighth, as TCP's round-trip time.
        self.mean = Some(match self.mean {
            None => duration,
            Some(mean) => mean - mean / 8 + duration / 8,
        });
    }

    /// When `ends` of `running` requests, one or more, can be expected to have
    /// ended. Where each of them stands isn't known, so they are taken to end
    /// evenly: one every `mean / running`.
    pub(crate) fn wait(&self, ends: u64, running: u64) -> Duration {
        let mean = self.mean.unwrap_or(DEFAULT);
        mean.mul_f64(ends as f64 / running as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: &[u64]) -> RequestDurations {
        let mut durations = RequestDurations::default();
        for seconds in seconds {
            durations.add(Duration::from_secs(*seconds));
        }
        durations
    }

    #[test]
    fn a_slot_is_free_after_its_share_of_a_request() {
        assert_eq!(after(&[8]).wait(1, 1), Duration::from_secs(8));
        assert_eq!(after(&[8]).wait(1, 4), Duration::from_secs(2));
        assert_eq!(after(&[8]).wait(3, 4), Duration::from_secs(6));
        assert_eq!(after(&[8]).wait(4, 4), Duration::from_secs(8));
    }

    #[test]
    fn newer_requests_weigh_more() {
        // 7/8 of 8 s and 1/8 of 16 s.
        assert_eq!(after(&[8, 16]).wait(1, 1), Duration::from_secs(9));
        let settled = after(&[vec![60; 20], vec![2; 60]].concat()).wait(1, 1);
        assert!(settled < Duration::from_millis(2100), "{settled:?}");
    }

    #[test]
    fn without_any_a_second_is_as_good_a_guess_as_another() {
        assert_eq!(after(&[]).wait(1, 2), Duration::from_millis(500));
    }

    #[test]
    fn one_endless_request_does_not_send_everyone_away() {
        assert_eq!(after(&[u64::MAX]).wait(1, 1), Duration::from_secs(60));
    }
}
