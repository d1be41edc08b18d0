//! How long a tenant's requests take.

use std::time::Duration;

/// What a request is taken to last before any has ended.
const DEFAULT: Duration = Duration::from_secs(1);

/// Longest wait that is suggested: an estimate from few requests is no reason
/// to stay away for an hour.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// A moving average of request durations, newer ones weighing more.
#[derive(Debug, Default)]
pub(crate) struct RequestDurations {
    mean: Option<Duration>,
}

impl RequestDurations {
    pub(crate) fn add(&mut self, duration: Duration) {
        // An eighth, as TCP's round-trip time.
        self.mean = Some(match self.mean {
            None => duration,
            Some(mean) => mean - mean / 8 + duration / 8,
        });
    }

    /// When `ends` of `running` requests can be expected to have ended. Where
    /// each of them stands isn't known, so they are taken to end evenly: with
    /// `running` of them, one every `mean / running`.
    pub(crate) fn wait(&self, ends: u64, running: u64) -> Duration {
        let mean = self.mean.unwrap_or(DEFAULT).min(MAX_WAIT);
        let share = ends as f64 / running.max(1) as f64;
        mean.mul_f64(share.min(1.0))
    }
}
