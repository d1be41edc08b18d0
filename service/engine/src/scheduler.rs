//! Which sequences run, and on which blocks.
//!
//! Nothing here can wait for ever. Sequences are ranked once and for all, by
//! priority and arrival, and nobody yields blocks to one that ranks behind it.
//! The first of the running ones always gets the blocks it needs, because all
//! others yield to it, and [`Request::check`] has seen to it that it fits when
//! it is alone; so it ends at some point. The first of the waiting ones is
//! passed over only while one before it computes what it will use as well, so
//! it runs when enough before it have ended, at the latest when nothing else
//! runs. (Among priorities that is the idea: a low one waits as long as higher
//! ones keep coming.)
//!
//! [`Request::check`]: crate::Request

mod sharing;
mod victim;

use std::collections::HashMap;

use crate::block_pool::{BlockId, BlockPool};
use crate::drafting::{Decoding, Drafting};
use crate::lifecycle::{Cause, State};
use crate::ranking::Ranking;
use crate::sequence::Sequence;
use crate::{Limits, SequenceId, StepReport};

/// All sequences, and the pool their blocks are from.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    pool: BlockPool,
    pub(crate) drafting: Drafting,
    sequences: HashMap<SequenceId, Sequence>,
    waiting: Ranking,
    /// May be longer than `max_num_seqs` for a while, when readers of parked
    /// sequences catch up: those sequences still have their blocks, and need
    /// only a place in the batch.
    running: Ranking,
    /// Parked with blocks. Those without are in none of the three.
    parked: Ranking,
    /// Memory for counting them.
    parked_blocks: Vec<BlockId>,
}

/// What is left of a step.
#[derive(Debug, Clone, Copy)]
struct Room {
    tokens: usize,
    seqs: usize,
}

impl Room {
    fn is_empty(self) -> bool {
        self.tokens == 0 || self.seqs == 0
    }

    fn take(&mut self, tokens: usize) {
        self.tokens -= tokens;
        self.seqs -= 1;
    }
}

impl Scheduler {
    pub(crate) fn new(limits: Limits) -> Scheduler {
        Scheduler {
            limits,
            pool: BlockPool::new(limits.num_blocks, limits.block_size),
            drafting: Drafting::new(limits.max_draft_tokens),
            sequences: HashMap::new(),
            waiting: Ranking::default(),
            running: Ranking::default(),
            parked: Ranking::default(),
            parked_blocks: Vec::new(),
        }
    }

    pub(crate) fn insert(&mut self, mut sequence: Sequence) {
        sequence.name_blocks(self.limits.block_size);
        let id = sequence.id();
        let has_credit = sequence.credit > 0;
        self.waiting.insert(sequence.rank);
        self.sequences.insert(id, sequence);
        if !has_credit {
            self.change(id, Cause::Park);
        }
    }

    /// Frees the blocks of a sequence and hands over the rest of it.
    pub(crate) fn finish(&mut self, id: SequenceId) -> Option<Sequence> {
        if self.sequences.contains_key(&id) {
            self.change(id, Cause::Finish);
        }
        self.sequences.remove(&id)
    }

    /// Parks a sequence or resumes it, if its credit says so.
    pub(crate) fn follow_credit(&mut self, id: SequenceId) {
        let sequence = &self[id];
        match (sequence.state, sequence.credit) {
            (State::Waiting | State::Running, 0) => self.change(id, Cause::Park),
            (State::Parked { .. }, 1..) => self.change(id, Cause::Resume),
            _ => {}
        }
    }

    /// Chooses which sequences run this step, and how many tokens each
    /// computes; writes that and who was preempted into the report.
    ///
    /// There are no phases here: a step spends its token budget closing gaps
    /// between the tokens that sequences have and those they have computed.
    /// Gaps of one go first, so that no prompt, however long, holds up streams
    /// that have begun.
    pub(crate) fn schedule(&mut self, report: &mut StepReport) {
        let mut room = Room {
            tokens: self.limits.max_num_batched_tokens,
            seqs: self.limits.max_num_seqs,
        };
        self.close_gaps_of_one(&mut room, report);
        self.close_wide_gaps(&mut room, report);
        self.admit_waiting(&mut room, report);
        self.draft(room.tokens, report);
    }

