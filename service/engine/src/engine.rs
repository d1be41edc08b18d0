//! The engine: a step from deadlines to events.

use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::crew::Alone;
use crate::forecast::AnswerLength;
use crate::lifecycle::State;
use crate::ranking::Rank;
use crate::samples::Samples;
use crate::sampling::Sampler;
use crate::scheduler::Scheduler;
use crate::sequence::Sequence;
use crate::whole_rows::WholeRows;
use crate::{
    Ahead, Batch, Crew, Event, Executor, ExecutorError, FinishReason, Forecast, Limits, Logits,
    Request, Row, SequenceId, Sought, Span, StepReport, SubmitError, Time, Vocabulary, Wanted,
    panic_message,
};

/// Takes requests, and runs them a step at a time.
pub struct Engine {
    limits: Limits,
    vocabulary: Arc<dyn Vocabulary>,
    /// The tokens that [`Vocabulary::is_end`] names.
    end_tokens: Vec<u32>,
    /// Tokens of a row of logits.
    num_tokens: usize,
    scheduler: Scheduler,
    deadlines: BTreeSet<(Time, SequenceId)>,
    /// Of the prompts of sequences that were not started.
    num_queued_tokens: usize,
    answers: AnswerLength,
    next_id: u64,
    sampler: Sampler,
    whole_rows: WholeRows,
    /// Endings that no step has told of yet.
    untold: Vec<Event>,
    batch: Batch,
    report: StepReport,
}

impl Engine {
    /// An idle engine.
    ///
    /// # Panics
    ///
    /// On limits under which a sequence could wait for ever: a size of 0, or
    /// fewer `max_num_batched_tokens` than `max_num_seqs`. Also on more blocks
    /// than a [`BlockId`](crate::BlockId) can name.
    pub fn new(limits: Limits, vocabulary: Arc<dyn Vocabulary>) -> Engine {
        limits.check();
        let tokens = 0..vocabulary.size() as u32;
        Engine {
            limits,
            end_tokens: tokens.filter(|&token| vocabulary.is_end(token)).collect(),
            num_tokens: vocabulary.size(),
            vocabulary,
            scheduler: Scheduler::new(limits),
            deadlines: BTreeSet::new(),
            num_queued_tokens: 0,
            answers: AnswerLength::new(),
            next_id: 0,
            sampler: Sampler::default(),
            whole_rows: WholeRows::default(),
            untold: Vec::new(),
            batch: Batch::default(),
            report: StepReport::default(),
        }
    }

    /// Takes a request, or says why not.
    pub fn submit(&mut self, request: Request, now: Time) -> Result<SequenceId, SubmitError> {
        self.submit_samples(request, 1, now)
    }

    /// Takes all of several samples of a request, or says why none. Their ids
    /// follow each other, from the one returned on. Each is what a request of
    /// its own would be with the seed that [`Sampling::of_sample`] says; but
    /// their prompt is computed once, whatever its [salt](Request::salt), as long
    /// as one of them has its pages.
    ///
    /// [`Sampling::of_sample`]: crate::Sampling::of_sample
    pub fn submit_samples(
        &mut self,
        request: Request,
        count: usize,
        now: Time,
    ) -> Result<SequenceId, SubmitError> {
        request.check(&self.limits, self.vocabulary.size())?;
        let queued = self.scheduler.num_alive();
        let limit = self
            .limits
            .max_num_seqs
            .saturating_add(self.limits.max_queued);
        if !(1..=limit).contains(&count) {
            return Err(SubmitError::BadParameter {
                field: "samples",
                value: count.to_string(),
                expected: "at least 1, and at most as many as may be alive",
            });
        }
        if count > limit - queued.min(limit) {
            return Err(SubmitError::QueueFull { queued, limit });
        }
        let (asked, limit) = (request.prompt.len(), self.limits.max_queued_tokens);
        let queued = self.num_queued_tokens;
        if queued > 0 && queued.saturating_add(asked) > limit {
            return Err(SubmitError::TokensQueued {
                queued,
                asked,
                limit,
            });
        }
        self.scheduler.enter(request.share);
        let id = SequenceId(self.next_id);
        self.check_deadline(id, &request, now)?;
        self.next_id += count as u64;
        self.num_queued_tokens += asked;
        let samples = Samples::new(id, count);
        let acceptance = self.scheduler.drafting.acceptance();
        for (index, id) in samples.ids().enumerate() {
            let deadline = request.deadline.map(|deadline| (deadline, id));
            self.deadlines.extend(deadline);
            let request = Request {
                sampling: request.sampling.of_sample(index),
                ..request.clone()
            };
            let sequence = Sequence::new(id, samples, request, acceptance, now);
            self.scheduler.insert(sequence);
        }
        Ok(id)
    }

