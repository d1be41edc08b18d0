use std::fmt;
use std::time::Duration;

use serde::Serialize;
use ternion_client::proto::{FinishReason, ModelInfo};
use tonic::Code;

use super::Load;
use super::tally::{Latency, Tally};
use crate::json::code_name;

/// What counts as good. An absent bound is met.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slo {
    pub(crate) ttft: Option<Duration>,
    pub(crate) tpot: Option<Duration>,
}

impl Slo {
    /// One token has no time per further token, and so none that is too long.
    pub(crate) fn is_met(&self, ttft: Option<Duration>, tpot: Option<Duration>) -> bool {
        let within = |time: Option<Duration>, bound: Option<Duration>| match (time, bound) {
            (Some(time), Some(bound)) => time <= bound,
            _ => true,
        };
        within(ttft, self.ttft) && within(tpot, self.tpot)
    }
}

/// A run, for people and scripts. Scripts read the fields: they are only ever
/// added. Times are seconds.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    load: LoadReport,
    server: ServerReport,
    elapsed_seconds: f64,
    requests: Requests,
    finish_reasons: Vec<FinishCount>,
    refusals: Vec<RefusalCount>,
    errors: Vec<ErrorCount>,
    throughput: Throughput,
    goodput: Goodput,
    tokens: Tokens,
    ttft_seconds: Quantiles,
    itl_seconds: Quantiles,
    largest_gap_seconds: Quantiles,
    tpot_seconds: Quantiles,
    e2e_seconds: Quantiles,
    send_lag_seconds: Quantiles,
    refusal_seconds: Quantiles,
}

/// All that repeats the run.
#[derive(Debug, Serialize)]
struct LoadReport {
    endpoints: Vec<String>,
    connections: u32,
    sessions: Option<u32>,
    attempts: u32,
    seed: u64,
    rate: Option<f64>,
    burstiness: Option<f64>,
    concurrency: Option<u32>,
    prompts: String,
}

#[derive(Debug, Serialize)]
struct ServerReport {
    model: String,
    digest: String,
    kernel: String,
    context_limit: u32,
}

#[derive(Debug, Serialize)]
struct Requests {
    sent: u64,
    /// All tokens, or an end token.
    complete: u64,
    drained: u64,
    deadline_exceeded: u64,
    refused: u64,
    /// Without an explanation by the server.
    errors: u64,
    /// Too many were unanswered.
    not_sent: u64,
}

#[derive(Debug, Serialize)]
struct FinishCount {
    finish_reason: &'static str,
    count: u64,
}

#[derive(Debug, Serialize)]
struct RefusalCount {
    code: &'static str,
    reason: String,
    count: u64,
    with_retry_after: u64,
}

#[derive(Debug, Serialize)]
struct ErrorCount {
    kind: &'static str,
    count: u64,
    example: String,
}

#[derive(Debug, Serialize)]
struct Throughput {
    requests_per_second: f64,
    prompt_tokens_per_second: f64,
    output_tokens_per_second: f64,
}

#[derive(Debug, Serialize)]
struct Goodput {
    slo_ttft_seconds: Option<f64>,
    slo_tpot_seconds: Option<f64>,
    requests_per_second: f64,
    output_tokens_per_second: f64,
    /// Of those that were to be sent.
    share: f64,
}

#[derive(Debug, Serialize)]
struct Tokens {
    prompt: u64,
    output: u64,
}

