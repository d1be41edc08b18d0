use std::time::Duration;

use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, Gamma};

use super::seed::{Purpose, random};

/// Random times since the start, ever later: a process of one arrival for
/// each unit, laid out in time by a rate.
#[derive(Debug)]
pub(crate) struct Arrivals {
    gaps: Gaps,
    rate: Rate,
    random: Box<ChaCha8Rng>,
    units: f64,
}

/// Units between one arrival and the next, one on average.
#[derive(Debug)]
pub(crate) enum Gaps {
    Constant,
    /// With shape 1 this is a Poisson process.
    Gamma(Gamma<f64>),
}

/// Requests a second, as a function of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rate {
    Constant(f64),
    /// All at the start.
    Infinite,
    /// From one to the other in a straight line, and on with that.
    Ramp {
        from: f64,
        to: f64,
        seconds: f64,
    },
    /// So many on average: all of them while on, none while off.
    OnOff {
        mean: f64,
        on: f64,
        off: f64,
    },
}

/// Which process gaps are drawn from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Process {
    Constant,
    /// The shape of the distribution.
    Gamma(f64),
}

/// A shape near zero has gaps of any length.
const LONGEST_SECONDS: f64 = 1e9;

impl Arrivals {
    pub(crate) fn new(process: Process, rate: Rate, seed: u64) -> Arrivals {
        let mut arrivals = Arrivals {
            gaps: match process {
                Process::Constant => Gaps::Constant,
                Process::Gamma(shape) => Gaps::Gamma(
                    Gamma::new(shape, 1.0 / shape).expect("it is positive, as the option is"),
                ),
            },
            rate,
            random: Box::new(random(seed, Purpose::Arrivals)),
            units: 0.0,
        };
        arrivals.advance();
        arrivals
    }

    /// The time of the next one since the start.
    pub(crate) fn next(&self) -> Duration {
        Duration::from_secs_f64(self.rate.seconds(self.units).min(LONGEST_SECONDS))
    }

    /// Goes on to the one after it.
    pub(crate) fn advance(&mut self) {
        self.units += match &self.gaps {
            Gaps::Constant => 1.0,
            Gaps::Gamma(gamma) => gamma.sample(&mut self.random),
        };
    }
}

impl Rate {
    /// When so many units have passed: the inverse of the rate's integral.
    fn seconds(self, units: f64) -> f64 {
        match self {
            Rate::Constant(rate) => units / rate,
            Rate::Infinite => 0.0,
            Rate::Ramp { from, to, seconds } => {
                let by_its_end = (from + to) / 2.0 * seconds;
                if units > by_its_end {
                    return seconds + (units - by_its_end) / to;
                }
                // from * t + slope / 2 * t^2 = units, in the form that loses
                // nothing where the slope is small.
                let slope = (to - from) / seconds;
                2.0 * units / (from + (from * from + 2.0 * slope * units).max(0.0).sqrt())
            }
            Rate::OnOff { mean, on, off } => {
                let on_seconds = units / (mean * (on + off) / on);
                on_seconds + off * (on_seconds / on).floor()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(process: Process, rate: Rate, count: usize) -> Vec<f64> {
        let mut arrivals = Arrivals::new(process, rate, 7);
        let mut times = Vec::new();
        for _ in 0..count {
            times.push(arrivals.next().as_secs_f64());
            arrivals.advance();
        }
        times
    }

    fn mean_and_variance(values: &[f64]) -> (f64, f64) {
        let len = values.len() as f64;
        let mean = values.iter().sum::<f64>() / len;
        let squares = values.iter().map(|value| (value - mean).powi(2));
        (mean, squares.sum::<f64>() / len)
    }

    /// How many of the times are in each of so many windows of some seconds.
    fn counts(times: &[f64], seconds: f64, windows: usize) -> Vec<f64> {
        let mut counts = vec![0.0; windows];
        for time in times {
            if let Some(count) = counts.get_mut((time / seconds) as usize) {
                *count += 1.0;
            }
        }
        counts
    }

    #[test]
    fn the_rate_holds_for_any_shape_which_is_the_variation() {
        // The variation of a gamma distribution is 1 / sqrt(shape).
        for (shape, variation) in [(1.0, 1.0), (0.25, 2.0), (4.0, 0.5)] {
            let times = times(Process::Gamma(shape), Rate::Constant(10.0), 20_000);
            let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let (mean, variance) = mean_and_variance(&gaps);
            assert!((mean - 0.1).abs() < 0.005, "{shape}: {mean}");
            let measured = variance.sqrt() / mean;
            assert!(
                (measured / variation - 1.0).abs() < 0.05,
                "{shape}: {measured}"
            );
        }
    }

    #[test]
    fn counts_of_a_poisson_process_vary_as_much_as_their_mean() {
        let times = times(Process::Gamma(1.0), Rate::Constant(10.0), 20_000);
        let (mean, variance) = mean_and_variance(&counts(&times, 1.0, 1900));
        assert!((variance / mean - 1.0).abs() < 0.1, "{mean} {variance}");
    }

    #[test]
    fn a_constant_process_is_a_clock() {
        let times = times(Process::Constant, Rate::Constant(4.0), 4);
        assert_eq!(times, [0.25, 0.5, 0.75, 1.0]);
    }

    #[test]
    fn a_ramp_has_its_rates_where_it_should() {
        let up = Rate::Ramp {
            from: 10.0,
            to: 30.0,
            seconds: 100.0,
        };
        let times = times(Process::Constant, up, 3000);
        let counts = counts(&times, 25.0, 5);
        // The mean of a straight line over each quarter, and its end after.
        for (count, rate) in counts.iter().zip([12.5, 17.5, 22.5, 27.5, 30.0]) {
            assert!((count - rate * 25.0).abs() <= 1.0, "{counts:?}");
        }
        let down = Rate::Ramp {
            from: 30.0,
            to: 10.0,
            seconds: 100.0,
        };
        assert_eq!(down.seconds(2000.0), 100.0);
        assert_eq!(down.seconds(2001.0), 100.1);
    }

    #[test]
    fn nothing_comes_while_off_and_the_mean_holds() {
        let rate = Rate::OnOff {
            mean: 10.0,
            on: 1.0,
            off: 3.0,
        };
        let times = times(Process::Gamma(1.0), rate, 20_000);
        assert!(times.iter().all(|time| time % 4.0 < 1.0 + 1e-9));
        let last = times.last().expect("there are some");
        assert!((20_000.0 / last / 10.0 - 1.0).abs() < 0.05, "{last}");
    }

    #[test]
    fn a_seed_gives_the_same_times() {
        let first = |seed| Arrivals::new(Process::Gamma(1.0), Rate::Constant(1.0), seed).next();
        assert_eq!(first(3), first(3));
        assert_ne!(first(3), first(4));
    }
}
