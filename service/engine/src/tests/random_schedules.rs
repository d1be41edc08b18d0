//! Thousands of random schedules over tiny pools. Whatever happens around a
//! request, it is answered as if it were alone, and the books balance after
//! every step.

use std::collections::BTreeMap;

use super::fake::{Fault, REPETITIVE};
use super::oracle::{Answer, answer};
use super::pages::Pages;
use super::random::{Random, over_seeds};
use super::sim::Sim;
use crate::lifecycle::State;
use crate::{
    Event, FinishReason, Limits, Request, Sampling, SequenceId, Share, StepReport, Stopping,
    SubmitError, Time,
};

const NUM_SCHEDULES: u64 = 10_000;

const SHARES: [Share; 3] = [share(0, 1), share(1, 1), share(5, 3)];

const fn share(tenant: u32, weight: u32) -> Share {
    Share { tenant, weight }
}

#[test]
fn every_answer_is_as_if_alone_and_no_block_is_lost() {
    let seen = over_seeds(NUM_SCHEDULES, |seed, seen: &mut Seen| {
        Schedule::new(seed).run(seen)
    });
    let all = |one: Seen, other| one.and(other);
    if let Some(seen) = seen.map(|seen| seen.into_iter().fold(Seen::default(), all)) {
        seen.check();
    }
}

/// What happened over all schedules: a simulation in which nothing ever is
/// preempted proves nothing about preemption.
#[derive(Debug, Default)]
struct Seen {
    preemptions: usize,
    parked_preemptions: usize,
    chunks: usize,
    accepted: usize,
    rejected: usize,
    cached: usize,
    resumed: usize,
    evicted: usize,
    shared: usize,
    refusals: usize,
    hopeless: usize,
    reruns: usize,
    culprits: usize,
    shared_rows: usize,
    shared_prompts: usize,
    copied: usize,
    endings: BTreeMap<String, usize>,
}

impl Seen {
    fn and(mut self, other: Seen) -> Seen {
        self.preemptions += other.preemptions;
        self.parked_preemptions += other.parked_preemptions;
        self.chunks += other.chunks;
        self.accepted += other.accepted;
        self.rejected += other.rejected;
        self.cached += other.cached;
        self.resumed += other.resumed;
        self.evicted += other.evicted;
        self.shared += other.shared;
        self.refusals += other.refusals;
        self.hopeless += other.hopeless;
        self.reruns += other.reruns;
        self.culprits += other.culprits;
        self.shared_rows += other.shared_rows;
        self.shared_prompts += other.shared_prompts;
        self.copied += other.copied;
        for (kind, count) in other.endings {
            *self.endings.entry(kind).or_default() += count;
        }
        self
    }

    fn check(&self) {
        assert!(self.preemptions > 1000, "{self:?}");
        assert!(self.parked_preemptions > 1000, "{self:?}");
        assert!(self.chunks > 1000, "{self:?}");
        assert!(self.accepted > 300, "{self:?}");
        assert!(self.rejected > 800, "{self:?}");
        assert!(self.cached > 3000, "{self:?}");
        assert!(self.resumed > 1000, "{self:?}");
        assert!(self.evicted > 1000, "{self:?}");
        assert!(self.shared > 1000, "{self:?}");
        assert!(self.refusals > 100, "{self:?}");
        assert!(self.hopeless > 100, "{self:?}");
        assert!(self.culprits > 100, "{self:?}");
        assert!(self.reruns > 2 * self.culprits, "{self:?}");
        assert!(self.shared_rows > 1000, "{self:?}");
        assert!(self.shared_prompts > 1000, "{self:?}");
        assert!(self.copied > 1000, "{self:?}");
        assert_eq!(self.endings.len(), 7, "{self:?}");
        assert!(self.endings.values().all(|count| *count > 100), "{self:?}");
    }
}

/// What the other side of the engine knows about a sample of a request.
struct Watched {
    request: Request,
    /// The first sample of its request.
    first: SequenceId,
    answer: Answer,
    submitted: Time,
    credit: usize,
    started: Option<Time>,
    num_tokens: usize,
    num_preemptions: u32,
    cancelled: Option<Time>,
    finished: bool,
}

