//! What a worker fetches while it waits.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fetch;

/// Bytes that a worker fetches at most: a part of its second-level cache, and
/// what memory gives one core in some ten microseconds.
const MOST: usize = 384 << 10;
/// Of which so many between two looks whether there is something to do.
const STEP: usize = 8 * fetch::LINE;

/// Memory that a worker reads soon: no more than an address and a length, as
/// nothing but a hint is made of them. So it may be said anew at any time, and
/// what comes of two writers at once is a worse hint.
#[derive(Default)]
pub(super) struct Ahead {
    begin: AtomicUsize,
    len: AtomicUsize,
}

impl Ahead {
    /// Says what the worker reads soon.
    pub(super) fn expect(&self, memory: &[u8]) {
        self.begin.store(memory.as_ptr().addr(), Ordering::Relaxed);
        self.len.store(memory.len().min(MOST), Ordering::Relaxed);
    }

    /// Fetches until all is there or there is something to do; what is left may
    /// be fetched after that.
    pub(super) fn fetch_until(&self, something_to_do: impl Fn() -> bool) {
        loop {
            let len = self.len.load(Ordering::Relaxed);
            if len == 0 || something_to_do() {
                return;
            }
            let begin = self.begin.load(Ordering::Relaxed);
            let step = len.min(STEP);
            for line in (begin..begin + step).step_by(fetch::LINE) {
                fetch::far(core::ptr::without_provenance::<u8>(line));
            }
            self.begin.store(begin + step, Ordering::Relaxed);
            self.len.store(len - step, Ordering::Relaxed);
        }
    }

    #[cfg(test)]
    pub(super) fn is_done(&self) -> bool {
        self.len.load(Ordering::Relaxed) == 0
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_is_left_is_fetched_later() {
        let memory = vec![0_u8; 2 * STEP + 10];
        let ahead = Ahead::default();
        ahead.expect(&memory);
        let looks = Cell::new(0);
        ahead.fetch_until(|| looks.replace(looks.get() + 1) == 1);
        assert_eq!(ahead.len.load(Ordering::Relaxed), STEP + 10);
        ahead.fetch_until(|| false);
        assert!(ahead.is_done());
        let end = ahead.begin.load(Ordering::Relaxed);
        assert_eq!(end, memory.as_ptr_range().end.addr());
    }

    #[test]
    fn no_more_is_fetched_than_a_cache_keeps() {
        let memory = vec![0_u8; MOST + 1];
        let ahead = Ahead::default();
        ahead.expect(&memory);
        assert_eq!(ahead.len.load(Ordering::Relaxed), MOST);
    }
}
