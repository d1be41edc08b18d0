use std::fmt;

use serde::Serialize;

use super::report::Report;

/// Runs of one command, in their order.
#[derive(Debug, Serialize)]
pub(crate) struct Sweep {
    pub(crate) runs: Vec<Report>,
    /// The run of the most goodput.
    pub(crate) peak: Peak,
    /// Goodput of the last run as a part of the peak's: what is left of it
    /// under the highest rate, if rates ascend.
    pub(crate) last_share_of_peak: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Peak {
    /// Of `runs`, from 0.
    run: usize,
    rate: Option<f64>,
    goodput_requests_per_second: f64,
}

impl Sweep {
    /// There is a run at least.
    pub(crate) fn new(runs: Vec<Report>) -> Sweep {
        let goodput = |report: &Report| report.measured.goodput.requests_per_second;
        let best =
            |a: &(usize, &Report), b: &(usize, &Report)| goodput(a.1).total_cmp(&goodput(b.1));
        let (run, peak) = runs.iter().enumerate().max_by(best).expect("there is one");
        let peak = Peak {
            run,
            rate: peak.load.rate,
            goodput_requests_per_second: goodput(peak),
        };
        let last = runs.last().map_or(0.0, goodput);
        Sweep {
            last_share_of_peak: last / peak.goodput_requests_per_second.max(1e-9),
            peak,
            runs,
        }
    }
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(first) = self.runs.first() {
            writeln!(f, "server     {}", first.server)?;
        }
        for run in &self.runs {
            writeln!(f, "load       {}", run.load)?;
            for warning in &run.warnings {
                writeln!(f, "WARNING    {warning}")?;
            }
            for error in &run.measured.errors {
                writeln!(
                    f,
                    "ERRORS     {} {}, such as: {}",
                    error.count, error.kind, error.example
                )?;
            }
        }
        writeln!(f)?;
        let heads = [
            "rate/s",
            "good/s",
            "good %",
            "done/s",
            "refused",
            "errors",
            "tokens/s",
            "TTFT p50",
            "TTFT p99",
            "TPOT p50",
            "TPOT p99",
            "refuse p99",
        ];
        for head in heads {
            write!(f, "{head:>11}")?;
        }
        writeln!(f)?;
        for run in &self.runs {
            let measured = &run.measured;
            match run.load.rate {
                Some(rate) => write!(f, "{rate:>11.2}")?,
                None => write!(
                    f,
                    "{:>11}",
                    run.load
                        .concurrency
                        .map_or("inf".into(), |n| format!("{n} at once"))
                )?,
            }
            for value in [
                measured.goodput.requests_per_second,
                measured.goodput.share * 100.0,
                measured.throughput.requests_per_second,
            ] {
                write!(f, "{value:>11.2}")?;
            }
            for value in [measured.requests.refused, measured.requests.errors] {
                write!(f, "{value:>11}")?;
            }
            write!(f, "{:>11.1}", measured.throughput.output_tokens_per_second)?;
            for seconds in [
                measured.ttft_seconds.p50,
                measured.ttft_seconds.p99,
                measured.tpot_seconds.p50,
                measured.tpot_seconds.p99,
                measured.refusal_seconds.p99,
            ] {
                write!(f, "{:>11.1}", seconds * 1e3)?;
            }
            writeln!(f)?;
        }
        for run in self.runs.iter().filter(|run| !run.tenants.is_empty()) {
            writeln!(f, "\ntenants    {}", run.load.arrivals)?;
            for tenant in &run.tenants {
                writeln!(f, "           {tenant}")?;
            }
        }
        writeln!(
            f,
            "\npeak       {:.2} requests/s of goodput; the last run has {:.1} % of it",
            self.peak.goodput_requests_per_second,
            self.last_share_of_peak * 100.0
        )
    }
}
