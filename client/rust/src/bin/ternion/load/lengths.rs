use rand::{Rng, RngExt};

/// Lengths of prompts and outputs in tokens.
#[derive(Clone, Debug)]
pub(crate) enum Lengths {
    Fixed {
        prompt: u32,
        output: u32,
    },
    Traced {
        trace: &'static Trace,
        scale: f64,
        context: u32,
    },
}

/// Quantiles of a trace, as pairs of probability and tokens.
#[derive(Debug)]
pub(crate) struct Trace {
    prompt: [(f64, f64); 8],
    output: [(f64, f64); 8],
}

/// `AzureLLMInferenceTrace_conv.csv` of 2023, in Azure's public data set:
/// 19366 requests. The two lengths are as good as independent there
/// (correlation -0.11). No lognormal distribution: outputs have two peaks.
pub(crate) static AZURE_CONVERSATION: Trace = Trace {
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
};

impl Lengths {
    /// Without a scale, the one that makes the longest prompt with the longest
    /// output fit, if they don't.
    pub(crate) fn scaled(trace: &'static Trace, scale: Option<f64>, context: u32) -> Lengths {
        let longest = quantile(&trace.prompt, 1.0) + quantile(&trace.output, 1.0);
        Lengths::Traced {
            trace,
            scale: scale.unwrap_or_else(|| (f64::from(context) / longest).min(1.0)),
            context,
        }
    }

    /// Tokens of the next prompt and its output.
    pub(crate) fn draw(&self, random: &mut impl Rng) -> (u32, u32) {
        match *self {
            Lengths::Fixed { prompt, output } => (prompt, output),
            Lengths::Traced {
                trace,
                scale,
                context,
            } => {
                let mut draw = |quantiles| {
                    let tokens = quantile(quantiles, random.random()) * scale;
                    (tokens.round() as u32).max(1)
                };
                let (prompt, output) = (draw(&trace.prompt), draw(&trace.output));
                let output = output.min(context.saturating_sub(1)).max(1);
                (prompt.min(context.saturating_sub(output)).max(1), output)
            }
        }
    }
}

/// Linear between the known quantiles. Nothing is known below the first, so
/// all there are as long.
fn quantile(quantiles: &[(f64, f64); 8], probability: f64) -> f64 {
    let after = quantiles.partition_point(|(p, _)| *p < probability);
    let (Some(before), Some((p1, x1))) = (after.checked_sub(1), quantiles.get(after)) else {
        return quantiles[after.min(quantiles.len() - 1)].1;
    };
    let (p0, x0) = quantiles[before];
    x0 + (x1 - x0) * (probability - p0) / (p1 - p0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::ChaCha8Rng;

    fn drawn(scale: Option<f64>, context: u32) -> Vec<(u32, u32)> {
        let lengths = Lengths::scaled(&AZURE_CONVERSATION, scale, context);
        let mut random = ChaCha8Rng::seed_from_u64(1);
        (0..20_000).map(|_| lengths.draw(&mut random)).collect()
    }

    #[test]
    fn the_trace_comes_out_as_it_was() {
        let drawn = drawn(None, 1 << 20);
        let mean = |sum: u64| sum as f64 / drawn.len() as f64;
        let prompt = mean(drawn.iter().map(|(prompt, _)| u64::from(*prompt)).sum());
        let output = mean(drawn.iter().map(|(_, output)| u64::from(*output)).sum());
        // Means of the trace itself, which the table does not hold: 1154.7
        // and 211.1. Straight lines between quantiles are a little off.
        assert!((prompt / 1154.7 - 1.0).abs() < 0.1, "{prompt}");
        assert!((output / 211.1 - 1.0).abs() < 0.1, "{output}");
    }

    #[test]
    fn scaled_or_cut_every_request_fits_the_context() {
        for scale in [None, Some(1.0), Some(100.0)] {
            for context in [2, 1024, 4096] {
                for (prompt, output) in drawn(scale, context) {
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
