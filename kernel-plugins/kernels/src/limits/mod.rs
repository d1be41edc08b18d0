//! What the machine can do at most, measured: bytes read from memory and int8
//! products added up, by some threads together. A kernel's speed is told as a
//! share of these, taken in the same minute, since on a shared machine both
//! change from one to the next.

mod multiply_add;
mod read;

pub use multiply_add::MultiplyAdd;
pub use read::{ReadBandwidth, Reading};

use std::time::{Duration, Instant};

/// The median of many runs within a budget, but of three at least. Not the
/// shortest: what is compared with it is a median too, and on a shared machine
/// the two are a fifth apart.
fn median(budget: Duration, mut run: impl FnMut() -> Duration) -> Duration {
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < 3 || begin.elapsed() < budget {
        times.push(run());
    }
    times.sort();
    times[times.len() / 2]
}
