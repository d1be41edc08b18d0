//! Guesses at the next tokens, to be verified several at a time.
//!
//! A step that decodes few tokens waits for memory, so that a few more in the
//! same step cost little. Text that repeats itself says what they may be: the
//! tokens that followed the last time its end occurred (prompt lookup decoding,
//! Saxena, 2023). A draft is computed together with the token before it, and
//! sampling goes on along it for as long as it chooses the very tokens that
//! were guessed; so what is delivered is what would have been without it.
//!
//! Whether drafts pay is measured: how often guesses come true, sequence by
//! sequence and also where none is computed, and what a token more adds to a
//! step. Both only decide how fast tokens come, never which.

use crate::Time;

/// Tokens at the end of a sequence that must have occurred before.
const MIN_MATCH: usize = 2;
/// As many are as good as more.
const MAX_MATCH: usize = 16;

/// Steps of more tokens than this are bound by arithmetic: there a guess costs
/// what a token costs.
const MAX_STEP_TOKENS: usize = 64;
/// What a draft must gain to be worth its noise.
const MIN_GAIN: f64 = 1.02;
/// What a token more adds to a step of one, before it was ever measured.
const USUAL_SLOPE: f64 = 0.3;
/// How often guesses come true, likewise, by how many tokens before them occurred
/// before: 2, 3, 4 to 7, 8 to 15, and more.
const USUAL_ACCEPTANCE: [f64; 5] = [0.35, 0.45, 0.6, 0.75, 0.9];

/// Tokens of a sequence that are guessed to come again: those from `source`
/// to its end, and then from `source` on again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Draft {
    source: usize,
    period: usize,
    /// Tokens that are the same before `source` and at the end.
    matching: usize,
    /// How many the step computes; with none the guess is only watched.
    pub(crate) len: usize,
}

impl Draft {
    /// What followed the longest and latest earlier occurrence of the
    /// sequence's end. None of it is computed yet.
    pub(crate) fn look_up(tokens: &[u32]) -> Option<Draft> {
        let last = *tokens.last()?;
        let mut best = (MIN_MATCH - 1, 0);
        for source in (MIN_MATCH..tokens.len()).rev() {
            // Nearly all places end here.
            if tokens[source - 1] != last {
                continue;
            }
            let pairs = tokens[..source].iter().rev().zip(tokens.iter().rev());
            let matching = pairs.take(MAX_MATCH).take_while(|(a, b)| a == b).count();
            if matching > best.0 {
                best = (matching, source);
            }
            if matching == MAX_MATCH {
                break;
            }
        }
        let (matching, source) = best;
        (matching >= MIN_MATCH).then_some(Draft {
            source,
            period: tokens.len() - source,
            matching,
            len: 0,
        })
    }

    /// Tokens before the n-th guess that occurred before, if all guesses before
    /// it came true.
    pub(crate) fn matching_at(self, n: usize) -> usize {
        self.matching + n
    }

    /// The n-th guess, given the sequence it was looked up in.
    pub(crate) fn guess(self, n: usize, of: &[u32]) -> u32 {
        of[self.source + n % self.period]
    }
}

/// How often guesses have come true of late, by [`class`]. The longer the text
/// before a guess has been the same, the surer it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acceptance([f64; USUAL_ACCEPTANCE.len()]);

/// Which of the acceptances is that of a guess with so many tokens before it
/// that occurred before.
fn class(matching: usize) -> usize {
    match matching {
        ..=2 => 0,
        3 => 1,
        4..=7 => 2,
        8..=15 => 3,
        16.. => 4,
    }
}

impl Acceptance {
    fn learn(&mut self, matching: usize, came_true: bool, weight: f64) {
        let acceptance = &mut self.0[class(matching)];
        *acceptance += weight * (f64::from(u8::from(came_true)) - *acceptance);
    }

    /// How many of a draft's first guesses will come true before the first that
    /// does not: of none, of one, and so on.
    fn expected(self, draft: Draft) -> impl Iterator<Item = f64> {
        let (mut all, mut sum, mut n) = (1.0, 0.0, 0);
        std::iter::from_fn(move || {
            let expected = sum;
            all *= self.0[class(draft.matching_at(n))];
            sum += all;
            n += 1;
            Some(expected)
        })
    }
}

