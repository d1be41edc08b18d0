//! Tenants that always have something waiting, thousands of times: does each
//! get its share of the machine's time?

use std::collections::HashMap;

use super::machine::{LIMITS, Machine};
use super::random::{Random, over_seeds};
use super::sim::request;
use crate::{Limits, Request, SequenceId, Share, Time};

const NUM_SCHEDULES: u64 = 2000;
const MAX_PROMPT: usize = 120;
const MAX_OUTPUT: usize = 12;

/// A tenant that keeps so many requests waiting.
struct Sender {
    share: Share,
    keeps_waiting: usize,
    /// Seconds that the machine spent on it.
    service: f64,
}

struct Contest {
    random: Random,
    limits: Limits,
    machine: Machine,
    senders: Vec<Sender>,
    owners: HashMap<SequenceId, usize>,
}

impl Contest {
    fn new(seed: u64, senders: &[(u32, usize)]) -> Contest {
        let mut random = Random::new(seed);
        let limits = Limits {
            num_blocks: random.within(60..=400),
            block_size: 4,
            max_num_seqs: random.within(1..=8),
            max_num_batched_tokens: random.within(16..=200),
            step_budget: random.pick(&[None, Some(Time::from_millis(100)), Some(Time::MAX)]),
            max_draft_tokens: random.pick(&[0, 4]),
            ..LIMITS
        };
        let sender = |(tenant, &(weight, keeps_waiting))| Sender {
            share: Share { tenant, weight },
            keeps_waiting,
            service: 0.0,
        };
        Contest {
            machine: Machine::new(limits),
            random,
            limits,
            senders: (0..).zip(senders).map(sender).collect(),
            owners: HashMap::new(),
        }
    }

    /// Sends what is to be waiting, and runs a step.
    fn step(&mut self) {
        for place in 0..self.senders.len() {
            let waiting = self
                .machine
                .engine
                .waiting_of(self.senders[place].share.tenant);
            for _ in waiting..self.senders[place].keeps_waiting {
                let prompt_len = self.random.within(1..=MAX_PROMPT);
                let max_tokens = self.random.within(1..=MAX_OUTPUT);
                let id = self.machine.submit(Request {
                    share: self.senders[place].share,
                    priority: self.random.pick(&[0, 0, 1, 100]),
                    ..request(prompt_len, max_tokens)
                });
                self.owners.insert(id, place);
            }
        }
        for (id, seconds) in self.machine.step_by_parts() {
            self.senders[self.owners[&id]].service += seconds;
        }
        self.machine.engine.check();
    }

    /// Service over weight.
    fn levels(&self) -> Vec<f64> {
        let level = |sender: &Sender| sender.service / f64::from(sender.share.weight);
        self.senders.iter().map(level).collect()
    }

    /// What a tenant may be ahead by: a whole batch of the dearest requests that
    /// it has just been given the places for. The dearest way to compute one is
    /// alone, and where pages are few, twice.
    fn bound(&self) -> f64 {
        let token = 0.0025 + 0.003 * (MAX_PROMPT + MAX_OUTPUT) as f64 / 1000.0;
        let request = 0.015 * (MAX_OUTPUT + 1) as f64 + token * MAX_PROMPT as f64;
        request * self.limits.max_num_seqs as f64
    }
}

#[test]
fn service_follows_weights_within_the_bound() {
    over_seeds(NUM_SCHEDULES, |seed, (): &mut ()| {
        let mut random = Random::new(!seed);
        let senders: Vec<(u32, usize)> = (0..random.within(2..=4))
            .map(|_| (random.pick(&[1, 1, 2, 5]), random.pick(&[1, 3, 20])))
            .collect();
        let mut contest = Contest::new(seed, &senders);
        // Everyone is backlogged from the first step on; what that one takes is
        // not known before.
        contest.step();
        let first = contest.levels();
        for _ in 0..120 {
            contest.step();
            let levels = contest.levels();
            let since = levels.iter().zip(&first).map(|(now, then)| now - then);
            let levels: Vec<f64> = since.collect();
            let most = levels.iter().copied().fold(0.0, f64::max);
            let least = levels.iter().copied().fold(f64::MAX, f64::min);
            // Over any interval, as the authors have it, twice what counters
            // can differ by.
            let bound = 2.0 * contest.bound();
            assert!(most - least <= bound, "{levels:?} of {senders:?}, {bound}");
        }
    });
}

#[test]
fn a_tenant_at_ten_times_its_share_leaves_the_other_its_half() {
    over_seeds(NUM_SCHEDULES / 20, |seed, (): &mut ()| {
        let mut contest = Contest::new(seed, &[(1, 40), (1, 4)]);
        for _ in 0..1500 {
            contest.step();
        }
        let service = contest.levels();
        let share = service[1] / (service[0] + service[1]);
        assert!((0.45..=0.55).contains(&share), "{share}: {service:?}");
    });
}

#[test]
fn a_short_prompt_does_not_wait_for_another_tenants_long_ones() {
    let mut machine = Machine::new(LIMITS);
    let long = |tenant| Request {
        share: Share { tenant, weight: 1 },
        ..request(4000, 4)
    };
    for _ in 0..10 {
        machine.submit(long(0));
    }
    for _ in 0..3 {
        machine.step();
    }
    let short = machine.submit(Request {
        priority: -100,
        ..Request {
            share: Share {
                tenant: 1,
                weight: 1,
            },
            ..request(40, 1)
        }
    });
    let report = machine.step();
    assert!(
        report.finished.iter().any(|(id, _)| *id == short),
        "{report:?}"
    );
}

#[test]
fn a_short_prompt_does_not_wait_for_a_long_one_of_its_own_tenant() {
    let mut machine = Machine::new(LIMITS);
    let long = machine.submit(request(4000, 1));
    machine.submit(request(4000, 1));
    machine.step();
    let short = machine.submit(request(100, 1));
    let report = machine.step();
    assert!(report.finished.iter().any(|(id, _)| *id == short));
    // Half of the step was the long one's all the same, and all that was left.
    assert_eq!(report.scheduled, [(short, 100), (long, 156)]);
}
