use std::fmt;
use std::time::Duration;

use serde::Serialize;
use ternion_client::proto::FinishReason;

use super::fairness::{jain_index, service};
use super::tally::{Figures, Latency, Tally};
use super::tenants::Tenant;
use super::time_series::Second;

/// What counts as good. An absent bound is met.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slo {
    pub(crate) ttft: Option<Duration>,
    pub(crate) tpot: Option<Duration>,
    pub(crate) e2e: Option<Duration>,
}

impl Slo {
    /// One token has no time per further token, and so none that is too long.
    pub(crate) fn is_met(
        &self,
        ttft: Option<Duration>,
        tpot: Option<Duration>,
        e2e: Duration,
    ) -> bool {
        let within = |time: Option<Duration>, bound: Option<Duration>| match (time, bound) {
            (Some(time), Some(bound)) => time <= bound,
            _ => true,
        };
        within(ttft, self.ttft) && within(tpot, self.tpot) && within(Some(e2e), self.e2e)
    }
}

/// A run, for people and scripts. Scripts read the fields: they are only ever
/// added. Times are seconds.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) load: LoadReport,
    pub(crate) server: ServerReport,
    /// From the end of the warm-up to that of the last request.
    pub(crate) elapsed_seconds: f64,
    /// Most unanswered requests at a time.
    pub(crate) peak_in_flight: usize,
    /// What keeps the figures from being the server's alone.
    pub(crate) warnings: Vec<String>,
    #[serde(flatten)]
    pub(crate) measured: Measured,
    pub(crate) send_lag_seconds: Quantiles,
    pub(crate) fairness: Fairness,
    /// Empty if there is one only, whose figures are those of all.
    pub(crate) tenants: Vec<TenantReport>,
    /// A row for each second since the start, the warm-up included.
    pub(crate) time_series: Vec<Second>,
    /// For plots.
    #[serde(skip)]
    pub(crate) curves: Vec<(&'static str, Vec<(f64, f64)>)>,
}

/// All that repeats the run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LoadReport {
    pub(crate) endpoints: Vec<String>,
    pub(crate) protocol: Protocol,
    pub(crate) connections: u32,
    pub(crate) sessions: Option<u32>,
    pub(crate) attempts: u32,
    pub(crate) seed: u64,
    /// Mean requests a second; absent in a closed loop, and where all come at
    /// once.
    pub(crate) rate: Option<f64>,
    pub(crate) burstiness: Option<f64>,
    pub(crate) concurrency: Option<u32>,
    /// In words.
    pub(crate) arrivals: String,
    pub(crate) prompts: String,
    pub(crate) warm_up_seconds: f64,
    pub(crate) shared_prefix: f64,
    pub(crate) temperature: Option<f32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    Grpc,
    /// A connection for each request that is unanswered.
    Http,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct ServerReport {
    pub(crate) model: String,
    pub(crate) digest: String,
    pub(crate) kernel: String,
    pub(crate) context_limit: Option<u32>,
}

/// Of all requests, or of a tenant's.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) requests: Requests,
    finish_reasons: Vec<FinishCount>,
    pub(crate) refusals: Vec<RefusalCount>,
    pub(crate) errors: Vec<ErrorCount>,
    pub(crate) throughput: Throughput,
    pub(crate) goodput: Goodput,
    tokens: Tokens,
    pub(crate) ttft_seconds: Quantiles,
    pub(crate) itl_seconds: Quantiles,
    largest_gap_seconds: Quantiles,
    pub(crate) tpot_seconds: Quantiles,
    pub(crate) e2e_seconds: Quantiles,
    pub(crate) accept_seconds: Quantiles,
    pub(crate) queue_seconds: Quantiles,
    pub(crate) refusal_seconds: Quantiles,
}

#[derive(Debug, Serialize)]
pub(crate) struct Requests {
    pub(crate) sent: u64,
    /// All tokens, or an end token.
    pub(crate) complete: u64,
    pub(crate) drained: u64,
    pub(crate) deadline_exceeded: u64,
    pub(crate) refused: u64,
    /// Without an explanation by the server.
    pub(crate) errors: u64,
    /// Too many were unanswered.
    pub(crate) not_sent: u64,
}

