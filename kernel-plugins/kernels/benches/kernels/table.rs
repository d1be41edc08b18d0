//! The table at the end: every case as a share of the machine's limits.

use std::time::Duration;

use ternion_kernels::limits::{MultiplyAdd, Reading};
use ternion_kernels::team::Team;

use crate::case::{Case, Matrices, Shape};

/// Seconds of a matrix, and what else the machine did in between.
pub(crate) struct Samples<'a> {
    reading: Reading<'a>,
    peak: MultiplyAdd,
    /// The same product by i2s.
    i2s: Case<'a>,
    times: Vec<f64>,
    /// How many times as long i2s took.
    ratios: Vec<f64>,
    /// In units a second.
    bytes: Vec<f64>,
    products: Vec<f64>,
}

impl<'a> Samples<'a> {
    pub(crate) fn new(reading: Reading<'a>, peak: MultiplyAdd, i2s: Case<'a>) -> Samples<'a> {
        Samples {
            reading,
            peak,
            i2s,
            times: Vec::new(),
            ratios: Vec::new(),
            bytes: Vec::new(),
            products: Vec::new(),
        }
    }

    /// Takes a sample, and measures i2s and the limits beside it.
    pub(crate) fn take(&mut self, case: &mut Case<'_>, team: &Team, products: u64) -> Duration {
        let read = self.reading.pass(team).as_secs_f64();
        self.bytes.push(self.reading.bytes() as f64 / read);
        self.products.push(self.peak.measure(team, Duration::ZERO));
        let time = case.run(products);
        self.times.push(time.as_secs_f64() / products as f64);
        self.ratios
            .push(self.i2s.run(products).as_secs_f64() / time.as_secs_f64());
        time
    }
}

/// The value below which so much of them lies.
fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}

#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<String>,
}

impl Table {
    pub(crate) fn add(
        &mut self,
        name: &str,
        matrices: &Matrices,
        (batch, threads): (usize, usize),
        mut samples: Samples<'_>,
    ) {
        let times = &mut samples.times;
        let median = quantile(times, 0.5);
        let spread = quantile(times, 0.9) / quantile(times, 0.1) - 1.0;
        let ratio = quantile(&mut samples.ratios, 0.5);
        let most_bytes = quantile(&mut samples.bytes, 0.5);
        let most_products = quantile(&mut samples.products, 0.5);
        let Shape { rows, cols } = matrices.shape();
        let bytes = matrices.bytes() as f64 / median;
        let products = (rows * cols * batch) as f64 / median;
        self.rows.push(format!(
            "| {name} | {rows}x{cols} | {batch} | {threads} | {:.1} | {:.0} % | {:.0} | {:.0} % \
             | {:.1} | {:.0} | {:.0} % | {ratio:.2} ({:.2}-{:.2}) |",
            bytes / 1e9,
            100.0 * bytes / most_bytes,
            products / 1e9,
            100.0 * products / most_products,
            most_bytes / 1e9,
            most_products / 1e9,
            100.0 * spread,
            quantile(&mut samples.ratios, 0.1),
            quantile(&mut samples.ratios, 0.9),
        ));
    }

    pub(crate) fn print(&self) {
        println!(
            "Medians. `of read` and `of peak` are shares of what the machine read, and multiplied \
             and added up in registers, in turns with the case; `spread` is how much longer nine \
             tenths of the samples took at most than one tenth. `against i2s` is how many times as \
             long the CPU's best i2s took in turns with the case, and in brackets the least and \
             the most of the middle eight tenths.\n\n\
             | kernel | shape | tokens | threads | GB/s | of read | GMAC/s | of peak | read GB/s \
             | peak GMAC/s | spread | against i2s |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
        self.rows.iter().for_each(|row| println!("{row}"));
    }
}
