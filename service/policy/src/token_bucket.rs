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
        wait.saturating_add(self.at.saturating_sub(now))
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// An empty bucket at `now`.
    fn empty(per_minute: u64, now: Duration) -> TokenBucket {
        let mut bucket = TokenBucket::new(per_minute);
        assert_eq!(bucket.wait(per_minute, now), Duration::ZERO);
        bucket.take(per_minute);
        bucket
    }

    #[test]
    fn it_starts_full_and_gains_a_sixtieth_a_second() {
        let mut bucket = empty(120, SECOND);
        assert_eq!(bucket.wait(1, SECOND), SECOND / 2);
        assert_eq!(bucket.wait(120, SECOND), 60 * SECOND);
        assert_eq!(bucket.wait(4, 2 * SECOND), SECOND);
        assert_eq!(bucket.wait(4, 3 * SECOND), Duration::ZERO);
    }

    #[test]
    fn it_never_holds_more_than_a_minute_of_them() {
        let mut bucket = empty(60, Duration::ZERO);
        let later = 3600 * SECOND;
        assert_eq!(bucket.wait(60, later), Duration::ZERO);
        bucket.take(60);
        assert_eq!(bucket.wait(1, later), SECOND);
        bucket.give_back(60);
        bucket.give_back(60);
        bucket.take(60);
        assert_eq!(bucket.wait(1, later), SECOND);
    }

    #[test]
    fn a_rate_that_divides_no_second_loses_nothing() {
        // 7 a minute: one in 8571428571.43 ns.
        let nanos = Duration::from_nanos;
        let mut bucket = empty(7, Duration::ZERO);
        assert_eq!(bucket.wait(1, Duration::ZERO), nanos(8_571_428_572));
        // In a thousand small steps as in one.
        for step in 1..=1000 {
            bucket.wait(7, nanos(8_571_428) * step);
        }
        assert_eq!(bucket.wait(1, nanos(8_571_428_571)), nanos(1));
        assert_eq!(bucket.wait(1, nanos(8_571_428_572)), Duration::ZERO);
        assert_eq!(bucket.wait(7, Duration::ZERO), 60 * SECOND);
    }

    #[test]
    fn a_clock_that_steps_back_gains_nothing() {
        let mut bucket = empty(60, 10 * SECOND);
        assert_eq!(bucket.wait(2, 9 * SECOND), 3 * SECOND);
        assert_eq!(bucket.wait(2, 11 * SECOND), SECOND);
        assert_eq!(bucket.wait(2, 10 * SECOND), 2 * SECOND);
    }

    #[test]
    fn giving_back_and_gaining_come_to_the_same_in_either_order() {
        for (left, back) in [(0, 5), (50, 5), (57, 5), (40, 60)] {
            let mut one = empty(60, Duration::ZERO);
            one.give_back(left);
            let mut other = one.clone();
            one.give_back(back);
            one.fill(4 * SECOND);
            other.fill(4 * SECOND);
            other.give_back(back);
            assert_eq!(one.level, other.level, "{left} and {back}");
            assert_eq!(one.level, parts(60.min(left + back + 4)));
        }
    }

    #[test]
    fn a_new_rate_counts_from_its_own_time() {
        let mut bucket = empty(60, Duration::ZERO);
        bucket.change(600, 6 * SECOND);
        // 6 from the old rate, 10 a second from here.
        assert_eq!(bucket.wait(6, 6 * SECOND), Duration::ZERO);
        assert_eq!(bucket.wait(16, 6 * SECOND), SECOND);
        bucket.change(3, 7 * SECOND);
        bucket.take(3);
        assert_eq!(bucket.wait(1, 7 * SECOND), 20 * SECOND);
    }

    #[test]
    fn the_ends_of_time_and_number_are_safe() {
        let mut bucket = empty(crate::limits::MAX_LIMIT, Duration::ZERO);
        assert_eq!(bucket.wait(1, Duration::ZERO), Duration::from_nanos(1));
        assert_eq!(
            bucket.wait(crate::limits::MAX_LIMIT, Duration::MAX),
            Duration::ZERO
        );
        bucket.take(50);
        assert_eq!(
            bucket.wait(crate::limits::MAX_LIMIT, Duration::MAX),
            Duration::from_nanos(3)
        );
        assert_eq!(
            bucket.wait(crate::limits::MAX_LIMIT, Duration::ZERO),
            Duration::MAX
        );
    }
}