#[derive(Debug, Serialize)]
struct FinishCount {
    finish_reason: &'static str,
    count: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct RefusalCount {
    pub(crate) code: String,
    pub(crate) reason: String,
    pub(crate) count: u64,
    pub(crate) with_retry_after: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct ErrorCount {
    pub(crate) kind: &'static str,
    pub(crate) count: u64,
    pub(crate) example: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Throughput {
    pub(crate) requests_per_second: f64,
    pub(crate) prompt_tokens_per_second: f64,
    pub(crate) output_tokens_per_second: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Goodput {
    slo_ttft_seconds: Option<f64>,
    slo_tpot_seconds: Option<f64>,
    slo_e2e_seconds: Option<f64>,
    pub(crate) requests_per_second: f64,
    pub(crate) output_tokens_per_second: f64,
    /// Of those that were to be sent.
    pub(crate) share: f64,
}

#[derive(Debug, Serialize)]
struct Tokens {
    prompt: u64,
    /// Of the prompt, those that came from a cache.
    cached: u64,
    output: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Fairness {
    /// Absent with one tenant, and without any service.
    pub(crate) jain_index: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct TenantReport {
    pub(crate) name: String,
    pub(crate) weight: f64,
    /// Of the service, by weight.
    pub(crate) entitled_share: f64,
    /// Of the service while requests were due: prompt tokens and twice the
    /// output tokens.
    pub(crate) service_share: f64,
    #[serde(flatten)]
    pub(crate) measured: Measured,
    #[serde(skip)]
    pub(crate) seconds: Vec<Second>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// Timers of the runtime have a millisecond; a request that is later than this
/// waited for the generator's processor.
const LATE: Duration = Duration::from_millis(10);

/// Servers are advised to allow that many streams on a connection (RFC 9113).
const SAFE_STREAMS: usize = 100;

/// A server that is asked says something sooner.
const SLOW_ACCEPT: Duration = Duration::from_millis(100);

impl From<&Latency> for Quantiles {
    fn from(latency: &Latency) -> Quantiles {
        let quantile = |q| latency.quantile(q).as_secs_f64();
        Quantiles {
            count: latency.count(),
            mean: latency.mean().as_secs_f64(),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p95: quantile(0.95),
            p99: quantile(0.99),
            max: latency.max().as_secs_f64(),
        }
    }
}

impl Report {
    pub(crate) fn new(
        load: LoadReport,
        server: ServerReport,
        slo: Slo,
        tenants: &[Tenant],
        tally: &Tally,
    ) -> Report {
        let seconds = tally.elapsed.as_secs_f64().max(1e-6);
        let connections = load.endpoints.len() * load.connections as usize;
        let connections = (load.sessions.is_none() && load.protocol == Protocol::Grpc)
            .then_some(connections * tenants.len());
        let (fairness, tenants) = by_tenant(tenants, slo, tally, seconds);
        Report {
            load,
            server,
            elapsed_seconds: seconds,
            peak_in_flight: tally.peak_in_flight,
            warnings: warnings(tally, connections),
            measured: Measured::new(&tally.all, slo, seconds),
            send_lag_seconds: (&tally.all.times.lag).into(),
            fairness,
            tenants,
            time_series: tally.all.series.seconds().to_vec(),
            curves: curves(&tally.all),
        }
    }
}

/// `connections` is how many there are, where calls share them.
fn warnings(tally: &Tally, connections: Option<usize>) -> Vec<String> {
    let mut warnings = Vec::new();
    let accept = tally.all.times.accept.quantile(0.99);
    let on_each = connections.map_or(0, |connections| tally.peak_in_flight.div_ceil(connections));
    if on_each > SAFE_STREAMS && accept > SLOW_ACCEPT {
        warnings.push(format!(
            "up to {on_each} requests shared a connection, and 1 % heard nothing of the server for {:.0} ms \
             or more: what is over its limit of calls on a connection waits here, where it can't be refused; \
             --connections makes more",
            accept.as_secs_f64() * 1e3
        ));
    }
    let late = tally.all.times.lag.quantile(0.99);
    if late > LATE {
        warnings.push(format!(
            "this generator fell behind: 1 % of the requests were sent {:.0} ms late or more; \
             times count from when they were due, and so include it",
            late.as_secs_f64() * 1e3
        ));
    }
    if tally.all.not_sent > 0 {
        warnings.push(format!(
            "{} requests were not sent, as --max-in-flight were unanswered: the load was less \
             than asked for",
            tally.all.not_sent
        ));
    }
    warnings
}

fn by_tenant(
    tenants: &[Tenant],
    slo: Slo,
    tally: &Tally,
    seconds: f64,
) -> (Fairness, Vec<TenantReport>) {
    if tenants.len() < 2 {
        return (Fairness { jain_index: None }, Vec::new());
    }
    let services: Vec<(u64, f64)> = tenants
        .iter()
        .zip(&tally.tenants)
        .map(|(tenant, figures)| {
            let tokens = figures.series.tokens_between(tally.warm_up, tally.last_due);
            (service(tokens.0, tokens.1), tenant.weight)
        })
        .collect();
    let all_service: u64 = services.iter().map(|(service, _)| service).sum();
    let all_weight: f64 = services.iter().map(|(_, weight)| weight).sum();
    let report =
        |((tenant, figures), (service, weight)): ((&Tenant, &Figures), &(u64, f64))| TenantReport {
            name: tenant.name.clone(),
            weight: *weight,
            entitled_share: weight / all_weight,
            service_share: *service as f64 / all_service.max(1) as f64,
            measured: Measured::new(figures, slo, seconds),
            seconds: figures.series.seconds().to_vec(),
        };
    let reports = tenants.iter().zip(&tally.tenants).zip(&services);
    let fairness = Fairness {
        jain_index: jain_index(&services),
    };
    (fairness, reports.map(report).collect())
}

/// Milliseconds by percent of requests.
fn curves(figures: &Figures) -> Vec<(&'static str, Vec<(f64, f64)>)> {
    let times = &figures.times;
    [
        ("first token", &times.ttft),
        ("each gap", &times.itl),
        ("per token", &times.tpot),
        ("whole request", &times.e2e),
    ]
    .into_iter()
    .filter(|(_, latency)| latency.count() > 0)
    .map(|(name, latency)| {
        let point = |percent: f64| {
            (
                percent,
                latency.quantile(percent / 100.0).as_secs_f64() * 1e3,
            )
        };
        let percents = (1..100).map(f64::from).chain([99.5, 99.9]);
        (name, percents.map(point).collect())
    })
    .collect()
}

impl Measured {
    fn new(figures: &Figures, slo: Slo, seconds: f64) -> Measured {
        let per_second = |count: u64| count as f64 / seconds;
        let bound = |bound: Option<Duration>| bound.map(|bound| bound.as_secs_f64());
        let times = &figures.times;
        Measured {
            requests: Requests {
                sent: figures.sent,
                complete: figures.num_complete(),
                drained: figures.num_finished(FinishReason::Drained),
                deadline_exceeded: figures.num_finished(FinishReason::DeadlineExceeded),
                refused: figures.num_refused(),
                errors: figures.num_failed(),
                not_sent: figures.not_sent,
            },
            finish_reasons: finish_reasons(figures),
            refusals: refusals(figures),
            errors: errors(figures),
            throughput: Throughput {
                requests_per_second: per_second(figures.num_complete()),
                prompt_tokens_per_second: per_second(figures.prompt_tokens),
                output_tokens_per_second: per_second(figures.output_tokens),
            },
            goodput: Goodput {
                slo_ttft_seconds: bound(slo.ttft),
                slo_tpot_seconds: bound(slo.tpot),
                slo_e2e_seconds: bound(slo.e2e),
                requests_per_second: per_second(figures.good),
                output_tokens_per_second: per_second(figures.good_output_tokens),
                share: figures.goodput_share(),
            },
            tokens: Tokens {
                prompt: figures.prompt_tokens,
                cached: figures.cached_tokens,
                output: figures.output_tokens,
            },
            ttft_seconds: (&times.ttft).into(),
            itl_seconds: (&times.itl).into(),
            largest_gap_seconds: (&times.largest_gap).into(),
            tpot_seconds: (&times.tpot).into(),
            e2e_seconds: (&times.e2e).into(),
            accept_seconds: (&times.accept).into(),
            queue_seconds: (&times.queue).into(),
            refusal_seconds: (&times.refusal).into(),
        }
    }

    /// With a name for people.
    pub(crate) fn times(&self) -> [(&'static str, &Quantiles); 8] {
        [
            ("first token", &self.ttft_seconds),
            ("each gap", &self.itl_seconds),
            ("largest gap", &self.largest_gap_seconds),
            ("per token", &self.tpot_seconds),
            ("whole request", &self.e2e_seconds),
            ("accepted", &self.accept_seconds),
            ("in the queue", &self.queue_seconds),
            ("refusal", &self.refusal_seconds),
        ]
    }
}

fn finish_reasons(figures: &Figures) -> Vec<FinishCount> {
    let counts = figures.finished.iter();
    counts
        .map(|(&finish_reason, &count)| FinishCount {
            finish_reason,
            count,
        })
        .collect()
}

fn refusals(figures: &Figures) -> Vec<RefusalCount> {
    let refusals = figures.refused.iter();
    refusals
        .map(|((code, reason), refused)| RefusalCount {
            code: code.clone(),
            reason: reason.clone(),
            count: refused.count,
            with_retry_after: refused.with_retry_after,
        })
        .collect()
}

fn errors(figures: &Figures) -> Vec<ErrorCount> {
    let errors = figures.failed.iter();
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
        writeln!(f, "server     {}", self.server)?;
        writeln!(f, "load       {}", self.load)?;
        for warning in &self.warnings {
            writeln!(f, "WARNING    {warning}")?;
        }
        writeln!(f, "requests   {}", self.measured.requests)?;
        for refusal in &self.measured.refusals {
            writeln!(
                f,
                "refused    {} {} {}, {} with a time to come back",
                refusal.count, refusal.code, refusal.reason, refusal.with_retry_after
            )?;
        }
        for error in &self.measured.errors {
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
        } = self.measured.throughput;
        writeln!(
            f,
            "rate       {requests_per_second:.2} requests/s, {prompt_tokens_per_second:.1} prompt \
             and {output_tokens_per_second:.1} output tokens/s, over {:.1} s",
            self.elapsed_seconds
        )?;
        let Tokens { prompt, cached, .. } = self.measured.tokens;
        if cached > 0 {
            let percent = cached as f64 / prompt.max(1) as f64 * 100.0;
            writeln!(f, "cached     {percent:.1} % of the prompt tokens")?;
        }
        writeln!(f, "goodput    {}", self.measured.goodput)?;
        for tenant in &self.tenants {
            writeln!(f, "tenant     {tenant}")?;
        }
        if let Some(index) = self.fairness.jain_index {
            writeln!(
                f,
                "fairness   {index:.3}, Jain's index of service by weight"
            )?;
        }
        writeln!(f)?;
        self.write_times(f)
    }
}

impl Report {
    fn write_times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["p50", "p90", "p95", "p99", "max", "mean"];
        write!(f, "{:<14}", "ms")?;
        for head in heads {
            write!(f, "{head:>10}")?;
        }
        writeln!(f, "{:>9}", "count")?;
        let lag = [("sent late", &self.send_lag_seconds)];
        for (name, times) in self.measured.times().into_iter().chain(lag) {
            if times.count == 0 {
                continue;
            }
            write!(f, "{name:<14}")?;
            for seconds in times.columns() {
                write!(f, "{:>10.2}", seconds * 1e3)?;
            }
            writeln!(f, "{:>9}", times.count)?;
        }
        Ok(())
    }
}

impl Quantiles {
    /// As tables show them: p50, p90, p95, p99, max, mean.
    pub(crate) fn columns(&self) -> [f64; 6] {
        [self.p50, self.p90, self.p95, self.p99, self.max, self.mean]
    }
}

impl fmt::Display for ServerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.model)?;
        match self.kernel.as_str() {
            "" => Ok(()),
            kernel => write!(f, ", kernel {kernel}"),
        }
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, seed {}, {}", self.arrivals, self.seed, self.prompts)?;
        match self.sessions {
            Some(sessions) => write!(f, ", {sessions} Session streams")?,
            None => write!(f, ", a call each")?,
        }
        match self.protocol {
            Protocol::Grpc => {
                let connections = self.endpoints.len() * self.connections as usize;
                write!(f, ", {connections} connections")?;
            }
            Protocol::Http => write!(f, ", over HTTP")?,
        }
        write!(f, " to {}", self.endpoints.join(", "))?;
        match self.warm_up_seconds {
            0.0 => Ok(()),
            seconds => write!(f, ", after {seconds} s of warm-up"),
        }
    }
}

impl fmt::Display for TenantReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured {
            requests,
            throughput,
            ttft_seconds,
            ..
        } = &self.measured;
        write!(
            f,
            "{}: {:.1} % of the service ({:.1} % by weight), {requests}, {:.1} output tokens/s, \
             first token p50 {:.0} ms, p99 {:.0} ms",
            self.name,
            self.service_share * 100.0,
            self.entitled_share * 100.0,
            throughput.output_tokens_per_second,
            ttft_seconds.p50 * 1e3,
            ttft_seconds.p99 * 1e3
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
            not_sent => write!(f, "; {not_sent} not sent"),
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
        let bounds = [
            ("first token", self.slo_ttft_seconds),
            ("per token", self.slo_tpot_seconds),
            ("whole request", self.slo_e2e_seconds),
        ];
        if bounds.iter().all(|(_, bound)| bound.is_none()) {
            return write!(f, ", by no service level but completeness");
        }
        bounds
            .iter()
            .filter_map(|(name, bound)| Some((name, (*bound)?)))
            .try_for_each(|(name, bound)| write!(f, ", {name} within {:.0} ms", bound * 1e3))
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