struct Schedule {
    random: Random,
    limits: Limits,
    sim: Sim,
    watched: BTreeMap<SequenceId, Watched>,
    pages: Pages,
    /// What many prompts begin with.
    beginnings: [Vec<u32>; 2],
}

impl Schedule {
    fn new(seed: u64) -> Schedule {
        let mut random = Random::new(seed);
        let max_num_seqs = random.within(1..=5);
        let limits = Limits {
            num_blocks: random.within(4..=14),
            block_size: random.within(1..=4),
            max_num_seqs,
            max_num_batched_tokens: max_num_seqs + random.within(0..=8),
            step_budget: random.pick(&[None, Some(Time::from_millis(300)), Some(Time::MAX)]),
            max_draft_tokens: random.pick(&[0, 1, 4]),
            max_queued: random.within(1..=8),
            max_queued_tokens: random.pick(&[8, 30, usize::MAX]),
            max_model_len: 24,
        };
        let beginnings = [(); 2].map(|()| (0..12).map(|_| random.below(12) as u32).collect());
        Schedule {
            random,
            limits,
            sim: Sim::new(limits),
            watched: BTreeMap::new(),
            pages: Pages::new(&limits),
            beginnings,
        }
    }

    fn run(mut self, seen: &mut Seen) {
        for _ in 0..self.random.within(20..=60) {
            self.disturb(seen);
            self.step(seen);
        }
        // From here on all readers read, and everything must come to its end.
        self.sim.model.fault = Fault::None;
        for id in self.alive() {
            self.set_credit(id, usize::MAX);
        }
        let mut num_steps = 0;
        while self.sim.engine.has_work() {
            self.step(seen);
            num_steps += 1;
            assert!(num_steps < 2000, "no end in sight");
        }
        assert_eq!(self.alive(), []);
        assert_eq!(self.sim.engine.num_free_blocks(), self.limits.num_blocks);
        assert_eq!(self.sim.engine.next_deadline(), None);
        seen.shared += self.pages.num_shared;
    }

    fn disturb(&mut self, seen: &mut Seen) {
        while self.random.percent(35) {
            self.submit(seen);
        }
        for id in self.alive() {
            if self.random.percent(2) {
                let now = self.sim.now() + Time::from_millis(500);
                self.sim.engine.cancel(id, now);
                self.watched.get_mut(&id).unwrap().cancelled = Some(now);
            } else if self.random.percent(15) {
                let credit = self.random.pick(&[0, 1, 2, 5]);
                self.set_credit(id, credit);
            }
            self.sim.engine.check();
        }
        // The clock may stand still, and a step may be held up.
        let millis = self.random.pick(&[0, 1, 20, 100, 100, 100, 490]);
        self.sim.takes = Time::from_millis(millis);
        self.sim.model.fault = match self.random.below(200) {
            0 => Fault::Step,
            1 => Fault::NoLogits,
            2..5 => Fault::NanInFirstRow,
            5..12 => Fault::Beginning(self.random.below(12) as u32),
            _ => Fault::None,
        };
    }