    /// Whether its first token can come in time. Forecasts being what they are,
    /// one that may take twice as long as there is is tried.
    fn check_deadline(
        &mut self,
        id: SequenceId,
        request: &Request,
        now: Time,
    ) -> Result<(), SubmitError> {
        let forecast = self.forecast();
        let Some(deadline) = request.deadline.filter(|_| forecast.is_founded()) else {
            return Ok(());
        };
        let rank = Rank::new(request.priority, id, request.share.tenant);
        let tokens = request.prompt.len();
        let ahead = self.scheduler.ahead_of(rank, tokens);
        let expected = forecast.wait(ahead) + forecast.prefill(tokens);
        let left = deadline.saturating_sub(now);
        match expected / 2 > left {
            true => Err(SubmitError::DeadlineUnreachable { expected, left }),
            false => Ok(()),
        }
    }

    /// How fast those that wait get on.
    pub fn forecast(&self) -> Forecast {
        self.scheduler.forecast(&self.answers)
    }

    /// What is ahead of a sequence, if it waits.
    pub fn ahead(&mut self, id: SequenceId) -> Option<Ahead> {
        let sequence = self.scheduler.get_mut(id)?;
        let (rank, tokens) = (sequence.rank, sequence.expected_gap());
        let waits = sequence.state == State::Waiting;
        waits.then(|| self.scheduler.ahead_of(rank, tokens))
    }

    /// Tells what is ahead of each sequence that waits and was not started.
    pub fn each_waiting(&mut self, tell: impl FnMut(SequenceId, Ahead)) {
        self.scheduler.each_waiting(tell);
    }

    /// Ends a sequence and frees its pages now; its `Finished` comes with the
    /// next [`Engine::step`] or [`Engine::drain_events`]. Does nothing to a
    /// sequence that has ended already.
    pub fn cancel(&mut self, id: SequenceId, now: Time) {
        let ended = self.end(id, FinishReason::Cancelled, now);
        self.untold.extend(ended);
    }

    /// Says how many more tokens the reader of a sequence has room for, not
    /// counting those whose events it has already been given.
    ///
    /// Every token uses up one. At 0 the sequence is parked until there is
    /// room again: it keeps its pages unless others need them, and takes no
    /// place in the batch. `Finished` needs no credit. Does nothing to a
    /// sequence that has ended already.
    pub fn set_credit(&mut self, id: SequenceId, tokens: usize) {
        if let Some(sequence) = self.scheduler.get_mut(id) {
            sequence.credit = tokens;
            self.scheduler.follow_credit(id);
        }
    }

    /// Appends the endings of sequences that were cancelled since the last
    /// step.
    pub fn drain_events(&mut self, events: &mut Vec<Event>) {
        events.append(&mut self.untold);
    }