/// Whether drafts pay, and of what length.
#[derive(Debug)]
pub(crate) struct Drafting {
    max_len: usize,
    /// Of all sequences: what a new one begins with.
    acceptance: Acceptance,
    /// What a token more adds to a step, as a share of a step of one token.
    slope: f64,
    /// Seconds of a step of one token.
    base: Option<f64>,
}

/// What a step decodes so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decoding {
    /// Tokens it computes.
    tokens: usize,
    /// Tokens that can be expected to come of it.
    expected: f64,
}

impl Decoding {
    /// One token for each of so many sequences.
    pub(crate) fn one_each(sequences: usize) -> Decoding {
        Decoding {
            tokens: sequences,
            expected: sequences as f64,
        }
    }
}

impl Drafting {
    pub(crate) fn new(max_len: usize) -> Drafting {
        Drafting {
            max_len,
            acceptance: Acceptance(USUAL_ACCEPTANCE),
            slope: USUAL_SLOPE,
            base: None,
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
        draft: Draft,
        acceptance: Acceptance,
        max_len: usize,
    ) -> usize {
        let max_len = max_len
            .min(self.max_len)
            .min(MAX_STEP_TOKENS.saturating_sub(step.tokens));
        let expected = acceptance.expected(draft).take(max_len + 1);
        let rates = expected.enumerate().map(|(len, expected)| {
            let expected = step.expected + expected;
            let rate = expected / self.relative_time(step.tokens + len);
            (rate, len, expected)
        });
        let none = step.expected / self.relative_time(step.tokens);
        let best = rates.max_by(|a, b| a.0.total_cmp(&b.0));
        match best {
            Some((rate, len, expected)) if len > 0 && rate >= MIN_GAIN * none => {
                step.tokens += len;
                step.expected = expected;
                len
            }
            _ => 0,
        }
    }

    /// A step's time in steps of one token.
    fn relative_time(&self, tokens: usize) -> f64 {
        1.0 + self.slope * (tokens as f64 - 1.0)
    }

    /// Takes note of whether a guess came true that so many tokens spoke for.
    pub(crate) fn learn_guess(
        &mut self,
        sequence: &mut Acceptance,
        matching: usize,
        came_true: bool,
    ) {
        sequence.learn(matching, came_true, 1.0 / 8.0);
        self.acceptance.learn(matching, came_true, 1.0 / 64.0);
    }

    /// Takes note of how long a step took that did nothing but decode. Those
    /// without drafts say what steps take, those with drafts what these add.
    pub(crate) fn learn_time(&mut self, sequences: usize, drafted: usize, took: Time) {
        let (took, tokens) = (took.as_secs_f64(), sequences + drafted);
        if sequences == 0 || took == 0.0 {
            return;
        }
        match (drafted, self.base) {
            (0, base) => {
                let found = took / self.relative_time(tokens);
                // One step that lost its core for a while says nothing.
                self.base =
                    Some(base.map_or(found, |base| toward(base, found.min(2.0 * base), 8.0)));
                // What was found too dear once is tried again some time.
                self.slope = toward(self.slope, USUAL_SLOPE, 256.0);
            }
            (_, Some(base)) => {
                let found = (took / base - 1.0) / (tokens as f64 - 1.0);
                self.slope = toward(self.slope, found.clamp(0.0, 2.0), 8.0);
            }
            (_, None) => {}
        }
    }
}

fn toward(from: f64, to: f64, steps: f64) -> f64 {
    from + (to - from) / steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked_up(tokens: &[u32], len: usize) -> Option<Vec<u32>> {
        let draft = Draft::look_up(tokens)?;
        Some((0..len).map(|n| draft.guess(n, tokens)).collect())
    }

    #[test]
    fn what_followed_last_time_follows_again() {
        assert_eq!(looked_up(&[1, 2, 3, 4, 5, 1, 2], 3), Some(vec![3, 4, 5]));
        // The later of two as long.
        assert_eq!(looked_up(&[1, 2, 3, 1, 2, 4, 1, 2], 1), Some(vec![4]));
        // The longer before the later.
        let tokens = [7, 1, 2, 3, 9, 1, 2, 4, 7, 1, 2];
        assert_eq!(looked_up(&tokens, 1), Some(vec![3]));
    }

    #[test]
    fn repetition_is_guessed_to_go_on() {
        assert_eq!(looked_up(&[8, 1, 2, 1, 2], 5), Some(vec![1, 2, 1, 2, 1]));
        assert_eq!(looked_up(&[5, 5, 5], 4), Some(vec![5, 5, 5, 5]));
    }

    #[test]
    fn without_an_earlier_occurrence_there_is_no_guess() {
        assert_eq!(looked_up(&[], 3), None);
        assert_eq!(looked_up(&[1, 1], 3), None);
        assert_eq!(looked_up(&[1, 2, 3, 4, 2], 3), None, "one token is too few");
    }

    /// A step of n tokens takes 1 + slope * (n - 1), a guess comes true with
    /// some probability.
    fn length(slope: f64, acceptance: f64, sequences: usize) -> usize {
        let drafting = Drafting {
            slope,
            ..Drafting::new(8)
        };
        let mut step = Decoding::one_each(sequences);
        let draft = Draft::look_up(&[1, 2, 1, 2]).expect("it repeats itself");
        let acceptance = Acceptance([acceptance; USUAL_ACCEPTANCE.len()]);
        drafting.choose_len(&mut step, draft, acceptance, 8)
    }

    #[test]
    fn the_length_is_the_one_that_pays_most() {
        assert_eq!(length(0.0, 0.9, 1), 8, "guesses for nothing");
        assert_eq!(length(1.0, 0.9, 1), 0, "guesses as dear as tokens");
        assert_eq!(length(0.3, 0.05, 1), 0, "guesses that don't come true");
        // (1 + 0.5 + 0.25) / 1.4 = 1.25 is the best of 1.25 for one and two
        // within rounding, 1.875 / 1.6 for three.
        assert!((1..=2).contains(&length(0.2, 0.5, 1)));
        // 64 tokens in all.
        assert_eq!(length(0.0, 0.9, 60), 4);
        assert_eq!(length(0.0, 0.9, 64), 0);
        assert_eq!(length(0.0, 0.9, 1000), 0);
    }

    #[test]
    fn the_longer_the_same_text_the_more_is_guessed() {
        let drafting = Drafting {
            slope: 0.2,
            ..Drafting::new(16)
        };
        let len = |period: usize| {
            let tokens: Vec<u32> = (0..2 * period).map(|i| (i % period) as u32).collect();
            let draft = Draft::look_up(&tokens).expect("it repeats itself");
            let mut step = Decoding::one_each(1);
            drafting.choose_len(&mut step, draft, drafting.acceptance(), 16)
        };
        assert!(len(2) < len(8) && len(8) < len(16));
    }

    #[test]
    fn guesses_teach_those_with_as_much_before_them() {
        let mut drafting = Drafting::new(16);
        let mut sequence = drafting.acceptance();
        for _ in 0..100 {
            drafting.learn_guess(&mut sequence, 2, false);
            drafting.learn_guess(&mut sequence, 20, true);
        }
        let [short, next, .., long] = sequence.0;
        assert!(
            short < 0.01 && next == USUAL_ACCEPTANCE[1] && long > 0.99,
            "{sequence:?}"
        );
    }

    #[test]
    fn times_teach_what_a_guess_costs() {
        let mut drafting = Drafting::new(8);
        let time = |tokens: f64| Time::from_secs_f64(0.01 * (1.0 + 0.9 * (tokens - 1.0)));
        for _ in 0..40 {
            drafting.learn_time(1, 0, time(1.0));
            drafting.learn_time(1, 3, time(4.0));
        }
        assert!((drafting.slope - 0.9).abs() < 0.05, "{drafting:?}");
        // And forgets it when none is computed for long.
        for _ in 0..2000 {
            drafting.learn_time(1, 0, time(1.0));
        }
        assert!((drafting.slope - USUAL_SLOPE).abs() < 0.01, "{drafting:?}");
    }

    #[test]
    fn a_step_that_was_held_up_changes_little() {
        let mut drafting = Drafting::new(8);
        drafting.learn_time(1, 0, Time::from_millis(10));
        drafting.learn_time(1, 0, Time::from_secs(5));
        assert!(drafting.base.unwrap() < 0.012, "{drafting:?}");
    }
}
