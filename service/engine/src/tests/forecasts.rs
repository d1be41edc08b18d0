//! How long requests waited, against what they were told.

use std::collections::HashMap;

use super::machine::{LIMITS, Machine};
use super::random::Random;
use super::sim::request;
use crate::{Event, Limits, Request, SequenceId, Share, SubmitError, Time};

/// Waits of half a second and more, each over what was told of it.
fn ratios(seed: u64, tenants: u32, rate: f64, prompts: usize, outputs: usize) -> Vec<f64> {
    let mut random = Random::new(seed);
    let mut machine = Machine::new(Limits {
        max_num_seqs: 8,
        max_queued: 60,
        ..LIMITS
    });
    let mut told: HashMap<SequenceId, (Time, Time)> = HashMap::new();
    let mut next = machine.now();
    let mut ratios = Vec::new();
    let end = machine.now() + Time::from_secs(240);
    while machine.now() < end {
        while next <= machine.now() {
            let unit = (random.below(1 << 20) + 1) as f64 / f64::from(1 << 20);
            next += Time::from_secs_f64(-unit.ln() / rate);
            let share = Share {
                tenant: random.below(tenants.into()) as u32,
                weight: 1,
            };
            let (prompt_len, max_tokens) = (random.within(1..=prompts), random.within(1..=outputs));
            let request = Request {
                share,
                ..request(prompt_len, max_tokens)
            };
            let Ok(id) = machine.engine.submit(request, machine.now()) else {
                continue;
            };
            let forecast = machine.engine.forecast();
            let ahead = machine.engine.ahead(id).expect("it waits");
            let wait = forecast.wait(ahead);
            if forecast.is_founded() {
                told.insert(id, (machine.now(), wait));
            }
        }
        machine.pass(Time::from_millis(1));
        machine.events.clear();
        machine.step();
        for event in &machine.events {
            if let Event::Started { id, at } = event
                && let Some((submitted, wait)) = told.remove(id)
                && *at - submitted > Time::from_millis(500)
            {
                ratios.push((*at - submitted).as_secs_f64() / wait.as_secs_f64());
            }
        }
    }
    ratios
}

/// Chats, long answers, and long prompts, all more than the machine can do.
#[test]
fn waits_are_about_as_long_as_foretold() {
    for (tenants, rate, prompts, outputs) in [
        (1, 4.0, 100, 100),
        (3, 4.0, 100, 100),
        (1, 2.0, 20, 300),
        (2, 0.6, 1500, 40),
    ] {
        let mut ratios = ratios(7, tenants, rate, prompts, outputs);
        ratios.sort_by(f64::total_cmp);
        assert!(ratios.len() > 50, "{}", ratios.len());
        let at = |share: f64| ratios[(share * ratios.len() as f64) as usize];
        let case = (tenants, rate, prompts, outputs, ratios.len());
        assert!((0.5..2.0).contains(&at(0.5)), "{case:?}: {}", at(0.5));
        // Some wait less: they are short and go along with long ones.
        assert!(at(0.9) < 2.0, "{case:?}: {}", at(0.9));
    }
}

#[test]
fn a_deadline_that_the_queue_is_too_long_for_is_refused() {
    let mut machine = Machine::new(Limits {
        max_num_seqs: 2,
        ..LIMITS
    });
    let until = |machine: &Machine, seconds| Request {
        deadline: Some(machine.now() + Time::from_secs(seconds)),
        ..request(100, 50)
    };
    // Nothing is known at first, and so nothing is hopeless.
    let first = until(&machine, 0);
    machine.submit(first);
    machine.step();
    for _ in 0..12 {
        machine.submit(request(100, 50));
    }
    while machine.engine.num_waiting() > 9 {
        machine.step();
    }
    let hopeless = until(&machine, 2);
    let refused = machine.engine.submit(hopeless, machine.now()).unwrap_err();
    let SubmitError::DeadlineUnreachable { expected, left } = refused else {
        panic!("{refused}");
    };
    assert_eq!(left, Time::from_secs(2));
    assert!(
        expected > Time::from_secs(6) && expected < Time::from_secs(25),
        "{expected:?}"
    );
    // With the time it takes, it is taken; so it is from who waits for nobody.
    let late = until(&machine, 60);
    machine.submit(late);
    let share = Share {
        tenant: 1,
        weight: 1,
    };
    let other = until(&machine, 6);
    machine.submit(Request { share, ..other });
}

#[test]
fn prompts_that_wait_are_bounded_by_their_tokens() {
    let mut machine = Machine::new(Limits {
        max_queued_tokens: 1000,
        ..LIMITS
    });
    // One that is longer than all that may wait is taken all the same.
    machine.submit(request(3000, 1));
    let refused = machine.engine.submit(request(1, 1), machine.now());
    let full = SubmitError::TokensQueued {
        queued: 3000,
        asked: 1,
        limit: 1000,
    };
    assert_eq!(refused, Err(full));
    // It is started and counts no more.
    machine.step();
    machine.submit(request(600, 1));
    machine.submit(request(400, 1));
    let refused = machine.engine.submit(request(1, 1), machine.now());
    assert!(matches!(
        refused,
        Err(SubmitError::TokensQueued { queued: 1000, .. })
    ));
}
