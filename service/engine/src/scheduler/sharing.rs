//! What sequences with the same tokens share.

use super::{RANKED, Scheduler};
use crate::lifecycle::State;
use crate::sequence::Sequence;
use crate::{BlockCopy, BlockId, SequenceId, StepReport};

/// A block of another sample that holds the next tokens of a sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    block: BlockId,
    /// Its place in either table.
    place: usize,
    /// Tokens of the sequence that are computed up to there.
    num_computed_tokens: usize,
}

impl Scheduler {
    /// Gives a waiting sequence the blocks that are cached of its tokens. Not
    /// of the last one: it is computed in any case, because the next token is
    /// sampled from what that gives.
    pub(super) fn take_cached(&mut self, id: SequenceId) {
        let block_size = self.limits.block_size;
        let sequence = self.sequences.get_mut(&id).expect(RANKED);
        let most = sequence.shareable_keys(block_size).len();
        if let Some(chain) = &mut sequence.chain {
            self.pool
                .take_cached(&mut sequence.blocks, &chain.keys()[..most]);
            chain.num_kept = sequence.blocks.len();
            chain.is_trusted = true;
            sequence.num_computed_tokens = chain.num_kept * block_size;
        }
    }

    /// Behind the blocks that a waiting sample has by now, the one with most of
    /// the rest of its prompt that another sample has.
    pub(super) fn block_of_sample(&self, id: SequenceId) -> Option<Begun> {
        let sequence = &self[id];
        let place = sequence.blocks.len();
        let end = (place + 1) * self.limits.block_size;
        let most = sequence.num_shareable_tokens().min(end);
        self.other_samples(id)
            .filter(|other| other.is_trusted())
            .filter_map(|other| {
                let num_computed_tokens = other.num_computed_tokens.min(most);
                Some(Begun {
                    block: other.blocks.get(place)?,
                    place,
                    num_computed_tokens,
                })
            })
            .filter(|begun| begun.num_computed_tokens > sequence.num_computed_tokens)
            .max_by_key(|begun| begun.num_computed_tokens)
    }

    /// Has such a block copied into that of a sequence, which now has one there:
    /// it is about to write behind what was begun.
    ///
    /// Whose it was may have lost it for that meanwhile. But nothing is written
    /// before all is copied, in the order in which it was asked for.
    pub(super) fn copy_block(&mut self, id: SequenceId, begun: Begun, report: &mut StepReport) {
        let sequence = self.sequences.get_mut(&id).expect(RANKED);
        sequence.num_computed_tokens = begun.num_computed_tokens;
        let own = sequence.blocks.get(begun.place);
        let to = own.expect("it has blocks for all its tokens");
        if to != begun.block {
            let from = begun.block;
            self.copies.push(BlockCopy { from, to });
            report.num_copied += 1;
        }
    }

    /// Those that are alive.
    fn other_samples(&self, id: SequenceId) -> impl Iterator<Item = &Sequence> {
        let others = self[id].samples.others(id);
        others.filter_map(|other| self.sequences.get(&other))
    }

    /// The last sample of a request that shares nothing with others has ended.
    pub(super) fn forget_private(&mut self, ended: &Sequence) {
        let is_alive = |id| self.sequences.contains_key(&id);
        if let Some(chain) = &ended.chain
            && chain.is_private
            && !ended.samples.ids().any(is_alive)
        {
            self.pool.forget(chain.keys());
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
            let num_named = num_full.min(chain.keys().len());
            for place in chain.num_kept..num_named {
                let key = chain.keys()[place];
                self.pool.keep(&mut sequence.blocks, place, key);
            }
            chain.num_kept = num_named;
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
        if sequence.chain.is_none() {
            return false;
        }
        let wanted = sequence.shareable_keys(block_size);
        // A sample waits for all of its prompt, and for what follows it.
        let prompt = sequence.num_prompt_tokens;
        let computes_prompt = |other: &Sequence| {
            let is_before = other.state == State::Running && other.rank < sequence.rank;
            is_before && other.is_trusted() && other.num_computed_tokens < prompt
        };
        if self.other_samples(id).any(computes_prompt) {
            return true;
        }
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
    pub(super) fn check_sharing(&self, sequence: &Sequence) {
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
