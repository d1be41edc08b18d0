use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, Gamma};

/// When requests are due.
#[derive(Debug)]
pub(crate) enum Pace {
    /// At times that don't depend on answers.
    Open(Arrivals),
    /// As soon as there are fewer than so many.
    Closed { concurrency: usize },
}

/// Random times since the start, ever later.
#[derive(Debug)]
pub(crate) struct Arrivals {
    gap_seconds: Gamma<f64>,
    random: Box<ChaCha8Rng>,
    next: Duration,
}

impl Pace {
    /// `burstiness` is the shape of the gamma distribution; the mean gap is
    /// `1 / rate` whatever the shape.
    pub(crate) fn open(rate: f64, burstiness: f64, seed: u64) -> Pace {
        let mut arrivals = Arrivals {
            gap_seconds: Gamma::new(burstiness, 1.0 / (rate * burstiness))
                .expect("both are positive, as the options are"),
            random: Box::new(ChaCha8Rng::seed_from_u64(seed)),
            next: Duration::ZERO,
        };
        arrivals.advance();
        Pace::Open(arrivals)
    }
}

impl Arrivals {
    /// The time of the next one since the start.
    pub(crate) fn next(&self) -> Duration {
        self.next
    }

    /// Goes on to the one after it.
    pub(crate) fn advance(&mut self) {
        // A shape near zero has gaps of any length.
        let gap = self.gap_seconds.sample(&mut self.random).min(86400.0);
        self.next += Duration::from_secs_f64(gap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(burstiness: f64, seed: u64) -> Arrivals {
        match Pace::open(10.0, burstiness, seed) {
            Pace::Open(arrivals) => arrivals,
            Pace::Closed { .. } => unreachable!("made above"),
        }
    }

    /// Mean and coefficient of variation of 20000 gaps.
    fn gaps(burstiness: f64) -> (f64, f64) {
        let mut arrivals = arrivals(burstiness, 7);
        let times: Vec<f64> = (0..20_000)
            .map(|_| {
                arrivals.advance();
                arrivals.next().as_secs_f64()
            })
            .collect();
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        (mean, variance.sqrt() / mean)
    }

    #[test]
    fn the_rate_holds_for_any_burstiness_which_is_the_variation() {
        // The variation of a gamma distribution is 1 / sqrt(shape).
        for (burstiness, variation) in [(1.0, 1.0), (0.25, 2.0), (4.0, 0.5)] {
            let (mean, measured) = gaps(burstiness);
            assert!((mean - 0.1).abs() < 0.005, "{burstiness}: {mean}");
            assert!(
                (measured / variation - 1.0).abs() < 0.05,
                "{burstiness}: {measured}"
            );
        }
    }

    #[test]
    fn a_seed_gives_the_same_times() {
        let first = |seed| arrivals(1.0, seed).next();
        assert_eq!(first(3), first(3));
        assert_ne!(first(3), first(4));
    }
}
