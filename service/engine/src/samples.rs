//! The samples of one request: sequences that have a prompt in common.
//!
//! Their prompt is computed once. Whoever of them is first computes it, and the
//! others wait for that. Then all draw their first token from the one row of
//! logits that it gave, each with its own seed, and those that go on take the
//! prompt's pages as their own when it is their turn: the full ones as they are,
//! by the prefix cache, under keys that no one else has where nothing is shared
//! with others; and a copy of the last one, if it is not full, because each of
//! them writes something else behind the prompt.
//!
//! So samples need no states of their own. One that finds nobody with pages any
//! more has lost time, as one that was preempted has, and computes what is
//! missing itself.

use crate::SequenceId;

/// The samples of a request. Their ids follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Samples {
    first: SequenceId,
    count: u64,
}

impl Samples {
    pub(crate) fn new(first: SequenceId, count: usize) -> Samples {
        let count = count as u64;
        Samples { first, count }
    }

    pub(crate) fn first(self) -> SequenceId {
        self.first
    }

    pub(crate) fn are_many(self) -> bool {
        self.count > 1
    }

    pub(crate) fn ids(self) -> impl DoubleEndedIterator<Item = SequenceId> {
        (self.first.0..self.first.0 + self.count).map(SequenceId)
    }

    /// All but one of them.
    pub(crate) fn others(self, id: SequenceId) -> impl Iterator<Item = SequenceId> {
        self.ids().filter(move |other| *other != id)
    }
}
