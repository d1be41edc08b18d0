//! How long a step takes, learned from the steps there were.
//!
//! A step reads the weights once, whatever is in the batch; computes every
//! token of it; looks from each at the positions before it; and computes
//! logits where somebody asked for them. So its time is taken to be a sum of
//! four terms, and what each costs is fitted to the times of the latest steps,
//! as least squares of relative errors.
//!
//! Most engines do the same thing for long: sixteen streams, a token each. That
//! says what such a step takes, and nothing about what a prompt would add. So
//! what the latest steps do not tell apart keeps the values it had, which were
//! learned when there was a prompt, and at first are [`USUAL`].
//!
//! Times decide how much a step takes on, and what a tenant is charged for it;
//! never which token comes.

use crate::{Span, Time};

/// What makes a step long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StepWork {
    /// Positions whose logits are wanted.
    rows: usize,
    /// Tokens computed, guesses included.
    tokens: usize,
    /// Positions that these look at, themselves included.
    attended: usize,
}

impl StepWork {
    pub(crate) fn of_span(span: &Span) -> StepWork {
        StepWork::new(span.position, span.len, span.num_logits)
    }

    /// `len` tokens from `position` on, with logits of so many of them.
    pub(crate) fn new(position: usize, len: usize, rows: usize) -> StepWork {
        StepWork {
            rows,
            tokens: len,
            attended: len * position + len * (len + 1) / 2,
        }
    }

    fn terms(self) -> [f64; NUM_TERMS] {
        [1, self.rows, self.tokens, self.attended].map(|count| count as f64)
    }
}

impl std::ops::AddAssign for StepWork {
    fn add_assign(&mut self, other: StepWork) {
        self.rows += other.rows;
        self.tokens += other.tokens;
        self.attended += other.attended;
    }
}

const NUM_TERMS: usize = 4;
const BASE: usize = 0;
const TOKEN: usize = 2;
const ATTENDED: usize = 3;

/// What the terms cost in relation to each other: about as with a model of 2
/// billion weights on two cores. In tokens of a prompt.
const USUAL: [f64; NUM_TERMS] = [4.0, 0.5, 1.0, 0.002];
/// Seconds of a token, before any step was timed.
const USUAL_UNIT: f64 = 1e-3;
/// Steps that say what steps take now.
const MEMORY: f64 = 64.0;
/// How many steps would have to contradict what was learned before, where the
/// latest ones hardly tell.
const INERTIA: f64 = 0.25;
/// A step that takes so many times as long as expected, or as short, is a
/// surprise: it may have lost its core for a while, or have failed.
const SURPRISE: f64 = 2.0;
/// A surprise teaches no more than such a step.
const CAUTION: f64 = 1.25;
/// So many in a row are none: that is what steps take now, and what they took
/// before says nothing any more.
const CHANGE: u32 = 4;
/// Nothing is free, or a step would take on any number of it.
const LEAST: f64 = 0.01;

/// What steps take.
#[derive(Debug)]
pub(crate) struct StepCost {
    /// Seconds of a token that costs what [`USUAL`] says; `None` before the
    /// first step.
    unit: Option<f64>,
    /// What each term costs, in what is usual.
    factors: [f64; NUM_TERMS],
    /// Normal equations of the latest steps, in relative errors.
    products: [[f64; NUM_TERMS]; NUM_TERMS],
    targets: [f64; NUM_TERMS],
    /// In a row.
    surprises: u32,
}

impl StepCost {
    pub(crate) fn new() -> StepCost {
        StepCost {
            unit: None,
            factors: [1.0; NUM_TERMS],
            products: [[0.0; NUM_TERMS]; NUM_TERMS],
            targets: [0.0; NUM_TERMS],
            surprises: 0,
        }
    }

    /// Whether any step was timed: before, times are of an unknown unit, and
    /// only their relations mean something.
    pub(crate) fn is_learned(&self) -> bool {
        self.unit.is_some()
    }

    /// Seconds of a step.
    pub(crate) fn of_step(&self, work: StepWork) -> f64 {
        let terms = work.terms();
        (0..NUM_TERMS).map(|n| self.price(n) * terms[n]).sum()
    }

    /// Seconds that some work adds to a step that is run anyway.
    pub(crate) fn added_by(&self, work: StepWork) -> f64 {
        self.of_step(work) - self.price(BASE)
    }

    /// How many tokens from `position` on can be computed in so many seconds,
    /// at most `max`.
    pub(crate) fn tokens_within(&self, seconds: f64, position: usize, max: usize) -> usize {
        if seconds == f64::INFINITY {
            return max;
        }
        // The n for which n token + attended (n position + n (n + 1) / 2) are
        // the seconds; written so that it is exact for a price of 0 as well.
        let (token, attended) = (self.price(TOKEN), self.price(ATTENDED));
        let linear = token + attended * (position as f64 + 0.5);
        let root = (linear * linear + 2.0 * attended * seconds.max(0.0)).sqrt();
        let tokens = 2.0 * seconds.max(0.0) / (linear + root);
        // Saturates.
        max.min(tokens as usize)
    }

