//! All orders in which the two sides of an outbox can come, by loom.

mod atomic {
    pub(super) use loom::sync::atomic::{AtomicBool, fence};
}

#[expect(
    clippy::duplicate_mod,
    reason = "with atomics whose orders loom goes through"
)]
#[path = "parking.rs"]
mod parking;

use loom::{
    sync::{
        Arc, Notify,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};
use parking::Parking;

struct Ends {
    parking: Parking,
    /// Places of the channel that are free.
    free: AtomicUsize,
    woken: AtomicBool,
    wakes: Notify,
}

impl Ends {
    fn make_room(&self) {
        self.free.fetch_add(1, Ordering::Release);
        let wake = || {
            self.woken.store(true, Ordering::Release);
            self.wakes.notify();
        };
        self.parking.made_room(wake);
    }

    /// Whether the engine goes on by itself.
    fn look(&self) -> bool {
        self.parking.room(|| self.free.load(Ordering::Acquire)) > 0
    }
}

#[test]
fn an_engine_without_room_is_woken_by_whoever_makes_some() {
    loom::model(|| {
        let ends = Arc::new(Ends {
            parking: Parking::new(),
            free: AtomicUsize::new(0),
            woken: AtomicBool::new(false),
            wakes: Notify::new(),
        });
        let reader = ends.clone();
        let reader = thread::spawn(move || {
            reader.make_room();
            reader.make_room();
        });
        let saw_room = ends.look();
        reader.join().expect("it ends");
        let woken = ends.woken.load(Ordering::Acquire);
        assert!(saw_room || woken, "it would sleep for ever");
    });
}

#[test]
fn a_wake_is_for_every_time_that_the_engine_parks() {
    loom::model(|| {
        let ends = Arc::new(Ends {
            parking: Parking::new(),
            free: AtomicUsize::new(0),
            woken: AtomicBool::new(false),
            wakes: Notify::new(),
        });
        let reader = ends.clone();
        let reader = thread::spawn(move || reader.make_room());
        // It looks, sleeps if it has to, takes what there is, looks again.
        while !ends.look() {
            ends.wakes.wait();
        }
        ends.free.fetch_sub(1, Ordering::AcqRel);
        ends.woken.store(false, Ordering::Release);
        reader.join().expect("it ends");
        let saw = ends.look();
        ends.make_room();
        let woken = ends.woken.load(Ordering::Acquire);
        assert!(saw || woken, "the second time");
    });
}