#[derive(Debug, Serialize)]
struct Quantiles {
    count: u64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl From<&Latency> for Quantiles {
    fn from(latency: &Latency) -> Quantiles {
        let quantile = |q| latency.quantile(q).as_secs_f64();
        Quantiles {
            count: latency.count(),
            mean: latency.mean().as_secs_f64(),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            max: latency.max().as_secs_f64(),
        }
    }
}

impl Report {
    pub(crate) fn new(
        load: &Load,
        endpoints: &[String],
        model: &ModelInfo,
        tally: &Tally,
    ) -> Report {
        let seconds = tally.elapsed.as_secs_f64().max(1e-6);
        let per_second = |count: u64| count as f64 / seconds;
        let to_be_sent = (tally.sent + tally.not_sent).max(1);
        let times = &tally.times;
        let slo = load.slo();
        Report {
            load: LoadReport::new(load, endpoints),
            server: ServerReport {
                model: model.name.clone(),
                digest: model.digest.clone(),
                kernel: model.kernel.clone(),
                context_limit: model.context_limit,
            },
            elapsed_seconds: seconds,
            requests: Requests {
                sent: tally.sent,
                complete: tally.num_complete(),
                drained: tally.num_finished(FinishReason::Drained),
                deadline_exceeded: tally.num_finished(FinishReason::DeadlineExceeded),
                refused: tally.num_refused(),
                errors: tally.num_failed(),
                not_sent: tally.not_sent,
            },
            finish_reasons: finish_reasons(tally),
            refusals: refusals(tally),
            errors: errors(tally),
            throughput: Throughput {
                requests_per_second: per_second(tally.num_complete()),
                prompt_tokens_per_second: per_second(tally.prompt_tokens),
                output_tokens_per_second: per_second(tally.output_tokens),
            },
            goodput: Goodput {
                slo_ttft_seconds: slo.ttft.map(|time| time.as_secs_f64()),
                slo_tpot_seconds: slo.tpot.map(|time| time.as_secs_f64()),
                requests_per_second: per_second(tally.good),
                output_tokens_per_second: per_second(tally.good_output_tokens),
                share: tally.good as f64 / to_be_sent as f64,
            },
            tokens: Tokens {
                prompt: tally.prompt_tokens,
                output: tally.output_tokens,
            },
            ttft_seconds: (&times.ttft).into(),
            itl_seconds: (&times.itl).into(),
            largest_gap_seconds: (&times.largest_gap).into(),
            tpot_seconds: (&times.tpot).into(),
            e2e_seconds: (&times.e2e).into(),
            send_lag_seconds: (&times.lag).into(),
            refusal_seconds: (&times.refusal).into(),
        }
    }
}

impl LoadReport {
    fn new(load: &Load, endpoints: &[String]) -> LoadReport {
        let rate = load.arrivals.rate;
        let options = &load.prompts;
        let prompts = match (&options.prompts, &options.lengths) {
            (Some(path), _) => path.display().to_string(),
            (None, Some(trace)) => match options.scale {
                Some(scale) => format!("{trace} scaled by {scale}"),
                None => format!("{trace} scaled to the context"),
            },
            (None, None) => format!(
                "{} prompt and {} output tokens",
                options.prompt_tokens, options.max_tokens
            ),
        };
        LoadReport {
            endpoints: endpoints.to_vec(),
            connections: load.target.connections,
            sessions: load.target.sessions,
            attempts: load.target.attempts,
            seed: load.seed,
            rate,
            burstiness: rate.map(|_| load.arrivals.burstiness),
            concurrency: load.arrivals.concurrency,
            prompts,
        }
    }
}

fn finish_reasons(tally: &Tally) -> Vec<FinishCount> {
    let counts = tally.finished.iter();
    counts
        .map(|(&finish_reason, &count)| FinishCount {
            finish_reason,
            count,
        })
        .collect()
}

fn refusals(tally: &Tally) -> Vec<RefusalCount> {
    let refusals = tally.refused.iter();
    refusals
        .map(|(refusal, refused)| RefusalCount {
            code: code_name(Code::from_i32(refusal.code)),
            reason: refusal.reason.clone(),
            count: refused.count,
            with_retry_after: refused.with_retry_after,
        })
        .collect()
}

fn errors(tally: &Tally) -> Vec<ErrorCount> {
    let errors = tally.failed.iter();
    errors
        .map(|(&kind, failed)| ErrorCount {
            kind,
            count: failed.count,
            example: failed.example.clone(),
        })
        .collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServerReport { model, kernel, .. } = &self.server;
        writeln!(f, "server     {model}, kernel {kernel}")?;
        writeln!(f, "load       {}", self.load)?;
        writeln!(f, "requests   {}", self.requests)?;
        for refusal in &self.refusals {
            writeln!(
                f,
                "refused    {} {} {}, {} with a time to come back",
                refusal.count, refusal.code, refusal.reason, refusal.with_retry_after
            )?;
        }
        for error in &self.errors {
            writeln!(
                f,
                "ERRORS     {} {}, such as: {}",
                error.count, error.kind, error.example
            )?;
        }
        let Throughput {
            requests_per_second,
            prompt_tokens_per_second,
            output_tokens_per_second,
        } = self.throughput;
        writeln!(
            f,
            "rate       {requests_per_second:.2} requests/s, {prompt_tokens_per_second:.1} prompt \
             and {output_tokens_per_second:.1} output tokens/s, over {:.1} s",
            self.elapsed_seconds
        )?;
        writeln!(f, "goodput    {}\n", self.goodput)?;
        self.write_times(f)
    }
}