    /// Lets sequences guess at what follows their next token, in a step that
    /// does nothing but decode. Nobody yields anything for a guess: it takes
    /// tokens that are left of the step's, and blocks that nobody waits for.
    fn draft(&mut self, mut tokens: usize, report: &mut StepReport) {
        let is_decode = |(id, _): &(SequenceId, usize)| self[*id].gap() == 1;
        if self.limits.max_draft_tokens == 0 || !report.scheduled.iter().all(is_decode) {
            return;
        }
        let mut step = Decoding::one_each(report.scheduled.len());
        for (id, len) in &mut report.scheduled {
            let room = tokens.min(self.room_for_draft(*id));
            let sequence = self.sequences.get_mut(id).expect(RANKED);
            let Some(mut draft) = sequence.look_up_draft() else {
                continue;
            };
            let max_len = sequence.max_draft_len().min(room);
            draft.len = self
                .drafting
                .choose_len(&mut step, sequence.acceptance, max_len);
            sequence.draft = Some(draft);
            let num_tokens = sequence.num_tokens() + draft.len;
            let has_grown = self.pool.grow(&mut sequence.blocks, num_tokens);
            assert!(has_grown, "there is room for a draft");
            *len += draft.len;
            tokens -= draft.len;
            report.num_drafted += draft.len;
        }
    }

    /// Tokens that fit behind those of a sequence: in its own blocks, and in
    /// free ones as long as each running sequence could have one besides.
    fn room_for_draft(&self, id: SequenceId) -> usize {
        let sequence = &self[id];
        let to_spare = self.pool.num_free().saturating_sub(self.running.len());
        let blocks = sequence.blocks.len() + to_spare;
        blocks * self.limits.block_size - sequence.num_tokens()
    }

    pub(crate) fn learn_guess(&mut self, id: SequenceId, came_true: bool) {
        let sequence = self.sequences.get_mut(&id).expect(RANKED);
        self.drafting
            .learn_guess(&mut sequence.acceptance, came_true);
    }

    fn close_gaps_of_one(&mut self, room: &mut Room, report: &mut StepReport) {
        let mut place = 0;
        while !room.is_empty()
            && let Some(rank) = self.running.at(place)
        {
            if self[rank.id].gap() > 1 {
                place += 1;
            } else if self.grow(rank.id, report) {
                report.scheduled.push((rank.id, 1));
                room.take(1);
                place += 1;
            }
        }
    }

    /// Needs no blocks: those of all its tokens came with the admission.
    fn close_wide_gaps(&mut self, room: &mut Room, report: &mut StepReport) {
        for rank in self.running.iter() {
            let gap = self[rank.id].gap();
            if gap > 1 && !room.is_empty() {
                let len = gap.min(room.tokens);
                report.scheduled.push((rank.id, len));
                room.take(len);
            }
        }
    }

    /// A step with room left has a place in the batch for every running
    /// sequence, so as many may be added as places are left.
    fn admit_waiting(&mut self, room: &mut Room, report: &mut StepReport) {
        let mut place = 0;
        while !room.is_empty()
            && place < self.limits.max_num_seqs
            && let Some(rank) = self.waiting.at(place)
        {
            if self.is_being_computed(rank.id) {
                place += 1;
            } else if self.admit(rank.id, report) {
                let len = self[rank.id].gap().min(room.tokens);
                report.scheduled.push((rank.id, len));
                room.take(len);
            } else {
                return;
            }
        }
    }

    /// Gives a running sequence the blocks for all its tokens. Others yield
    /// theirs, and where there is nobody to yield before it, it yields its own:
    /// then it returns false.
    fn grow(&mut self, id: SequenceId, report: &mut StepReport) -> bool {
        while !self.has_grown(id) {
            let victim = self.victim(id);
            self.preempt(victim.id, report);
            if victim.id == id {
                return false;
            }
        }
        true
    }

    /// Gives a waiting sequence the blocks for all its tokens, taking them from
    /// parked ones if need be, and never from running ones.
    fn admit(&mut self, id: SequenceId, report: &mut StepReport) -> bool {
        self.take_cached(id);
        let sequence = &self[id];
        let needed = self.limits.blocks_for(sequence.num_tokens()) - sequence.blocks.len();
        // Who was preempted before leaves a block to each running sequence;
        // else the next block one of them needs would preempt it again.
        let to_spare = match sequence.num_preemptions {
            0 => 0,
            _ => self.running.len(),
        };
        let missing = (needed + to_spare).saturating_sub(self.pool.num_free());
        if missing > 0 && missing > self.num_parked_blocks() {
            self.release(id);
            return false;
        }
        while !self.has_grown(id) {
            let victim = self.parked_victim();
            let victim = victim.expect("there are enough free and parked blocks");
            self.preempt(victim.id, report);
        }
        self.change(id, Cause::Admit);
        self.get_mut(id).expect(RANKED).tell_cached(report);
        true
    }

