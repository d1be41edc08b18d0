//! When will it be the turn of who waits?
//!
//! What is ahead of a request follows from the order in which service is given:
//! all that ranks before it within its tenant, and of every other tenant as
//! much as that one gets in the same time by its weight. How long that takes
//! follows from what steps take: prompts need time, and where all places are
//! taken, one becomes free when an answer ends.
//!
//! It is an estimate. How long answers get is known of those that have ended
//! only; and who comes later with a higher priority, or from a tenant that had
//! nothing waiting, is not foreseen.

use crate::Time;

/// What is before a request.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Ahead {
    /// Requests that will be started earlier.
    pub requests: usize,
    /// Tokens of prompts that will be computed earlier.
    pub tokens: usize,
}

/// How fast a queue moves.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Forecast {
    /// Seconds that a token of a prompt takes beside the streams that run.
    pub(crate) token: f64,
    /// Those of them that are the token's own.
    pub(crate) added: f64,
    /// Seconds from one place in the batch becoming free to the next, while
    /// there are no prompts.
    pub(crate) turnover: f64,
    /// Places that are free.
    pub(crate) places: usize,
    /// Whether enough was seen for that to mean something.
    pub(crate) is_founded: bool,
}

/// What nobody will wait for anyway; also keeps a forecast finite.
const LONGEST: f64 = 86_400.0;

impl Forecast {
    /// How long a request waits until it is given its first pages.
    pub fn wait(&self, ahead: Ahead) -> Time {
        let prompts = self.token * ahead.tokens as f64;
        let places = match ahead.requests.checked_sub(self.places) {
            None => 0.0,
            Some(more) => self.turnover * (more + 1) as f64 + self.added * ahead.tokens as f64,
        };
        seconds(prompts.max(places))
    }

    /// How long a prompt of so many tokens takes once it is started.
    pub fn prefill(&self, tokens: usize) -> Time {
        seconds(self.token * tokens as f64)
    }

    /// How long until there is room for so many more tokens of prompts in a
    /// full queue; or for one more request, with none.
    pub fn room(&self, tokens: usize) -> Time {
        match tokens {
            0 => seconds(self.turnover),
            tokens => self.wait(Ahead {
                requests: 0,
                tokens,
            }),
        }
    }

    /// Whether this rests on steps and answers that there were. Else nothing
    /// should be refused for it.
    pub fn is_founded(&self) -> bool {
        self.is_founded
    }
}

fn seconds(seconds: f64) -> Time {
    Time::from_secs_f64(seconds.clamp(0.0, LONGEST))
}

/// How many tokens answers have.
#[derive(Debug)]
pub(crate) struct AnswerLength {
    mean: f64,
    is_learned: bool,
}

impl AnswerLength {
    /// Before any has ended: about what chats have.
    const USUAL: f64 = 200.0;

    pub(crate) fn new() -> AnswerLength {
        AnswerLength {
            mean: AnswerLength::USUAL,
            is_learned: false,
        }
    }

    pub(crate) fn learn(&mut self, tokens: usize) {
        let weight = if self.is_learned { 1.0 / 16.0 } else { 1.0 };
        self.mean += weight * (tokens as f64 - self.mean);
        self.is_learned = true;
    }

    pub(crate) fn mean(&self) -> f64 {
        self.mean
    }

    pub(crate) fn is_learned(&self) -> bool {
        self.is_learned
    }
}

/// What tenants have waiting, and what is ahead of each of their requests.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    tenants: Vec<TenantBacklog>,
}

#[derive(Debug, Clone, Copy)]
struct TenantBacklog {
    tenant: u32,
    weight: f64,
    /// All that waits, of it.
    all: Ahead,
    /// What was passed so far.
    passed: Ahead,
}

impl Backlog {
    pub(crate) fn clear(&mut self) {
        self.tenants.clear();
    }

