//! Shutting down without cutting anyone off.

use tokio::sync::watch;

/// How far a shutdown has come. Only ever increases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// New requests are refused, running ones go on.
    Draining,
    /// Time is up: what still runs ends now.
    Ending,
}

/// The phase, and how many requests are in flight.
#[derive(Debug)]
pub(crate) struct Drain {
    phase: watch::Sender<Phase>,
    in_flight: watch::Sender<usize>,
}

/// A request in flight: counted until dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    in_flight: watch::Sender<usize>,
}

/// The server takes no new requests.
#[derive(Debug, thiserror::Error)]
#[error("server is draining and takes no new requests")]
pub(crate) struct Draining;

impl Drain {
    pub(crate) fn new() -> Drain {
        Drain {
            phase: watch::Sender::new(Phase::Serving),
            in_flight: watch::Sender::new(0),
        }
    }

    /// Counts a request in, unless it comes too late.
    pub(crate) fn enter(&self) -> Result<InFlight, Draining> {
        // Counted before the look at the phase: whoever starts draining
        // after that look sees the request.
        self.in_flight.send_modify(|n| *n += 1);
        let in_flight = InFlight {
            in_flight: self.in_flight.clone(),
        };
        match self.phase() {
            Phase::Serving => Ok(in_flight),
            _ => Err(Draining),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Moves on to a phase; never back.
    pub(crate) fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let moved = to > *phase;
            *phase = to.max(*phase);
            moved
        });
    }

    /// Returns once the phase is at least `phase`.
    pub(crate) async fn reached(&self, phase: Phase) {
        let mut watched = self.phase.subscribe();
        // Fails only if the sender is gone, and it is in `self`.
        let _ = watched.wait_for(|now| *now >= phase).await;
    }

    pub(crate) fn num_in_flight(&self) -> usize {
        *self.in_flight.borrow()
    }

    /// Returns once nothing is in flight.
    pub(crate) async fn idle(&self) {
        let mut watched = self.in_flight.subscribe();
        let _ = watched.wait_for(|n| *n == 0).await;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.in_flight.send_modify(|n| *n -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_in_flight_hold_up_the_end_and_new_ones_are_refused() {
        let drain = Drain::new();
        let first = drain.enter().expect("serving");
        drain.advance(Phase::Draining);
        drain.enter().expect_err("draining");
        assert_eq!(drain.num_in_flight(), 1, "a refused request is not counted");

        let idle = drain.idle();
        tokio::pin!(idle);
        let waiting = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(Future::poll(idle.as_mut(), cx).is_pending())
        });
        assert!(waiting.await, "idle with a request in flight");
        drop(first);
        idle.await;
    }

    #[tokio::test]
    async fn the_phase_never_goes_back() {
        let drain = Drain::new();
        drain.advance(Phase::Ending);
        drain.advance(Phase::Draining);
        assert_eq!(drain.phase(), Phase::Ending);
        drain.reached(Phase::Draining).await;
    }
}
