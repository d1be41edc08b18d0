//! Guesses are made and verified in memory that a sequence has had from its
//! first steps on.
#![forbid(unsafe_code)]

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

mod recital;

use recital::Recital;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A page of the KV cache is noted when a sequence comes to have it, so not
/// every step is free; one is that needs none.
const BLOCK_SIZE: usize = 16;

/// Text that repeats itself with changes: guesses, differences, replacements.
fn text() -> Vec<u32> {
    let mut text: Vec<u32> = (0..97).collect();
    for n in 0..1800 {
        text.push(match n % 97 {
            5 | 50 => 500,
            _ if n % 31 == 0 => 600 + n as u32 / 31,
            place => place as u32,
        });
    }
    text
}

/// One test: the allocator counts for the whole process.
#[test]
fn guesses_allocate_nothing_in_steady_state() {
    let text = text();
    let mut recital = Recital::new(&text, 97, 15, |tokens| 0.8 + 0.2 * tokens as f64);
    let (mut steps, mut drafted, mut accepted, mut allocations) = (0, 0, 0, 0);
    loop {
        let region = Region::new(ALLOCATOR);
        let Some(report) = recital.step() else { break };
        let (guesses, true_ones) = (report.num_drafted, report.num_accepted);
        let change = region.change();
        steps += 1;
        if steps > 60 {
            (drafted, accepted) = (drafted + guesses, accepted + true_ones);
            allocations += change.allocations + change.reallocations;
        }
    }
    assert!(
        recital.seconds() > steps as f64,
        "a step takes one at least"
    );
    assert!(
        drafted > accepted && accepted > 500,
        "{accepted} of {drafted}"
    );
    let blocks = text.len() / BLOCK_SIZE;
    assert!(allocations <= blocks, "{allocations} in {steps} steps");
}
