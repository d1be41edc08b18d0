//! The table at the end: every case as a share of the machine's limits.

use std::time::Duration;

use ternion_kernels::limits::{MultiplyAdd, ReadBandwidth};
use ternion_kernels::team::Team;

use crate::case::{Matrices, Shape};

/// What the machine did beside a case, in units a second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    bytes: f64,
    products: f64,
}

impl Limits {
    /// Measures them, and keeps the better of this and earlier.
    pub(crate) fn measure(&mut self, memory: &ReadBandwidth, peak: MultiplyAdd, team: &Team) {
        let bytes = memory.measure(team, Duration::from_millis(200));
        self.bytes = self.bytes.max(bytes);
        let products = peak.measure(team, Duration::from_millis(50));
        self.products = self.products.max(products);
    }
}

#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<String>,
}

impl Table {
    /// `times` are seconds of one matrix.
    pub(crate) fn add(
        &mut self,
        name: &str,
        matrices: &Matrices,
        (batch, threads): (usize, usize),
        mut times: Vec<f64>,
        limits: Limits,
    ) {
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        let spread = times[times.len() * 9 / 10] / times[times.len() / 10] - 1.0;
        let Shape { rows, cols } = matrices.shape();
        let bytes = matrices.bytes() as f64 / median;
        let products = (rows * cols * batch) as f64 / median;
        self.rows.push(format!(
            "| {name} | {rows}x{cols} | {batch} | {threads} | {:.1} | {:.0} % | {:.0} | {:.0} % | {:.1} | {:.0} | {:.1} % |",
            bytes / 1e9,
            100.0 * bytes / limits.bytes,
            products / 1e9,
            100.0 * products / limits.products,
            limits.bytes / 1e9,
            limits.products / 1e9,
            100.0 * spread,
        ));
    }

    pub(crate) fn print(&self) {
        println!(
            "Medians. Shares are of what the machine read, and multiplied and added up in registers, \
             just before or after; spread is from the first tenth of the times to the last.\n"
        );
        println!(
            "| kernel | shape | tokens | threads | GB/s | of read | GMAC/s | of peak | read GB/s | peak GMAC/s | spread |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|");
        self.rows.iter().for_each(|row| println!("{row}"));
    }
}
