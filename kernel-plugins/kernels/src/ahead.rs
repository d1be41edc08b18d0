//! Asking for packed weights before they are read.
//!
//! A kernel does so much with a vector of weights that the loads which a CPU
//! keeps in flight by itself don't cover memory's latency, and its own
//! prefetcher stops at pages. On a Zen 5 two kilobytes ahead are as good as
//! nothing; four to eight bring one token from four fifths of the bandwidth to
//! more than nine tenths, and four or eight tokens a fifth more speed.
//!
//! Each load asks for as many lines as it takes, and no more: with look-ups
//! between the loads, five in a row cost a seventh of the speed, twenty a
//! third. Weights are asked for beyond the end of the rows too, as a thread's
//! next rows mostly follow. Stopping there costs one thread what it gained.

use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

/// How far: with six kilobytes two threads with one token are up to four
/// hundredths slower, and one thread with four tokens is three; it gains one
/// with one token.
const AHEAD: usize = 8192;
/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the first weights of some rows, before any is read: a thread's rows
/// seldom follow the last it had.
pub(crate) fn first(rows: &[u8]) {
    for line in rows[..rows.len().min(AHEAD)].chunks(LINE) {
        // SAFETY: every x86-64 CPU has the instruction, and it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) }
    }
}

/// Asks for what will be read when these have been. Weights pass through the
/// second-level cache even if no other tokens read them again: passing it by
/// makes two threads two to nine hundredths slower where memory gives each all
/// that it can take.
#[inline(always)]
pub(crate) fn next<const N: usize>(weights: &[u8; N]) {
    for line in (0..N).step_by(LINE) {
        let there = weights.as_ptr().wrapping_add(AHEAD + line);
        // SAFETY: every x86-64 CPU has the instruction, and it reads nothing:
        // where there is no memory it does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(there.cast()) }
    }
}
