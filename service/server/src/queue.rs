//! How many requests may be here, and how long their prompts, all together.
//!
//! A place is taken the moment a request arrives, before anything is done for
//! it, so that what comes in a burst is refused at once and not after its text
//! was taken to pieces; and it is refused here, not by the engine, which would
//! answer after the step that it is in.
//!
//! Where there are tenants, none may take all: each has at most
//! [`GREED`] times what it leaves free. So one that sends without end keeps a
//! fifth free for others, two a ninth, and these get in.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// What a tenant may take of a queue, in what is left of it.
const GREED: usize = 4;

/// Requests, each sample of one counted, and tokens of prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) requests: usize,
    /// Of requests that were not started.
    pub(crate) tokens: usize,
}

/// There is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QueueFull {
    #[error("queue is full: {queued} requests are alive, {limit} may be")]
    Requests { queued: usize, limit: usize },
    #[error(
        "queue is full: {queued} tokens of prompts are waiting, {limit} may be, and this has {asked}"
    )]
    Tokens {
        queued: usize,
        limit: usize,
        asked: usize,
    },
}

impl QueueFull {
    /// Tokens that must be computed before there is room.
    pub(crate) fn tokens_over(&self) -> usize {
        match *self {
            QueueFull::Requests { .. } => 0,
            QueueFull::Tokens {
                queued,
                limit,
                asked,
            } => queued.saturating_add(asked).saturating_sub(limit),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Queue {
    limit: Amount,
    /// Whether there can be more than one tenant.
    has_tenants: bool,
    /// Locked for arithmetic only.
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: Amount,
    /// Of those that have something.
    by_tenant: HashMap<u32, Amount>,
}

/// A request's place, or one for each of its samples, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Arc<Queue>,
    tenant: u32,
    samples: usize,
    tokens: usize,
}

impl Queue {
    pub(crate) fn new(limit: Amount, has_tenants: bool) -> Queue {
        Queue {
            limit,
            has_tenants,
            taken: Mutex::default(),
        }
    }

    /// Places for all samples of a request whose prompt is not known yet.
    pub(crate) fn enter(
        self: &Arc<Queue>,
        tenant: u32,
        samples: usize,
    ) -> Result<Place, QueueFull> {
        self.change(|taken| {
            let own = taken.by_tenant.entry(tenant).or_default();
            let (queued, limit) = (taken.all.requests, self.limit.requests);
            let others = samples.saturating_sub(1);
            // As the last of them would find it, if they came one by one.
            let left = limit.saturating_sub(queued).saturating_sub(others);
            if left == 0 || self.is_greedy(own.requests + others, left) {
                return Err(QueueFull::Requests { queued, limit });
            }
            own.requests += samples;
            taken.all.requests += samples;
            Ok(())
        })?;
        Ok(Place {
            queue: self.clone(),
            tenant,
            samples,
            tokens: 0,
        })
    }

    /// Whether a tenant has its part of what is left already.
    fn is_greedy(&self, own: usize, left: usize) -> bool {
        self.has_tenants && own >= GREED * left
    }

    fn change<T>(&self, change: impl FnOnce(&mut Taken) -> T) -> T {
        // Counts are read and written in drops; nothing under the lock panics.
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut taken);
        taken.by_tenant.retain(|_, own| own.requests > 0);
        changed
    }

    #[cfg(test)]
    pub(crate) fn taken(&self) -> Amount {
        self.change(|taken| taken.all)
    }
}

impl Place {
    /// Takes room for the request's prompt. One that is alone may be longer
    /// than all that may wait.
    pub(crate) fn take(&mut self, tokens: usize) -> Result<(), QueueFull> {
        let Place { queue, tenant, .. } = self;
        queue.change(|taken| {
            let (queued, limit) = (taken.all.tokens, queue.limit.tokens);
            let own = taken.by_tenant.entry(*tenant).or_default();
            let left = limit.saturating_sub(queued).saturating_sub(tokens);
            let is_over = queued.saturating_add(tokens) > limit;
            // What one has by one long prompt is not greed.
            let is_greedy = own.tokens > 0 && queue.is_greedy(own.tokens, left);
            if queued > 0 && (is_over || is_greedy) {
                return Err(QueueFull::Tokens {
                    queued,
                    limit,
                    asked: tokens,
                });
            }
            own.tokens += tokens;
            taken.all.tokens += tokens;
            Ok(())
        })?;
        self.tokens = tokens;
        Ok(())
    }

