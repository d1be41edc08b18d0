//! What sequences with the same tokens share.

use super::{RANKED, Scheduler};
use crate::SequenceId;

impl Scheduler {
    /// Gives a waiting sequence the blocks that are cached of its tokens. Not
    /// of the last one: it is computed in any case, because the next token is
    /// sampled from what that gives.
    pub(super) fn take_cached(&mut self, id: SequenceId) {
        let block_size = self.limits.block_size;
        let sequence = self.sequences.get_mut(&id).expect(RANKED);
        let most = sequence.num_shareable_blocks(block_size);
        if let Some(chain) = &mut sequence.chain {
            self.pool
                .take_cached(&mut sequence.blocks, &chain.keys()[..most]);
            chain.num_kept = sequence.blocks.len();
            chain.is_trusted = true;
            sequence.num_computed_tokens = chain.num_kept * block_size;
        }
    }

    /// Takes back all blocks of a sequence. What it computed stays in the
    /// prefix cache, until others need the blocks.
    pub(super) fn release(&mut self, id: SequenceId) {
        self.keep_computed(id);
        let sequence = self.sequences.get_mut(&id).expect(RANKED);
        self.pool.release(std::mem::take(&mut sequence.blocks));
        sequence.num_computed_tokens = 0;
        if let Some(chain) = &mut sequence.chain {
            chain.num_kept = 0;
        }
    }

    /// Puts the full blocks that a sequence has computed into the prefix cache.
    pub(crate) fn keep_computed(&mut self, id: SequenceId) {
        let block_size = self.limits.block_size;
        let sequence = self.sequences.get_mut(&id).expect(RANKED);
        let num_full = sequence.num_computed_tokens / block_size;
        sequence.name_blocks(block_size);
        if let Some(chain) = &mut sequence.chain
            && chain.is_trusted
        {
            for place in chain.num_kept..num_full {
                let key = chain.keys()[place];
                self.pool.keep(&mut sequence.blocks, place, key);
            }
            chain.num_kept = num_full;
        }
    }

    /// A step has gone wrong, and there is no telling what it left in the
    /// pages: nobody is given one of them from here on, and what was computed
    /// on top of them is not kept.
    pub(crate) fn distrust_pages(&mut self) {
        self.pool.forget_all();
        for sequence in self.sequences.values_mut() {
            if let Some(chain) = &mut sequence.chain {
                chain.is_trusted = false;
            }
        }
    }

    /// Whether a sequence that runs and ranks before a waiting one is about to
    /// compute a block that both could use. Then it is better to wait for it:
    /// of many requests that arrive together with one long prompt, the first
    /// computes it and the others find it done.
    ///
    /// Nobody waits for ever for that: who is waited for runs, so it computes
    /// the block or stops running, and only so many rank before.
    pub(super) fn is_being_computed(&self, id: SequenceId) -> bool {
        let (sequence, block_size) = (&self[id], self.limits.block_size);
        let Some(chain) = &sequence.chain else {
            return false;
        };
        let wanted = &chain.keys()[..sequence.num_shareable_blocks(block_size)];
        let before = self
            .running
            .iter()
            .take_while(|rank| *rank < sequence.rank)
            .map(|rank| &self[rank.id]);
        before
            .filter_map(|other| {
                let chain = other.chain.as_ref().filter(|chain| chain.is_trusted)?;
                let place = other.num_computed_tokens / block_size;
                Some((wanted.get(place)?, chain.keys().get(place)?))
            })
            // Keys name all that leads to their block, so one says it all.
            .any(|(wanted, coming)| wanted == coming && !self.pool.is_cached(wanted))
    }

    /// Blocks that are in tables of parked sequences only.
    pub(super) fn num_parked_blocks(&mut self) -> usize {
        let mut blocks = std::mem::take(&mut self.parked_blocks);
        blocks.clear();
        for rank in self.parked.iter() {
            blocks.extend(self[rank.id].blocks.blocks());
        }
        blocks.sort_unstable();
        let only_there = |tables: &&[_]| self.pool.num_tables(tables[0]) as usize == tables.len();
        let num_blocks = blocks.chunk_by(|a, b| a == b).filter(only_there).count();
        self.parked_blocks = blocks;
        num_blocks
    }
}

#[cfg(test)]
impl Scheduler {
    /// Panics unless the blocks that a sequence shares are full and, as long as
    /// they are trusted, cached.
    pub(super) fn check_sharing(&self, sequence: &crate::sequence::Sequence) {
        let full = sequence.num_computed_tokens / self.limits.block_size;
        for (place, block) in sequence.blocks.blocks().enumerate() {
            let tables = self.pool.num_tables(block);
            assert!(tables == 1 || place < full, "{block:?} of {sequence:?}");
        }
        if let Some(chain) = &sequence.chain {
            assert!(chain.num_kept <= full, "{sequence:?}");
            if chain.is_trusted {
                let kept = &chain.keys()[..chain.num_kept];
                assert_eq!(self.pool.num_cached(kept), kept.len(), "{sequence:?}");
            }
        }
    }
}
