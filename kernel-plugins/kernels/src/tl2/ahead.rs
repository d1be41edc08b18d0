//! Asking for packed weights before they are read.
//!
//! Between two loads of weights lie a dozen instructions, so that those in
//! flight don't cover memory's latency, and the hardware's own prefetcher stops
//! at every page. Each load asks for one line, and no more: five in a row cost
//! a Zen 5 a seventh of its speed, twenty in a row a third. Four kilobytes
//! ahead are a sixth slower than eight.

use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use super::layout::VECTOR;

const AHEAD: usize = 8192;

/// Asks for what stands eight kilobytes after a vector of words. At the end of
/// the matrix it asks in vain.
#[inline]
pub(super) fn ask(vector: &[u8; VECTOR]) {
    // SAFETY: every x86-64 CPU has the instruction, and it reads nothing: where
    // there is no memory it does nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(vector.as_ptr().wrapping_add(AHEAD).cast()) }
}
