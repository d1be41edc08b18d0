//! How sequences end, and what is said about it.

use super::fake::{END, FakeVocabulary, Fault};
use super::sim::{ROOMY, Sim, TINY, request};
use crate::{Event, FinishReason, Limits, Request, SubmitError, Time, Timings, Usage, Vocabulary};

fn secs(seconds: f64) -> Time {
    Time::from_secs_f64(seconds)
}

fn reason(event: &Event) -> &FinishReason {
    match event {
        Event::Finished { reason, .. } => reason,
        other => panic!("{other:?} is no ending"),
    }
}

fn timings(event: &Event) -> Timings {
    match event {
        Event::Finished { timings, .. } => *timings,
        other => panic!("{other:?} is no ending"),
    }
}

#[test]
fn the_events_of_a_sequence() {
    let mut sim = Sim::new(ROOMY);
    // The fake answers this prompt with one byte, then three, then half a
    // character.
    let mut request = request(4, 9);
    let tokens = [8, 9, 7];
    request.stopping.stop_tokens = vec![7];
    let id = sim.submit("a", request);
    sim.run();
    let token = |token, text_end| Event::Token {
        id,
        token,
        text_end,
        logprob: None,
        top: vec![],
    };
    // Tokens are sampled a quarter of a second after their step begins.
    let want = [
        Event::Started { id, at: secs(1.0) },
        token(tokens[0], 1),
        token(tokens[1], 4),
        token(tokens[2], 4),
        Event::Finished {
            id,
            reason: FinishReason::StopToken { token: 7 },
            text_end: 4,
            usage: Usage {
                prompt_tokens: 4,
                completion_tokens: 3,
                cached_tokens: 0,
            },
            timings: Timings {
                queue: secs(1.0),
                prefill: secs(0.25),
                time_to_first_token: Some(secs(1.25)),
                decode: secs(2.0),
                preemptions: 0,
            },
        },
    ];
    assert_eq!(sim.events, want);
}

#[test]
fn cancelling_frees_at_once_and_is_told_at_the_next_step() {
    let mut sim = Sim::new(TINY);
    let id = sim.submit("a", request(3, 4));
    sim.steps(2);
    assert_eq!(sim.engine.num_free_blocks(), 2);
    sim.engine.cancel(id, secs(2.5));
    assert_eq!(sim.engine.num_free_blocks(), 4);
    sim.engine.cancel(id, secs(2.6));
    sim.engine.set_credit(id, 3);
    assert!(sim.engine.has_work(), "there is an ending to tell");
    let report = sim.step();
    assert_eq!(report.finished, [(id, FinishReason::Cancelled)]);
    assert_eq!(report.num_tokens, 0);
    let want = Timings {
        queue: secs(1.0),
        prefill: secs(0.25),
        time_to_first_token: Some(secs(1.25)),
        decode: secs(1.25),
        preemptions: 0,
    };
    assert_eq!(timings(sim.end(id)), want);
    assert!(!sim.engine.has_work());
}

#[test]
fn what_never_ran_has_usage_and_timings_too() {
    let mut sim = Sim::new(TINY);
    let id = sim.submit("a", request(3, 4));
    sim.engine.cancel(id, secs(5.0));
    let mut events = Vec::new();
    sim.engine.drain_events(&mut events);
    let want = Event::Finished {
        id,
        reason: FinishReason::Cancelled,
        text_end: 0,
        usage: Usage {
            prompt_tokens: 3,
            completion_tokens: 0,
            cached_tokens: 0,
        },
        timings: Timings {
            queue: secs(5.0),
            ..Timings::default()
        },
    };
    assert_eq!(events, [want]);
}

#[test]
fn a_deadline_ends_waiting_running_and_parked_sequences_alike() {
    let mut sim = Sim::new(Limits {
        max_num_seqs: 2,
        ..ROOMY
    });
    let until_3 = || Request {
        deadline: Some(secs(3.0)),
        ..request(3, 9)
    };
    let parked = Request {
        credit: 1,
        ..until_3()
    };
    let parked = sim.submit("parked", parked);
    let first = sim.submit("first", until_3());
    sim.steps(1);
    let second = sim.submit("second", request(3, 9));
    let waiting = sim.submit("waiting", until_3());
    sim.steps(1);
    assert_eq!(sim.engine.next_deadline(), Some(secs(3.0)));
    assert_eq!((sim.engine.num_waiting(), sim.engine.num_parked()), (1, 1));
    let report = sim.step();
    assert_eq!(report.scheduled, [(second, 1)]);
    for id in [parked, first, waiting] {
        assert_eq!(reason(sim.end(id)), &FinishReason::DeadlineExceeded);
    }
    assert_eq!(sim.engine.next_deadline(), None);
}