    /// Takes note of how long a step took. Returns what of that was the work's,
    /// in seconds: all but what a held-up step took longer.
    pub(crate) fn learn(&mut self, work: StepWork, took: Time) -> f64 {
        let took = took.as_secs_f64();
        if took == 0.0 {
            return self.of_step(work);
        }
        if self.unit.is_none() {
            let usual: f64 = (0..NUM_TERMS).map(|n| USUAL[n] * work.terms()[n]).sum();
            self.unit = Some(took / usual);
        }
        let expected = self.of_step(work);
        let ratio = took / expected;
        if (1.0 / SURPRISE..=SURPRISE).contains(&ratio) {
            self.surprises = 0;
            self.add_equation(work, expected, ratio, MEMORY);
        } else if self.surprises < CHANGE {
            self.surprises += 1;
            let ratio = ratio.clamp(1.0 / CAUTION, CAUTION);
            self.add_equation(work, expected, ratio, MEMORY);
        } else {
            self.add_equation(work, expected, ratio, 2.0);
        }
        self.solve();
        took.min(SURPRISE * expected)
    }

    fn price(&self, term: usize) -> f64 {
        self.factors[term] * self.usual(term)
    }

    fn usual(&self, term: usize) -> f64 {
        USUAL[term] * self.unit.unwrap_or(USUAL_UNIT)
    }

    fn add_equation(&mut self, work: StepWork, expected: f64, target: f64, memory: f64) {
        let keep = 1.0 - 1.0 / memory;
        let terms = work.terms();
        let shares: [f64; NUM_TERMS] = std::array::from_fn(|n| self.usual(n) * terms[n] / expected);
        for (row, share) in shares.into_iter().enumerate() {
            for (column, other) in shares.into_iter().enumerate() {
                let product = &mut self.products[row][column];
                *product = *product * keep + share * other;
            }
            self.targets[row] = self.targets[row] * keep + share * target;
        }
    }

