//! Which sequences run, and on which blocks.
//!
//! There is one order in which all is given out, and whose end yields: tenants
//! by their [turns](crate::fairness), and the sequences of one by priority and
//! arrival.
//!
//! Nothing here can wait for ever. A running sequence loses its blocks only for
//! the next token of another one, which had its last one since, so there is no
//! going round in circles: each loss is paid for by a token, and answers end.
//! [`Request::check`] has seen to it that a sequence fits when it is alone. The
//! first of the waiting ones is passed over only while one before it computes
//! what it will use as well, so it runs when enough others have ended, at the
//! latest when nothing else runs; and who waits comes to be the first, because
//! the counters of those that are served rise. (Among the priorities of a
//! tenant it is the idea that a low one waits as long as higher
//! ones keep coming.)
//!
//! [`Request::check`]: crate::Request

mod sharing;
mod victim;

use std::collections::HashMap;

use crate::block_pool::{BlockId, BlockPool};
use crate::drafting::{Decoding, Drafting};
use crate::fairness::{Fairness, Turn};
use crate::forecast::{AnswerLength, Backlog};
use crate::lifecycle::{Cause, State};
use crate::ranking::{Rank, Ranking};
use crate::sequence::Sequence;
use crate::step_cost::{StepCost, StepWork};
use crate::{Ahead, BlockCopy, Forecast, Limits, SequenceId, Share, Span, StepReport, Time};

/// All sequences, and the pool their blocks are from.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    pool: BlockPool,
    pub(crate) drafting: Drafting,
    cost: StepCost,
    fairness: Fairness,
    sequences: HashMap<SequenceId, Sequence>,
    waiting: Ranking,
    /// May be longer than `max_num_seqs` for a while, when readers of parked
    /// sequences catch up: those sequences still have their blocks, and need
    /// only a place in the batch.
    running: Ranking,
    /// Parked with blocks. Those without are in none of the three.
    parked: Ranking,
    /// The running ones in the order of a step. Reused from step to step.
    order: Vec<Rank>,
    /// Whether a sequence found no blocks in the last step.
    lacks_blocks: bool,
    /// Those that wait for what others compute.
    passed_over: Vec<SequenceId>,
    /// What the step begins with, in this order.
    copies: Vec<BlockCopy>,
    /// Reused from question to question.
    backlog: Backlog,
    /// Memory for counting them.
    parked_blocks: Vec<BlockId>,
}

/// What is left of a step.
#[derive(Debug, Clone, Copy)]
struct Room {
    tokens: usize,
    seqs: usize,
    /// Seconds for prompts.
    time: f64,
    /// Whether a prompt has a part in it.
    has_prompt: bool,
}

impl Room {
    fn is_empty(self) -> bool {
        self.tokens == 0 || self.seqs == 0
    }

    fn take(&mut self, tokens: usize) {
        self.tokens -= tokens;
        self.seqs -= 1;
    }

    fn take_chunk(&mut self, tokens: usize, seconds: f64) {
        self.take(tokens);
        self.time -= seconds;
        self.has_prompt = true;
    }

    /// Half of it, for another prompt.
    fn half(self) -> Room {
        Room {
            tokens: self.tokens / 2,
            time: self.time / 2.0,
            has_prompt: true,
            ..self
        }
    }
}

/// Where the budget is unset: a step with prompts in it takes so many times as
/// long as without.
const STRETCH: f64 = 2.0;
/// Prompts get at least this share of the time of the rest of their step,
/// however small the budget is: else one could take for ever.
const LEAST_SHARE: f64 = 0.25;
/// A prompt goes along with the first one if it is so many times shorter.
const MUCH_SHORTER: usize = 4;
/// How many are looked at to find one.
const MAX_PEERS: usize = 64;

impl Scheduler {
    pub(crate) fn new(limits: Limits) -> Scheduler {
        Scheduler {
            limits,
            pool: BlockPool::new(limits.num_blocks, limits.block_size),
            drafting: Drafting::new(limits.max_draft_tokens),
            cost: StepCost::new(),
            fairness: Fairness::default(),
            sequences: HashMap::new(),
            waiting: Ranking::default(),
            running: Ranking::default(),
            parked: Ranking::default(),
            order: Vec::new(),
            lacks_blocks: false,
            passed_over: Vec::new(),
            copies: Vec::new(),
            backlog: Backlog::default(),
            parked_blocks: Vec::new(),
        }
    }

