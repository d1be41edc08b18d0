//! What the command line says, and what of it makes no sense together.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ternion_client::Retry;

use super::lengths::Length;
use super::peer::Url;
use super::rate::RateOption;
use crate::failure::Failure;
use crate::request::seconds;

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, allow_negative_numbers = true)]
pub(crate) struct Load {
    #[command(flatten)]
    pub(crate) arrivals: ArrivalOptions,

    #[command(flatten)]
    pub(crate) prompts: PromptOptions,

    #[command(flatten)]
    pub(crate) target: TargetOptions,

    #[command(flatten)]
    pub(crate) slo: SloOptions,

    /// Write a page with plots.
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) html: Option<PathBuf>,

    /// The same seed sends the same requests at the same times.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Arrivals")]
    pub(crate) seed: u64,
}

const AFTER_HELP: &str = "\
Files are JSON, an object a line. Absent fields have the value shown, or none.
  --prompts  {\"prompt\": TEXT}  {\"chat\": [{\"role\": ROLE, \"content\": TEXT}, …]}
             {\"token_ids\": [1, 2, …]}  each perhaps with \"max_tokens\"; used in turn, again and again
  --trace    {\"arrival\": SECONDS, \"prompt_tokens\": N, \"output_tokens\": N, \"tenant\": NAME}
  --tenants  {\"name\": NAME, \"api_key\": KEY, \"share\": 1, \"weight\": 1, \"priority\": 0}
             share of the arrivals, and weight in fairness, are relative to the others'

Exit code 0 says that every request was accounted for: finished, refused with a reason, drained
with its usage, or past its deadline. 1: some failed without the server explaining it.
3, 4: not one finished, and all were refused, as invalid or by busy servers.
6: --fail-on-slo, and it was missed.

Examples:
  ternion load --rate 4 --duration 60 --warm-up 5 --lengths azure-conv --slo-ttft 2 --slo-tpot 0.1
  ternion load --concurrency 32 --rate 0.5x,1x,3x --duration 20 --slo-ttft 2 --html report.html
  ternion load --target http://127.0.0.1:8080/completion --rate 4 --duration 60";

#[derive(Debug, Args)]
#[command(next_help_heading = "Arrivals")]
pub(crate) struct ArrivalOptions {
    /// Requests a second, whether or not earlier ones are answered; `inf` for
    /// all at once, `2x` for twice what --concurrency got through in a run
    /// before. Several: a run with each.
    #[arg(
        long,
        value_name = "R",
        value_delimiter = ',',
        required_unless_present_any = ["concurrency", "trace"]
    )]
    pub(crate) rate: Vec<RateOption>,

    /// Shape of the gamma distribution between arrivals: 1 is Poisson, less
    /// comes in bursts, more is even; `inf` is a clock.
    #[arg(long, value_name = "B", value_parser = burstiness, default_value = "1", requires = "rate")]
    pub(crate) burstiness: f64,

    /// Rise or fall from --rate to this over --duration.
    #[arg(long, value_name = "R", value_parser = positive, requires_all = ["rate", "duration"])]
    pub(crate) ramp_to: Option<f64>,

    /// Arrivals come for so many seconds, and then none for so many, at --rate
    /// on average.
    #[arg(long, value_name = "ON,OFF", value_parser = on_off, requires = "rate", conflicts_with = "ramp_to")]
    pub(crate) on_off: Option<(f64, f64)>,

    /// So many requests at any time, each followed by the next.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) concurrency: Option<u32>,

    /// Arrivals, lengths and tenants as recorded in a file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rate", "concurrency", "prompt_tokens", "max_tokens", "lengths", "prompts"])]
    pub(crate) trace: Option<PathBuf>,

    /// Play the trace so many times as fast.
    #[arg(long, value_name = "X", value_parser = positive, default_value = "1", requires = "trace")]
    pub(crate) speed: f64,

    /// Requests in all, of each run.
    #[arg(long, value_name = "N")]
    pub(crate) requests: Option<u64>,

    /// For how long requests are sent, in each run. Neither: until Ctrl-C.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) duration: Option<Duration>,

    /// Requests of so many first seconds are sent and not measured.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) warm_up: Option<Duration>,

    /// Arrivals that find so many requests unanswered are counted, not sent.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) max_in_flight: u32,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Requests")]
pub(crate) struct PromptOptions {
    /// Random tokens in each prompt: N, LOW-HIGH, or lognormal:MU,SIGMA.
    #[arg(long, value_name = "N", default_value = "128")]
    pub(crate) prompt_tokens: Length,

    /// Tokens generated for each, in the same forms; end tokens are passed
    /// over, so that it is neither more nor less.
    #[arg(long, value_name = "N", default_value = "64")]
    pub(crate) max_tokens: Length,

    /// Draw both lengths as they were in Azure's conversation or code trace of
    /// 2023, scaled down so that the longest fits the model's context.
    #[arg(long, value_name = "TRACE", value_parser = ["azure-conv", "azure-code"], conflicts_with_all = ["prompt_tokens", "max_tokens"])]
    pub(crate) lengths: Option<String>,

    /// Scale of --lengths or --trace; what does not fit the context then is
    /// cut.
    #[arg(long, value_name = "X", value_parser = positive)]
    pub(crate) scale: Option<f64>,

    /// Part of each prompt's tokens that it shares with others, at its
    /// beginning: from 0 to 1.
    #[arg(long, value_name = "PART", value_parser = part, default_value = "0")]
    pub(crate) shared_prefix: f64,

    /// Different beginnings there are.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536), requires = "shared_prefix")]
    pub(crate) prefixes: u32,

    /// Prompts from a file instead.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt_tokens", "lengths", "shared_prefix"])]
    pub(crate) prompts: Option<PathBuf>,

    /// Who sends them, from a file.
    #[arg(long, value_name = "FILE")]
    pub(crate) tenants: Option<PathBuf>,

    /// Name of the model; not needed where the server has one.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) model: String,

    /// 0 always takes the most probable token. Default: the server's.
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,

    /// Seconds that each request has to its last token.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Connections")]
pub(crate) struct TargetOptions {
    /// Connections to each endpoint, used in turn.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) connections: u32,

    /// Send all requests on so many Session streams instead of calling
    /// Generate for each.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) sessions: Option<u32>,

    /// Attempts for a request that is not accepted. With more than 1, refusals
    /// show as longer times.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) attempts: u32,

    /// Another server, instead of --endpoint: the URL of an OpenAI-compatible
    /// /v1/completions, or of llama.cpp's /completion.
    #[arg(long, value_name = "URL", value_parser = Url::parse, conflicts_with_all = ["connections", "sessions", "attempts"])]
    pub(crate) target: Option<Url>,

    /// Tokens that the model of --target knows, where it doesn't say.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), requires = "target")]
    pub(crate) vocab_size: Option<u32>,

    /// Most tokens, prompt and output together, of a request to --target,
    /// where it doesn't say.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..), requires = "target")]
    pub(crate) context_limit: Option<u32>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Service level, for goodput")]
pub(crate) struct SloOptions {
    /// Longest time to the first token.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) slo_ttft: Option<Duration>,

    /// Longest mean time of the tokens after it.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) slo_tpot: Option<Duration>,

    /// Longest time of a whole request.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) slo_e2e: Option<Duration>,

    /// Exit with 6 if less than this part of the requests of any run is within
    /// the service level, refused ones counted in.
    #[arg(long, value_name = "PART", value_parser = part, num_args = 0..=1, default_missing_value = "0.99")]
    pub(crate) fail_on_slo: Option<f64>,
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

    /// What the parser of arguments can't say.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let ArrivalOptions {
            rate,
            ramp_to,
            on_off,
            concurrency,
            requests,
            duration,
            warm_up,
            ..
        } = &self.arrivals;
        let relative = rate
            .iter()
            .any(|rate| matches!(rate, RateOption::OfCapacity(_)));
        let infinite = rate.contains(&RateOption::Infinite);
        let wrong = match (concurrency, rate.is_empty()) {
            _ if relative && concurrency.is_none() => {
                "--rate: what --concurrency gets through is needed for 2x and the like"
            }
            _ if infinite && requests.is_none() => "--rate inf needs --requests",
            _ if infinite && (ramp_to.is_some() || on_off.is_some()) => {
                "--rate inf has no use for --ramp-to and --on-off"
            }
            _ if warm_up >= duration && duration.is_some() => {
                "--warm-up must be shorter than --duration"
            }
            (Some(_), false) if !relative => {
                "--concurrency goes with --rate only where that is a multiple, such as 2x"
            }
            (Some(_), false) if requests.is_none() && duration.is_none() => {
                "--rate with a multiple needs --requests or --duration"
            }
            (None, false) if rate.len() > 1 && requests.is_none() && duration.is_none() => {
                "several --rate need --requests or --duration"
            }
            _ => return self.check_file(),
        };
        Err(Failure::Usage(wrong.into()))
    }

    /// Lengths are those of the file.
    fn check_file(&self) -> Result<(), Failure> {
        let PromptOptions {
            max_tokens,
            prompts,
            lengths,
            scale,
            ..
        } = &self.prompts;
        let wrong = match (prompts, max_tokens) {
            (Some(_), Length::Fixed(_)) | (None, _) => None,
            (Some(_), _) => Some("--max-tokens must be one number with --prompts"),
        };
        let scaled = lengths.is_some() || self.arrivals.trace.is_some();
        let wrong =
            wrong.or((scale.is_some() && !scaled).then_some("--scale needs --lengths or --trace"));
        match wrong {
            Some(wrong) => Err(Failure::Usage(wrong.into())),
            None => Ok(()),
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number")?;
    match number.is_finite() && number > 0.0 && number <= 1e6 {
        true => Ok(number),
        false => Err("must be more than 0, and a million at most".into()),
    }
}

/// Shapes below this have gaps that no generator of numbers can draw.
const LEAST_SHAPE: f64 = 1e-3;

fn burstiness(text: &str) -> Result<f64, String> {
    if text == "inf" {
        return Ok(f64::INFINITY);
    }
    match positive(text)? {
        shape if shape >= LEAST_SHAPE => Ok(shape),
        _ => Err(format!("must be {LEAST_SHAPE} at least")),
    }
}

fn on_off(text: &str) -> Result<(f64, f64), String> {
    let (on, off) = text.split_once(',').ok_or("must be ON,OFF")?;
    Ok((positive(on)?, positive(off)?))
}

/// From 0 to 1.
fn part(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number")?;
    match (0.0..=1.0).contains(&number) {
        true => Ok(number),
        false => Err("must be from 0 to 1".into()),
    }
}
