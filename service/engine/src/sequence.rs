//! One request on its way.

use crate::block_pool::BlockTable;
use crate::drafting::{Acceptance, Allowance, Draft, Support};
use crate::lifecycle::State;
use crate::prefix_cache::{Chain, Key};
use crate::ranking::Rank;
use crate::samples::Samples;
use crate::sampling::Choice;
use crate::stop::StopMatcher;
use crate::{
    Event, FinishReason, Request, Sampling, StepReport, Stopping, Time, Timings, Usage, Vocabulary,
};

/// Names a sequence for the life of an engine. Later ones compare greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

/// A request, or one of its samples, with all that has come of it.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) rank: Rank,
    /// All of its request.
    pub(crate) samples: Samples,
    pub(crate) deadline: Option<Time>,
    /// Tokens its reader has room for.
    pub(crate) credit: usize,
    pub(crate) state: State,
    /// Empty unless the state [has blocks](State::has_blocks).
    pub(crate) blocks: BlockTable,
    /// What its blocks are known by to those it shares with, if it does.
    pub(crate) chain: Option<Chain>,
    /// How many of the tokens have keys and values in the blocks.
    pub(crate) num_computed_tokens: usize,
    pub(crate) num_preemptions: u32,
    /// How its guesses fare.
    pub(crate) acceptance: Acceptance,
    /// What they may cost.
    pub(crate) allowance: Allowance,
    /// What is guessed to follow in the step that runs.
    pub(crate) draft: Draft,
    /// The prompt, then what was generated.
    tokens: Vec<u32>,
    pub(crate) num_prompt_tokens: usize,
    /// Tokens of the prompt that others had computed when it first ran, or drew
    /// its first token.
    num_cached_tokens: usize,
    sampling: Sampling,
    stopping: Stopping,
    text: Text,
    submitted: Time,
    started: Option<Time>,
    first_token: Option<Time>,
}

/// How much of the generated text may be shown.
#[derive(Debug)]
struct Text {
    stop: StopMatcher,
    /// Where the text ends because of a stop string.
    cut: Option<usize>,
}

impl Sequence {
    pub(crate) fn new(
        id: SequenceId,
        samples: Samples,
        request: Request,
        acceptance: Acceptance,
        now: Time,
    ) -> Sequence {
        let mut stopping = request.stopping;
        let private = || samples.are_many().then(|| Chain::private(samples.first()));
        Sequence {
            rank: Rank::new(request.priority, id, request.share.tenant),
            samples,
            deadline: request.deadline,
            credit: request.credit,
            state: State::Waiting,
            blocks: BlockTable::default(),
            chain: request
                .salt
                .map(|salt| Chain::new(salt, request.num_public))
                .or_else(private),
            num_computed_tokens: 0,
            num_preemptions: 0,
            acceptance,
            allowance: Allowance::new(),
            draft: Draft::default(),
            num_prompt_tokens: request.prompt.len(),
            num_cached_tokens: 0,
            tokens: request.prompt,
            sampling: request.sampling,
            text: Text {
                stop: StopMatcher::new(std::mem::take(&mut stopping.stop)),
                cut: None,
            },
            stopping,
            submitted: now,
            started: None,
            first_token: None,
        }
    }

    pub(crate) fn id(&self) -> SequenceId {
        self.rank.id
    }

    pub(crate) fn num_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens a step has to compute before the next one can be sampled: at
    /// least 1.
    pub(crate) fn gap(&self) -> usize {
        self.tokens.len() - self.num_computed_tokens
    }

    /// Names its full blocks, those of tokens that are not computed yet as well.
    pub(crate) fn name_blocks(&mut self, block_size: usize) {
        if let Some(chain) = &mut self.chain {
            let known = match chain.is_private {
                true => self.num_prompt_tokens,
                false => self.tokens.len(),
            };
            chain.extend(&self.tokens[..known], block_size);
        }
    }

    /// Keys of the blocks that another sequence may have computed for it: not
    /// that of its last token.
    pub(crate) fn shareable_keys(&self, block_size: usize) -> &[Key] {
        let most = (self.tokens.len() - 1) / block_size;
        let keys = self.chain.as_ref().map_or(&[][..], Chain::keys);
        &keys[..most.min(keys.len())]
    }

    /// How many tokens another sample of its request may have computed for it.
    pub(crate) fn num_shareable_tokens(&self) -> usize {
        self.num_prompt_tokens.min(self.tokens.len() - 1)
    }

    /// Whether others may use what is in its blocks.
    pub(crate) fn is_trusted(&self) -> bool {
        self.chain.as_ref().is_some_and(|chain| chain.is_trusted)
    }

    /// Notes what of its tokens it need not compute, as it is admitted.
    pub(crate) fn tell_cached(&mut self, report: &mut StepReport) {
        let cached = self.num_computed_tokens;
        if self.num_preemptions > 0 {
            report.num_resumed += cached;
            return;
        }
        self.num_cached_tokens = cached.min(self.num_prompt_tokens);
        if self.is_first_sample() {
            report.num_prompt += self.num_prompt_tokens;
            report.num_cached += cached;
            report.num_hits += usize::from(cached > 0);
        } else {
            report.num_shared += cached;
        }
    }

    fn is_first_sample(&self) -> bool {
        self.id() == self.samples.first()
    }

    /// Tokens of its prompt as far as it is counted among those that wait: once
    /// for all samples.
    pub(crate) fn num_queued_tokens(&self) -> usize {
        match self.is_first_sample() {
            true => self.num_prompt_tokens,
            false => 0,
        }
    }

