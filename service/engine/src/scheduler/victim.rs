//! Who yields its blocks when others need them.

use std::cmp::Reverse;

use super::Scheduler;
use crate::SequenceId;
use crate::ranking::Rank;

/// What a sequence loses with its blocks.
struct Loss {
    /// Blocks that are in no other table: what others would gain.
    blocks: usize,
    /// Tokens computed in them. Most of them stay in the prefix cache for a
    /// while; but where blocks are short enough to be taken away, they are
    /// short enough to be used up there.
    tokens: usize,
}

impl Scheduler {
    /// Who yields to the first of these, which are in the order of the step: a
    /// parked one, as it makes no use of its blocks; else one of these, and at
    /// the last the first itself. Taking from whoever comes before could starve
    /// it.
    pub(super) fn victim(&self, behind: &[Rank]) -> Rank {
        let running = behind.iter().copied();
        let victim = self.parked_victim().or_else(|| self.cheapest(running));
        victim.expect("the sequence itself is running")
    }

    /// Who yields to a waiting sequence.
    pub(super) fn parked_victim(&self) -> Option<Rank> {
        self.cheapest(self.parked.iter())
    }

    /// Of the tenant that had the most service, and of its lowest priority, the
    /// one that is recomputed soonest. Who shares all it has yields nothing, and
    /// comes last among its equals.
    fn cheapest(&self, of: impl Iterator<Item = Rank>) -> Option<Rank> {
        of.min_by_key(|rank| {
            let loss = self.loss(rank.id);
            let yields_nothing = loss.blocks == 0;
            (
                Reverse(self.fairness.turn(rank.tenant)),
                rank.priority(),
                yields_nothing,
                loss.tokens,
                Reverse(rank.id),
            )
        })
    }

    fn loss(&self, id: SequenceId) -> Loss {
        let sequence = &self[id];
        let is_shared = |block: &_| self.pool.num_tables(*block) > 1;
        let shared = sequence.blocks.blocks().filter(is_shared).count();
        Loss {
            blocks: sequence.blocks.len() - shared,
            // Only full blocks are shared.
            tokens: sequence.num_computed_tokens - shared * self.limits.block_size,
        }
    }
}
