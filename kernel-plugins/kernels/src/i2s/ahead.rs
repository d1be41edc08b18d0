//! Asking for packed weights before they are read.
//!
//! A kernel does so much with a vector of weights that the loads which a CPU
//! keeps in flight by itself don't cover memory's latency, and its own
//! prefetcher stops at pages. On a Zen 5 two kilobytes ahead are as good as
//! nothing; four to eight bring one token from four fifths of the bandwidth to
//! more than nine tenths, and four or eight tokens a fifth more speed.
//!
//! Weights are asked for beyond the end of the rows too, as a thread's next
//! rows mostly follow. Stopping there costs one thread what it gained.

use core::arch::x86_64::{_MM_HINT_NTA, _MM_HINT_T0, _mm_prefetch};

use super::Product;
use super::layout::Step;

const AHEAD: usize = 8192;

/// Asks for the first weights of some rows, before any is read: a thread's rows
/// seldom follow the last it had.
pub(super) fn first(product: &Product<'_>) {
    let rows = &product.packed[product.layout.bytes_of(&product.rows)];
    for line in rows[..rows.len().min(AHEAD)].chunks(64) {
        // SAFETY: every x86-64 CPU has the instruction, and it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) }
    }
}

/// For weights that are read once: they pass the second-level cache by, which
/// is a little faster with two threads.
#[inline]
pub(super) fn once(step: &Step) {
    for line in lines(step) {
        // SAFETY: every x86-64 CPU has the instruction, and it reads nothing:
        // where there is no memory it does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_NTA>(line) }
    }
}

/// For weights that are read again for every group of tokens.
#[inline]
pub(super) fn again(step: &Step) {
    for line in lines(step) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) }
    }
}

#[inline]
fn lines(step: &Step) -> [*const i8; 2] {
    let start = step.as_ptr().wrapping_add(AHEAD).cast();
    [start, start.wrapping_add(64)]
}
