//! Asking for packed weights before they are read.
//!
//! A kernel does so much with a vector of weights that the loads which a CPU
//! keeps in flight by itself don't cover memory's latency, and its own
//! prefetcher stops at pages. On a Zen 5 two kilobytes ahead are as good as
//! nothing; four to eight bring one token from four fifths of the bandwidth to
//! more than nine tenths, and four or eight tokens a fifth more speed.
//!
//! Each load asks for as many lines as it takes, and no more: twenty in a row
//! have cost a third of the speed. Weights are asked for beyond the end of the rows too, as a thread's
//! next rows mostly follow. Stopping there costs one thread what it gained.

use core::arch::x86_64::{_MM_HINT_NTA, _MM_HINT_T0, _mm_prefetch};

/// How far i2s and the head ask, where weights are read once: with eight
/// kilobytes two hundredths slower.
pub(crate) const ONCE: usize = 6144;
/// How far, where they are read again: four tokens lose three hundredths with
/// six kilobytes.
pub(crate) const AGAIN: usize = 8192;
/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the first weights of some rows, before any is read: a thread's rows
/// seldom follow the last it had.
pub(crate) fn first(rows: &[u8]) {
    for line in rows[..rows.len().min(ONCE)].chunks(LINE) {
        // SAFETY: every x86-64 CPU has the instruction, and it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) }
    }
}

/// For weights that are read once: they pass the second-level cache by, which
/// holds what was fetched while the thread waited. A whole model is three to
/// four hundredths faster for it, though a benchmark of single regions is up to
/// two slower where memory gives each thread all that it can take.
#[inline(always)]
pub(crate) fn once<const N: usize>(weights: &[u8; N], ahead: usize) {
    for line in (0..N).step_by(LINE) {
        // SAFETY: every x86-64 CPU has the instruction, and it reads nothing:
        // where there is no memory it does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_NTA>(there(weights, ahead + line)) }
    }
}

/// For weights that are read again for every group of tokens.
#[inline(always)]
pub(crate) fn again<const N: usize>(weights: &[u8; N], ahead: usize) {
    for line in (0..N).step_by(LINE) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(there(weights, ahead + line)) }
    }
}

#[inline(always)]
fn there(weights: &[u8], offset: usize) -> *const i8 {
    weights.as_ptr().wrapping_add(offset).cast()
}