    /// The request's prompt does not wait any more.
    pub(crate) fn started(&mut self) {
        let tokens = std::mem::take(&mut self.tokens);
        let tenant = self.tenant;
        self.queue.change(|taken| {
            taken.all.tokens -= tokens;
            if let Some(own) = taken.by_tenant.get_mut(&tenant) {
                own.tokens -= tokens;
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.started();
        let (tenant, samples) = (self.tenant, self.samples);
        self.queue.change(|taken| {
            taken.all.requests -= samples;
            if let Some(own) = taken.by_tenant.get_mut(&tenant) {
                own.requests -= samples;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(requests: usize, tokens: usize, has_tenants: bool) -> Arc<Queue> {
        Arc::new(Queue::new(Amount { requests, tokens }, has_tenants))
    }

    #[test]
    fn places_are_counted_and_come_back() {
        let queue = queue(2, 100, false);
        let one = queue.enter(0, 1).expect("the first");
        let _two = queue.enter(0, 1).expect("the second");
        let (queued, limit) = (2, 2);
        let full = QueueFull::Requests { queued, limit };
        assert_eq!(queue.enter(0, 1).expect_err("a third"), full);
        drop(one);
        drop(queue.enter(0, 1).expect("there is room again"));
        assert_eq!(queue.taken().requests, 1);
    }

    #[test]
    fn tokens_count_until_a_request_is_started() {
        let queue = queue(10, 100, false);
        let mut long = queue.enter(0, 1).expect("room");
        long.take(300).expect("it is alone");
        let mut short = queue.enter(0, 1).expect("room");
        let full = short.take(1).expect_err("no room for tokens");
        assert_eq!(full.tokens_over(), 201);
        long.started();
        short.take(60).expect("the long one has gone on");
        queue
            .enter(0, 1)
            .expect("room")
            .take(41)
            .expect_err("too many");
        drop(short);
        assert_eq!(
            queue.taken(),
            Amount {
                requests: 1,
                tokens: 0
            }
        );
    }

    #[test]
    fn a_tenant_leaves_places_to_others() {
        let queue = queue(100, usize::MAX, true);
        let fill =
            |tenant| -> Vec<Place> { std::iter::from_fn(|| queue.enter(tenant, 1).ok()).collect() };
        let first = fill(0);
        assert_eq!(first.len(), 80);
        let second = fill(1);
        assert_eq!(second.len(), 16);
        // As the first one's end, the other gets what it may have as well.
        drop(first);
        let more = fill(1);
        assert_eq!(second.len() + more.len(), 80);
    }

    #[test]
    fn samples_have_places_all_or_none() {
        let alone = queue(5, 100, false);
        let three = alone.enter(0, 3).expect("room");
        let (queued, limit) = (3, 5);
        let full = QueueFull::Requests { queued, limit };
        assert_eq!(alone.enter(0, 3).expect_err("two are left"), full);
        drop(alone.enter(0, 2).expect("two are left"));
        drop(three);
        assert_eq!(alone.taken(), Amount::default());
        // Where there are tenants, as many as would get in one by one.
        for samples in [1, 3, 16, 80] {
            let queue = queue(100, usize::MAX, true);
            let places = std::iter::from_fn(|| queue.enter(0, samples).ok());
            let places: Vec<Place> = places.collect();
            assert_eq!(places.len(), 80 / samples);
            queue.enter(1, 16).expect("what is left to others");
        }
    }

    #[test]
    fn a_tenant_has_its_part_again_once_its_requests_end() {
        let queue = queue(5, usize::MAX, true);
        for _ in 0..3 {
            let places = std::iter::from_fn(|| queue.enter(0, 1).ok());
            // With four it has four times the one that is left.
            assert_eq!(places.take(5).collect::<Vec<Place>>().len(), 4);
        }
        assert_eq!(queue.taken(), Amount::default());
    }

    #[test]
    fn prompts_may_fill_the_room_to_the_last_token() {
        let one = queue(10, 100, false);
        let [mut first, mut second] = [0; 2].map(|_| one.enter(0, 1).expect("room"));
        first.take(40).expect("it is alone");
        second.take(61).expect_err("one too many");
        second.take(60).expect("a hundred may wait");

        // Who has nothing yet is not greedy, even where nothing would be left.
        let many = queue(10, 100, true);
        let [mut first, mut second] = [0, 1].map(|tenant| many.enter(tenant, 1).expect("room"));
        first.take(10).expect("it is alone");
        second.take(90).expect("it is the first of its tenant");
    }

    #[test]
    fn what_a_prompt_would_leave_decides_whether_it_is_too_much() {
        let queue = queue(100, 1000, true);
        let mut first = queue.enter(0, 1).expect("room");
        first.take(200).expect("it is alone");
        // It has four times the 50 that this would leave, and not of the 51.
        let mut second = queue.enter(0, 1).expect("room");
        second
            .take(750)
            .expect_err("a tenant's part is four fifths");
        second.take(749).expect("that is less");
    }

    #[test]
    fn a_prompt_that_is_computed_is_not_its_tenants_any_more() {
        let queue = queue(100, 1000, true);
        let mut other = queue.enter(1, 1).expect("room");
        other.take(10).expect("it is alone");
        let mut running = queue.enter(0, 1).expect("room");
        running.take(800).expect("it is the first of its tenant");
        running.started();
        let mut next = queue.enter(0, 1).expect("room");
        next.take(900).expect("nothing of its tenant waits");
    }

    #[test]
    fn the_only_tenant_may_have_all() {
        let queue = queue(100, usize::MAX, false);
        let places: Vec<Place> = std::iter::from_fn(|| queue.enter(0, 1).ok()).collect();
        assert_eq!(places.len(), 100);
    }

    #[test]
    fn a_tenant_leaves_room_for_others_prompts() {
        let queue = queue(1000, 1000, true);
        let fill = |tenant| -> Vec<Place> {
            std::iter::from_fn(|| {
                let mut place = queue.enter(tenant, 1).ok()?;
                place.take(10).ok()?;
                Some(place)
            })
            .collect()
        };
        let first = fill(0);
        assert!((75..=85).contains(&first.len()), "{}", first.len());
        assert!(fill(1).len() > 10);
    }
}
