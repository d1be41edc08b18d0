//! Several samples of one request: their prompt is computed once, and each is
//! answered as a request of its own.

use super::fake::Fault;
use super::oracle::answer;
use super::sim::{ROOMY, Sim, TINY, request};
use crate::{Event, FinishReason, Limits, Request, Sampling, SequenceId, SubmitError};

#[test]
fn a_prompt_of_any_length_is_computed_once() {
    for prompt_len in 1..=9 {
        let mut sim = Sim::new(ROOMY);
        let ids = sim.submit_samples(["a", "b", "c"], drawn(prompt_len, 3));
        let mut computed = 0;
        for _ in 0..6 {
            computed += sim
                .step()
                .scheduled
                .iter()
                .map(|(_, len)| len)
                .sum::<usize>();
        }
        let generated: usize = ids.iter().map(|id| sim.tokens(*id).len()).sum();
        // The last token of each is never computed.
        assert_eq!(computed, prompt_len + generated - 3, "{prompt_len}");
    }
}

/// Samples differ.
fn drawn(prompt_len: usize, max_tokens: usize) -> Request {
    Request {
        sampling: Sampling {
            temperature: 1.5,
            seed: u64::MAX,
            ..Sampling::default()
        },
        ..request(prompt_len, max_tokens)
    }
}

fn check_answers(sim: &Sim, ids: &[SequenceId], request: &Request) {
    for (index, id) in ids.iter().enumerate() {
        let mut alone = request.clone();
        alone.sampling.seed = alone.sampling.seed.wrapping_add(index as u64);
        assert_eq!(sim.tokens(*id), answer(&alone).tokens, "sample {index}");
    }
    let first = sim.tokens(ids[0]);
    assert!(ids[1..].iter().any(|id| sim.tokens(*id) != first));
}

fn blocks(sim: &Sim, id: SequenceId) -> Vec<u32> {
    let blocks = sim.engine.sequence(id).blocks.blocks();
    blocks.map(|block| block.0).collect()
}

