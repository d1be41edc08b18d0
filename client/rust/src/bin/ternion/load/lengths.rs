use std::fmt;
use std::str::FromStr;

use rand::{Rng, RngExt};
use rand_distr::{Distribution, LogNormal};

/// Lengths of prompts and outputs in tokens.
#[derive(Clone, Debug)]
pub(crate) struct Lengths {
    pub(crate) prompt: Length,
    pub(crate) output: Length,
    /// By which both are multiplied.
    pub(crate) scale: f64,
    /// Where set, what does not fit is cut.
    pub(crate) context: Option<u32>,
}

/// One distribution of lengths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Length {
    Fixed(u32),
    Uniform { low: u32, high: u32 },
    Lognormal { mu: f64, sigma: f64 },
    Quantiles(&'static Quantiles),
}

/// Pairs of a probability and tokens.
type Quantiles = [(f64, f64); 8];

/// Lengths as they were in a published trace.
#[derive(Debug)]
pub(crate) struct Preset {
    pub(crate) name: &'static str,
    prompt: Quantiles,
    output: Quantiles,
}

/// `AzureLLMInferenceTrace_conv.csv` and `_code.csv` of 2023, in Azure's public
/// data set: 19366 and 8819 requests. The two lengths are as good as
/// independent there (correlations -0.11 and 0.00). No lognormal distributions:
/// outputs of conversations have two peaks.
pub(crate) static PRESETS: [Preset; 2] = [
    Preset {
        name: "azure-conv",
        prompt: [
            (0.05, 181.0),
            (0.25, 396.0),
            (0.50, 1020.0),
            (0.75, 1189.0),
            (0.90, 2734.0),
            (0.95, 4083.0),
            (0.99, 4142.0),
            (1.00, 14050.0),
        ],
        output: [
            (0.05, 41.0),
            (0.25, 85.0),
            (0.50, 129.0),
            (0.75, 395.0),
            (0.90, 424.0),
            (0.95, 451.0),
            (0.99, 601.0),
            (1.00, 1000.0),
        ],
    },
    Preset {
        name: "azure-code",
        prompt: [
            (0.05, 75.0),
            (0.25, 578.0),
            (0.50, 1469.0),
            (0.75, 2744.0),
            (0.90, 5188.0),
            (0.95, 7303.0),
            (0.99, 7436.0),
            (1.00, 7437.0),
        ],
        output: [
            (0.05, 6.0),
            (0.25, 9.0),
            (0.50, 13.0),
            (0.75, 24.0),
            (0.90, 55.0),
            (0.95, 90.0),
            (0.99, 251.0),
            (1.00, 1899.0),
        ],
    },
];

/// No prompt is longer, whatever an option or a distribution says.
pub(crate) const MAX_TOKENS: u32 = 1 << 20;

impl Preset {
    pub(crate) fn named(name: &str) -> Option<&'static Preset> {
        PRESETS.iter().find(|preset| preset.name == name)
    }

    /// Without a scale, the one that makes the longest prompt with the longest
    /// output fit, if they don't.
    pub(crate) fn lengths(&'static self, scale: Option<f64>, context: Option<u32>) -> Lengths {
        let longest = quantile(&self.prompt, 1.0) + quantile(&self.output, 1.0);
        let fitting = context.map_or(1.0, |context| (f64::from(context) / longest).min(1.0));
        Lengths {
            prompt: Length::Quantiles(&self.prompt),
            output: Length::Quantiles(&self.output),
            scale: scale.unwrap_or(fitting),
            context,
        }
    }
}

impl Lengths {
    /// Tokens of the next prompt and its output.
    pub(crate) fn draw(&self, random: &mut impl Rng) -> (u32, u32) {
        let prompt = self.scaled(self.prompt.draw(random));
        let output = self.scaled(self.output.draw(random));
        // Whoever asks for a length means that one, and is told if it can't be.
        match (self.prompt, self.output) {
            (Length::Fixed(_), Length::Fixed(_)) => (prompt, output),
            _ => self.cut(prompt, output),
        }
    }

    /// Lengths of a trace, scaled and cut as drawn ones are.
    pub(crate) fn of(&self, prompt: u32, output: u32) -> (u32, u32) {
        self.cut(self.scaled(prompt.into()), self.scaled(output.into()))
    }

    fn scaled(&self, tokens: f64) -> u32 {
        ((tokens * self.scale).round() as u32).clamp(1, MAX_TOKENS)
    }

    fn cut(&self, prompt: u32, output: u32) -> (u32, u32) {
        let Some(context) = self.context else {
            return (prompt, output);
        };
        let output = output.min(context.saturating_sub(1)).max(1);
        (prompt.min(context.saturating_sub(output)).max(1), output)
    }
}

impl Length {
    fn draw(self, random: &mut impl Rng) -> f64 {
        match self {
            Length::Fixed(tokens) => tokens.into(),
            Length::Uniform { low, high } => random.random_range(low..=high).into(),
            Length::Lognormal { mu, sigma } => LogNormal::new(mu, sigma)
                .expect("parsed so that it is one")
                .sample(random),
            Length::Quantiles(quantiles) => quantile(quantiles, random.random()),
        }
    }
}