    /// Tokens it can be expected to compute when its turn comes: while it waits,
    /// the first sample computes the prompt.
    pub(crate) fn expected_gap(&self) -> usize {
        match self.state == State::Waiting && !self.is_first_sample() {
            true => self.num_generated().max(1),
            false => self.gap(),
        }
    }

    /// The next `len` tokens to compute.
    pub(crate) fn next_tokens(&self, len: usize) -> &[u32] {
        &self.tokens[self.num_computed_tokens..][..len]
    }

    /// Guesses that could be delivered behind the next token.
    pub(crate) fn max_draft_len(&self) -> usize {
        let to_come = self.stopping.max_tokens - self.num_generated();
        self.credit.min(to_come).saturating_sub(1)
    }

    /// Guesses what may follow its last token, at most so much of it.
    pub(crate) fn look_up_draft(&mut self, max_len: usize) {
        self.draft.look_up(&self.tokens, &self.acceptance, max_len);
    }

    /// Compares its n-th guess, if there is one, with the token that was sampled
    /// last.
    pub(crate) fn compare_guess(&mut self, n: usize) -> Option<(Support, bool)> {
        let compared = self.draft.compare(n, &self.tokens);
        if compared.is_none() {
            self.draft.abandon();
        }
        compared
    }

    pub(crate) fn num_generated(&self) -> usize {
        self.tokens.len() - self.num_prompt_tokens
    }

    /// Notes the first time it is part of a step; false if it was before.
    pub(crate) fn start(&mut self, now: Time, block_size: usize) -> bool {
        let first = self.started.is_none();
        if first {
            self.started = Some(now);
            // The only growth its tokens and their blocks will ever need.
            self.tokens.reserve_exact(self.stopping.max_tokens);
            if let Some(chain) = self.chain.as_mut().filter(|chain| !chain.is_private) {
                chain.reserve(self.tokens.capacity() / block_size);
            }
        }
        first
    }

    /// Whether it waits for its prompt to be computed.
    pub(crate) fn waits_for_row(&self) -> bool {
        self.state == State::Waiting && self.num_generated() == 0
    }

    /// It needs nothing of its prompt but the row of logits that another sample
    /// has computed.
    pub(crate) fn skip_prompt(&mut self) {
        self.num_cached_tokens = self.num_prompt_tokens;
    }

    /// The first time it was part of a step.
    pub(crate) fn started(&self) -> Option<Time> {
        self.started
    }

    /// What the choice of its next token depends on.
    pub(crate) fn choice<'a>(&'a self, end_tokens: &'a [u32]) -> Choice<'a> {
        let (prompt, generated) = self.tokens.split_at(self.num_prompt_tokens);
        let forbidden = match (self.may_end(), self.stopping.ignore_eos) {
            (true, _) => [&[][..], &[][..]],
            (false, true) => [&[][..], &self.stopping.stop_tokens],
            (false, false) => [end_tokens, &self.stopping.stop_tokens],
        };
        Choice {
            sampling: &self.sampling,
            prompt,
            generated,
            forbidden,
        }
    }

    /// Whether the next token may end the sequence by what it is.
    fn may_end(&self) -> bool {
        self.num_generated() >= self.stopping.min_tokens
    }

    /// Takes the next token. Says whether, and why, it was the last.
    pub(crate) fn append(
        &mut self,
        token: u32,
        vocabulary: &dyn Vocabulary,
        now: Time,
    ) -> Option<FinishReason> {
        let may_end = self.may_end();
        self.first_token.get_or_insert(now);
        self.tokens.push(token);
        self.credit = self.credit.saturating_sub(1);
        // `choice` forbids both kinds of token while the sequence may not end.
        if self.stopping.stop_tokens.contains(&token) {
            return Some(FinishReason::StopToken { token });
        }
        if !self.stopping.ignore_eos && vocabulary.is_end(token) {
            return Some(FinishReason::EndOfSequence { token });
        }
        if let Some(found) = self.text.stop.push(vocabulary.token_bytes(token), may_end) {
            let include = self.stopping.include_stop;
            self.text.cut = Some(if include { found.end } else { found.begin });
            return Some(FinishReason::StopString { index: found.index });
        }
        (self.num_generated() == self.stopping.max_tokens).then_some(FinishReason::Length)
    }

    /// Bytes of the text that may be shown while more may follow.
    pub(crate) fn text_end(&self) -> usize {
        self.text.stop.safe_len()
    }

    /// Bytes of the text that may be shown when nothing follows.
    pub(crate) fn final_text_end(&self) -> usize {
        self.text.cut.unwrap_or(self.text.stop.text_len())
    }

    /// Its last event.
    pub(crate) fn finished(&self, reason: FinishReason, now: Time) -> Event {
        Event::Finished {
            id: self.id(),
            reason,
            text_end: self.final_text_end(),
            usage: Usage {
                prompt_tokens: self.num_prompt_tokens,
                completion_tokens: self.num_generated(),
                cached_tokens: self.num_cached_tokens,
            },
            timings: self.timings(now),
        }
    }

    fn timings(&self, end: Time) -> Timings {
        let started = self.started.unwrap_or(end);
        let first_token = self.first_token.unwrap_or(end);
        Timings {
            queue: started.saturating_sub(self.submitted),
            prefill: first_token.saturating_sub(started),
            time_to_first_token: self
                .first_token
                .map(|first_token| first_token.saturating_sub(self.submitted)),
            decode: end.saturating_sub(first_token),
            preemptions: self.num_preemptions,
        }
    }
}
