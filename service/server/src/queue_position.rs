//! What requests that wait are told of how far they have come.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ternion_engine::SequenceId;
use ternion_proto::v1;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// How often one is told at most.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// A request among those that wait.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Position {
    /// Requests that will be started earlier.
    pub(crate) ahead: usize,
    /// Until it is started; `None` while too little is known.
    pub(crate) wait: Option<Duration>,
}

/// Where each request that waits was lately. The lock is held to write all or
/// to read one.
#[derive(Debug, Default)]
pub(crate) struct Positions(Mutex<HashMap<SequenceId, Position>>);

impl Positions {
    /// Replaces all.
    pub(crate) fn publish(&self, fill: impl FnOnce(&mut HashMap<SequenceId, Position>)) {
        let mut positions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        positions.clear();
        fill(&mut positions);
    }

    fn of(&self, id: SequenceId) -> Option<Position> {
        let positions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        positions.get(&id).copied()
    }
}

/// One request's view of it, while it waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    id: SequenceId,
    prompt_tokens: u32,
    told: Position,
    positions: Arc<Positions>,
    ticks: Interval,
}

impl Waiting {
    pub(crate) fn new(
        id: SequenceId,
        prompt_tokens: usize,
        position: Position,
        positions: Arc<Positions>,
    ) -> Waiting {
        Waiting {
            id,
            prompt_tokens: count(prompt_tokens),
            told: position,
            positions,
            ticks: every(TOLD_EVERY),
        }
    }

    /// As of the last that was told.
    pub(crate) fn queued(&self) -> v1::Queued {
        v1::Queued {
            prompt_tokens: self.prompt_tokens,
            ahead: count(self.told.ahead),
            wait_seconds: self.told.wait.map(|wait| wait.as_secs_f64()),
        }
    }

    /// Returns when there is something else to tell.
    pub(crate) async fn moved(&mut self) -> v1::Queued {
        loop {
            self.ticks.tick().await;
            if let Some(position) = self.positions.of(self.id)
                && position.ahead != self.told.ahead
            {
                self.told = position;
                return self.queued();
            }
        }
    }
}

/// The first time after one period.
fn every(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SequenceId = SequenceId(7);

    fn position(ahead: usize) -> Position {
        let wait = Some(Duration::from_secs(ahead as u64));
        Position { ahead, wait }
    }

    #[tokio::test]
    async fn who_moves_is_told_and_not_too_often() {
        const PERIOD: Duration = Duration::from_millis(30);
        let positions = Arc::new(Positions::default());
        let mut waiting = Waiting::new(ID, 12, position(3), positions.clone());
        assert_eq!(waiting.queued().ahead, 3);
        let begin = Instant::now();
        waiting.ticks = every(PERIOD);
        positions.publish(|all| {
            all.insert(ID, position(2));
            all.insert(SequenceId(8), position(9));
        });
        let queued = waiting.moved().await;
        assert!(begin.elapsed() >= PERIOD);
        assert_eq!((queued.prompt_tokens, queued.ahead), (12, 2));
        assert_eq!(queued.wait_seconds, Some(2.0));

        // Where nothing moves, or it waits no more, nothing is told.
        let still = tokio::time::timeout(PERIOD * 4, waiting.moved());
        still.await.expect_err("it has not moved");
        positions.publish(|_| {});
        let gone = tokio::time::timeout(PERIOD * 4, waiting.moved());
        gone.await.expect_err("it waits no more");
        positions.publish(|all| {
            all.insert(ID, position(0));
        });
        assert_eq!(waiting.moved().await.ahead, 0);
    }

    #[tokio::test]
    async fn who_is_passed_by_others_is_told_as_well() {
        let positions = Arc::new(Positions::default());
        let mut waiting = Waiting::new(ID, 12, position(2), positions.clone());
        waiting.ticks = every(Duration::from_millis(1));
        let passed = Position {
            ahead: 5,
            wait: Some(Duration::from_millis(1500)),
        };
        positions.publish(|all| {
            all.insert(ID, passed);
        });
        let moved = tokio::time::timeout(Duration::from_secs(60), waiting.moved());
        let queued = moved.await.expect("it has moved");
        assert_eq!((queued.ahead, queued.wait_seconds), (5, Some(1.5)));
    }

    #[test]
    fn who_waits_no_more_has_no_position() {
        let positions = Positions::default();
        let other = SequenceId(8);
        positions.publish(|all| {
            all.insert(ID, position(1));
            all.insert(other, position(2));
        });
        positions.publish(|all| {
            all.insert(other, position(1));
        });
        assert_eq!(positions.of(ID), None);
        assert_eq!(positions.of(other), Some(position(1)));
    }
}