/// Geometric between the known quantiles, which the traces' own means bear out
/// better than straight lines. Nothing is known below the first, so all there
/// are as long.
fn quantile(quantiles: &Quantiles, probability: f64) -> f64 {
    let after = quantiles.partition_point(|(p, _)| *p < probability);
    let (Some(before), Some((p1, x1))) = (after.checked_sub(1), quantiles.get(after)) else {
        return quantiles[after.min(quantiles.len() - 1)].1;
    };
    let (p0, x0) = quantiles[before];
    x0 * (x1 / x0).powf((probability - p0) / (p1 - p0))
}

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Length, String> {
        if let Some(parameters) = text.strip_prefix("lognormal:") {
            let numbers = parameters.split_once(',');
            let numbers =
                numbers.and_then(|(mu, sigma)| Some((mu.parse().ok()?, sigma.parse().ok()?)));
            return match numbers {
                // e to the 14 is about as much as MAX_TOKENS.
                Some((mu, sigma))
                    if (0.0..=14.0).contains(&mu) && (0.0..=10.0).contains(&sigma) =>
                {
                    Ok(Length::Lognormal { mu, sigma })
                }
                _ => Err(
                    "must be lognormal:MU,SIGMA with MU from 0 to 14 and SIGMA from 0 to 10".into(),
                ),
            };
        }
        let tokens = |text: &str| match text.parse() {
            Ok(tokens @ 1..=MAX_TOKENS) => Ok(tokens),
            _ => Err(format!(
                "must be N, LOW-HIGH or lognormal:MU,SIGMA, with 1 to {MAX_TOKENS} tokens"
            )),
        };
        match text.split_once('-') {
            None => tokens(text).map(Length::Fixed),
            Some((low, high)) => match (tokens(low)?, tokens(high)?) {
                (low, high) if low <= high => Ok(Length::Uniform { low, high }),
                _ => Err("LOW must not be more than HIGH".into()),
            },
        }
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Length::Fixed(tokens) => write!(f, "{tokens}"),
            Length::Uniform { low, high } => write!(f, "{low} to {high}"),
            Length::Lognormal { mu, sigma } => write!(f, "lognormal ({mu}, {sigma})"),
            Length::Quantiles(_) => f.write_str("as in a trace"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::ChaCha8Rng;

    fn drawn(lengths: &Lengths) -> Vec<(u32, u32)> {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        (0..20_000).map(|_| lengths.draw(&mut random)).collect()
    }

    fn mean(lengths: impl Iterator<Item = u32>) -> f64 {
        lengths.map(f64::from).sum::<f64>() / 20_000.0
    }

    #[test]
    fn the_traces_come_out_as_they_were() {
        // Means of the traces themselves, which the tables do not hold. Least is
        // known of the last percent of outputs of code, from 251 to 1899 tokens.
        for (name, prompt, output, off) in [
            ("azure-conv", 1154.7, 211.1, 0.05),
            ("azure-code", 2047.8, 27.9, 0.25),
        ] {
            let preset = Preset::named(name).expect("it is one");
            let drawn = drawn(&preset.lengths(None, None));
            let prompts = mean(drawn.iter().map(|(prompt, _)| *prompt));
            let outputs = mean(drawn.iter().map(|(_, output)| *output));
            assert!((prompts / prompt - 1.0).abs() < 0.05, "{name} {prompts}");
            assert!((outputs / output - 1.0).abs() < off, "{name} {outputs}");
        }
    }

    #[test]
    fn a_small_context_scales_the_trace_and_keeps_its_shape() {
        let preset = Preset::named("azure-conv").expect("it is one");
        // A tenth of the longest prompt and the longest output.
        let drawn = drawn(&preset.lengths(None, Some(1505)));
        let prompts = mean(drawn.iter().map(|(prompt, _)| *prompt));
        assert!((prompts / 115.47 - 1.0).abs() < 0.05, "{prompts}");
    }

    #[test]
    fn scaled_or_cut_every_request_fits_the_context() {
        let presets = PRESETS.iter();
        for preset in presets {
            for scale in [None, Some(1.0), Some(100.0)] {
                for context in [2, 1024, 4096] {
                    for (prompt, output) in drawn(&preset.lengths(scale, Some(context))) {
                        assert!(prompt >= 1 && output >= 1);
                        assert!(
                            prompt + output <= context,
                            "{prompt} + {output} in {context}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn distributions_have_the_means_of_theory() {
        let lengths = |prompt: &str, output: &str| Lengths {
            prompt: prompt.parse().expect("it is one"),
            output: output.parse().expect("it is one"),
            scale: 1.0,
            context: None,
        };
        let drawn = drawn(&lengths("100-300", "lognormal:4,0.5"));
        let prompts = mean(drawn.iter().map(|(prompt, _)| *prompt));
        assert!((prompts / 200.0 - 1.0).abs() < 0.02, "{prompts}");
        assert!(drawn.iter().all(|(prompt, _)| (100..=300).contains(prompt)));
        let outputs = mean(drawn.iter().map(|(_, output)| *output));
        let theory = (4.0_f64 + 0.5 * 0.5 / 2.0).exp();
        assert!((outputs / theory - 1.0).abs() < 0.02, "{outputs}");
    }

    #[test]
    fn a_trace_is_cut_where_a_length_that_was_asked_for_is_not() {
        let lengths = Lengths {
            prompt: Length::Fixed(200),
            output: Length::Fixed(30),
            scale: 0.5,
            context: Some(100),
        };
        assert_eq!(lengths.of(100, 20), (50, 10));
        assert_eq!(lengths.of(1000, 20), (90, 10));
        assert_eq!(lengths.draw(&mut ChaCha8Rng::seed_from_u64(1)), (100, 15));
    }

    #[test]
    fn what_is_no_length_is_told() {
        assert_eq!("7".parse(), Ok(Length::Fixed(7)));
        for text in [
            "",
            "0",
            "x",
            "-1",
            "1-",
            "0-3",
            "5-4",
            "1e3",
            "2000000",
            "lognormal:",
            "lognormal:1",
            "lognormal:NaN,1",
            "lognormal:1,-1",
        ] {
            assert!(text.parse::<Length>().is_err(), "{text}");
        }
    }
}