#[test]
fn a_sequence_that_cannot_be_run_ends_alone_and_its_batch_mates_notice_nothing() {
    let prompt = |first, len| Request {
        prompt: [vec![first], vec![1; len]].concat(),
        ..request(1, 6)
    };
    let alone = |first, len| {
        let mut sim = Sim::new(ROOMY);
        let id = sim.submit("alone", prompt(first, len));
        sim.run();
        sim.tokens(id)
    };
    let mut sim = Sim::new(Limits {
        max_num_seqs: 7,
        ..ROOMY
    });
    // The culprits stand in both halves, and what runs has gaps of all kinds.
    let ids = [2, 7, 3, 4, 7, 5, 6].map(|first| sim.submit("x", prompt(first, first as usize)));
    sim.steps(3);
    sim.model.fault = Fault::Beginning(7);
    let report = sim.step();
    assert_eq!(report.scheduled.len(), 7);
    assert_eq!(report.finished.len(), 2);
    // 3 and 4; of those 1 and 2, 2 and 2; of the 2 with a culprit 1 and 1.
    assert_eq!(report.num_reruns, 10);
    for (id, first) in ids.into_iter().zip([2, 7, 3, 4, 7, 5, 6]) {
        match first {
            7 => assert!(matches!(reason(sim.end(id)), FinishReason::Failed { .. })),
            _ => {
                sim.run();
                assert_eq!(sim.tokens(id), alone(first, first as usize));
            }
        }
    }
    assert_eq!(sim.engine.num_free_blocks(), 64);
}

/// Falls over when it is asked for the bytes of a token.
struct Fragile(u32);

impl Vocabulary for Fragile {
    fn token_bytes(&self, token: u32) -> &[u8] {
        assert_ne!(token, self.0, "fragile");
        FakeVocabulary.token_bytes(token)
    }

    fn size(&self) -> usize {
        FakeVocabulary.size()
    }

    fn is_end(&self, token: u32) -> bool {
        FakeVocabulary.is_end(token)
    }
}