    fn has_grown(&mut self, id: SequenceId) -> bool {
        let sequence = self.sequences.get_mut(&id).expect(RANKED);
        let num_tokens = sequence.num_tokens();
        self.pool.grow(&mut sequence.blocks, num_tokens)
    }

    fn preempt(&mut self, id: SequenceId, report: &mut StepReport) {
        self.change(id, Cause::Preempt);
        self.get_mut(id).expect(RANKED).num_preemptions += 1;
        report.preempted.push(id);
    }

    /// The only place where a state changes: ranks and blocks follow it.
    fn change(&mut self, id: SequenceId, cause: Cause) {
        let sequence = self.sequences.get_mut(&id).expect(RANKED);
        let (rank, before) = (sequence.rank, sequence.state);
        let after = before.on(cause).unwrap_or_else(|error| panic!("{error}"));
        sequence.state = after;
        if !after.has_blocks() {
            self.release(id);
        }
        if let Some(ranking) = self.ranking(before) {
            ranking.remove(rank);
        }
        if let Some(ranking) = self.ranking(after) {
            ranking.insert(rank);
        }
    }

    fn ranking(&mut self, state: State) -> Option<&mut Ranking> {
        match state {
            State::Waiting => Some(&mut self.waiting),
            State::Running => Some(&mut self.running),
            State::Parked { with_blocks: true } => Some(&mut self.parked),
            State::Parked { with_blocks: false } | State::Finished => None,
        }
    }

    pub(crate) fn get_mut(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        self.sequences.get_mut(&id)
    }

    pub(crate) fn num_alive(&self) -> usize {
        self.sequences.len()
    }

    pub(crate) fn num_running(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn num_parked(&self) -> usize {
        self.sequences.len() - self.running.len() - self.waiting.len()
    }

    pub(crate) fn num_free_blocks(&self) -> usize {
        self.pool.num_free()
    }

    pub(crate) fn num_kept_blocks(&self) -> usize {
        self.pool.num_kept()
    }

    pub(crate) fn num_evicted_blocks(&self) -> u64 {
        self.pool.num_evicted()
    }
}

const RANKED: &str = "ids in rankings and reports are of sequences that are alive";

impl std::ops::Index<SequenceId> for Scheduler {
    type Output = Sequence;

    fn index(&self, id: SequenceId) -> &Sequence {
        self.sequences.get(&id).expect(RANKED)
    }
}

/// Block tables must not be dropped with blocks in them.
impl Drop for Scheduler {
    fn drop(&mut self) {
        for (_, sequence) in self.sequences.drain() {
            self.pool.release(sequence.blocks);
        }
    }
}

#[cfg(test)]
impl Scheduler {
    /// Panics unless every block's claims are those of tables and cache, and
    /// every sequence is where its state says.
    pub(crate) fn check(&self) {
        self.pool.check(self.sequences.values().map(|s| &s.blocks));

        let mut num_ranked = [0; 3];
        for sequence in self.sequences.values() {
            let place = match sequence.state {
                State::Waiting => Some((0, &self.waiting)),
                State::Running => Some((1, &self.running)),
                State::Parked { with_blocks: true } => Some((2, &self.parked)),
                State::Parked { with_blocks: false } => None,
                State::Finished => panic!("{sequence:?} is finished, but not removed"),
            };
            if let Some((n, ranking)) = place {
                num_ranked[n] += 1;
                assert!(ranking.iter().any(|rank| rank == sequence.rank));
            }
            let parked = matches!(sequence.state, State::Parked { .. });
            assert_eq!(parked, sequence.credit == 0, "{sequence:?}");
            if sequence.state.has_blocks() {
                let capacity = sequence.blocks.len() * self.limits.block_size;
                assert!(sequence.num_computed_tokens <= capacity, "{sequence:?}");
            } else {
                assert_eq!(sequence.num_computed_tokens, 0, "{sequence:?}");
                assert_eq!(sequence.blocks.len(), 0, "{sequence:?}");
            }
            self.check_sharing(sequence);
            assert!(sequence.gap() > 0, "{sequence:?}");
        }
        assert_eq!(
            num_ranked,
            [self.waiting.len(), self.running.len(), self.parked.len()]
        );
    }
}
