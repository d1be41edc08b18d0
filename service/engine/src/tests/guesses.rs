//! Guesses make steps fewer, never answers different.

use super::fake::REPETITIVE;
use super::machine::{self, Machine};
use super::oracle::answer;
use super::sim::{ROOMY, Sim, request};
use crate::{Limits, Request};

const GUESSING: Limits = Limits {
    max_draft_tokens: 4,
    max_model_len: 128,
    ..ROOMY
};

fn repetitive(max_tokens: usize) -> Request {
    let mut request = request(6, max_tokens);
    request.prompt[0] = REPETITIVE;
    request
}

/// Its tokens, and the steps they took.
fn run(limits: Limits, request: Request) -> (Vec<u32>, usize) {
    let mut sim = Sim::new(limits);
    let id = sim.submit("a", request);
    let mut steps = 0;
    while sim.engine.has_work() {
        sim.step();
        steps += 1;
    }
    (sim.tokens(id), steps)
}

#[test]
fn text_that_repeats_itself_takes_fewer_steps() {
    let without = Limits {
        max_draft_tokens: 0,
        ..GUESSING
    };
    let (plain, plain_steps) = run(without, repetitive(100));
    let (guessed, steps) = run(GUESSING, repetitive(100));
    assert_eq!(plain, guessed);
    assert_eq!(plain_steps, 100);
    assert!(steps < 75, "{steps} steps");
}

#[test]
fn text_that_does_not_is_left_alone() {
    // Where a guess costs something.
    let mut machine = Machine::new(Limits {
        max_draft_tokens: 4,
        ..machine::LIMITS
    });
    machine.submit(request(6, 100));
    let mut drafted = 0;
    while machine.engine.has_work() {
        drafted += machine.step().num_drafted;
    }
    assert!(drafted < 20, "{drafted} guesses");
}

#[test]
fn a_reader_is_never_given_more_than_it_has_room_for() {
    for credit in 1..6 {
        let mut sim = Sim::new(GUESSING);
        let mut request = repetitive(60);
        request.credit = 40;
        let id = sim.submit("a", request);
        while sim.engine.has_work() {
            sim.step();
        }
        assert_eq!(sim.tokens(id).len(), 40);
        sim.engine.set_credit(id, credit);
        while sim.engine.has_work() {
            sim.step();
        }
        assert_eq!(sim.tokens(id).len(), 40 + credit);
        sim.engine.cancel(id, sim.now());
    }
}

#[test]
fn nobody_yields_anything_for_a_guess() {
    // Just the blocks that both need.
    let mut sim = Sim::new(Limits {
        num_blocks: 2 * 23,
        ..GUESSING
    });
    let ids = ["a", "b"].map(|name| sim.submit(name, repetitive(40)));
    let (mut preempted, mut accepted) = (0, 0);
    while sim.engine.has_work() {
        let report = sim.step();
        preempted += report.preempted.len();
        accepted += report.num_accepted;
    }
    assert_eq!(preempted, 0);
    assert!(accepted > 10, "{accepted}");
    assert_eq!(sim.tokens(ids[0]), sim.tokens(ids[1]));
}

/// A guess from the prompt is one of the generated tokens once it has come
/// true, and penalised from the next position on, in the same step.
#[test]
fn guesses_that_came_true_are_penalised() {
    let mut accepted = 0;
    for n in 0..400 {
        let mut request = repetitive(12);
        request.prompt = vec![
            REPETITIVE,
            1 + n % 11,
            1 + n / 11 % 11,
            1 + n / 121,
            1,
            2,
            3,
            1,
            2,
            3,
            1,
            2,
        ];
        request.sampling.presence_penalty = 0.8;
        let want = answer(&request).tokens;
        let mut sim = Sim::new(GUESSING);
        let id = sim.submit("a", request);
        while sim.engine.has_work() {
            accepted += sim.step().num_accepted;
        }
        assert_eq!(sim.tokens(id), want);
    }
    assert!(accepted > 200, "{accepted}");
}

#[test]
fn a_guess_leaves_a_block_to_everyone_who_runs() {
    let mut took_blocks = 0;
    for num_blocks in 60..100 {
        let limits = Limits {
            num_blocks,
            ..GUESSING
        };
        let mut sim = Sim::new(limits);
        let ids = ["a", "b", "c"].map(|name| sim.submit(name, repetitive(60)));
        while sim.engine.num_running() + sim.engine.num_waiting() == ids.len() {
            let held = |sim: &Sim, id| sim.engine.sequence(id).blocks.len();
            let needed = ids.map(|id| {
                let own = limits.blocks_for(sim.engine.sequence(id).num_tokens());
                own.max(held(&sim, id))
            });
            let report = sim.step();
            if !report.preempted.is_empty() || !report.finished.is_empty() {
                continue;
            }
            let took = ids
                .iter()
                .zip(needed)
                .any(|(id, needed)| held(&sim, *id) > needed);
            if took {
                took_blocks += 1;
                assert!(report.num_free_blocks >= report.num_running, "{report:?}");
            }
        }
    }
    assert!(took_blocks > 20, "{took_blocks}");
}
