//! Guesses at the next tokens, to be verified several at a time.
//!
//! A step that decodes few tokens waits for memory, so that a few more in the
//! same step cost little. A draft of what they may be is computed together with
//! the token before it, and sampling goes on along it for as long as it chooses
//! the very tokens that were guessed; so what is delivered is what would have
//! been without it.
//!
//! Whether drafts pay is measured: how often guesses come true, sequence by
//! sequence and also where none is computed, and what steps of so many tokens
//! take. All of it only decides how fast tokens come, never which.

mod acceptance;
mod allowance;
mod draft;
mod step_times;

use crate::Time;
#[cfg(test)]
use acceptance::Witness;
pub(crate) use acceptance::{Acceptance, Support};
pub(crate) use allowance::Allowance;
pub(crate) use draft::Draft;
use step_times::{MAX_STEP_TOKENS, StepTimes};

/// What a draft must gain to be worth its noise.
const MIN_GAIN: f64 = 1.05;
/// After so many steps with guesses one is run without, so that what steps take
/// without them is known.
const MAX_UNPROVEN: usize = 32;

/// Whether drafts pay, and of what length.
#[derive(Debug)]
pub(crate) struct Drafting {
    max_len: usize,
    /// Of all sequences: what a new one begins with.
    acceptance: Acceptance,
    times: StepTimes,
    /// Steps with guesses since one without.
    unproven: usize,
    /// Of the last step.
    step: Step,
}

/// What the guesses of a step have made of it, in steps without.
#[derive(Debug, Clone, Copy, Default)]
struct Step {
    /// What each adds.
    added: f64,
    /// What each that comes true saves: a token is one of as many as there are
    /// sequences.
    saved: f64,
}

/// What a step decodes so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decoding {
    sequences: usize,
    /// Tokens it computes.
    tokens: usize,
    /// Tokens that can be expected to come of it.
    expected: f64,
}

impl Decoding {
    /// One token for each of so many sequences.
    pub(crate) fn one_each(sequences: usize) -> Decoding {
        Decoding {
            sequences,
            tokens: sequences,
            expected: sequences as f64,
        }
    }

    /// Whether guesses are not even watched.
    pub(crate) fn is_full(self) -> bool {
        self.tokens >= MAX_STEP_TOKENS
    }
}

impl Drafting {
    pub(crate) fn new(max_len: usize) -> Drafting {
        Drafting {
            max_len,
            acceptance: Acceptance::usual(),
            times: StepTimes::new(),
            unproven: 0,
            step: Step::default(),
        }
    }

    /// What a new sequence begins with.
    pub(crate) fn acceptance(&self) -> Acceptance {
        self.acceptance
    }

    /// How many of a draft's guesses, at most `max_len`, get the step the most
    /// tokens for its time, and takes them up; 0 where none is better.
    pub(crate) fn choose_len(
        &self,
        step: &mut Decoding,
        supports: impl Iterator<Item = Support>,
        acceptance: &Acceptance,
        allowance: Allowance,
        max_len: usize,
    ) -> usize {
        if self.unproven >= MAX_UNPROVEN {
            return 0;
        }
        let max_len = max_len
            .min(self.max_len)
            .min(MAX_STEP_TOKENS.saturating_sub(step.tokens));
        let plain = self.times.relative(step.sequences);
        let before = self.times.relative(step.tokens);
        let (mut all, mut expected) = (1.0, step.expected);
        let mut best = (MIN_GAIN * step.expected / before, 0, step.expected);
        for (n, support) in supports.take(max_len).enumerate() {
            let len = n + 1;
            all *= acceptance.of(support);
            expected += all;
            let time = self.times.relative(step.tokens + len);
            if expected / time > best.0 && allowance.covers((time - before) / plain) {
                best = (expected / time, len, expected);
            }
        }
        step.tokens += best.1;
        step.expected = best.2;
        best.1
    }

    /// Takes note of whether a guess came true.
    pub(crate) fn learn_guess(
        &mut self,
        sequence: &mut Acceptance,
        support: Support,
        came_true: bool,
    ) {
        sequence.learn(support, came_true, 12.0);
        self.acceptance.learn(support, came_true, 64.0);
    }