    /// A request that has its place already, with so much of its prompt to do.
    pub(crate) fn add_running(&mut self, tenant: u32, weight: f64, tokens: usize) {
        let backlog = self.of(tenant, weight);
        backlog.all.tokens += tokens;
        backlog.passed.tokens += tokens;
    }

    pub(crate) fn add_waiting(&mut self, tenant: u32, weight: f64, tokens: usize) {
        let backlog = self.of(tenant, weight);
        backlog.all.requests += 1;
        backlog.all.tokens += tokens;
    }

    /// What is ahead of a tenant's next request, which has so many tokens. To be
    /// asked for all that wait, in the order of their ranks; the next question
    /// is then about what comes behind it.
    pub(crate) fn pass(&mut self, tenant: u32, weight: f64, tokens: usize) -> Ahead {
        let own = self.of(tenant, weight);
        let passed = own.passed;
        own.passed.requests += 1;
        own.passed.tokens += tokens;
        let mut ahead = passed;
        for other in self.tenants.iter().filter(|other| other.tenant != tenant) {
            let part = |own: usize, all: usize| {
                let theirs = own as f64 * other.weight / weight;
                all.min(theirs.ceil() as usize)
            };
            ahead.requests += part(passed.requests, other.all.requests);
            ahead.tokens += part(passed.tokens + tokens, other.all.tokens);
        }
        ahead
    }

    fn of(&mut self, tenant: u32, weight: f64) -> &mut TenantBacklog {
        // Few have something waiting at a time.
        let known = self.tenants.iter().position(|known| known.tenant == tenant);
        let place = known.unwrap_or_else(|| {
            self.tenants.push(TenantBacklog {
                tenant,
                weight,
                all: Ahead::default(),
                passed: Ahead::default(),
            });
            self.tenants.len() - 1
        });
        &mut self.tenants[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORECAST: Forecast = Forecast {
        token: 0.002,
        added: 0.001,
        turnover: 0.5,
        places: 2,
        is_founded: true,
    };

    fn ahead(requests: usize, tokens: usize) -> Ahead {
        Ahead { requests, tokens }
    }

    #[test]
    fn free_places_wait_for_prompts_only() {
        assert_eq!(FORECAST.wait(ahead(0, 0)), Time::ZERO);
        assert_eq!(FORECAST.wait(ahead(1, 1000)), Time::from_secs(2));
        assert_eq!(FORECAST.prefill(500), Time::from_secs(1));
    }

    #[test]
    fn beyond_them_answers_must_end() {
        assert_eq!(FORECAST.wait(ahead(2, 0)), Time::from_millis(500));
        assert_eq!(FORECAST.wait(ahead(5, 100)), Time::from_millis(2100));
        assert_eq!(FORECAST.wait(ahead(5, 10_000)), Time::from_secs(20));
    }

    #[test]
    fn a_forecast_is_finite() {
        let day = Time::from_secs(86_400);
        assert_eq!(FORECAST.wait(ahead(usize::MAX, usize::MAX)), day);
        assert_eq!(Forecast::default().wait(ahead(9, 9)), Time::ZERO);
    }

    #[test]
    fn other_tenants_are_ahead_by_their_weights() {
        let mut backlog = Backlog::default();
        for _ in 0..10 {
            backlog.add_waiting(0, 1.0, 100);
        }
        for _ in 0..3 {
            backlog.add_waiting(1, 2.0, 50);
        }
        backlog.add_running(0, 1.0, 30);
        // Of the one with the weight of 2, which goes twice as fast.
        let second: Vec<Ahead> = (0..3).map(|_| backlog.pass(1, 2.0, 50)).collect();
        assert_eq!(second, [ahead(0, 25), ahead(2, 100), ahead(3, 175)]);
        // All of the other's, once that takes longer.
        let first: Vec<Ahead> = (0..10).map(|_| backlog.pass(0, 1.0, 100)).collect();
        assert_eq!(first[0], ahead(0, 30 + 150));
        assert_eq!(first[9], ahead(9 + 3, 30 + 900 + 150));
    }
}
