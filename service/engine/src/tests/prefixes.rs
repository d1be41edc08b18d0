//! What sequences that begin the same way share.

use super::fake::Fault;
use super::sim::{ROOMY, Sim, TINY, request};
use crate::{Event, Limits, Request, SequenceId, Share};

/// Shares with all others of its kind.
fn salted(prompt_len: usize, max_tokens: usize) -> Request {
    Request {
        salt: Some(7),
        ..request(prompt_len, max_tokens)
    }
}

fn cached(sim: &Sim, id: SequenceId) -> usize {
    match sim.end(id) {
        Event::Finished { usage, .. } => usage.cached_tokens,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_prompt_that_was_computed_once_is_not_computed_again() {
    let mut sim = Sim::new(ROOMY);
    let a = sim.submit("a", salted(7, 2));
    sim.run();
    let b = sim.submit("b", salted(7, 2));
    insta::assert_snapshot!(sim.run(), @r"
    1  a+7  free 60
    2  a+1 a.  free 64
    3  b+1  free 60
    4  b+1 b.  free 64
    ");
    assert_eq!((cached(&sim, a), cached(&sim, b)), (0, 6));
    assert_eq!(sim.tokens(a), sim.tokens(b));
}

#[test]
fn the_last_token_is_computed_even_if_its_block_is_cached() {
    let mut sim = Sim::new(ROOMY);
    sim.submit("a", salted(6, 2));
    sim.run();
    let b = sim.submit("b", salted(6, 2));
    let report = sim.step();
    assert_eq!(report.scheduled, [(b, 2)], "the block of the last token");
    assert_eq!((report.num_prompt, report.num_cached), (6, 4));
    sim.run();
    assert_eq!(cached(&sim, b), 4);
}

#[test]
fn a_conversation_goes_on_from_what_was_generated() {
    let mut sim = Sim::new(ROOMY);
    let first = salted(5, 6);
    let a = sim.submit("a", first.clone());
    sim.run();
    let mut second = salted(1, 2);
    second.prompt = first.prompt;
    second.prompt.extend(sim.tokens(a));
    second.prompt.extend([3, 4]);
    let b = sim.submit("b", second);
    sim.run();
    // Of the first one's 11 tokens the last was never computed.
    assert_eq!(cached(&sim, b), 10);
}

#[test]
fn other_salts_and_none_share_nothing() {
    let mut sim = Sim::new(ROOMY);
    for salt in [None, Some(7), None, Some(8), Some(7 << 64), Some(7)] {
        let request = Request {
            salt,
            ..salted(8, 1)
        };
        let id = sim.submit("a", request);
        sim.run();
        let want = match (salt, id.0) {
            (Some(7), 5) => 6,
            _ => 0,
        };
        assert_eq!(cached(&sim, id), want, "{salt:?}");
    }
}

#[test]
fn what_is_public_is_shared_across_salts_and_nothing_behind_it() {
    let mut sim = Sim::new(ROOMY);
    let public = |salt, num_public| Request {
        salt,
        num_public,
        ..salted(9, 1)
    };
    for (salt, num_public, want) in [
        (Some(7), 5, 0),
        // Pages of two tokens: two are public to their end.
        (Some(8), 5, 4),
        (Some(9), 3, 2),
        (Some(9), 0, 0),
        (None, 5, 0),
        // All of its own, and what is behind the public ones, too.
        (Some(8), 5, 8),
    ] {
        let id = sim.submit("a", public(salt, num_public));
        sim.run();
        assert_eq!(cached(&sim, id), want, "{salt:?} {num_public}");
    }
}

#[test]
fn requests_that_arrive_together_wait_for_the_one_that_computes_what_they_share() {
    let mut sim = Sim::new(Limits {
        max_num_batched_tokens: 4,
        ..ROOMY
    });
    let ids = ["a", "b", "c"].map(|name| sim.submit(name, salted(9, 2)));
    // d shares nothing with them, and isn't held up.
    let mut other = salted(3, 1);
    other.prompt = vec![9, 9, 9];
    sim.submit("d", other);
    insta::assert_snapshot!(sim.run(), @r"
    1  a+4  free 59
    2  a+4  free 59
    3  a+1 b+1 c+1 d+1  free 55
    4  a+1 b+1 c+1 d+1 a. b. c.  free 62
    5  d+1 d.  free 64
    ");
    let tokens = ids.map(|id| sim.tokens(id));
    assert!(tokens.iter().all(|t| *t == tokens[0]));
    assert_eq!(ids.map(|id| cached(&sim, id)), [0, 8, 8]);
}

#[test]
fn nobody_waits_for_one_that_ranks_behind() {
    let mut sim = Sim::new(Limits {
        max_num_batched_tokens: 4,
        ..ROOMY
    });
    sim.submit("low", salted(9, 1));
    sim.steps(1);
    let high = Request {
        priority: 1,
        ..salted(9, 1)
    };
    sim.submit("high", high);
    // It does use what the other has computed so far.
    insta::assert_snapshot!(sim.run(), @r"
    1  low+4  free 59
    2  high+4  free 56
    3  high+1 low+3 high.  free 59
    4  low+2 low.  free 64
    ");
}

#[test]
fn what_two_computed_side_by_side_is_kept_once() {
    let mut sim = Sim::new(Limits {
        block_size: 8,
        max_num_batched_tokens: 6,
        ..ROOMY
    });
    let a = sim.submit("a", salted(9, 9));
    sim.step();
    // Ranks before a, so it doesn't wait for it.
    let b = Request {
        priority: 1,
        ..salted(9, 9)
    };
    let b = sim.submit("b", b);
    let blocks = |sim: &Sim, id| -> Vec<_> { sim.engine.sequence(id).blocks.blocks().collect() };
    sim.step();
    assert_ne!(blocks(&sim, a)[0], blocks(&sim, b)[0]);
    sim.step();
    assert_eq!(blocks(&sim, a)[0], blocks(&sim, b)[0]);
    assert_eq!(sim.engine.num_free_blocks(), 64 - 3);
    sim.run();
    assert_eq!((cached(&sim, a), cached(&sim, b)), (0, 0));
    assert_eq!(sim.tokens(a), sim.tokens(b));
}

#[test]
fn the_longest_unused_is_given_up_first_and_ends_before_beginnings() {
    let mut sim = Sim::new(Limits {
        num_blocks: 8,
        ..TINY
    });
    let with = |first: u32| {
        let mut request = salted(6, 1);
        request.prompt[0] = first;
        request
    };
    for first in [1, 2] {
        sim.submit("a", with(first));
        sim.run();
    }
    // Both are there: three blocks each. The first is used again, so that the
    // other one is the older.
    let again = sim.submit("a", with(1));
    sim.run();
    assert_eq!(cached(&sim, again), 4);
    // Two blocks are free, and three more are needed.
    sim.submit("b", request(10, 1));
    let report = sim.step();
    assert_eq!(report.num_evicted, 3);
    let left = [1, 2].map(|first| {
        let id = sim.submit("c", with(first));
        sim.run();
        cached(&sim, id)
    });
    assert_eq!(left, [4, 0]);
}

#[test]
fn who_was_preempted_goes_on_from_what_is_still_cached() {
    let mut sim = Sim::new(Limits {
        num_blocks: 6,
        ..TINY
    });
    // In step 3 a takes the last of b's three blocks.
    let a = sim.submit("a", salted(5, 4));
    let mut other = salted(5, 4);
    other.prompt[0] = 9;
    let b = sim.submit("b", other);
    insta::assert_snapshot!(sim.run(), @r"
    1  a+5 b+5  free 0
    2  a+1 b+1  free 0
    3  a+1 b-  free 2
    4  a+1 a.  free 6
    5  b+3  free 2
    6  b+1 b.  free 6
    ");
    assert_eq!((cached(&sim, a), cached(&sim, b)), (0, 0), "it is its own");
}

#[test]
fn the_one_that_loses_least_yields() {
    let mut sim = Sim::new(Limits {
        num_blocks: 10,
        ..TINY
    });
    // In step 4 a needs a fourth block. The long one came last.
    sim.submit("a", request(4, 5));
    sim.submit("short", request(2, 6));
    sim.submit("long", request(8, 4));
    insta::assert_snapshot!(sim.run(), @r"
    1  a+4 short+2 long+8  free 3
    2  a+1 short+1 long+1  free 0
    3  a+1 short+1 long+1  free 0
    4  a+1 long+1 short- long.  free 6
    5  a+1 short+5 a.  free 7
    6  short+1  free 7
    7  short+1 short.  free 10
    ");
}

#[test]
fn the_tenant_that_had_most_yields_first() {
    let mut sim = Sim::new(Limits {
        num_blocks: 10,
        ..TINY
    });
    let of = |tenant, request| Request {
        share: Share { tenant, weight: 1 },
        ..request
    };
    // As above, and the long one, which would lose most, is of the tenant that
    // was served most.
    sim.submit("a", of(0, request(4, 5)));
    sim.submit("short", of(1, request(2, 6)));
    sim.submit("long", of(2, request(8, 4)));
    insta::assert_snapshot!(sim.run(), @r"
    1  a+4 short+2 long+8  free 3
    2  short+1 a+1 long+1  free 0
    3  short+1 a+1 long+1  free 0
    4  short+1 a+1 long-  free 3
    5  short+1 a+1 a.  free 7
    6  short+1 short.  free 10
    7  long+11 long.  free 10
    ");
}

#[test]
fn what_others_hold_as_well_is_no_loss() {
    let mut sim = Sim::new(Limits {
        num_blocks: 13,
        ..TINY
    });
    // In step 4 a needs a fourth block, and each of the others has seven tokens
    // computed. But four of d's are c's as well, in two blocks.
    sim.submit("a", request(4, 5));
    sim.submit("c", salted(5, 5));
    sim.submit("d", salted(6, 5));
    sim.submit("b", request(5, 5));
    insta::assert_snapshot!(sim.run(), @r"
    1  a+4 c+5 b+5  free 5
    2  a+1 c+1 b+1 d+2  free 3
    3  a+1 c+1 d+1 b+1  free 0
    4  a+1 c+1 b+1 d-  free 1
    5  a+1 c+1 d+4 b- a. c.  free 9
    6  d+1 b+9 b.  free 8
    7  d+1 d.  free 13
    ");
}

#[test]
fn nobody_yields_to_one_that_came_later() {
    let mut sim = Sim::new(Limits {
        num_blocks: 6,
        ..TINY
    });
    // In step 3 the long one needs a sixth block, and would lose more.
    sim.submit("short", request(2, 8));
    sim.submit("long", request(7, 4));
    insta::assert_snapshot!(sim.run(), @r"
    1  short+2 long+7  free 1
    2  short+1 long+1  free 0
    3  short+1 long-  free 4
    4  short+1  free 3
    5  short+1  free 3
    6  short+1  free 2
    7  short+1  free 2
    8  short+1 short.  free 6
    9  long+9  free 1
    10  long+1 long.  free 6
    ");
}

#[test]
fn pages_of_a_step_that_failed_are_not_used_again() {
    let mut sim = Sim::new(ROOMY);
    let a = sim.submit("a", salted(7, 9));
    sim.steps(2);
    let mut other = salted(3, 9);
    other.prompt = vec![9, 9, 9];
    sim.submit("b", other.clone());
    sim.model.fault = Fault::NanInFirstRow;
    sim.steps(1);
    sim.model.fault = Fault::None;
    assert_eq!(sim.engine.num_kept_blocks(), 0);
    let again = sim.submit("a", salted(7, 9));
    // b goes on, but nothing of it is kept.
    sim.steps(4);
    sim.run();
    assert_eq!((cached(&sim, a), cached(&sim, again)), (0, 0));
    let c = sim.submit("c", other);
    sim.run();
    assert_eq!(cached(&sim, c), 0);
}
