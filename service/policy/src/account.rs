//! The books of one tenant.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    limits::Limits,
    refusal::{Cause, Refusal},
    request_durations::RequestDurations,
    tenant_id::TenantId,
    ticket::MaxOutput,
    token_bucket::TokenBucket,
    usage::{Counts, TenantUsage},
};

/// What one tenant uses and may use. Outlives reloads, for as long as the
/// tenant is configured or a request of it runs.
#[derive(Debug)]
pub(crate) struct Account {
    tenant: TenantId,
    number: u32,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    limits: Limits,
    weight: u32,
    requests: Option<TokenBucket>,
    tokens: Option<TokenBucket>,
    running: u64,
    durations: RequestDurations,
    counts: Counts,
}

/// That a request was let in. Whoever has it must bring it back.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Requests taken from the rate: none if there was no rate.
    requests: u64,
}

/// Tokens set aside for a request.
#[derive(Debug)]
pub(crate) struct Reservation {
    /// Tokens taken from the rate: none if there was no rate.
    pub(crate) tokens: u64,
    /// Of each sample.
    pub(crate) max_output_tokens: u64,
}

impl Account {
    pub(crate) fn new(tenant: TenantId, number: u32, limits: Limits, weight: u32) -> Account {
        let books = Books {
            limits,
            weight,
            requests: limits.requests_per_minute.map(TokenBucket::new),
            tokens: limits.tokens_per_minute.map(TokenBucket::new),
            ..Books::default()
        };
        Account {
            tenant,
            number,
            books: Mutex::new(books),
        }
    }

    pub(crate) fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Differs from those of other tenants.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn weight(&self) -> u32 {
        self.books().weight
    }

    pub(crate) fn change(&self, limits: Limits, weight: u32, now: Duration) {
        let mut books = self.books();
        books.limits = limits;
        books.weight = weight;
        change(&mut books.requests, limits.requests_per_minute, now);
        change(&mut books.tokens, limits.tokens_per_minute, now);
    }

    /// Takes slots and as many of the requests a minute, or none of either.
    pub(crate) fn enter(&self, samples: u64, now: Duration) -> Result<Entry, Refusal> {
        let mut books = self.books();
        match books.enter(samples, now) {
            Ok(entry) => Ok(entry),
            Err(cause) => Err(self.refuse(&mut books, cause)),
        }
    }

    /// Sets tokens aside for a request that was let in. If that can't be, the
    /// request is as if it had never been let in, but for its slot.
    pub(crate) fn reserve(
        &self,
        entry: &mut Entry,
        samples: u64,
        prompt_tokens: u64,
        output: MaxOutput,
        now: Duration,
    ) -> Result<Reservation, Refusal> {
        let mut books = self.books();
        match books.reserve(samples, prompt_tokens, output, now) {
            Ok(reservation) => {
                books.counts.admitted += 1;
                Ok(reservation)
            }
            Err(cause) => {
                let requests = std::mem::take(&mut entry.requests);
                if let Some(bucket) = &mut books.requests {
                    bucket.give_back(requests);
                }
                Err(self.refuse(&mut books, cause))
            }
        }
    }

    /// Counts a refusal that was decided elsewhere.
    pub(crate) fn refused(&self, cause: Cause) -> Refusal {
        self.refuse(&mut self.books(), cause)
    }

    fn refuse(&self, books: &mut Books, cause: Cause) -> Refusal {
        books.counts.refused[cause.index()] += 1;
        Refusal::new(self.tenant.clone(), cause)
    }

    pub(crate) fn count_input(&self, tokens: u64) {
        let counts = &mut self.books().counts;
        counts.input_tokens = counts.input_tokens.saturating_add(tokens);
    }

    pub(crate) fn count_output(&self, tokens: u64) {
        let counts = &mut self.books().counts;
        counts.output_tokens = counts.output_tokens.saturating_add(tokens);
    }

    /// Takes back tokens that were set aside and not used.
    pub(crate) fn give_back(&self, tokens: u64) {
        if let Some(bucket) = &mut self.books().tokens {
            bucket.give_back(tokens);
        }
    }

    /// Learns how long a request took.
    pub(crate) fn learn(&self, duration: Duration) {
        self.books().durations.add(duration);
    }

    /// Takes back slots.
    pub(crate) fn leave(&self, samples: u64) {
        let mut books = self.books();
        debug_assert!(books.running >= samples, "{}: nobody is in", self.tenant);
        books.running = books.running.saturating_sub(samples);
    }

