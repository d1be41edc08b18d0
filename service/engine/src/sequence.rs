//! One request on its way.

use crate::block_pool::BlockTable;
use crate::drafting::{Acceptance, Draft};
use crate::lifecycle::State;
use crate::prefix_cache::Chain;
use crate::ranking::Rank;
use crate::sampling::Choice;
use crate::stop::StopMatcher;
use crate::{
    Event, FinishReason, Request, Sampling, StepReport, Stopping, Time, Timings, Usage, Vocabulary,
};

/// Names a sequence for the life of an engine. Later ones compare greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

/// A request with all that has come of it.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) rank: Rank,
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
    /// What is guessed to follow in the step that runs.
    pub(crate) draft: Option<Draft>,
    /// The prompt, then what was generated.
    tokens: Vec<u32>,
    num_prompt_tokens: usize,
    /// Tokens of the prompt that others had computed when it first ran.
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
        request: Request,
        acceptance: Acceptance,
        now: Time,
    ) -> Sequence {
        let mut stopping = request.stopping;
        Sequence {
            rank: Rank::new(request.priority, id, request.share.tenant),
            deadline: request.deadline,
            credit: request.credit,
            state: State::Waiting,
            blocks: BlockTable::default(),
            chain: request.salt.map(Chain::new),
            num_computed_tokens: 0,
            num_preemptions: 0,
            acceptance,
            draft: None,
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
            chain.extend(&self.tokens, block_size);
        }
    }

    /// How many blocks another sequence may have computed for it: not the one
    /// of its last token.
    pub(crate) fn num_shareable_blocks(&self, block_size: usize) -> usize {
        (self.tokens.len() - 1) / block_size
    }

    /// Notes what of its tokens it need not compute, as it is admitted.
    pub(crate) fn tell_cached(&mut self, report: &mut StepReport) {
        let cached = self.num_computed_tokens;
        if self.started.is_some() {
            report.num_resumed += cached;
        } else {
            self.num_cached_tokens = cached;
            report.num_prompt += self.num_prompt_tokens;
            report.num_cached += cached;
            report.num_hits += usize::from(cached > 0);
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

    /// What may follow its last token.
    pub(crate) fn look_up_draft(&self) -> Option<Draft> {
        Draft::look_up(&self.tokens)
    }

    /// The guesses that the step computes.
    pub(crate) fn drafted(&self) -> impl Iterator<Item = u32> {
        let guesses = move |draft: Draft| (0..draft.len).map(move |n| draft.guess(n, &self.tokens));
        self.draft.into_iter().flat_map(guesses)
    }

    /// The n-th guess, if there are any.
    pub(crate) fn guess(&self, n: usize) -> Option<u32> {
        Some(self.draft?.guess(n, &self.tokens))
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
            if let Some(chain) = &mut self.chain {
                chain.reserve(self.tokens.capacity() / block_size);
            }
        }
        first
    }

    /// Whether it ever was part of a step.
    pub(crate) fn is_started(&self) -> bool {
        self.started.is_some()
    }

    pub(crate) fn num_prompt_tokens(&self) -> usize {
        self.num_prompt_tokens
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
