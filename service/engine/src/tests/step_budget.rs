//! A long prompt arrives among streams: how long do these wait?

use super::machine::{LIMITS, Machine};
use super::sim::request;
use crate::{Limits, Time};

/// What steps take while a prompt of 4096 tokens is computed beside streams,
/// and what they would take without it.
fn steps_with_prompt(streams: usize, step_budget: Option<Time>) -> Vec<(Time, Time)> {
    let mut machine = Machine::new(Limits {
        step_budget,
        ..LIMITS
    });
    for _ in 0..streams {
        machine.submit(request(40, 4000));
    }
    for _ in 0..30 {
        machine.step();
    }
    machine.submit(request(4096, 1));
    let mut times = Vec::new();
    loop {
        let (report, took, alone) = machine.timed_step();
        if report.num_sampled > streams {
            return times;
        }
        assert_eq!(report.num_sampled, streams, "nobody is held up");
        times.push((took, alone));
    }
}

fn mean(times: &[(Time, Time)]) -> Time {
    let sum: Time = times.iter().map(|(took, _)| took).sum();
    sum / times.len() as u32
}

#[test]
fn streams_take_at_most_twice_as_long_beside_a_long_prompt() {
    for streams in [1, 4, 15] {
        let times = steps_with_prompt(streams, None);
        for (took, alone) in &times {
            let allowed = 2 * *alone + *alone / 20;
            assert!(took < &allowed, "{streams}: {alone:?} became {took:?}");
        }
        // And not much less, as long as a token more would have fit.
        let (alone, early) = (times[0].1, &times[..times.len() / 2]);
        assert!(mean(early) > 2 * alone - alone / 4, "{:?}", mean(early));
    }
}

#[test]
fn a_configured_budget_is_kept_whatever_the_streams_take() {
    for (streams, ms) in [(1, 60), (1, 250), (8, 100)] {
        let budget = Time::from_millis(ms);
        let times = steps_with_prompt(streams, Some(budget));
        // What a prompt costs is learned from the first chunks.
        let longest = times.iter().map(|(took, _)| took).max();
        assert!(longest < Some(&(budget + budget / 20)), "{longest:?}");
        assert!(mean(&times) > budget - budget / 8, "{:?}", mean(&times));
    }
}

#[test]
fn a_prompt_goes_on_however_small_the_budget() {
    for (took, alone) in steps_with_prompt(8, Some(Time::ZERO)) {
        // One token, where a quarter of the time is less.
        let least = alone + Time::from_millis(16);
        assert!(took < least.max(alone * 4 / 3), "{alone:?} became {took:?}");
    }
}

#[test]
fn without_streams_a_prompt_takes_whole_steps() {
    let mut machine = Machine::new(LIMITS);
    machine.submit(request(1000, 1));
    let lens = |machine: &mut Machine| machine.step().scheduled[0].1;
    let lens: Vec<usize> = (0..4).map(|_| lens(&mut machine)).collect();
    assert_eq!(lens, [256, 256, 256, 232]);
}