    pub(crate) fn usage(&self) -> TenantUsage {
        let books = self.books();
        books.counts.of(&self.tenant, books.running)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Books are read and written in drops, where a second panic would
        // abort the process. What is done under the lock leaves no gap for a
        // first one to show.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn enter(&mut self, samples: u64, now: Duration) -> Result<Entry, Cause> {
        if let Some(limit) = self.max_samples().filter(|limit| samples > *limit) {
            let got = samples;
            return Err(Cause::TooManySamples { got, limit });
        }
        let rate = self.requests.as_mut().map(|bucket| {
            let wait = bucket.wait(samples, now);
            (bucket, wait)
        });
        let rate_wait = rate.as_ref().map_or(Duration::ZERO, |(_, wait)| *wait);
        if let Some(limit) = self
            .limits
            .concurrent_requests
            .filter(|limit| self.running + samples > *limit)
        {
            let ends = self.running + samples - limit;
            let wait = self.durations.wait(ends, self.running).max(rate_wait);
            // Under a millisecond is no advice.
            let retry_after = whole_millis(wait).max(Duration::from_millis(1));
            return Err(Cause::ConcurrentRequests { limit, retry_after });
        }
        let mut requests = 0;
        if let Some((bucket, wait)) = rate {
            if !wait.is_zero() {
                return Err(Cause::RequestsPerMinute {
                    limit: bucket.per_minute(),
                    retry_after: whole_millis(wait),
                });
            }
            requests = samples;
            bucket.take(requests);
        }
        self.running += samples;
        Ok(Entry { requests })
    }

    /// Most samples that a request may ever have. One at least, which a limit
    /// that lets in nobody refuses like any request.
    fn max_samples(&self) -> Option<u64> {
        let Limits {
            requests_per_minute,
            concurrent_requests,
            ..
        } = self.limits;
        let limits = [requests_per_minute, concurrent_requests];
        limits.into_iter().flatten().min().map(|limit| limit.max(1))
    }

    fn reserve(
        &mut self,
        samples: u64,
        prompt_tokens: u64,
        output: MaxOutput,
        now: Duration,
    ) -> Result<Reservation, Cause> {
        let got = prompt_tokens;
        if let Some(limit) = self.limits.max_prompt_tokens.filter(|limit| got > *limit) {
            return Err(Cause::PromptTooLong { got, limit });
        }
        let max_output_tokens = self.max_output_tokens(samples, prompt_tokens, output)?;
        let all_output = max_output_tokens.saturating_mul(samples);
        let asked = prompt_tokens.saturating_add(all_output);
        let mut tokens = 0;
        if let Some(bucket) = &mut self.tokens {
            let limit = bucket.per_minute();
            if asked > limit {
                return Err(Cause::NeverFits { asked, limit });
            }
            let wait = bucket.wait(asked, now);
            if !wait.is_zero() {
                return Err(Cause::TokensPerMinute {
                    limit,
                    asked,
                    retry_after: whole_millis(wait),
                });
            }
            tokens = asked;
            bucket.take(tokens);
        }
        Ok(Reservation {
            tokens,
            max_output_tokens,
        })
    }

    /// Of each sample.
    fn max_output_tokens(
        &self,
        samples: u64,
        prompt_tokens: u64,
        output: MaxOutput,
    ) -> Result<u64, Cause> {
        let limit = self.limits.max_output_tokens.unwrap_or(u64::MAX);
        match output {
            MaxOutput::Asked(got) if got > limit => Err(Cause::OutputTooLong { got, limit }),
            MaxOutput::Asked(got) => Ok(got),
            MaxOutput::AtMost(most) => {
                // A prompt that leaves room for no token at all is refused as
                // one that never fits, rather than answered with nothing.
                let room = self.limits.tokens_per_minute.map_or(u64::MAX, |minute| {
                    (minute.saturating_sub(prompt_tokens) / samples).max(1)
                });
                Ok(most.min(limit).min(room))
            }
        }
    }
}

/// A bucket follows its limit. One that is new is full.
fn change(bucket: &mut Option<TokenBucket>, limit: Option<u64>, now: Duration) {
    match (bucket.as_mut(), limit) {
        (Some(bucket), Some(per_minute)) => bucket.change(per_minute, now),
        (_, limit) => *bucket = limit.map(TokenBucket::new),
    }
}

/// Rounded up, as a wait must be.
fn whole_millis(duration: Duration) -> Duration {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