    fn submit(&mut self, seen: &mut Seen) {
        let request = self.request();
        let count = self.random.pick(&[1, 1, 1, 1, 2, 3, 5]);
        let now = self.sim.now();
        let alive_limit = self.limits.max_num_seqs + self.limits.max_queued;
        match self.sim.engine.submit_samples(request.clone(), count, now) {
            Ok(first) => (0..count).for_each(|index| self.accepted(first, index, &request)),
            Err(SubmitError::QueueFull { queued, limit }) => {
                assert_eq!(limit, alive_limit);
                assert!(queued <= limit && queued + count > limit);
                seen.refusals += 1;
            }
            Err(SubmitError::BadParameter { field, .. }) => {
                assert_eq!(field, "samples");
                assert!(count > alive_limit);
                seen.refusals += 1;
            }
            Err(SubmitError::TokensQueued {
                queued,
                asked,
                limit,
            }) => {
                assert_eq!(queued, self.queued_tokens());
                assert_eq!(limit, self.limits.max_queued_tokens);
                assert!(queued > 0 && queued + asked > limit);
                seen.refusals += 1;
            }
            Err(SubmitError::DeadlineUnreachable { expected, left }) => {
                assert_eq!(Some(self.sim.now() + left), request.deadline);
                assert!(expected > left);
                seen.hopeless += 1;
            }
            Err(SubmitError::NeverFits { blocks, pool }) => {
                assert!(blocks > pool);
                seen.refusals += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn accepted(&mut self, first: SequenceId, index: usize, request: &Request) {
        let id = SequenceId(first.0 + index as u64);
        let mut request = request.clone();
        request.sampling.seed += index as u64;
        let watched = Watched {
            answer: answer(&request),
            first,
            submitted: self.sim.now(),
            credit: request.credit,
            request,
            started: None,
            num_tokens: 0,
            num_preemptions: 0,
            cancelled: None,
            finished: false,
        };
        self.pages.submitted(id, &watched.request, first);
        assert!(self.watched.insert(id, watched).is_none());
        self.sim.name(id);
    }

    fn request(&mut self) -> Request {
        let random = &mut self.random;
        let prompt_len = random.within(1..=12);
        let max_tokens = random.within(1..=12);
        let sampling = match random.percent(40) {
            true => Sampling::default(),
            false => Sampling {
                temperature: random.pick(&[0.0, 0.3, 1.0, 2.0]),
                top_k: random.pick(&[0, 1, 3, 11, 12]),
                top_p: random.pick(&[1.0, 0.8]),
                min_p: random.pick(&[0.0, 0.1]),
                seed: random.below(1000),
                repetition_penalty: random.pick(&[1.0, 1.2, 0.7]),
                presence_penalty: random.pick(&[0.0, 0.4, -0.6]),
                frequency_penalty: random.pick(&[0.0, 0.3, -0.3]),
                num_logprobs: random.pick(&[None, None, Some(2)]),
            },
        };
        let stop = (0..random.pick(&[0, 0, 1, 2])).map(|_| {
            let len = random.within(2..=4);
            (0..len).map(|_| random.pick(b"ab")).collect()
        });
        let stopping = Stopping {
            stop: stop.collect(),
            max_tokens,
            min_tokens: random.pick(&[0, 0, 1, max_tokens / 2, max_tokens]),
            stop_tokens: random.pick(&[vec![], vec![], vec![5]]),
            ignore_eos: random.percent(30),
            include_stop: random.percent(30),
        };
        let mut prompt: Vec<u32> = (0..prompt_len).map(|_| random.below(12) as u32).collect();
        if random.percent(30) {
            prompt[0] = REPETITIVE;
        }
        if random.percent(70) {
            let beginning = &self.beginnings[random.below(2) as usize];
            let common = prompt_len.min(random.within(1..=12));
            prompt[..common].copy_from_slice(&beginning[..common]);
        }
        let public = self.beginnings[0].iter().zip(&prompt);
        let num_public = public.take_while(|(public, token)| public == token).count();
        let now = self.sim.now();
        Request {
            prompt,
            num_public,
            sampling,
            stopping,
            share: random.pick(&SHARES),
            priority: random.pick(&[-1, 0, 0, 0, 2]),
            salt: random.pick(&[None, Some(1), Some(1), Some(2)]),
            deadline: match random.percent(15) {
                true => Some(now + Time::from_secs(random.below(15))),
                false => None,
            },
            credit: random.pick(&[usize::MAX, usize::MAX, 0, 1, 3]),
        }
    }

    fn set_credit(&mut self, id: SequenceId, credit: usize) {
        self.watched.get_mut(&id).unwrap().credit = credit;
        self.sim.engine.set_credit(id, credit);
    }

    /// Of those that were accepted and not started, the first samples'.
    fn queued_tokens(&self) -> usize {
        let waits = |(id, watched): &(&SequenceId, &Watched)| {
            let has_ended = watched.finished || watched.cancelled.is_some();
            **id == watched.first && watched.started.is_none() && !has_ended
        };
        let waiting = self.watched.iter().filter(waits);
        waiting
            .map(|(_, watched)| watched.request.prompt.len())
            .sum()
    }

    /// Neither cancelled nor told to have ended.
    fn alive(&self) -> Vec<SequenceId> {
        let alive = |watched: &Watched| !watched.finished && watched.cancelled.is_none();
        let alive = self.watched.iter().filter(|(_, watched)| alive(watched));
        alive.map(|(id, _)| *id).collect()
    }

    fn step(&mut self, seen: &mut Seen) {
        let had_work = self.sim.engine.has_work();
        let parked = self.parked();
        let streaming = self.streaming();
        self.sim.events.clear();
        let report = self.sim.step();
        assert!(
            !had_work || !report.scheduled.is_empty() || !report.finished.is_empty(),
            "a step with work did nothing"
        );
        self.check_batch(&report, seen);
        if !report.scheduled.is_empty() {
            let (batch, copied) = (&self.sim.model.last, &self.sim.model.copied);
            self.pages.watch(&report, batch, copied);
            assert_eq!(report.num_copied, copied.len());
        }
        for id in streaming {
            let scheduled = report
                .scheduled
                .iter()
                .any(|(scheduled, _)| *scheduled == id);
            let expired = report.finished.iter().any(|(finished, _)| *finished == id);
            assert!(
                scheduled || report.preempted.contains(&id) || expired,
                "{id:?} was held up"
            );
        }
        for id in &report.preempted {
            seen.preemptions += 1;
            seen.parked_preemptions += usize::from(parked.contains(id));
            self.watched.get_mut(id).unwrap().num_preemptions += 1;
        }
        let mut ended = Vec::new();
        for event in std::mem::take(&mut self.sim.events) {
            if let Some((id, reason)) = self.check_event(event, seen) {
                ended.push((id, reason));
            }
        }
        assert_eq!(report.finished, ended);
        assert_eq!(self.sim.engine.num_queued_tokens(), self.queued_tokens());
        for (id, watched) in &self.watched {
            let expired = watched
                .request
                .deadline
                .is_some_and(|at| at <= self.sim.now());
            assert!(
                !expired || watched.finished,
                "{id:?} has outlived its deadline"
            );
        }
    }

    fn parked(&self) -> Vec<SequenceId> {
        let mut ids = self.alive();
        ids.retain(|id| self.watched[id].credit == 0);
        ids
    }

    /// Running sequences that need just one token computed, if the batch holds
    /// all of those that run.
    fn streaming(&self) -> Vec<SequenceId> {
        if self.sim.engine.num_running() > self.limits.max_num_seqs {
            return Vec::new();
        }
        let mut ids = self.alive();
        ids.retain(|&id| {
            let sequence = self.sim.engine.sequence(id);
            sequence.state == State::Running && sequence.gap() == 1
        });
        ids
    }

    fn check_batch(&self, report: &StepReport, seen: &mut Seen) {
        let limits = &self.limits;
        assert!(report.scheduled.len() <= limits.max_num_seqs);
        assert!(report.num_tokens <= limits.max_num_batched_tokens);
        let sum: usize = report.scheduled.iter().map(|(_, len)| len).sum();
        assert_eq!(sum, report.num_tokens);
        seen.chunks += report.scheduled.len() - report.num_sampled;
        seen.accepted += report.num_accepted;
        seen.reruns += report.num_reruns;
        seen.cached += report.num_cached;
        seen.resumed += report.num_resumed;
        seen.evicted += report.num_evicted;
        seen.shared_rows += report.num_shared_rows;
        seen.shared_prompts += report.num_shared;
        seen.copied += report.num_copied;
        seen.rejected += report.num_drafted - report.num_accepted;
        for (place, (id, _)) in report.scheduled.iter().enumerate() {
            let watched = &self.watched[id];
            let has_reader = !watched.finished && watched.cancelled.is_none();
            assert!(
                has_reader && watched.credit > 0,
                "{id:?} ran without a reader"
            );
            let deadline = watched.request.deadline;
            assert!(deadline.is_none_or(|at| at > self.sim.now()));
            let others = &report.scheduled[place + 1..];
            assert!(others.iter().all(|(other, _)| other != id));
        }
    }

    fn check_event(&mut self, event: Event, seen: &mut Seen) -> Option<(SequenceId, FinishReason)> {
        let now = self.sim.now();
        let after_batch = now + self.sim.takes;
        match event {
            Event::Started { id, at } => {
                let first = self.watched[&id].first;
                let with_another = |watched: &Watched| watched.first == first;
                let mut started = self.watched.values().filter(|w| with_another(w));
                assert!(at == now || started.any(|other| other.started == Some(at)));
                let watched = self.watched.get_mut(&id).unwrap();
                assert!(!watched.finished && watched.started.is_none());
                watched.started = Some(at);
                None
            }
            Event::Token {
                id,
                token,
                text_end,
                logprob,
                top,
            } => {
                let watched = self.watched.get_mut(&id).unwrap();
                assert!(!watched.finished && watched.started.is_some() && watched.credit > 0);
                assert_eq!(token, watched.answer.tokens[watched.num_tokens]);
                assert_eq!(text_end, watched.answer.text_ends[watched.num_tokens]);
                let asked = watched.request.sampling.num_logprobs;
                assert_eq!(logprob.is_some(), asked.is_some());
                assert_eq!(top.len(), asked.unwrap_or(0) as usize);
                watched.num_tokens += 1;
                watched.credit -= 1;
                None
            }
            Event::Finished {
                id,
                reason,
                text_end,
                usage,
                timings,
            } => {
                let watched = self.watched.get_mut(&id).unwrap();
                assert!(!watched.finished, "{id:?} ended twice");
                watched.finished = true;
                let end = match &reason {
                    FinishReason::Cancelled => watched.cancelled.unwrap(),
                    FinishReason::DeadlineExceeded => {
                        assert!(watched.request.deadline.unwrap() <= now);
                        now
                    }
                    FinishReason::Failed { .. } => {
                        match self.sim.model.fault {
                            Fault::None => panic!("{id:?} failed without a reason"),
                            Fault::Beginning(token) => {
                                assert_eq!(watched.request.prompt[0], token, "not its own fault");
                                seen.culprits += 1;
                            }
                            _ => {}
                        }
                        after_batch
                    }
                    natural => {
                        assert_eq!(natural, &watched.answer.reason);
                        assert_eq!(watched.num_tokens, watched.answer.tokens.len());
                        assert_eq!(text_end, *watched.answer.text_ends.last().unwrap());
                        after_batch
                    }
                };
                assert_eq!(usage.prompt_tokens, watched.request.prompt.len());
                assert_eq!(usage.completion_tokens, watched.num_tokens);
                let began_at = self.pages.began_at.get(&id).copied();
                let prompt_tokens = watched.request.prompt.len();
                // Who has tokens and was in no step had all of its prompt.
                let none_computed = if watched.num_tokens > 0 {
                    prompt_tokens
                } else {
                    0
                };
                let cached = began_at.map_or(none_computed, |at| at.min(prompt_tokens));
                assert_eq!(usage.cached_tokens, cached);
                let sum = timings.queue + timings.prefill + timings.decode;
                assert_eq!(sum, end - watched.submitted);
                assert_eq!(timings.preemptions, watched.num_preemptions);
                assert_eq!(
                    timings.time_to_first_token.is_some(),
                    watched.num_tokens > 0
                );
                *seen.endings.entry(kind(&reason)).or_default() += 1;
                Some((id, reason))
            }
        }
    }
}

fn kind(reason: &FinishReason) -> String {
    let text = format!("{reason:?}");
    text.split([' ', '{']).next().unwrap().to_owned()
}
