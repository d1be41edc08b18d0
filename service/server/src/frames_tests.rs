use std::time::Duration;

use super::*;

/// Tokens whose bytes cut characters in the middle.
struct Pieces(Vec<&'static [u8]>);

impl Vocabulary for Pieces {
    fn token_bytes(&self, token: u32) -> &[u8] {
        self.0[token as usize]
    }

    fn size(&self) -> usize {
        self.0.len()
    }

    fn is_end(&self, _: u32) -> bool {
        false
    }
}

fn assembler(pieces: &[&'static [u8]]) -> Assembler {
    Assembler::new(0, Arc::new(Pieces(pieces.to_vec())))
}

fn text_of(delta: Option<v1::Delta>) -> String {
    delta.expect("there is a delta").text
}

#[test]
fn a_character_is_shown_when_its_last_byte_is_there() {
    // "é" is C3 A9, "😀" is F0 9F 98 80.
    let mut a = assembler(&[b"caf\xc3", b"\xa9 \xf0\x9f", b"\x98", b"\x80!"]);
    let mut shown = Vec::new();
    for (token, text_end) in [(0, 4), (1, 8), (2, 9), (3, 11)] {
        a.push(token, text_end, None, &[]);
        let delta = a.take().expect("every token is told");
        assert_eq!(delta.token_ids, [token]);
        shown.push(delta.text);
    }
    assert_eq!(shown, ["caf", "é ", "", "😀!"]);
    a.finish(11);
    assert!(a.take().is_none(), "nothing is left");
}

#[test]
fn text_that_may_begin_a_stop_string_waits_until_the_engine_releases_it() {
    let mut a = assembler(&[b"one ST", b"ART", b"OP two"]);
    a.push(0, 4, None, &[]);
    assert_eq!(text_of(a.take()), "one ");
    // "START" is no stop string after all.
    a.push(1, 9, None, &[]);
    assert_eq!(text_of(a.take()), "START");
    // Now "STOP" is held and never released: it ended the text.
    a.push(2, 9, None, &[]);
    assert_eq!(text_of(a.take()), "");
    a.finish(9);
    assert!(a.take().is_none(), "the stop string is not shown");
}

#[test]
fn held_text_is_shown_at_the_end_if_it_was_no_stop_string() {
    let mut a = assembler(&[b"one ST"]);
    a.push(0, 4, None, &[]);
    assert_eq!(text_of(a.take()), "one ");
    a.finish(6);
    assert_eq!(text_of(a.take()), "ST");
}

#[test]
fn an_unfinished_character_at_the_end_becomes_a_replacement_character() {
    let mut a = assembler(&[b"a\xf0\x9f"]);
    a.push(0, 3, None, &[]);
    assert_eq!(text_of(a.take()), "a");
    a.finish(3);
    assert_eq!(text_of(a.take()), "\u{fffd}");
}

#[test]
fn tokens_that_come_together_are_one_delta_with_a_logprob_each() {
    let mut a = assembler(&[b"x", b"y"]);
    let top = [TokenLogprob {
        token: 1,
        logprob: -0.25,
    }];
    a.push(0, 1, Some(-1.5), &top);
    a.push(1, 2, Some(-0.25), &top);
    let delta = a.take().expect("a delta");
    assert_eq!(delta.text, "xy");
    assert_eq!(delta.token_ids, [0, 1]);
    let logprobs: Vec<(u32, f32, usize)> = delta
        .logprobs
        .iter()
        .map(|l| (l.token_id, l.logprob, l.top.len()))
        .collect();
    assert_eq!(logprobs, [(0, -1.5, 1), (1, -0.25, 1)]);
}

#[test]
fn endings_say_what_matched_and_who_ended_them() {
    use v1::{FinishReason as To, finished::Matched};
    let stop = ["a".to_owned(), "b".to_owned()];
    let cases = [
        (FinishReason::Length, false, To::Length, None),
        (
            FinishReason::EndOfSequence { token: 5 },
            false,
            To::Stop,
            Some(Matched::StopTokenId(5)),
        ),
        (
            FinishReason::StopToken { token: 6 },
            false,
            To::Stop,
            Some(Matched::StopTokenId(6)),
        ),
        (
            FinishReason::StopString { index: 1 },
            false,
            To::Stop,
            Some(Matched::StopString("b".to_owned())),
        ),
        (FinishReason::Cancelled, false, To::Cancelled, None),
        (FinishReason::Cancelled, true, To::Drained, None),
        (FinishReason::Length, true, To::Length, None),
        (
            FinishReason::DeadlineExceeded,
            false,
            To::DeadlineExceeded,
            None,
        ),
    ];
    for (reason, drained, to, matched) in cases {
        match outcome(&reason, &stop, drained, "id") {
            Outcome::Finished(got, got_matched) => {
                assert_eq!((got, got_matched), (to, matched), "{reason:?}");
            }
            Outcome::Failed(status) => panic!("{reason:?} became {status}"),
        }
    }
    let failed = FinishReason::Failed {
        message: "secret detail".to_owned(),
    };
    match outcome(&failed, &stop, false, "id") {
        Outcome::Failed(status) => {
            assert_eq!(status.code(), Code::Internal);
            assert!(!status.message().contains("secret"), "{status}");
        }
        Outcome::Finished(..) => panic!("a failure is no ending"),
    }
}

#[test]
fn times_are_seconds() {
    let times = timings(&Timings {
        queue: Duration::from_millis(1500),
        prefill: Duration::from_millis(250),
        time_to_first_token: None,
        decode: Duration::from_secs(2),
        preemptions: 3,
    });
    assert_eq!(
        times,
        v1::Timings {
            queue_seconds: 1.5,
            prefill_seconds: 0.25,
            time_to_first_token_seconds: 0.0,
            decode_seconds: 2.0,
            preemptions: 3,
        }
    );
}