    /// Expires deadlines, runs one batch, and appends to `events` what
    /// happened.
    ///
    /// A batch that fails is run in halves, down to the sequences that can't be
    /// run alone either, which end. So does one that is the reason of a panic
    /// when a token is chosen for it.
    ///
    /// `now` is asked before the batch, for deadlines, and after it, for the
    /// times of tokens and endings. What lies between teaches what a step
    /// takes.
    pub fn step<E: Executor>(
        &mut self,
        mut now: impl FnMut() -> Time,
        executor: &mut E,
        events: &mut Vec<Event>,
    ) -> &StepReport {
        let evicted_before = self.scheduler.num_evicted_blocks();
        let begin = now();
        self.plan(begin, events);
        if !self.batch.spans.is_empty() {
            // What lies behind the vocabulary pads the matrix and means nothing.
            self.num_tokens = executor.vocab_size().min(self.vocabulary.size());
            self.say_what_is_wanted();
            // Not with the step, parts of which may have to be run again.
            if !self.scheduler.copies().is_empty() {
                executor.copy_blocks(self.scheduler.copies());
            }
            let crew = executor.crew();
            let crew = crew.as_deref().unwrap_or(&Alone);
            let logits = executor.execute(&self.batch);
            let end = now();
            match logits.and_then(|logits| check_logits(&self.batch, logits)) {
                Ok(logits) => {
                    self.learn_time(end.saturating_sub(begin));
                    self.sample_all(0..self.batch.spans.len(), end, logits, crew, events);
                }
                Err(error) => self.run_parts(&mut now, executor, crew, error, events),
            }
        }
        let (report, scheduler) = (&mut self.report, &self.scheduler);
        report.num_evicted = (scheduler.num_evicted_blocks() - evicted_before) as usize;
        report.num_free_blocks = scheduler.num_free_blocks();
        report.num_kept_blocks = scheduler.num_kept_blocks();
        report.num_running = scheduler.num_running();
        report.num_waiting = scheduler.num_waiting();
        report.num_parked = scheduler.num_parked();
        report
    }

    /// Everything of a step before the batch.
    fn plan(&mut self, now: Time, events: &mut Vec<Event>) {
        self.report.clear();
        for event in self.untold.drain(..) {
            if let Event::Finished { id, reason, .. } = &event {
                self.report.finished.push((*id, reason.clone()));
            }
            events.push(event);
        }
        self.expire(now, events);
        self.scheduler.schedule(&mut self.report);
        self.fill_batch(now, events);
    }