#[test]
fn a_prompt_is_computed_once_and_its_full_blocks_are_shared() {
    for salt in [None, Some(7)] {
        let mut sim = Sim::new(ROOMY);
        let request = Request {
            salt,
            ..drawn(7, 3)
        };
        let ids = sim.submit_samples(["a", "b", "c"], request.clone());
        let prompt = sim.step();
        assert_eq!(prompt.scheduled, [(ids[0], 7)]);
        assert_eq!((prompt.num_prompt, prompt.num_shared_rows), (7, 2));
        let forks = sim.step();
        assert_eq!((forks.num_shared, forks.num_copied), (14, 2));
        assert_eq!((forks.num_cached, forks.num_resumed), (0, 0));
        let tables = ids.map(|id| blocks(&sim, id));
        assert!(tables.iter().all(|table| table[..3] == tables[0][..3]));
        assert!(tables.iter().all(|table| table.len() == 4));
        assert!(tables[1][3] != tables[0][3] && tables[2][3] != tables[1][3]);
        insta::allow_duplicates! {
            insta::assert_snapshot!(sim.run(), @r"
        1  a+7  free 60
        2  a+1 b+1 c+1  free 58
        3  a+1 b+1 c+1 a. b. c.  free 64
        ");
        }
        check_answers(&sim, &ids, &request);
        let cached = ids.map(|id| match sim.end(id) {
            Event::Finished { usage, .. } => usage.cached_tokens,
            other => panic!("{other:?}"),
        });
        assert_eq!(cached, [0, 7, 7]);
        // What nobody can ask for again is not kept.
        let kept = if salt.is_none() { 0 } else { 3 };
        assert!(sim.engine.num_kept_blocks() >= kept);
        assert_eq!(salt.is_none(), sim.engine.num_kept_blocks() == 0);
    }
}

#[test]
fn one_token_each_takes_one_step_and_one_place() {
    let mut sim = Sim::new(Limits {
        max_num_seqs: 1,
        ..TINY
    });
    let request = drawn(7, 1);
    let ids = sim.submit_samples(["a", "b", "c", "d"], request.clone());
    insta::assert_snapshot!(sim.run(), @"1  a+7 a. b. c. d.  free 4");
    check_answers(&sim, &ids, &request);
}

#[test]
fn samples_outlive_the_one_that_computed_their_prompt() {
    // One at a time: each finds nobody with pages, and full blocks in the cache.
    let mut sim = Sim::new(Limits {
        max_num_seqs: 1,
        ..ROOMY
    });
    let request = drawn(7, 3);
    let ids = sim.submit_samples(["a", "b"], request.clone());
    insta::assert_snapshot!(sim.run(), @r"
    1  a+7  free 60
    2  a+1  free 60
    3  a+1 a.  free 64
    4  b+2  free 60
    5  b+1 b.  free 64
    ");
    check_answers(&sim, &ids, &request);
    assert_eq!(sim.engine.num_kept_blocks(), 0);
}

#[test]
fn a_long_prompt_is_waited_for_to_its_last_token() {
    let mut sim = Sim::new(Limits {
        max_num_batched_tokens: 4,
        ..ROOMY
    });
    let request = drawn(9, 2);
    let ids = sim.submit_samples(["a", "b"], request.clone());
    // Has nothing in common with them, and isn't held up.
    sim.submit("c", self::request(2, 2));
    insta::assert_snapshot!(sim.run(), @r"
    1  c+2 a+2  free 58
    2  c+1 a+3 c.  free 59
    3  a+4  free 59
    4  a+1 b+1 a. b.  free 64
    ");
    check_answers(&sim, &ids, &request);
}

#[test]
fn a_sample_that_was_preempted_computes_no_full_block_of_its_prompt_again() {
    let mut sim = Sim::new(Limits {
        num_blocks: 6,
        ..TINY
    });
    let request = drawn(5, 5);
    let ids = sim.submit_samples(["a", "b"], request.clone());
    insta::assert_snapshot!(sim.run(), @r"
    1  a+5  free 3
    2  a+1 b+1  free 2
    3  a+1 b+1  free 0
    4  a+1 b+1  free 0
    5  a+1 b- a.  free 6
    6  b+5 b.  free 6
    ");
    check_answers(&sim, &ids, &request);
}

#[test]
fn what_is_behind_the_prompt_is_the_samples_own() {
    // A sample whose reader has no room draws nothing, and is not forgotten.
    let mut sim = Sim::new(ROOMY);
    let request = drawn(5, 3);
    let ids = sim.submit_samples(["a", "b"], request.clone());
    sim.engine.set_credit(ids[1], 0);
    sim.steps(2);
    assert_eq!(sim.tokens(ids[1]), []);
    sim.engine.set_credit(ids[1], usize::MAX);
    let report = sim.step();
    // The last token of its prompt, for the row that it has missed.
    assert_eq!(report.scheduled, [(ids[0], 1), (ids[1], 1)]);
    assert_eq!((report.num_shared, report.num_copied), (4, 0));
    sim.run();
    check_answers(&sim, &ids, &request);
}

#[test]
fn all_samples_are_taken_or_none() {
    let mut sim = Sim::new(Limits {
        max_num_seqs: 2,
        max_queued: 3,
        ..TINY
    });
    let now = sim.now();
    let mut submit = |count| sim.engine.submit_samples(request(2, 2), count, now);
    for count in [0, 6] {
        let refused = submit(count).unwrap_err();
        assert!(matches!(refused, SubmitError::BadParameter { .. }));
    }
    let first = submit(3).unwrap();
    let (queued, limit) = (3, 5);
    let full = SubmitError::QueueFull { queued, limit };
    assert_eq!(submit(3), Err(full));
    let next = submit(2).unwrap();
    assert_eq!(next.0, first.0 + 3);
    // A prompt counts once among those that wait.
    assert_eq!(sim.engine.num_queued_tokens(), 4);
}

#[test]
fn a_row_that_nobody_can_be_sampled_from_ends_the_one_it_is_of() {
    let mut sim = Sim::new(ROOMY);
    let request = drawn(7, 3);
    let ids = sim.submit_samples(["a", "b"], request.clone());
    sim.model.fault = Fault::NanInFirstRow;
    sim.step();
    sim.model.fault = Fault::None;
    // Nothing of what it left is used.
    let report = sim.step();
    assert_eq!(report.scheduled, [(ids[1], 7)]);
    sim.run();
    match sim.end(ids[0]) {
        Event::Finished { reason, .. } => assert!(matches!(reason, FinishReason::Failed { .. })),
        other => panic!("{other:?}"),
    }
    let mut alone = request;
    alone.sampling.seed = alone.sampling.seed.wrapping_add(1);
    assert_eq!(sim.tokens(ids[1]), answer(&alone).tokens);
}
