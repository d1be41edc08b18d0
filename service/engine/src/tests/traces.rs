//! Schedules worked out by hand. A line is a step: `a+3` computes three tokens
//! of a, `b-` is b preempted, `c.` is c finished, then the blocks free after it.

use super::sim::{ROOMY, Sim, TINY, request};
use crate::{Limits, Request};

#[test]
fn the_newest_sequence_yields_its_blocks() {
    let mut sim = Sim::new(TINY);
    sim.submit("a", request(3, 4));
    sim.submit("b", request(3, 4));
    insta::assert_snapshot!(sim.run(), @r"
    1  a+3 b+3  free 0
    2  a+1 b+1  free 0
    3  a+1 b-  free 1
    4  a+1 a.  free 4
    5  b+5  free 1
    6  b+1 b.  free 4
    ");
}

#[test]
fn a_long_prompt_takes_what_streams_leave_of_the_budget() {
    let mut sim = Sim::new(Limits {
        max_num_batched_tokens: 5,
        ..ROOMY
    });
    sim.submit("a", request(2, 5));
    sim.submit("b", request(2, 5));
    sim.steps(1);
    sim.submit("c", request(8, 1));
    insta::assert_snapshot!(sim.run(), @r"
    1  a+2 b+2  free 62
    2  a+1 b+1 c+3  free 56
    3  a+1 b+1 c+3  free 56
    4  a+1 b+1 c+2 c.  free 58
    5  a+1 b+1 a. b.  free 64
    ");
}

#[test]
fn an_older_prompt_does_not_hold_up_a_younger_stream() {
    let mut sim = Sim::new(Limits {
        max_num_batched_tokens: 4,
        ..ROOMY
    });
    // b has a token and a gap of one while a, which ranks before it, still
    // computes its prompt.
    let a = Request {
        priority: 1,
        ..request(9, 1)
    };
    sim.submit("b", request(2, 3));
    sim.steps(1);
    sim.submit("a", a);
    insta::assert_snapshot!(sim.run(), @r"
    1  b+2  free 63
    2  b+1 a+3  free 57
    3  b+1 a+3 b.  free 59
    4  a+3 a.  free 64
    ");
}

#[test]
fn priority_then_arrival() {
    let mut sim = Sim::new(Limits {
        max_num_seqs: 1,
        ..ROOMY
    });
    for (name, priority) in [("low", -1), ("a", 0), ("b", 0), ("high", 7)] {
        let request = Request {
            priority,
            ..request(1, 1)
        };
        sim.submit(name, request);
    }
    insta::assert_snapshot!(sim.run(), @r"
    1  high+1 high.  free 64
    2  a+1 a.  free 64
    3  b+1 b.  free 64
    4  low+1 low.  free 64
    ");
}

#[test]
fn the_lowest_priority_yields_before_the_newest() {
    let mut sim = Sim::new(TINY);
    let low = Request {
        priority: -1,
        ..request(3, 4)
    };
    sim.submit("low", low);
    sim.submit("new", request(3, 3));
    insta::assert_snapshot!(sim.run(), @r"
    1  new+3 low+3  free 0
    2  new+1 low+1  free 0
    3  new+1 low- new.  free 4
    4  low+5  free 1
    5  low+1 low.  free 4
    ");
}

#[test]
fn who_was_preempted_returns_before_later_arrivals_and_leaves_room_to_grow() {
    let mut sim = Sim::new(Limits {
        num_blocks: 6,
        ..TINY
    });
    sim.submit("a", request(4, 6));
    let low = |request| Request {
        priority: -1,
        ..request
    };
    sim.submit("b", low(request(4, 3)));
    sim.submit("d", request(1, 2));
    sim.steps(1);
    sim.submit("c", low(request(2, 1)));
    // In step 2 both a and b need a third block, and one is free. b, now of 5
    // tokens, needs 3 to return, and these are free from step 3 on, but a would
    // take one of them in step 4, so b must find a fourth. c would fit all the
    // time, but came later.
    insta::assert_snapshot!(sim.run(), @r"
    1  a+4 d+1 b+4  free 1
    2  a+1 d+1 b- d.  free 3
    3  a+1  free 3
    4  a+1  free 2
    5  a+1  free 2
    6  a+1 a.  free 6
    7  b+5 c+2 c.  free 3
    8  b+1 b.  free 6
    ");
}

#[test]
fn a_parked_sequence_keeps_its_blocks_and_its_place() {
    let mut sim = Sim::new(ROOMY);
    let slow = Request {
        credit: 1,
        ..request(3, 3)
    };
    let slow = sim.submit("slow", slow);
    sim.submit("a", request(3, 5));
    sim.steps(2);
    assert_eq!(sim.engine.num_parked(), 1);
    sim.engine.set_credit(slow, 1);
    sim.steps(2);
    sim.engine.set_credit(slow, 9);
    insta::assert_snapshot!(sim.run(), @r"
    1  slow+3 a+3  free 60
    2  a+1  free 60
    3  slow+1 a+1  free 59
    4  a+1  free 59
    5  slow+1 a+1 slow. a.  free 64
    ");
}

#[test]
fn a_parked_sequence_yields_before_a_running_one_and_is_recomputed() {
    let mut sim = Sim::new(TINY);
    let slow = Request {
        credit: 1,
        priority: 5,
        ..request(3, 3)
    };
    let slow = sim.submit("slow", slow);
    sim.submit("a", request(3, 4));
    sim.steps(3);
    sim.engine.set_credit(slow, 9);
    insta::assert_snapshot!(sim.run(), @r"
    1  slow+3 a+3  free 0
    2  a+1  free 0
    3  a+1 slow-  free 1
    4  a+1 a.  free 4
    5  slow+4  free 2
    6  slow+1 slow.  free 4
    ");
}

#[test]
fn parked_sequences_do_not_keep_others_from_starting() {
    let mut sim = Sim::new(TINY);
    let slow = || Request {
        credit: 1,
        ..request(3, 2)
    };
    sim.submit("s", slow());
    sim.submit("t", slow());
    sim.steps(1);
    sim.submit("a", request(5, 1));
    insta::assert_snapshot!(sim.run(), @r"
    1  s+3 t+3  free 0
    2  a+5 t- s- a.  free 4
    ");
    assert_eq!(sim.engine.num_parked(), 2);
}

#[test]
fn a_request_without_credit_waits_for_it() {
    let mut sim = Sim::new(TINY);
    let slow = Request {
        credit: 0,
        ..request(3, 1)
    };
    let slow = sim.submit("slow", slow);
    assert!(!sim.engine.has_work());
    sim.steps(1);
    sim.engine.set_credit(slow, 1);
    insta::assert_snapshot!(sim.run(), @r"
    1   free 4
    2  slow+3 slow.  free 4
    ");
}

#[test]
fn more_resumed_sequences_than_the_batch_holds_take_turns_by_rank() {
    let mut sim = Sim::new(Limits {
        max_num_seqs: 1,
        ..ROOMY
    });
    let slow = Request {
        credit: 1,
        ..request(2, 3)
    };
    let slow = sim.submit("slow", slow);
    sim.submit("a", request(2, 4));
    sim.steps(2);
    sim.engine.set_credit(slow, 9);
    insta::assert_snapshot!(sim.run(), @r"
    1  slow+2  free 63
    2  a+2  free 62
    3  slow+1  free 61
    4  slow+1 slow.  free 63
    5  a+1  free 62
    6  a+1  free 62
    7  a+1 a.  free 64
    ");
}
