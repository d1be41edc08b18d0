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
    /// Who yields to a running sequence: a parked one, as it makes no use of
    /// its blocks; else one that does not rank before it, and at the last the
    /// sequence itself. Taking from whoever ranks before could starve it.
    pub(super) fn victim(&self, id: SequenceId) -> Rank {
        let from = self[id].rank;
        let running = || self.running.iter().filter(move |rank| *rank >= from);
        let victim = self.parked_victim().or_else(|| self.cheapest(running()));
        victim.expect("the sequence itself is running")
    }

    /// Who yields to a waiting sequence.
    pub(super) fn parked_victim(&self) -> Option<Rank> {
        self.cheapest(self.parked.iter())
    }

    /// Of the lowest priority the one that is recomputed soonest. Who shares
    /// all it has yields nothing, and comes last among its equals.
    fn cheapest(&self, of: impl Iterator<Item = Rank>) -> Option<Rank> {
        of.min_by_key(|rank| {
            let loss = self.loss(rank.id);
            let yields_nothing = loss.blocks == 0;
            (
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
