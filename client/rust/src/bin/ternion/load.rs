//! `ternion load`: many requests at once, and what their clients see.

mod arrivals;
mod event_source;
mod lengths;
mod observation;
mod prompts;
mod report;
mod run;
mod tally;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ternion_client::proto::ModelInfo;
use ternion_client::{Client, Retry};

use crate::failure::Failure;
use crate::request::seconds;
use crate::{json, stdout};
use arrivals::Pace;
use event_source::Target;
use lengths::{AZURE_CONVERSATION, Lengths};
use prompts::Prompts;
use report::{Report, Slo};

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Load {
    #[command(flatten)]
    arrivals: ArrivalOptions,

    #[command(flatten)]
    prompts: PromptOptions,

    #[command(flatten)]
    target: TargetOptions,

    #[command(flatten)]
    slo: SloOptions,

    /// The same seed sends the same requests at the same times.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Arrivals")]
    seed: u64,
}

const AFTER_HELP: &str = "\
A line of a --prompts file holds one of
  {\"prompt\": TEXT}  {\"chat\": [{\"role\": ROLE, \"content\": TEXT}, …]}  {\"token_ids\": [1, 2, …]}
and perhaps \"max_tokens\". Lines are used in turn, again and again.

Exit code 0 says that every request was accounted for: finished, refused with a reason, drained
with its usage, or past its deadline. 1: some failed without the server explaining it.
3, 4: not one finished, and all were refused, as invalid or by busy servers.";

#[derive(Debug, Args)]
#[command(next_help_heading = "Arrivals")]
struct ArrivalOptions {
    /// Requests a second, at random times.
    #[arg(long, value_name = "R", value_parser = positive, required_unless_present = "concurrency")]
    rate: Option<f64>,

    /// Shape of the gamma distribution between arrivals: 1 is Poisson, less
    /// comes in bursts, more is even.
    #[arg(long, value_name = "B", value_parser = positive, default_value = "1", requires = "rate")]
    burstiness: f64,

    /// Instead of a rate: so many requests at any time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536), conflicts_with = "rate")]
    concurrency: Option<u32>,

    /// Requests in all.
    #[arg(long, value_name = "N")]
    requests: Option<u64>,

    /// For how long requests are sent. Neither: until Ctrl-C.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    duration: Option<Duration>,

    /// Arrivals that find so many requests unanswered are counted, not sent.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=65536))]
    max_in_flight: u32,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Requests")]
struct PromptOptions {
    /// Random tokens in each prompt.
    #[arg(long, value_name = "N", default_value_t = 128)]
    prompt_tokens: u32,

    /// Tokens generated for each; end tokens are passed over, so that it is
    /// neither more nor less.
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_tokens: u32,

    /// Draw both lengths as they were in the Azure conversation trace of
    /// 2023, scaled down so that the longest fits the model's context.
    #[arg(long, value_name = "TRACE", value_parser = ["azure-conv"], conflicts_with_all = ["prompt_tokens", "max_tokens"])]
    lengths: Option<String>,

    /// Scale of --lengths; what does not fit the context then is cut.
    #[arg(long, value_name = "X", value_parser = positive, requires = "lengths")]
    scale: Option<f64>,

    /// Prompts from a file of JSON lines instead.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt_tokens", "lengths"])]
    prompts: Option<PathBuf>,

    /// Name of the model; not needed where the server has one.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    model: String,

    /// Seconds that each request has to its last token.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Connections")]
struct TargetOptions {
    /// Connections to each endpoint, used in turn.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    connections: u32,

    /// Send all requests on so many Session streams instead of calling
    /// Generate for each.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    sessions: Option<u32>,

    /// Attempts for a request that is not accepted. With more than 1, refusals
    /// show as longer times.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Service level, for goodput")]
struct SloOptions {
    /// Longest time to the first token.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    slo_ttft: Option<Duration>,

    /// Longest mean time of the tokens after it.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    slo_tpot: Option<Duration>,
}

impl Load {
    /// An endpoint for each connection.
    pub(crate) fn connections(&self, endpoints: &[String]) -> Vec<String> {
        let count = endpoints.len() * self.target.connections as usize;
        endpoints.iter().cycle().take(count).cloned().collect()
    }

    pub(crate) fn retry(&self) -> Retry {
        Retry {
            max_attempts: self.target.attempts,
            ..Retry::default()
        }
    }

    fn pace(&self) -> Pace {
        let ArrivalOptions {
            rate,
            burstiness,
            concurrency,
            ..
        } = self.arrivals;
        match (rate, concurrency) {
            (Some(rate), _) => Pace::open(rate, burstiness, self.seed),
            (None, concurrency) => Pace::Closed {
                concurrency: concurrency.unwrap_or(1) as usize,
            },
        }
    }

    fn prompts(&self, model: &ModelInfo) -> Result<Prompts, Failure> {
        let options = &self.prompts;
        let lengths = match &options.lengths {
            Some(_) => Lengths::scaled(&AZURE_CONVERSATION, options.scale, model.context_limit),
            None => Lengths::Fixed {
                prompt: options.prompt_tokens,
                output: options.max_tokens,
            },
        };
        match &options.prompts {
            Some(path) => Prompts::from_file(path, options.max_tokens, &options.model),
            None => Ok(Prompts::random(
                lengths,
                model.vocab_size,
                &options.model,
                self.seed,
            )),
        }
        .map(|prompts| prompts.with_timeout(options.timeout))
    }

    fn slo(&self) -> Slo {
        Slo {
            ttft: self.slo.slo_ttft,
            tpot: self.slo.slo_tpot,
        }
    }
}

pub(crate) async fn run(
    client: Client,
    endpoints: &[String],
    load: &Load,
    json: bool,
) -> Result<(), Failure> {
    let model = served(&client, &load.prompts.model).await?;
    let mut prompts = load.prompts(&model)?;
    let target = Target::new(client, load.target.sessions);
    let pace = load.pace();
    let plan = run::Plan {
        requests: load.arrivals.requests,
        duration: load.arrivals.duration,
        max_in_flight: load.arrivals.max_in_flight as usize,
        slo: load.slo(),
        progress: !json,
    };
    let tally = run::run(&plan, pace, &mut prompts, &target).await?;
    let report = Report::new(load, endpoints, &model, &tally);
    if json {
        json::print(&report)?;
    } else {
        stdout::write(&report.to_string())?;
    }
    tally.verdict()
}

/// The model that is asked, for its context and its vocabulary.
async fn served(client: &Client, name: &str) -> Result<ModelInfo, Failure> {
    if !name.is_empty() {
        return Ok(client.model(name).await?);
    }
    let models = client.models().await?;
    let first = models.into_iter().next();
    first.ok_or_else(|| Failure::Usage("the server serves no model".into()))
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number")?;
    match number.is_finite() && number > 0.0 && number <= 1e6 {
        true => Ok(number),
        false => Err("must be more than 0, and a million at most".into()),
    }
}
