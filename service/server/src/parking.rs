//! The hand-over between an engine that stops for want of room and the reader
//! that makes some: neither may wait for the other for ever.

use std::sync::atomic::Ordering;

use super::atomic::{AtomicBool, fence};

/// Whether the engine will not produce until it is woken.
#[derive(Debug)]
pub(crate) struct Parking(AtomicBool);

impl Parking {
    pub(crate) fn new() -> Parking {
        Parking(AtomicBool::new(false))
    }

    /// For the engine: how much room there is. After 0, whoever makes some
    /// will wake it.
    pub(crate) fn room(&self, look: impl Fn() -> usize) -> usize {
        match look() {
            0 => {
                // Either this looks again after the reader made room, or the
                // reader sees the flag after it made room: with a full fence
                // between the write and the look on both sides, not neither.
                self.0.store(true, Ordering::SeqCst);
                fence(Ordering::SeqCst);
                look()
            }
            room => room,
        }
    }

    /// For the reader: it has made room.
    pub(crate) fn made_room(&self, wake: impl FnOnce()) {
        fence(Ordering::SeqCst);
        if self.0.swap(false, Ordering::SeqCst) {
            wake();
        }
    }
}
