//! Who is served before whom.

use std::cmp::Reverse;

use crate::SequenceId;

/// Place of a sequence among those of its tenant: by priority, then by arrival.
/// What ranks first compares less. Between tenants it says nothing: whose turn
/// is first is what [`Fairness`](crate::fairness::Fairness) says.
///
/// It never changes, so a preempted sequence waits in front of all that came
/// after it without being put there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    priority: Reverse<i32>,
    pub(crate) id: SequenceId,
    pub(crate) tenant: u32,
}

impl Rank {
    pub(crate) fn new(priority: i32, id: SequenceId, tenant: u32) -> Rank {
        Rank {
            priority: Reverse(priority),
            id,
            tenant,
        }
    }

    /// Whether it is one tenant's, and neither has the higher priority.
    pub(crate) fn is_peer_of(self, other: Rank) -> bool {
        (self.tenant, self.priority) == (other.tenant, other.priority)
    }

    pub(crate) fn priority(self) -> i32 {
        self.priority.0
    }
}

/// Sequences in the order of their ranks.
///
/// A sorted vector rather than a tree: sequences move between rankings every
/// step when readers are slow, and a vector that has once been large enough
/// does so without allocating.
#[derive(Debug, Default)]
pub(crate) struct Ranking {
    ranks: Vec<Rank>,
}

impl Ranking {
    pub(crate) fn insert(&mut self, rank: Rank) {
        let place = self.ranks.binary_search(&rank);
        self.ranks
            .insert(place.expect_err("a sequence is ranked once"), rank);
    }

    pub(crate) fn remove(&mut self, rank: Rank) {
        let place = self.ranks.binary_search(&rank);
        self.ranks
            .remove(place.expect("the sequence is ranked here"));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Rank> {
        self.ranks.iter().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.ranks.len()
    }
}
