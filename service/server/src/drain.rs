//! Shutting down without cutting anyone off.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::watch;
use tokio_stream::Stream;

/// How far a shutdown has come. Only ever increases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// Health says NOT_SERVING, so that balancers look elsewhere; requests of
    /// those that have not noticed yet are still served.
    Leaving,
    /// New requests are refused, running ones go on, connections are told to
    /// go.
    Draining,
    /// Nothing runs, or time is up: what is still there ends now.
    Ending,
}

/// The phase, and what is in flight.
#[derive(Debug)]
pub(crate) struct Drain {
    /// How long `Leaving` lasts.
    delay: Duration,
    phase: watch::Sender<Phase>,
    in_flight: watch::Sender<usize>,
    deliveries: watch::Sender<usize>,
}

/// The frames of a call on their way to its client. Counted until the
/// connection has taken the last of them, which a slow reader delays long
/// after the request itself has ended.
#[derive(Debug)]
pub(crate) struct Delivery<S> {
    frames: S,
    _counted: Option<InFlight>,
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
    pub(crate) fn new(delay: Duration) -> Drain {
        Drain {
            delay,
            phase: watch::Sender::new(Phase::Serving),
            in_flight: watch::Sender::new(0),
            deliveries: watch::Sender::new(0),
        }
    }

    /// Counts a request in, unless it comes too late.
    pub(crate) fn enter(&self) -> Result<InFlight, Draining> {
        // Counted before the look at the phase: whoever starts draining
        // after that look sees the request.
        let in_flight = InFlight::count(&self.in_flight);
        match self.phase() {
            Phase::Serving | Phase::Leaving => Ok(in_flight),
            Phase::Draining | Phase::Ending => Err(Draining),
        }
    }

    /// Counts the frames of a call. Not those of one that comes too late: its
    /// answer is a refusal, and clients that go on asking would keep the
    /// server up.
    pub(crate) fn deliver<S>(&self, frames: S) -> Delivery<S> {
        let in_time = self.phase() < Phase::Draining;
        Delivery {
            frames,
            _counted: in_time.then(|| InFlight::count(&self.deliveries)),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn delay(&self) -> Duration {
        self.delay
    }

    /// Begins, unless that was done. Without a delay there is nothing between
    /// health's word and the first refusal.
    pub(crate) fn begin(&self) {
        self.advance(match self.delay.is_zero() {
            true => Phase::Draining,
            false => Phase::Leaving,
        });
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

    /// Returns once nothing is in flight. Meant for when nothing new is taken.
    pub(crate) async fn idle(&self) {
        for counter in [&self.in_flight, &self.deliveries] {
            let _ = counter.subscribe().wait_for(|n| *n == 0).await;
        }
    }
}

impl InFlight {
    fn count(counter: &watch::Sender<usize>) -> InFlight {
        counter.send_modify(|n| *n += 1);
        InFlight {
            in_flight: counter.clone(),
        }
    }
}

#[cfg(test)]
impl<S> Delivery<S> {
    pub(crate) fn frames(&self) -> &S {
        &self.frames
    }
}

impl<S: Stream + Unpin> Stream for Delivery<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        Pin::new(&mut self.frames).poll_next(cx)
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
        let drain = Drain::new(Duration::ZERO);
        let first = drain.enter().expect("serving");
        drain.advance(Phase::Draining);
        drain.enter().expect_err("draining");
        assert_eq!(drain.num_in_flight(), 1, "a refused request is not counted");

        assert!(!is_idle(&drain).await, "a request is in flight");
        drop(first);
        drain.idle().await;
    }

    #[tokio::test]
    async fn a_server_that_leaves_still_serves() {
        let drain = Drain::new(Duration::ZERO);
        drain.advance(Phase::Leaving);
        drain.enter().expect("balancers may not have noticed");
    }

    #[tokio::test]
    async fn an_answer_on_its_way_holds_up_the_end_and_a_late_refusal_does_not() {
        let drain = Drain::new(Duration::ZERO);
        let answer = drain.deliver(tokio_stream::empty::<()>());
        drain.advance(Phase::Draining);
        let _refusal = drain.deliver(tokio_stream::empty::<()>());
        assert!(!is_idle(&drain).await, "an answer is on its way");
        drop(answer);
        drain.idle().await;
    }

    async fn is_idle(drain: &Drain) -> bool {
        let mut idle = std::pin::pin!(drain.idle());
        std::future::poll_fn(|cx| Poll::Ready(idle.as_mut().poll(cx).is_ready())).await
    }

    #[tokio::test]
    async fn the_phase_never_goes_back() {
        let drain = Drain::new(Duration::ZERO);
        drain.advance(Phase::Ending);
        drain.advance(Phase::Draining);
        assert_eq!(drain.phase(), Phase::Ending);
        drain.reached(Phase::Draining).await;
    }
}
