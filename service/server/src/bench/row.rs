//! One test's result, and how it is printed.

use std::io::Write;

use serde::Serialize;

use super::{limits::Limit, passes::Run};
use crate::resident::Resident;

/// What is the same for all tests of a call.
#[derive(Clone, Serialize)]
pub(super) struct Subject {
    pub(super) threads: usize,
    pub(super) kv: String,
    pub(super) model: String,
    pub(super) kernel: String,
    /// How the output head was computed, and with which instruction set.
    pub(super) head: String,
    /// Bytes in memory for it besides the model's own.
    pub(super) head_state_bytes: usize,
}

/// A run, and what was measured beside it.
pub(super) struct Sample {
    pub(super) run: Run,
    /// `None`: not asked for.
    pub(super) limit: Option<Limit>,
    /// `None`: the machine doesn't tell.
    pub(super) joules: Option<f64>,
}

#[derive(Serialize)]
pub(super) struct Row {
    test: String,
    batch: usize,
    depth: usize,
    #[serde(flatten)]
    subject: Subject,
    /// Of all sequences together, median of the runs.
    tokens_per_second: f64,
    /// Slowest and fastest run.
    tokens_per_second_min: f64,
    tokens_per_second_max: f64,
    /// What the model of bytes touched makes of a token: packed ternary
    /// weights, the head where it is used, and the context's keys and values.
    bytes_per_token: f64,
    /// Packed ternary weights, and head where it is used, streamed from
    /// memory: bytes of one pass times passes a second.
    weight_gb_per_second: f64,
    /// Keys and values of the context read from memory, likewise.
    kv_gb_per_second: f64,
    /// int8 products of the ternary matrices, and of nothing else.
    giga_products_per_second: f64,
    /// `null`: not measured.
    limits: Option<Limits>,
    /// Of all packages and their memory, whoever used it; `null` where the
    /// machine doesn't tell.
    joules_per_token: Option<f64>,
    /// Rows of the head that were computed exactly for a position, on average;
    /// null where it was not screened.
    candidates: Option<f64>,
    /// Memory after the test; null where the system doesn't tell.
    memory: Option<Resident>,
}

/// What the machine gave at most between these runs, and how much of it was
/// used. The larger share is what limits.
#[derive(Serialize)]
struct Limits {
    read_gb_per_second: f64,
    read_percent: f64,
    giga_products_per_second: f64,
    products_percent: f64,
}

/// Which test it is.
pub(super) struct Test {
    pub(super) name: String,
    pub(super) batch: usize,
    pub(super) depth: usize,
    /// Products of a token with all ternary matrices.
    pub(super) token_products: usize,
}

