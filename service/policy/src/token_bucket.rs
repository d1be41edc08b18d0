//! A rate, as a bucket that fills.

use std::time::Duration;

/// Parts of a token in which levels are counted: as many as a minute has
/// nanoseconds. So a bucket of `n` tokens a minute gains exactly `n` parts a
/// nanosecond, and no rounding stands between what a refusal promises and what
/// the bucket then does.
const PARTS: u128 = 60_000_000_000;

/// `per_minute` tokens at most, gaining `per_minute` tokens a minute.
///
/// By hand rather than `governor`, which can neither take back what was
/// reserved and not used, nor change its rate and keep its level.
#[derive(Debug, Clone)]
pub(crate) struct TokenBucket {
    per_minute: u64,
    /// Parts that were there at `at`.
    level: u128,
    at: Duration,
}

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn new(per_minute: u64) -> TokenBucket {
        TokenBucket {
            per_minute,
            level: parts(per_minute),
            at: Duration::ZERO,
        }
    }

    pub(crate) fn per_minute(&self) -> u64 {
        self.per_minute
    }

    /// How long after `now` the bucket will hold `tokens`, if nothing else is
    /// taken. Zero if it does. `tokens` is at most `per_minute`: a bucket
    /// never holds more.
    pub(crate) fn wait(&mut self, tokens: u64, now: Duration) -> Duration {
        debug_assert!(tokens <= self.per_minute, "{tokens} of {self:?}");
        self.fill(now);
        let missing = parts(tokens).saturating_sub(self.level);
        if missing == 0 {
            return Duration::ZERO;
        }
        let nanos = missing.div_ceil(u128::from(self.per_minute.max(1)));
        // Threads read the clock before they take the lock, so `now` may be
        // earlier than `at`. The level is that of `at`.
        let wait = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.at.saturating_add(wait).saturating_sub(now)
    }

    /// Takes tokens that [`TokenBucket::wait`] said are there.
    pub(crate) fn take(&mut self, tokens: u64) {
        debug_assert!(parts(tokens) <= self.level, "{tokens} of {self:?}");
        self.level = self.level.saturating_sub(parts(tokens));
    }

    /// Puts tokens back; beyond a full bucket they are lost. Needs no time:
    /// filling now and putting back later, or the other way round, comes to
    /// the same.
    pub(crate) fn give_back(&mut self, tokens: u64) {
        self.level = (self.level + parts(tokens)).min(parts(self.per_minute));
    }

    /// Changes the rate from `now` on. The level stays, unless it is too high.
    pub(crate) fn change(&mut self, per_minute: u64, now: Duration) {
        self.fill(now);
        self.per_minute = per_minute;
        self.level = self.level.min(parts(per_minute));
    }

    fn fill(&mut self, now: Duration) {
        let nanos = now.saturating_sub(self.at).as_nanos();
        let gained = nanos.saturating_mul(u128::from(self.per_minute));
        self.level = self
            .level
            .saturating_add(gained)
            .min(parts(self.per_minute));
        self.at = self.at.max(now);
    }
}

fn parts(tokens: u64) -> u128 {
    u128::from(tokens) * PARTS
}