    /// Takes up a tenant, or its new weight.
    pub(crate) fn enter(&mut self, share: Share) {
        self.fairness.enter(share);
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
        let sequence = self.sequences.remove(&id)?;
        self.forget_private(&sequence);
        Some(sequence)
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
    /// There are no phases here: a step spends its budgets of tokens and time
    /// closing gaps between the tokens that sequences have and those they have
    /// computed. Gaps of one go first, so that no prompt, however long, holds
    /// up streams that have begun; and wide ones are closed no further than the
    /// time goes that those streams can be made to wait.
    pub(crate) fn schedule(&mut self, report: &mut StepReport) {
        self.copies.clear();
        let mut room = Room {
            tokens: self.limits.max_num_batched_tokens,
            seqs: self.limits.max_num_seqs,
            time: f64::INFINITY,
            has_prompt: false,
        };
        let mut order = self.begin();
        self.close_gaps_of_one(&mut order, &mut room, report);
        order.retain(|rank| self[rank.id].gap() > 1);
        room.time = self.time_for_prompts(report);
        self.close_wide_gaps(&mut order, &mut room, report);
        self.order = order;
        self.draft(room.tokens, report);
    }

    /// What must be copied before the step that was just scheduled.
    pub(crate) fn copies(&self) -> &[BlockCopy] {
        &self.copies
    }

    /// Finds out who has something waiting, and puts the running ones in order.
    fn begin(&mut self) -> Vec<Rank> {
        let are_too_many = self.running.len() > self.limits.max_num_seqs;
        let lags = |rank: &Rank| are_too_many || self.sequences[&rank.id].gap() > 1;
        let running = self.running.iter().filter(lags);
        let backlogged = self.waiting.iter().chain(running);
        self.fairness.begin(backlogged.map(|rank| rank.tenant));
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend(self.running.iter());
        order.sort_by_key(|rank| self.place(*rank));
        order
    }

    /// What is less comes first.
    fn place(&self, rank: Rank) -> (Turn, Rank) {
        (self.fairness.turn(rank.tenant), rank)
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
            if step.is_full() {
                return;
            }
            let room = tokens.min(self.room_for_draft(*id));
            let sequence = self.sequences.get_mut(id).expect(RANKED);
            // One more than can be computed: it is watched.
            sequence.look_up_draft(self.limits.max_draft_tokens + 1);
            let drafted = self.drafting.choose_len(
                &mut step,
                sequence.draft.supports(),
                &sequence.acceptance,
                sequence.allowance,
                sequence.max_draft_len().min(room),
            );
            sequence.draft.len = drafted;
            let num_tokens = sequence.num_tokens() + drafted;
            let has_grown = self.pool.grow(&mut sequence.blocks, num_tokens);
            assert!(has_grown, "there is room for a draft");
            *len += drafted;
            tokens -= drafted;
            report.num_drafted += drafted;
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

    /// Learns whether the n-th guess is the token that was sampled last, and
    /// says so.
    pub(crate) fn learn_guess(&mut self, id: SequenceId, n: usize) -> bool {
        let sequence = self.sequences.get_mut(&id).expect(RANKED);
        let Some((support, came_true)) = sequence.compare_guess(n) else {
            return false;
        };
        self.drafting
            .learn_guess(&mut sequence.acceptance, support, came_true);
        came_true
    }

    /// Settles what guesses have cost a sequence, after a step.
    pub(crate) fn settle_guesses(&mut self, id: SequenceId, accepted: usize) {
        let sequence = self.sequences.get_mut(&id).expect(RANKED);
        let drafted = sequence.draft.len;
        sequence.draft.clear();
        self.drafting
            .settle(&mut sequence.allowance, drafted, accepted);
    }

    /// Takes those off the order that lose their blocks.
    fn close_gaps_of_one(
        &mut self,
        order: &mut Vec<Rank>,
        room: &mut Room,
        report: &mut StepReport,
    ) {
        let mut place = 0;
        while !room.is_empty()
            && let Some(&rank) = order.get(place)
        {
            if self[rank.id].gap() > 1 {
                place += 1;
            } else if self.grow(order, place, report) {
                report.scheduled.push((rank.id, 1));
                room.take(1);
                place += 1;
            }
        }
    }

    /// Seconds that prompts may add to a step in which some sequences decode;
    /// without those there is nobody to keep waiting.
    fn time_for_prompts(&self, report: &StepReport) -> f64 {
        if report.scheduled.is_empty() {
            return f64::INFINITY;
        }
        let mut decode = StepWork::default();
        for (id, len) in &report.scheduled {
            decode += StepWork::new(self[*id].num_computed_tokens, *len, 1);
        }
        self.stretch(self.cost.of_step(decode))
    }

    /// Seconds that prompts may add to a step of so many seconds.
    fn stretch(&self, decode: f64) -> f64 {
        let budget = match self.limits.step_budget {
            // Before the first step was timed there is nothing to compare with.
            Some(budget) if self.cost.is_learned() => budget.as_secs_f64(),
            _ => STRETCH * decode,
        };
        (budget - decode).max(LEAST_SHARE * decode)
    }

    /// Gets prompts further, in order: those of the sequences in `wide`, which
    /// have their blocks, and those that wait, as far as there are places in
    /// the batch that no running sequence has, and blocks.
    fn close_wide_gaps(&mut self, wide: &mut Vec<Rank>, room: &mut Room, report: &mut StepReport) {
        let mut admits = true;
        self.lacks_blocks = false;
        self.passed_over.clear();
        loop {
            admits &= self.running.len() < self.limits.max_num_seqs;
            let Some(first) = self.first_of(wide, admits) else {
                return;
            };
            if self.is_passed_over(first) {
                // Looking is not for nothing.
                admits &= self.passed_over.len() < self.limits.max_num_seqs;
                self.passed_over.push(first.id);
                continue;
            }
            if self.chunk_of(first.id, *room) == 0 {
                return;
            }
            if self.make_ready(first, wide, report) {
                self.let_a_shorter_one_along(first, admits, wide, room, report);
                let len = self.chunk_of(first.id, *room).max(1);
                self.take_chunk(first, len, room, report);
            } else {
                // Nobody is admitted instead.
                admits = false;
                self.lacks_blocks = true;
            }
        }
    }

    fn first_of(&self, wide: &[Rank], admits: bool) -> Option<Rank> {
        let is_candidate = |rank: &Rank| admits && !self.passed_over.contains(&rank.id);
        let waiting = self.waiting.iter().filter(is_candidate);
        let candidates = wide.iter().copied().chain(waiting);
        candidates.min_by_key(|rank| self.place(*rank))
    }

    /// Whether one that waits had better wait for what another one computes.
    fn is_passed_over(&self, rank: Rank) -> bool {
        self[rank.id].state == State::Waiting && self.is_being_computed(rank.id)
    }

    /// A prompt that takes more than a step leaves half of its part of it to
    /// the next one of the same priority that is much shorter: it takes twice
    /// as long at worst, and the other one does not wait for the whole of it.
    fn let_a_shorter_one_along(
        &mut self,
        long: Rank,
        admits: bool,
        wide: &mut Vec<Rank>,
        room: &mut Room,
        report: &mut StepReport,
    ) {
        let (gap, half) = (self[long.id].gap(), room.half());
        let is_long = self.chunk_of(long.id, *room) < gap;
        if !is_long || room.seqs < 2 || self.chunk_of(long.id, half) == 0 {
            return;
        }
        let admits = admits && self.running.len() < self.limits.max_num_seqs;
        let waiting = self.waiting.iter().filter(|_| admits);
        let peers = wide.iter().copied().chain(waiting);
        let short = peers
            .filter(|rank| rank.is_peer_of(long))
            .take(MAX_PEERS)
            .find(|rank| self[rank.id].gap() <= gap / MUCH_SHORTER && !self.is_passed_over(*rank));
        let Some(short) = short else {
            return;
        };
        if self.chunk_of(short.id, half) > 0 && self.make_ready(short, wide, report) {
            // Some of it may have been cached.
            let len = self.chunk_of(short.id, half).max(1);
            self.take_chunk(short, len, room, report);
        }
    }

    /// Sees to it that a sequence has the blocks of its tokens, and is not
    /// looked at again in this step.
    fn make_ready(&mut self, rank: Rank, wide: &mut Vec<Rank>, report: &mut StepReport) -> bool {
        match wide.iter().position(|other| *other == rank) {
            Some(place) => {
                wide.remove(place);
                true
            }
            None => self.admit(rank.id, report),
        }
    }

    fn take_chunk(&mut self, rank: Rank, len: usize, room: &mut Room, report: &mut StepReport) {
        let work = StepWork::new(self[rank.id].num_computed_tokens, len, 0);
        let seconds = self.cost.added_by(work);
        self.fairness.plan(rank.tenant, seconds);
        report.scheduled.push((rank.id, len));
        room.take_chunk(len, seconds);
    }

    /// How much of a sequence's gap there is room for.
    fn chunk_of(&self, id: SequenceId, room: Room) -> usize {
        if room.is_empty() {
            return 0;
        }
        let sequence = &self[id];
        let max = sequence.gap().min(room.tokens);
        let position = sequence.num_computed_tokens;
        let fits = self.cost.tokens_within(room.time, position, max);
        // A step gets some prompt further, if there is one.
        fits.max(usize::from(!room.has_prompt))
    }

    /// Takes note of how long a step took, and charges it to whom it was for.
    /// What all tokens share, each pays in proportion to the rest.
    pub(crate) fn learn_cost(&mut self, spans: &[Span], took: Time, report: &StepReport) {
        let mut work = StepWork::default();
        for span in spans {
            work += StepWork::of_span(span);
        }
        let seconds = self.cost.learn(work, took);
        let added: f64 = self.cost.added_by(work);
        for (span, (id, _)) in spans.iter().zip(&report.scheduled) {
            let share = self.cost.added_by(StepWork::of_span(span)) / added;
            self.fairness.charge(self[*id].rank.tenant, seconds * share);
        }
    }

    /// Gives the running sequence at a place of the order the blocks for all its
    /// tokens. Others yield theirs, and where there is nobody to yield before
    /// it, it yields its own: then it returns false. Who yields is not in the
    /// order any more.
    fn grow(&mut self, order: &mut Vec<Rank>, place: usize, report: &mut StepReport) -> bool {
        let id = order[place].id;
        while !self.has_grown(id) {
            let victim = self.victim(&order[place..]);
            order.retain(|rank| *rank != victim);
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
        let begun = self.block_of_sample(id);
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
        if let Some(begun) = begun {
            self.copy_block(id, begun, report);
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

    /// How fast those that wait get on.
    pub(crate) fn forecast(&self, answers: &AnswerLength) -> Forecast {
        let streams = self.running.len();
        let mut decode = StepWork::default();
        for rank in self.running.iter() {
            decode += StepWork::new(self[rank.id].num_computed_tokens, 1, 1);
        }
        let decode = self.cost.of_step(decode);
        let most = self.limits.max_num_batched_tokens;
        let (tokens, prompts) = match streams {
            0 => (most, self.cost.added_by(StepWork::new(0, most, 0))),
            _ => {
                let prompts = self.stretch(decode);
                let room = most.saturating_sub(streams).max(1);
                let tokens = self.cost.tokens_within(prompts, 0, room);
                (tokens.max(1), prompts)
            }
        };
        let places = match self.lacks_blocks {
            true => 0,
            false => self.limits.max_num_seqs.saturating_sub(streams),
        };
        Forecast {
            token: (decode + prompts) / tokens as f64,
            added: prompts / tokens as f64,
            turnover: answers.mean() * decode / streams.max(1) as f64,
            places,
            is_founded: self.cost.is_learned() && answers.is_learned(),
        }
    }

    /// What is ahead of a sequence of so many tokens.
    pub(crate) fn ahead_of(&mut self, rank: Rank, tokens: usize) -> Ahead {
        let mut backlog = self.backlog();
        let before = self.waiting.iter().take_while(|other| *other < rank);
        for other in before.filter(|other| other.tenant == rank.tenant) {
            let weight = self.fairness.weight(other.tenant);
            // With one that is much longer it goes along.
            let gap = self[other.id].expected_gap();
            let counts = gap.min(MUCH_SHORTER * tokens);
            backlog.pass(other.tenant, weight, counts);
        }
        let ahead = backlog.pass(rank.tenant, self.fairness.weight(rank.tenant), tokens);
        self.backlog = backlog;
        ahead
    }

    /// What is ahead of each that waits.
    pub(crate) fn each_waiting(&mut self, mut tell: impl FnMut(SequenceId, Ahead)) {
        let mut backlog = self.backlog();
        for rank in self.waiting.iter() {
            let weight = self.fairness.weight(rank.tenant);
            let ahead = backlog.pass(rank.tenant, weight, self[rank.id].expected_gap());
            tell(rank.id, ahead);
        }
        self.backlog = backlog;
    }

    fn backlog(&mut self) -> Backlog {
        let mut backlog = std::mem::take(&mut self.backlog);
        backlog.clear();
        for rank in self.running.iter().filter(|rank| self[rank.id].gap() > 1) {
            let weight = self.fairness.weight(rank.tenant);
            backlog.add_running(rank.tenant, weight, self[rank.id].gap());
        }
        for rank in self.waiting.iter() {
            let weight = self.fairness.weight(rank.tenant);
            backlog.add_waiting(rank.tenant, weight, self[rank.id].expected_gap());
        }
        backlog
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
    pub(crate) fn waiting_of(&self, tenant: u32) -> usize {
        let waiting = self.waiting.iter();
        waiting.filter(|rank| rank.tenant == tenant).count()
    }

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
