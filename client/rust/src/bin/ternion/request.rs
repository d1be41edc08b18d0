//! The options that every request for text has.

use std::time::Duration;

use clap::Args;
use ternion_client::Generate;
use ternion_client::proto::{Sampling, Stopping};

#[derive(Debug, Args)]
pub(crate) struct RequestOptions {
    /// Name of the model; not needed where the server has one.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) model: String,

    /// Most tokens to generate.
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,

    /// Seconds from sending to the last token.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,

    /// Log-probabilities of tokens: 0 for the chosen one, up to 20 for that
    /// many alternatives too. Seen with --json.
    #[arg(long, value_name = "N")]
    logprobs: Option<u32>,

    /// Higher runs first when requests wait, from -100 to 100.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i32>,

    #[command(flatten)]
    sampling: SamplingOptions,

    #[command(flatten)]
    stopping: StoppingOptions,
}

/// Absent options take the model's own defaults.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling (default: the model's)")]
struct SamplingOptions {
    /// 0 always takes the most probable token; higher is more varied.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,

    /// Choose among the K most probable tokens; 0: all.
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,

    /// Choose among the fewest tokens that have this probability together.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,

    /// Choose among tokens with this share of the best one's probability.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,

    /// The same seed gives the same text.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Above 1 makes tokens less likely that were in prompt or output.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,

    /// Subtracted from logits of tokens that were in the output.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,

    /// Subtracted for each time a token was in the output.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Stopping")]
struct StoppingOptions {
    /// End before this text. May be given again.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,

    /// End at this token. May be given again.
    #[arg(long, value_name = "ID")]
    stop_token: Vec<u32>,

    /// Don't end before this many tokens.
    #[arg(long, value_name = "N")]
    min_tokens: Option<u32>,

    /// Go on past the model's end tokens.
    #[arg(long)]
    ignore_eos: bool,
}

impl RequestOptions {
    pub(crate) fn apply(&self, generate: Generate) -> Generate {
        let SamplingOptions {
            temperature,
            top_k,
            top_p,
            min_p,
            seed,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
        } = self.sampling;
        let mut generate = generate
            .model(&self.model)
            .sampling(Sampling {
                temperature,
                top_k,
                top_p,
                min_p,
                seed,
                repetition_penalty,
                presence_penalty,
                frequency_penalty,
            })
            .stopping(Stopping {
                max_tokens: self.max_tokens,
                min_tokens: self.stopping.min_tokens,
                stop: self.stopping.stop.clone(),
                stop_token_ids: self.stopping.stop_token.clone(),
                ignore_eos: self.stopping.ignore_eos.then_some(true),
                include_stop: None,
            });
        generate.timeout = self.timeout;
        generate.request.logprobs = self.logprobs;
        generate.request.priority = self.priority;
        generate
    }
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    if seconds <= 0.0 {
        return Err("must be more than zero".into());
    }
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
