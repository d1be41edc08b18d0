//! What the machine can do at most, measured: bytes read from memory and int8
//! products added up, by some threads together. A kernel's speed is told as a
//! share of these, taken in the same minute, since on a shared machine both
//! change from one to the next.

mod multiply_add;
mod read;

pub use multiply_add::MultiplyAdd;
pub use read::ReadBandwidth;

use std::time::{Duration, Instant};

/// The shortest of many runs within a budget, but of three at least.
fn shortest(budget: Duration, mut run: impl FnMut()) -> Duration {
    let mut best = Duration::MAX;
    let begin = Instant::now();
    let mut runs = 0;
    while runs < 3 || begin.elapsed() < budget {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
        runs += 1;
    }
    best
}