    /// Settles the accounts of a sequence after a step.
    pub(crate) fn settle(&self, allowance: &mut Allowance, drafted: usize, accepted: usize) {
        let saved = accepted as f64 * self.step.saved;
        allowance.settle(saved, drafted as f64 * self.step.added);
    }

    /// Takes note of how long a step took that did nothing but decode.
    pub(crate) fn learn_time(&mut self, sequences: usize, drafted: usize, took: Time) {
        let times = self.times.learn(sequences, drafted, took.as_secs_f64());
        self.unproven = match drafted {
            0 => 0,
            _ => self.unproven + 1,
        };
        self.step = Step {
            added: (times - 1.0) / drafted.max(1) as f64,
            saved: 1.0 / sequences as f64,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SURE: Support = Support::Same(16, Witness::None);

    /// That much is paid for by guesses which came true.
    fn rich() -> Allowance {
        let mut allowance = Allowance::new();
        allowance.settle(1000.0, 0.0);
        allowance
    }

    /// A step of n tokens takes 1 + slope * (n - 1), a guess comes true with
    /// some probability.
    fn drafting(slope: f64) -> Drafting {
        Drafting {
            times: StepTimes::linear(slope),
            ..Drafting::new(8)
        }
    }

    fn length(slope: f64, acceptance: f64, sequences: usize, allowance: Allowance) -> usize {
        let mut step = Decoding::one_each(sequences);
        let supports = std::iter::repeat(SURE);
        let acceptance = Acceptance::all(acceptance);
        drafting(slope).choose_len(&mut step, supports, &acceptance, allowance, 8)
    }

    #[test]
    fn the_length_is_the_one_that_pays_most() {
        assert_eq!(length(0.0, 0.9, 1, rich()), 8, "guesses for nothing");
        assert_eq!(length(1.0, 0.9, 1, rich()), 0, "guesses as dear as tokens");
        assert_eq!(
            length(0.3, 0.05, 1, rich()),
            0,
            "guesses that don't come true"
        );
        // (1 + 0.5 + 0.25) / 1.4 = 1.25 is the best of 1.25 for one and two
        // within rounding, 1.875 / 1.6 for three.
        assert!((1..=2).contains(&length(0.2, 0.5, 1, rich())));
        // 64 tokens in all.
        assert_eq!(length(0.0, 0.9, 60, rich()), 4);
        assert_eq!(length(0.0, 0.9, 64, rich()), 0);
        assert_eq!(length(0.0, 0.9, 1000, rich()), 0);
    }

    #[test]
    fn no_more_is_guessed_than_the_allowance_covers() {
        let mut allowance = Allowance::new();
        // One step's worth of a fifth of a step each.
        assert_eq!(length(0.21, 0.99, 1, allowance), 4);
        allowance.settle(0.0, 0.9);
        assert_eq!(length(0.21, 0.99, 1, allowance), 0);
        allowance.settle(3.0, 0.5);
        assert_eq!(length(0.21, 0.99, 1, allowance), 8);
    }

    #[test]
    fn guesses_teach_those_with_as_much_before_them() {
        let mut drafting = Drafting::new(16);
        let mut sequence = drafting.acceptance();
        let [short, next] = [2, 3].map(|same| Support::Same(same, Witness::Agrees));
        let usual = sequence.of(next);
        for _ in 0..100 {
            drafting.learn_guess(&mut sequence, short, false);
            drafting.learn_guess(&mut sequence, SURE, true);
        }
        assert!(sequence.of(short) < 0.01 && sequence.of(SURE) > 0.99);
        assert_eq!(sequence.of(next), usual);
        let others = drafting.acceptance();
        assert!(others.of(short) < 0.2, "{others:?}");
    }

    #[test]
    fn steps_without_guesses_are_timed_now_and_then() {
        let mut drafting = drafting(0.1);
        let acceptance = Acceptance::all(0.9);
        let mut lens = (0..100).map(|_| {
            let mut step = Decoding::one_each(1);
            let supports = std::iter::repeat(SURE);
            let len = drafting.choose_len(&mut step, supports, &acceptance, rich(), 4);
            let took = Time::from_secs_f64(0.1 + 0.01 * len as f64);
            drafting.learn_time(1, len, took);
            len
        });
        assert!(lens.by_ref().take(MAX_UNPROVEN).all(|len| len == 4));
        assert_eq!(lens.next(), Some(0));
        assert_eq!(lens.next(), Some(4));
    }
}