#[test]
fn a_panic_over_one_sequences_token_ends_that_sequence_only() {
    // The fake's second token for the one, and none of the other's.
    let mut sim = Sim::with_vocabulary(ROOMY, Fragile(9));
    let a = sim.submit("a", request(4, 9));
    let b = sim.submit("b", request(3, 2));
    sim.run();
    assert_eq!(sim.tokens(a).len(), 1);
    match reason(sim.end(a)) {
        FinishReason::Failed { message } => assert!(message.contains("fragile"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(reason(sim.end(b)), &FinishReason::Length);
    assert_eq!(sim.engine.num_free_blocks(), 64);
}

#[test]
fn a_step_that_fails_for_everyone_ends_its_batch_and_nothing_else() {
    let mut sim = Sim::new(Limits {
        max_num_seqs: 2,
        ..ROOMY
    });
    let a = sim.submit("a", request(3, 9));
    let b = sim.submit("b", request(3, 9));
    let c = sim.submit("c", request(3, 2));
    sim.steps(2);
    sim.model.fault = Fault::Step;
    sim.steps(1);
    sim.model.fault = Fault::None;
    let message = "the fake was told to fail".to_owned();
    for id in [a, b] {
        assert_eq!(sim.tokens(id).len(), 2);
        let failed = FinishReason::Failed {
            message: message.clone(),
        };
        assert_eq!(reason(sim.end(id)), &failed);
    }
    assert_eq!(sim.engine.num_free_blocks(), 64);
    sim.run();
    assert_eq!(reason(sim.end(c)), &FinishReason::Length);
}

#[test]
fn logits_that_are_no_numbers_end_their_own_sequence_only() {
    let mut sim = Sim::new(ROOMY);
    let a = sim.submit("a", request(3, 9));
    let b = sim.submit("b", request(4, 3));
    sim.steps(1);
    sim.model.fault = Fault::NanInFirstRow;
    sim.steps(1);
    sim.model.fault = Fault::None;
    sim.run();
    let message = "logit of token 0 is NaN".to_owned();
    assert_eq!(reason(sim.end(a)), &FinishReason::Failed { message });
    assert_eq!(reason(sim.end(b)), &FinishReason::Length);
}

#[test]
fn an_executor_that_returns_too_little_fails_the_step() {
    let mut sim = Sim::new(ROOMY);
    let a = sim.submit("a", request(3, 9));
    sim.model.fault = Fault::NoLogits;
    sim.steps(1);
    let message = "executor returned 0 rows of logits instead of 1".to_owned();
    assert_eq!(reason(sim.end(a)), &FinishReason::Failed { message });
}

#[test]
fn min_tokens_puts_off_every_kind_of_ending() {
    let ends_early = |min_tokens| {
        let mut request = request(3, 20);
        request.sampling.temperature = 1.0;
        request.stopping.ignore_eos = false;
        request.stopping.stop_tokens = vec![3];
        request.stopping.stop = vec![b"a".to_vec(), b"b".to_vec()];
        request.stopping.min_tokens = min_tokens;
        request
    };
    for seed in 0..50 {
        for min_tokens in [0, 1, 7, 20] {
            let mut request = ends_early(min_tokens);
            request.sampling.seed = seed;
            let mut sim = Sim::new(ROOMY);
            let id = sim.submit("a", request);
            sim.run();
            let tokens = sim.tokens(id);
            assert!(tokens.len() > min_tokens || tokens.len() == 20);
            let masked = &tokens[..min_tokens];
            assert!(!masked.contains(&END) && !masked.contains(&3), "{tokens:?}");
        }
    }
}

#[test]
fn a_stop_string_is_shown_only_if_wanted() {
    let text_end = |include_stop| {
        let mut request = request(2, 9);
        request.stopping.stop = vec![b"ab".to_vec()];
        request.stopping.include_stop = include_stop;
        let mut sim = Sim::new(ROOMY);
        let id = sim.submit("a", request);
        sim.run();
        match sim.end(id) {
            Event::Finished {
                reason: FinishReason::StopString { index: 0 },
                text_end,
                ..
            } => *text_end,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(text_end(true), text_end(false) + 2);
}

#[test]
fn refusals_say_what_is_wrong() {
    let limits = Limits {
        num_blocks: 6,
        max_num_seqs: 1,
        max_queued: 1,
        ..TINY
    };
    let mut sim = Sim::new(limits);
    let mut refusal = |change: fn(&mut Request)| {
        let mut request = request(3, 4);
        change(&mut request);
        let error = sim.engine.submit(request, Time::ZERO).unwrap_err();
        format!("{error}\n")
    };
    let mut refusals = String::new();
    let changes: [fn(&mut Request); 16] = [
        |r| r.prompt.clear(),
        |r| r.prompt = vec![1; 32],
        |r| r.stopping.max_tokens = 30,
        |r| r.stopping.max_tokens = usize::MAX,
        |r| r.stopping.max_tokens = 11,
        |r| r.prompt[1] = 12,
        |r| r.stopping.stop_tokens = vec![4, 99],
        |r| r.stopping.max_tokens = 0,
        |r| r.stopping.min_tokens = 5,
        |r| r.stopping.stop = vec![vec![]],
        |r| r.sampling.temperature = -0.5,
        |r| r.sampling.temperature = f32::INFINITY,
        |r| r.sampling.top_p = 0.0,
        |r| r.sampling.min_p = 1.5,
        |r| r.sampling.repetition_penalty = 0.0,
        |r| r.sampling.frequency_penalty = f32::NAN,
    ];
    for change in changes {
        refusals += &refusal(change);
    }
    insta::assert_snapshot!(refusals, @r"
    prompt has no tokens
    prompt has 32 tokens, and the context of 32 must hold at least one more
    prompt of 3 tokens with max_tokens 30 exceeds the context of 32 tokens
    prompt of 3 tokens with max_tokens 18446744073709551615 exceeds the context of 32 tokens
    sequence may need 7 KV blocks, and there are 6
    prompt holds token 12, and the vocabulary has 12 tokens
    stop_tokens holds token 99, and the vocabulary has 12 tokens
    max_tokens is 0, but must be at least 1
    min_tokens is 5, but must be at most max_tokens
    stop is an empty string, but must be at least one byte long
    temperature is -0.5, but must be a finite number, 0 or more
    temperature is inf, but must be a finite number, 0 or more
    top_p is 0, but must be above 0 and at most 1
    min_p is 1.5, but must be between 0 and 1
    repetition_penalty is 0, but must be a finite number above 0
    frequency_penalty is NaN, but must be a finite number
    ");

    sim.submit("fits exactly", request(3, 10));
    sim.submit("queued", request(3, 4));
    let error = sim.engine.submit(request(3, 4), Time::ZERO);
    let (queued, limit) = (2, 2);
    assert_eq!(error, Err(SubmitError::QueueFull { queued, limit }));
    sim.run();
    sim.submit("again", request(3, 4));
}
