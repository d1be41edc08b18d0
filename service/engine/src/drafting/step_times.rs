//! What a step of so many tokens takes, in relation to one of fewer.
//!
//! Kernels compute some numbers of tokens better than others: the second may
//! cost next to nothing where the third costs a third of a step. So what each
//! number takes is learned by itself, and the others near it with it, from
//! steps that did nothing but decode. Those without guesses say what steps take
//! now, whatever their context and the machine's mood, and those with guesses
//! what these add to it.

/// Steps of more tokens than this are bound by arithmetic: there a guess costs
/// what a token costs.
pub(crate) const MAX_STEP_TOKENS: usize = 64;
/// What a token more adds to a step of one, before it was ever measured.
const USUAL_SLOPE: f64 = 0.3;
/// A step that takes so many times as long as expected was held up: it lost its
/// core for a while, and says no more than such a step.
const HELD_UP: f64 = 2.0;
/// The same where there were no guesses, so that times hardly vary. One that was
/// held up would make guesses look cheap.
const HELD_UP_PLAIN: f64 = 1.25;

#[derive(Debug)]
pub(super) struct StepTimes {
    /// Seconds of a step of one token.
    base: Option<f64>,
    /// What the tokens of a step of so many add to it, on average, beyond the
    /// first, as a share of it.
    slopes: [f64; MAX_STEP_TOKENS + 1],
}

impl StepTimes {
    pub(super) fn new() -> StepTimes {
        StepTimes {
            base: None,
            slopes: [USUAL_SLOPE; MAX_STEP_TOKENS + 1],
        }
    }

    /// A step's time in steps of one token.
    pub(super) fn relative(&self, tokens: usize) -> f64 {
        let slope = self.slopes[tokens.min(MAX_STEP_TOKENS)];
        1.0 + slope * (tokens as f64 - 1.0)
    }

    /// Takes note of how long a step took. Returns how many times as long that
    /// was as it would have been without guesses, as far as one can know.
    pub(super) fn learn(&mut self, sequences: usize, drafted: usize, seconds: f64) -> f64 {
        let tokens = sequences + drafted;
        let (expected, plain) = (self.relative(tokens), self.relative(sequences));
        // From a clock that stands still there is nothing to learn.
        if seconds == 0.0 {
            return expected / plain;
        }
        if drafted == 0 {
            let found = seconds / self.relative(tokens);
            self.base = Some(self.base.map_or(found, |base| {
                toward(base, found.min(HELD_UP_PLAIN * base), 8.0)
            }));
            // What was found too dear once is tried again some time.
            for slope in &mut self.slopes {
                *slope = toward(*slope, USUAL_SLOPE, 1024.0);
            }
            return 1.0;
        }
        let Some(base) = self.base else {
            return expected / plain;
        };
        let took = (seconds / base).min(HELD_UP * expected);
        let slope = ((took - 1.0) / (tokens as f64 - 1.0)).clamp(0.0, 2.0);
        if tokens <= MAX_STEP_TOKENS {
            self.learn_slope(tokens, slope);
        }
        took / plain
    }

    /// The less the further away.
    fn learn_slope(&mut self, tokens: usize, slope: f64) {
        for (n, learned) in self.slopes.iter_mut().enumerate().skip(2) {
            let distance = n.abs_diff(tokens) as f64;
            *learned = toward(*learned, slope, 6.0 * (1.0 + distance));
        }
    }
}

fn toward(from: f64, to: f64, steps: f64) -> f64 {
    from + (to - from) / steps
}

#[cfg(test)]
impl StepTimes {
    pub(super) fn linear(slope: f64) -> StepTimes {
        StepTimes {
            base: None,
            slopes: [slope; MAX_STEP_TOKENS + 1],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two tokens as one, then a stair for every two.
    fn stairs(tokens: usize) -> f64 {
        0.01 * (1.0 + 0.4 * ((tokens - 1) / 2) as f64)
    }

    fn learned(lengths: &[usize]) -> StepTimes {
        let mut times = StepTimes::new();
        for _ in 0..40 {
            times.learn(1, 0, stairs(1));
            for drafted in lengths {
                times.learn(1, *drafted, stairs(1 + drafted));
            }
        }
        times
    }

    #[test]
    fn each_number_of_tokens_has_its_time() {
        let times = learned(&[1, 2, 3, 5]);
        for tokens in [1, 2, 3, 4, 6] {
            let (found, real) = (times.relative(tokens), stairs(tokens) / stairs(1));
            assert!((found / real - 1.0).abs() < 0.1, "{tokens}: {found}");
        }
    }

    #[test]
    fn those_that_were_never_tried_take_what_those_near_them_say() {
        let times = learned(&[5]);
        let (found, real) = (times.relative(8), stairs(8) / stairs(1));
        assert!((found / real - 1.0).abs() < 0.15, "{found}");
    }

    #[test]
    fn what_is_told_is_what_guesses_made_of_the_step() {
        let mut times = learned(&[3]);
        assert_eq!(times.learn(1, 0, stairs(1)), 1.0);
        let told = times.learn(1, 3, 0.02);
        assert!((told - 2.0).abs() < 0.05, "{told}");
        // With three sequences they are only one of four tokens' work.
        let told = learned(&[1, 2, 3]).learn(3, 1, stairs(4));
        assert!((told - stairs(4) / stairs(3)).abs() < 0.1, "{told}");
    }

    #[test]
    fn a_step_that_was_held_up_changes_little() {
        let mut times = learned(&[3]);
        let before = times.relative(4);
        times.learn(1, 0, 5.0);
        assert!(times.base.unwrap() < 0.012, "{times:?}");
        assert!(times.learn(1, 3, 5.0) < 2.1 * before);
        assert!(times.relative(4) < 1.25 * before);
    }

    #[test]
    fn what_was_too_dear_is_tried_again() {
        let mut times = StepTimes::new();
        for _ in 0..40 {
            times.learn(1, 0, 0.01);
            times.learn(1, 3, 0.05);
        }
        assert!(times.relative(4) > 4.0);
        for _ in 0..8000 {
            times.learn(1, 0, 0.01);
        }
        assert!((times.relative(4) - 1.9).abs() < 0.1, "{times:?}");
    }
}
