//! What a platform is told about this process: whether to restart it, and
//! whether to send it requests.
//!
//! Load is no part of either. A server whose queue is full still answers every
//! request at once, with a refusal that says when to come back; taken out of
//! rotation it would push its share onto the others, which then fill up as
//! well, and restarted it would lose what it was doing.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{
    drain::{Drain, Phase},
    heartbeat::Heartbeat,
};

#[derive(Debug)]
pub(crate) struct Vitals {
    pub(crate) drain: Arc<Drain>,
    /// Set once the engine's thread runs.
    heartbeat: OnceLock<Heartbeat>,
    stall_timeout: Duration,
}

/// How the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The model is not loaded yet, or no kernel selected.
    Loading,
    Serving,
    Draining,
    /// The engine's thread has not come round for too long.
    Stalled,
}

impl Condition {
    /// Whether starting the process again would not help.
    pub(crate) fn is_live(self) -> bool {
        self != Condition::Stalled
    }

    /// Whether requests should be sent here.
    pub(crate) fn is_ready(self) -> bool {
        self == Condition::Serving
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Condition::Loading => "loading",
            Condition::Serving => "serving",
            Condition::Draining => "draining",
            Condition::Stalled => "stalled",
        }
    }
}

impl Vitals {
    pub(crate) fn new(stall_timeout: Duration, drain_delay: Duration) -> Vitals {
        Vitals {
            drain: Arc::new(Drain::new(drain_delay)),
            heartbeat: OnceLock::new(),
            stall_timeout,
        }
    }

    /// The model is loaded, and the engine runs.
    pub(crate) fn loaded(&self, heartbeat: Heartbeat) {
        // There is one engine in a process, so it is set once.
        let _ = self.heartbeat.set(heartbeat);
    }

    pub(crate) fn condition(&self) -> Condition {
        match self.heartbeat_age() {
            None => Condition::Loading,
            Some(age) if age > self.stall_timeout => Condition::Stalled,
            Some(_) if self.drain.phase() != Phase::Serving => Condition::Draining,
            Some(_) => Condition::Serving,
        }
    }

    pub(crate) fn heartbeat_age(&self) -> Option<Duration> {
        Some(self.heartbeat.get()?.age())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than a busy machine may keep this test from running between two lines.
    const STALLED_AFTER: Duration = Duration::from_secs(2);

    #[test]
    fn a_silent_engine_is_stalled_whatever_else_is_true() {
        let vitals = Vitals::new(STALLED_AFTER, Duration::ZERO);
        assert_eq!(vitals.condition(), Condition::Loading);
        let heartbeat = Heartbeat::new();
        heartbeat.beat();
        vitals.loaded(heartbeat.clone());
        assert_eq!(vitals.condition(), Condition::Serving);
        vitals.drain.advance(Phase::Draining);
        assert_eq!(vitals.condition(), Condition::Draining);

        while heartbeat.age() <= STALLED_AFTER {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(vitals.condition(), Condition::Stalled);
        heartbeat.beat();
        assert_eq!(vitals.condition(), Condition::Draining);
    }

    #[test]
    fn only_a_stall_calls_for_a_restart_and_only_serving_for_requests() {
        use Condition::{Draining, Loading, Serving, Stalled};
        let told = [Loading, Serving, Draining, Stalled].map(|c| (c.is_live(), c.is_ready()));
        let expected = [(true, false), (true, true), (true, false), (false, false)];
        assert_eq!(told, expected);
    }
}
