//! What the machine can do at most, measured between the runs it is compared
//! with: on a shared machine both change from one minute to the next.

use std::time::Duration;

use anyhow::Context;
use ternion_kernels::limits::{MultiplyAdd, ReadBandwidth, Reading};
use ternion_kernels::team::Team;

/// For finding out which way to read memory is the fastest.
const SEARCH: Duration = Duration::from_millis(400);
/// For the products; the least that is measured takes longer on most machines.
const PEAK: Duration = Duration::from_millis(5);

/// How the limits are measured.
pub(super) struct Limits<'a> {
    reading: Reading<'a>,
    products: MultiplyAdd,
}

/// What they are at a moment, by all threads together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// Bytes read from memory a second.
    pub(super) bandwidth: f64,
    /// int8 products added up a second.
    pub(super) products: f64,
}

impl<'a> Limits<'a> {
    pub(super) fn new(memory: &'a ReadBandwidth, team: &Team) -> anyhow::Result<Limits<'a>> {
        let products = MultiplyAdd::available().pop();
        Ok(Limits {
            reading: memory.fastest(team, SEARCH).0,
            products: products.context("no way to multiply")?,
        })
    }

    /// Takes some ten milliseconds.
    pub(super) fn measure(&self, team: &Team) -> Limit {
        let seconds = self.reading.pass(team).as_secs_f64();
        Limit {
            bandwidth: self.reading.bytes() as f64 / seconds,
            products: self.products.measure(team, PEAK),
        }
    }
}

impl Limit {
    /// The median of each.
    pub(super) fn median(limits: &[Limit]) -> Limit {
        Limit {
            bandwidth: median(limits.iter().map(|limit| limit.bandwidth)),
            products: median(limits.iter().map(|limit| limit.products)),
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
