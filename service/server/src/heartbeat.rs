//! The sign of life of the engine's thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How often the thread beats while it has nothing to do.
pub(crate) const IDLE_BEAT: Duration = Duration::from_millis(250);

/// When the thread last came round. One store a turn, so that it costs the
/// thread nothing, and nobody who looks can hold it up.
#[derive(Debug, Clone)]
pub(crate) struct Heartbeat {
    origin: Instant,
    /// Milliseconds since `origin`.
    last: Arc<AtomicU64>,
}

impl Heartbeat {
    pub(crate) fn new() -> Heartbeat {
        Heartbeat {
            origin: Instant::now(),
            last: Arc::default(),
        }
    }

    pub(crate) fn beat(&self) {
        let now = self.origin.elapsed().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// How long ago the last beat was.
    pub(crate) fn age(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.origin.elapsed().saturating_sub(last)
    }
}