    /// A few rounds of coordinate descent from the last solution, which is also
    /// what the equations are drawn towards.
    fn solve(&mut self) {
        let before = self.factors;
        for _ in 0..4 {
            for (n, before) in before.into_iter().enumerate() {
                let others = (0..NUM_TERMS).filter(|other| *other != n);
                let explained: f64 = others
                    .map(|other| self.products[n][other] * self.factors[other])
                    .sum();
                let unexplained = self.targets[n] - explained + INERTIA * before;
                self.factors[n] = (unexplained / (self.products[n][n] + INERTIA)).max(LEAST);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose steps take what it says, in milliseconds.
    struct Machine {
        base: f64,
        row: f64,
        token: f64,
        attended: f64,
    }

    const SLOW: Machine = Machine {
        base: 12.0,
        row: 0.4,
        token: 2.5,
        attended: 0.004,
    };

    impl Machine {
        fn time(&self, work: StepWork) -> Time {
            let [one, rows, tokens, attended] = work.terms();
            let ms =
                self.base * one + self.row * rows + self.token * tokens + self.attended * attended;
            Time::from_secs_f64(ms / 1000.0)
        }
    }

    /// Streams at a position, and a chunk of a prompt.
    fn mixed(streams: usize, at: usize, chunk: usize) -> StepWork {
        let mut work = StepWork::default();
        for _ in 0..streams {
            work += StepWork::new(at, 1, 1);
        }
        if chunk > 0 {
            work += StepWork::new(at, chunk, 0);
        }
        work
    }

    fn assert_near(cost: &StepCost, machine: &Machine, work: StepWork, error: f64) {
        let (expected, real) = (cost.of_step(work), machine.time(work).as_secs_f64());
        assert!(
            (expected / real - 1.0).abs() < error,
            "{expected} instead of {real} for {work:?}, {cost:?}"
        );
    }

    /// A prompt beside some streams, then those alone for long.
    fn learned(machine: &Machine) -> StepCost {
        let mut cost = StepCost::new();
        for step in 0..300 {
            let chunk = [0, 5, 30, 120, 250][step % 5];
            let work = mixed(1 + step % 9, 100 + 7 * step, chunk);
            cost.learn(work, machine.time(work));
        }
        cost
    }

    #[test]
    fn steps_of_all_sizes_are_foretold() {
        for machine in [
            SLOW,
            Machine {
                base: 0.2,
                row: 0.05,
                token: 0.01,
                attended: 0.0001,
            },
        ] {
            let cost = learned(&machine);
            for work in [
                mixed(1, 500, 0),
                mixed(16, 1000, 0),
                mixed(1, 2000, 6),
                mixed(8, 100, 200),
            ] {
                assert_near(&cost, &machine, work, 0.1);
            }
        }
    }

    #[test]
    fn what_was_learned_of_prompts_outlasts_steps_without() {
        let mut cost = learned(&SLOW);
        for step in 0..5000 {
            let work = mixed(4, 100 + step / 4, 0);
            cost.learn(work, SLOW.time(work));
        }
        assert_near(&cost, &SLOW, mixed(4, 1000, 40), 0.15);
    }

    #[test]
    fn the_first_step_gives_the_unit_and_few_more_the_rest() {
        let mut cost = StepCost::new();
        assert!(!cost.is_learned());
        let work = mixed(1, 10, 0);
        cost.learn(work, SLOW.time(work));
        assert_near(&cost, &SLOW, work, 1e-9);
        for _ in 0..10 {
            let work = mixed(1, 10, 8);
            cost.learn(work, SLOW.time(work));
        }
        assert_near(&cost, &SLOW, mixed(1, 10, 8), 0.05);
    }

    #[test]
    fn a_step_that_was_held_up_changes_little() {
        let mut cost = learned(&SLOW);
        let work = mixed(4, 100, 0);
        let charged = cost.learn(work, Time::from_secs(5));
        let real = SLOW.time(work).as_secs_f64();
        assert!(charged < 2.2 * real, "{charged}");
        assert_near(&cost, &SLOW, work, 0.1);
    }

    #[test]
    fn nor_do_steps_that_were_over_at_once() {
        let mut cost = learned(&SLOW);
        let work = mixed(4, 100, 0);
        let before = cost.of_step(work);
        for _ in 0..CHANGE {
            cost.learn(work, SLOW.time(work) / 100);
        }
        assert!(cost.of_step(work) > 0.7 * before, "{cost:?}");
    }

    #[test]
    fn surprises_among_ordinary_steps_are_no_change() {
        let mut cost = learned(&SLOW);
        let work = mixed(4, 100, 0);
        for step in 0..100 {
            let times = if step % 10 == 9 { 10 } else { 1 };
            cost.learn(work, SLOW.time(work) * times);
        }
        assert_near(&cost, &SLOW, work, 0.1);
    }

    #[test]
    fn nothing_is_free() {
        let mut cost = StepCost::new();
        for step in 0..2000 {
            // As if more tokens took less.
            let (chunk, ms) = [(0, 15), (100, 10)][step % 2];
            cost.learn(mixed(1, 10, chunk), Time::from_millis(ms));
        }
        for n in 0..NUM_TERMS {
            assert!(cost.price(n) > 0.0, "{cost:?}");
        }
    }

    #[test]
    fn a_machine_that_has_become_slow_is_noticed() {
        let mut cost = learned(&SLOW);
        for step in 0..30 {
            let work = mixed(4, 100, [0, 30][step % 2]);
            cost.learn(work, SLOW.time(work) * 10);
        }
        let work = mixed(4, 100, 30);
        let (expected, real) = (cost.of_step(work), 10.0 * SLOW.time(work).as_secs_f64());
        assert!((expected / real - 1.0).abs() < 0.2, "{expected} {real}");
    }

    #[test]
    fn a_chunk_fills_its_time_and_no_more() {
        let cost = learned(&SLOW);
        for (ms, position) in [(15, 0), (30, 4000), (200, 100)] {
            let seconds = f64::from(ms) / 1000.0;
            let len = cost.tokens_within(seconds, position, 4096);
            let added = |len| cost.added_by(StepWork::new(position, len, 0));
            assert!(added(len) <= seconds, "{len} tokens in {ms} ms");
            assert!(added(len + 1) > seconds, "{len} tokens in {ms} ms");
        }
        // The last of ten thousand takes 21 ms, and a third of them is missing.
        let usual = StepCost::new();
        let seconds = usual.added_by(StepWork::new(0, 10_000, 0)) - 0.007;
        assert_eq!(usual.tokens_within(seconds, 0, 20_000), 9_999);
        assert_eq!(cost.tokens_within(f64::INFINITY, 9, 77), 77);
        assert_eq!(cost.tokens_within(1e30, 9, 77), 77);
        assert_eq!(cost.tokens_within(0.0, 9, 77), 0);
        assert_eq!(cost.tokens_within(-1.0, 9, 77), 0);
    }

    #[test]
    fn a_clock_that_stands_still_teaches_nothing() {
        let mut cost = StepCost::new();
        let work = mixed(1, 1, 1);
        assert_eq!(cost.learn(work, Time::ZERO), cost.of_step(work));
        assert!(!cost.is_learned());
    }
}