impl Report {
    fn write_times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["ms", "p50", "p90", "p99", "max", "mean", "count"];
        writeln!(
            f,
            "{:<14}{:>10}{:>10}{:>10}{:>10}{:>10}{:>9}",
            heads[0], heads[1], heads[2], heads[3], heads[4], heads[5], heads[6]
        )?;
        for (name, times) in [
            ("first token", &self.ttft_seconds),
            ("each gap", &self.itl_seconds),
            ("largest gap", &self.largest_gap_seconds),
            ("per token", &self.tpot_seconds),
            ("whole request", &self.e2e_seconds),
            ("refusal", &self.refusal_seconds),
            ("sent late", &self.send_lag_seconds),
        ] {
            if times.count == 0 {
                continue;
            }
            let Quantiles {
                count,
                mean,
                p50,
                p90,
                p99,
                max,
            } = times;
            write!(f, "{name:<14}")?;
            for seconds in [p50, p90, p99, max, mean] {
                write!(f, "{:>10.2}", seconds * 1e3)?;
            }
            writeln!(f, "{count:>9}")?;
        }
        Ok(())
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.rate, self.burstiness) {
            (Some(rate), Some(1.0)) => write!(f, "{rate} requests/s (Poisson)")?,
            (Some(rate), burstiness) => {
                let burstiness = burstiness.unwrap_or(1.0);
                write!(f, "{rate} requests/s (gamma, burstiness {burstiness})")?;
            }
            (None, _) => write!(f, "{} requests at a time", self.concurrency.unwrap_or(1))?,
        }
        write!(f, ", seed {}, {}", self.seed, self.prompts)?;
        match self.sessions {
            Some(sessions) => write!(f, ", {sessions} Session streams")?,
            None => write!(f, ", Generate calls")?,
        }
        let connections = self.endpoints.len() * self.connections as usize;
        write!(
            f,
            ", {connections} connections to {}",
            self.endpoints.join(", ")
        )
    }
}

impl fmt::Display for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent: {} complete", self.sent, self.complete)?;
        for (count, name) in [
            (self.drained, "drained"),
            (self.deadline_exceeded, "past their deadline"),
            (self.refused, "refused"),
        ] {
            if count > 0 {
                write!(f, ", {count} {name}")?;
            }
        }
        write!(f, ", {} errors", self.errors)?;
        match self.not_sent {
            0 => Ok(()),
            not_sent => write!(f, "; {not_sent} not sent, as too many were unanswered"),
        }
    }
}

impl fmt::Display for Goodput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.share * 100.0;
        write!(
            f,
            "{:.2} requests/s, {percent:.1} % of all",
            self.requests_per_second
        )?;
        match (self.slo_ttft_seconds, self.slo_tpot_seconds) {
            (None, None) => write!(f, ", by no service level but completeness"),
            (ttft, tpot) => {
                let bounds = [("first token", ttft), ("per token", tpot)];
                bounds
                    .iter()
                    .filter_map(|(name, bound)| Some((name, (*bound)?)))
                    .try_for_each(|(name, bound)| {
                        write!(f, ", {name} within {:.0} ms", bound * 1e3)
                    })
            }
        }
    }
}