    fn expire(&mut self, now: Time, events: &mut Vec<Event>) {
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.finish(id, FinishReason::DeadlineExceeded, now, events);
        }
    }

    fn fill_batch(&mut self, now: Time, events: &mut Vec<Event>) {
        let batch = &mut self.batch;
        batch.clear();
        for &(id, len) in &self.report.scheduled {
            let sequence = self.scheduler.get_mut(id).expect("it was just scheduled");
            if sequence.start(now, self.limits.block_size) {
                self.num_queued_tokens -= sequence.num_queued_tokens();
                events.push(Event::Started { id, at: now });
            }
            let needed = (sequence.num_computed_tokens + len).div_ceil(self.limits.block_size);
            let drafted = sequence.draft.len;
            let known = len - drafted;
            batch.spans.push(Span {
                token_begin: batch.tokens.len(),
                len,
                position: sequence.num_computed_tokens,
                table_begin: batch.block_tables.len(),
                table_len: needed,
                num_logits: match known == sequence.gap() {
                    true => 1 + drafted,
                    false => 0,
                },
                wanted: Wanted::All,
            });
            batch.tokens.extend_from_slice(sequence.next_tokens(known));
            batch.tokens.extend(sequence.draft.computed());
            let blocks = sequence.blocks.blocks();
            batch.block_tables.extend(blocks.take(needed));
        }
        self.report.num_tokens = batch.tokens.len();
        self.report.num_sampled = batch.num_logits() - self.report.num_drafted;
    }

    /// Tells the executor what sampling will look at.
    fn say_what_is_wanted(&mut self) {
        let batch = &mut self.batch;
        for (span, &(id, _)) in batch.spans.iter_mut().zip(&self.report.scheduled) {
            let sequence = &self.scheduler[id];
            let choice = sequence.choice(&self.end_tokens);
            // The row behind a prompt is that of all samples, each of which
            // draws with luck of its own.
            let is_of_many = sequence.samples.are_many() && sequence.num_generated() == 0;
            let sought = choice.sought(self.num_tokens);
            let sought =
                sought.filter(|sought| !is_of_many || matches!(sought, Sought::Largest(_)));
            if let (1.., Some(sought)) = (span.num_logits, sought) {
                let named_begin = batch.named_tokens.len();
                for tokens in choice.named() {
                    batch.named_tokens.extend_from_slice(tokens);
                }
                // Behind a guess that comes true it is one more of the tokens
                // so far, which may be penalised.
                if choice.penalises() {
                    let draft = &self.scheduler[id].draft;
                    batch.named_tokens.extend(draft.computed());
                }
                span.wanted = Wanted::Some {
                    sought,
                    among: self.num_tokens,
                    named_begin,
                    named_len: batch.named_tokens.len() - named_begin,
                };
            }
        }
    }

    fn learn_time(&mut self, took: Time) {
        self.scheduler
            .learn_cost(&self.batch.spans, took, &self.report);
        // Whether guesses pay is seen where a step did nothing but decode.
        let (report, sequences) = (&self.report, self.batch.spans.len());
        if report.num_tokens == sequences + report.num_drafted {
            let drafting = &mut self.scheduler.drafting;
            drafting.learn_time(sequences, report.num_drafted, took);
        }
    }

    /// Runs a batch that failed in halves, and those that fail in halves again:
    /// what is left in the end are the sequences that can't be run, and no
    /// other one is harmed. That a sequence's tokens don't depend on its batch
    /// mates makes the outcome the same for those.
    fn run_parts<E: Executor>(
        &mut self,
        now: &mut impl FnMut() -> Time,
        executor: &mut E,
        crew: &dyn Crew,
        error: ExecutorError,
        events: &mut Vec<Event>,
    ) {
        let mut failed = vec![(0..self.batch.spans.len(), error)];
        while let Some((places, error)) = failed.pop() {
            if places.len() == 1 {
                let (id, _) = self.report.scheduled[places.start];
                let message = error.to_string();
                self.finish(id, FinishReason::Failed { message }, now(), events);
                continue;
            }
            let middle = places.start + places.len() / 2;
            for half in [places.start..middle, middle..places.end] {
                let part = self.batch.part(half.clone());
                self.report.num_reruns += 1;
                let logits = executor.execute(&part);
                match logits.and_then(|logits| check_logits(&part, logits)) {
                    Ok(logits) => self.sample_all(half, now(), logits, crew, events),
                    Err(error) => failed.push((half, error)),
                }
            }
        }
    }

    /// Samples for the spans at some places, whose logits these are.
    fn sample_all(
        &mut self,
        places: Range<usize>,
        now: Time,
        logits: &Logits,
        crew: &dyn Crew,
        events: &mut Vec<Event>,
    ) {
        self.sample_whole_rows(places.clone(), logits, crew);
        let mut first_row = 0;
        for place in places {
            let (id, span) = (self.report.scheduled[place].0, self.batch.spans[place]);
            let rows = first_row..first_row + span.num_logits;
            first_row = rows.end;
            let sequence = self.scheduler.get_mut(id).expect("it was in the batch");
            sequence.num_computed_tokens += span.len - rows.len().saturating_sub(1);
            self.scheduler.keep_computed(id);
            self.sample_along(id, rows.map(|row| logits.row(row)), now, events);
        }
    }

    /// Of each sequence the first row, if it is whole: what is sampled from the
    /// others depends on it.
    fn sample_whole_rows(&mut self, places: Range<usize>, logits: &Logits, crew: &dyn Crew) {
        self.whole_rows.clear();
        let mut first_row = 0;
        for place in places {
            let (id, span) = (self.report.scheduled[place].0, self.batch.spans[place]);
            if span.num_logits > 0 && matches!(logits.row(first_row), Row::Whole(_)) {
                self.whole_rows.push(id, first_row);
            }
            first_row += span.num_logits;
        }
        let (scheduler, end_tokens) = (&self.scheduler, &self.end_tokens);
        self.whole_rows.sample(
            crew,
            |row| logits.row(row).of_the_first(self.num_tokens),
            |id| scheduler[id].choice(end_tokens),
        );
    }

    /// Samples a token, and another one as long as it is what was guessed: the
    /// next row then says what follows it.
    fn sample_along<'a>(
        &mut self,
        id: SequenceId,
        rows: impl ExactSizeIterator<Item = Row<'a>>,
        now: Time,
        events: &mut Vec<Event>,
    ) {
        let last = rows.len().saturating_sub(1);
        for (place, row) in rows.enumerate() {
            let sampled = self.sample_with_others(id, row, now, events);
            if !matches!(sampled, Sampled::GoesOn) {
                return;
            }
            // The guess behind those that were computed is watched.
            let came_true = self.scheduler.learn_guess(id, place);
            if place == last || !came_true {
                self.scheduler.settle_guesses(id, place);
                return;
            }
            let sequence = self.scheduler.get_mut(id).expect("it goes on");
            sequence.num_computed_tokens += 1;
            self.report.num_accepted += 1;
        }
    }

    /// Samples a token; and from a row that follows a prompt, one for each
    /// sample of its request that waits for it.
    fn sample_with_others(
        &mut self,
        id: SequenceId,
        row: Row<'_>,
        now: Time,
        events: &mut Vec<Event>,
    ) -> Sampled {
        let sequence = &self.scheduler[id];
        let follows_prompt = sequence.num_generated() == 0;
        let (samples, started) = (sequence.samples, sequence.started());
        let sampled = self.sample(id, row, now, events);
        // What it failed on is no better for others: they will say so.
        if follows_prompt && !matches!(sampled, Sampled::Failed) {
            for other in samples.others(id) {
                self.sample_waiting(other, row, started, now, events);
            }
        }
        sampled
    }

    /// Samples for one that waits, if that is what it waits for. Its prompt was
    /// computed for it from this moment on.
    fn sample_waiting(
        &mut self,
        id: SequenceId,
        row: Row<'_>,
        started: Option<Time>,
        now: Time,
        events: &mut Vec<Event>,
    ) {
        let Some(sequence) = self.scheduler.get_mut(id).filter(|s| s.waits_for_row()) else {
            return;
        };
        let at = started.unwrap_or(now);
        if sequence.start(at, self.limits.block_size) {
            sequence.skip_prompt();
            self.num_queued_tokens -= sequence.num_queued_tokens();
            events.push(Event::Started { id, at });
        }
        self.report.num_shared_rows += 1;
        self.sample(id, row, now, events);
    }

    fn sample(
        &mut self,
        id: SequenceId,
        row: Row<'_>,
        now: Time,
        events: &mut Vec<Event>,
    ) -> Sampled {
        // What was half done when it panicked ends with the sequence.
        let chosen = catch_unwind(AssertUnwindSafe(|| self.choose(id, row, now)));
        let end = match chosen.unwrap_or_else(|panic| Err(panic_message(&*panic))) {
            Ok((event, end)) => {
                events.push(event);
                end
            }
            Err(message) => {
                self.finish(id, FinishReason::Failed { message }, now, events);
                return Sampled::Failed;
            }
        };
        if let Some(reason) = end {
            self.finish(id, reason, now, events);
            return Sampled::Ended;
        }
        self.scheduler.follow_credit(id);
        Sampled::GoesOn
    }

    /// Chooses a sequence's next token. Says whether, and why, it was the last.
    fn choose(
        &mut self,
        id: SequenceId,
        row: Row<'_>,
        now: Time,
    ) -> Result<(Event, Option<FinishReason>), String> {
        let sequence = self.scheduler.get_mut(id).expect("it was in the batch");
        let choice = sequence.choice(&self.end_tokens);
        let sampled = self.whole_rows.take(id).unwrap_or_else(|| {
            let row = row.of_the_first(self.num_tokens);
            let sampled = self.sampler.sample(row, &choice);
            sampled.map_err(|error| error.to_string())
        })?;
        let end = sequence.append(sampled.token, &*self.vocabulary, now);
        let event = Event::Token {
            id,
            token: sampled.token,
            text_end: match end {
                Some(_) => sequence.final_text_end(),
                None => sequence.text_end(),
            },
            logprob: sampled.logprob,
            top: sampled.top,
        };
        Ok((event, end))
    }

    /// Ends a sequence within a step.
    fn finish(&mut self, id: SequenceId, reason: FinishReason, now: Time, events: &mut Vec<Event>) {
        self.report.finished.push((id, reason.clone()));
        if let FinishReason::Failed { .. } = reason {
            self.scheduler.distrust_pages();
        }
        events.extend(self.end(id, reason, now));
    }

    /// Frees all that a sequence holds. Returns its last event, if it was
    /// alive.
    fn end(&mut self, id: SequenceId, reason: FinishReason, now: Time) -> Option<Event> {
        let sequence = self.scheduler.finish(id)?;
        if let Some(deadline) = sequence.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        if sequence.started().is_none() {
            self.num_queued_tokens -= sequence.num_queued_tokens();
        }
        if reason.is_natural() {
            self.answers.learn(sequence.num_generated());
        }
        Some(sequence.finished(reason, now))
    }

    /// Whether a step would do something now. Without work, the next thing to
    /// happen is a call or [`Engine::next_deadline`].
    pub fn has_work(&self) -> bool {
        self.num_running() + self.num_waiting() + self.untold.len() > 0
    }

    /// The earliest deadline of all sequences, parked ones included.
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Sequences with pages and a reader.
    pub fn num_running(&self) -> usize {
        self.scheduler.num_running()
    }

    /// Sequences that wait for pages.
    pub fn num_waiting(&self) -> usize {
        self.scheduler.num_waiting()
    }

    /// Tokens of the prompts of sequences that were not started.
    pub fn num_queued_tokens(&self) -> usize {
        self.num_queued_tokens
    }

    /// Sequences whose readers have no room.
    pub fn num_parked(&self) -> usize {
        self.scheduler.num_parked()
    }

    /// Blocks that no sequence holds. The prefix cache may: it gives them up as
    /// they are needed.
    pub fn num_free_blocks(&self) -> usize {
        self.scheduler.num_free_blocks()
    }

    /// Blocks in the prefix cache, be they free in this sense or not.
    pub fn num_kept_blocks(&self) -> usize {
        self.scheduler.num_kept_blocks()
    }

    /// Blocks of the pool.
    pub fn num_blocks(&self) -> usize {
        self.limits.num_blocks
    }

    #[cfg(test)]
    pub(crate) fn check(&self) {
        self.scheduler.check();
    }

    #[cfg(test)]
    pub(crate) fn waiting_of(&self, tenant: u32) -> usize {
        self.scheduler.waiting_of(tenant)
    }

    #[cfg(test)]
    pub(crate) fn sequence(&self, id: SequenceId) -> &Sequence {
        &self.scheduler[id]
    }
}

/// What came of sampling.
enum Sampled {
    /// The sequence goes on with that token.
    GoesOn,
    /// That was its last.
    Ended,
    /// There was no sampling from it.
    Failed,
}

fn check_logits<'a>(batch: &Batch, logits: &'a Logits) -> Result<&'a Logits, ExecutorError> {
    let (rows, got) = (batch.num_logits(), logits.len());
    if got == rows {
        return Ok(logits);
    }
    Err(ExecutorError {
        message: format!("executor returned {got} rows of logits instead of {rows}"),
    })
}
