//! The bounded way from the engine's thread to one request's reader, for all
//! samples of the request.
//!
//! The engine never waits for a reader: it asks how much [`Outbox::credit`]
//! there is and produces no more tokens than that. A reader that stops reading
//! gets its sequence parked; one that goes away gets it cancelled.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use ternion_engine::Event;
use tokio::sync::mpsc;

use crate::engine_loop::Waker;

#[path = "parking.rs"]
mod parking;

use parking::Parking;

/// What `parking` is made of. Its test puts others in this place.
mod atomic {
    pub(super) use std::sync::atomic::{AtomicBool, fence};
}

/// What either side leaves for the other to find.
#[derive(Debug)]
struct Signals {
    /// Nobody wants the rest.
    cancelled: AtomicBool,
    parking: Parking,
}

/// The engine's end.
#[derive(Debug)]
pub(crate) struct Outbox {
    events: mpsc::Sender<Event>,
    /// Places for events that come without credit and have not come yet.
    set_aside: usize,
    /// Samples that have not ended.
    alive: usize,
    signals: Arc<Signals>,
}

/// The reader's end. Dropping it cancels the request.
#[derive(Debug)]
pub(crate) struct OutboxReader {
    events: mpsc::Receiver<Event>,
    signals: Arc<Signals>,
    waker: Waker,
}

/// `Started` and `Finished` come without credit.
const NUM_WITHOUT_CREDIT: usize = 2;

/// An outbox with room for `capacity` tokens of each sample.
pub(crate) fn outbox(capacity: usize, samples: usize, waker: Waker) -> (Outbox, OutboxReader) {
    let (sender, receiver) = mpsc::channel(samples * (capacity + NUM_WITHOUT_CREDIT));
    let signals = Arc::new(Signals {
        cancelled: AtomicBool::new(false),
        parking: Parking::new(),
    });
    let reader = OutboxReader {
        events: receiver,
        signals: signals.clone(),
        waker,
    };
    let outbox = Outbox {
        events: sender,
        set_aside: samples * NUM_WITHOUT_CREDIT,
        alive: samples,
        signals,
    };
    (outbox, reader)
}

impl Outbox {
    /// Tokens that each sample which has not ended may produce. At 0 the reader
    /// will wake the engine as soon as there is room.
    pub(crate) fn credit(&self) -> usize {
        let room = || self.events.capacity().saturating_sub(self.set_aside);
        let share = || room() / self.alive.max(1);
        self.signals.parking.room(share)
    }

    /// Whether nobody wants the rest.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.events.is_closed() || self.signals.cancelled.load(Ordering::SeqCst)
    }

    /// Hands over an event. There is always room, because tokens come with
    /// credit and the other two have places of their own; a reader that has
    /// gone misses nothing.
    pub(crate) fn put(&mut self, event: Event) {
        if !matches!(event, Event::Token { .. }) {
            self.set_aside = self.set_aside.saturating_sub(1);
        }
        if let Event::Finished { .. } = event {
            self.alive = self.alive.saturating_sub(1);
        }
        if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
            tracing::error!(?event, "outbox overflows: the engine ignored its credit");
        }
    }
}

impl OutboxReader {
    /// The next event, or `None` if the engine's thread is gone.
    pub(crate) async fn recv(&mut self) -> Option<Event> {
        let event = self.events.recv().await;
        self.made_room();
        event
    }

    /// The next event if it is there already.
    pub(crate) fn try_recv(&mut self) -> Option<Event> {
        let event = self.events.try_recv().ok()?;
        self.made_room();
        Some(event)
    }

    /// Events that are there.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// Asks for the end: a `Finished` of each sample will come soon.
    pub(crate) fn cancel(&self) {
        self.signals.cancelled.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    fn made_room(&self) {
        self.signals.parking.made_room(|| self.waker.wake());
    }
}

impl Drop for OutboxReader {
    fn drop(&mut self) {
        // Closed before waking: the engine must find it closed when it looks.
        self.events.close();
        self.waker.wake();
    }
}

#[cfg(test)]
#[path = "outbox_interleavings.rs"]
mod interleavings;