impl Row {
    /// # Panics
    ///
    /// Without samples.
    pub(super) fn new(
        test: Test,
        subject: &Subject,
        mut samples: Vec<Sample>,
        memory: Option<Resident>,
    ) -> Row {
        samples.sort_by_key(|sample| sample.run.took);
        let limits: Option<Vec<Limit>> = samples.iter().map(|sample| sample.limit).collect();
        let limit = limits.map(|limits| Limit::median(&limits));
        let median = &samples[samples.len() / 2];
        let seconds = median.run.took.as_secs_f64();
        let rate = |sample: &Sample| sample.run.tokens as f64 / sample.run.took.as_secs_f64();
        let giga_per_second = |count: usize| count as f64 / seconds / 1e9;
        let run = &median.run;
        let bytes = run.weight_bytes + run.kv_bytes;
        let giga_products = giga_per_second(run.tokens * test.token_products);
        let limits = limit.map(|limit| Limits {
            read_gb_per_second: limit.bandwidth / 1e9,
            read_percent: 1e11 * giga_per_second(bytes) / limit.bandwidth,
            giga_products_per_second: limit.products / 1e9,
            products_percent: 1e11 * giga_products / limit.products,
        });
        Row {
            test: test.name,
            batch: test.batch,
            depth: test.depth,
            subject: subject.clone(),
            tokens_per_second: rate(median),
            tokens_per_second_min: rate(&samples[samples.len() - 1]),
            tokens_per_second_max: rate(&samples[0]),
            bytes_per_token: bytes as f64 / run.tokens as f64,
            weight_gb_per_second: giga_per_second(run.weight_bytes),
            kv_gb_per_second: giga_per_second(run.kv_bytes),
            giga_products_per_second: giga_products,
            limits,
            joules_per_token: median.joules.map(|joules| joules / run.tokens as f64),
            candidates: run.candidates,
            memory,
        }
    }

    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            serde_json::to_writer(&mut out, self)?;
            writeln!(out)?;
            return Ok(());
        }
        let Subject {
            threads,
            kv,
            model,
            kernel,
            head,
            ..
        } = &self.subject;
        write!(
            out,
            "{:>7}  batch {:>3}  depth {:>5}  threads {threads}  {:8.2} tokens/s ({:.2}–{:.2})  \
             {:6.2} GB/s weights {:6.2} kv {kv}",
            self.test,
            self.batch,
            self.depth,
            self.tokens_per_second,
            self.tokens_per_second_min,
            self.tokens_per_second_max,
            self.weight_gb_per_second,
            self.kv_gb_per_second,
        )?;
        if let Some(limits) = &self.limits {
            write!(
                out,
                "  {:3.0} % of {:.1} GB/s  {:3.0} % of {:.0} G products/s",
                limits.read_percent,
                limits.read_gb_per_second,
                limits.products_percent,
                limits.giga_products_per_second,
            )?;
        }
        if let Some(joules) = self.joules_per_token {
            write!(out, "  {joules:.3} J/token")?;
        }
        writeln!(out, "  {model} on {kernel}, head {head}")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample(seconds: u64, joules: Option<f64>, bandwidth: f64) -> Sample {
        Sample {
            run: Run {
                tokens: 10,
                weight_bytes: 30_000_000_000,
                kv_bytes: 10_000_000_000,
                candidates: None,
                took: Duration::from_secs(seconds),
            },
            limit: Some(Limit {
                bandwidth,
                products: 1e12,
            }),
            joules,
        }
    }

    fn row(samples: Vec<Sample>) -> serde_json::Value {
        let test = Test {
            name: "tg10".to_owned(),
            batch: 1,
            depth: 0,
            token_products: 50_000_000_000,
        };
        let subject = Subject {
            threads: 2,
            kv: "f16".to_owned(),
            model: "m".to_owned(),
            kernel: "k".to_owned(),
            head: "f16".to_owned(),
            head_state_bytes: 0,
        };
        serde_json::to_value(Row::new(test, &subject, samples, None)).expect("it is plain data")
    }

    #[test]
    fn shares_are_of_the_limits_in_the_same_minute() {
        // The median takes 2 s and the median bandwidth is 25 GB/s: 40 GB in 2 s
        // are 80 % of it. 10 tokens of 50 G products are 250 G a second.
        let samples = [(1, 50e9), (4, 25e9), (2, 20e9)];
        let row = row(samples
            .map(|(seconds, bandwidth)| sample(seconds, Some(40.0), bandwidth))
            .into());
        assert_eq!(row["tokens_per_second"], 5.0);
        assert_eq!(row["tokens_per_second_min"], 2.5);
        assert_eq!(row["tokens_per_second_max"], 10.0);
        assert_eq!(row["bytes_per_token"], 4e9);
        assert_eq!(row["limits"]["read_percent"], 80.0);
        assert_eq!(row["limits"]["products_percent"], 25.0);
        assert_eq!(row["joules_per_token"], 4.0);
        assert_eq!(
            row["threads"], 2,
            "the subject's fields stand beside the others"
        );
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let mut one = sample(1, None, 1.0);
        one.limit = None;
        let row = row(vec![one]);
        assert!(row["limits"].is_null() && row["joules_per_token"].is_null());
    }
}
