//! The thread that owns the engine.
//!
//! Everything else speaks to it through a bounded channel and hears from it
//! through one bounded outbox a request. A turn of the loop takes what came
//! in, looks at every outbox (has its reader gone, how much room is there),
//! runs one step, publishes the load and hands out the events, in that order:
//! whoever has seen a request's `Finished` finds its pages free in the load.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use ternion_engine::{
    Ahead, Batch, BlockCopy, Crew, Engine, Event, Executor, ExecutorError, FinishReason, Forecast,
    Limits, Logits, Request, SequenceId, Share, SubmitError, Time, Timings, Usage, Vocabulary,
    panic_message,
};
use ternion_policy::Admitted;
use tokio::sync::oneshot;

use crate::{
    heartbeat::{Heartbeat, IDLE_BEAT},
    load::{LatestLoad, Load, PrefixCacheLoad},
    outbox::{Outbox, OutboxReader, outbox},
    queue_position::{Position, Positions, Waiting},
};

/// Commands that may wait for the end of a step. Wakes are dropped when it is
/// full, since whatever fills it wakes as well; submissions are refused.
const MAX_COMMANDS: usize = 8192;

/// How often it is looked where those are that wait.
const POSITIONS_EVERY: Time = Time::from_millis(500);

enum Command {
    Submit(Box<Submission>),
    Wake,
    Stop,
}

struct Submission {
    request: Request,
    samples: usize,
    /// When it was handed in. That a step runs just then is a wait as well.
    at: Time,
    outbox_capacity: usize,
    reply: oneshot::Sender<Result<Accepted, SubmitError>>,
}

/// A request that the engine took.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// Of the first sample, which those of the others follow.
    pub(crate) first: SequenceId,
    pub(crate) events: OutboxReader,
    pub(crate) position: Position,
}

/// The same, and what the tenant set aside for it.
#[derive(Debug)]
pub(crate) struct Submitted {
    pub(crate) first: SequenceId,
    pub(crate) samples: usize,
    pub(crate) events: OutboxReader,
    pub(crate) waiting: Waiting,
    pub(crate) admitted: Admitted,
}

/// Why the engine did not take a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubmitRefused {
    #[error(transparent)]
    Engine(#[from] SubmitError),
    #[error("more than {MAX_COMMANDS} requests arrived within one step")]
    Busy,
    #[error("engine has stopped")]
    Stopped,
}

/// Makes the engine's thread look around.
#[derive(Debug, Clone)]
pub(crate) struct Waker(SyncSender<Command>);

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Command::Submit(_) => "Submit",
            Command::Wake => "Wake",
            Command::Stop => "Stop",
        })
    }
}

impl Waker {
    pub(crate) fn wake(&self) {
        // Full: the loop has something to take, and will look around then.
        // Disconnected: there is nobody to wake.
        let _ = self.0.try_send(Command::Wake);
    }
}

/// How the gRPC side reaches the engine.
#[derive(Debug, Clone)]
pub(crate) struct EngineHandle {
    commands: SyncSender<Command>,
    load: Arc<LatestLoad>,
    positions: Arc<Positions>,
    heartbeat: Heartbeat,
    origin: Instant,
    limits: Limits,
    vocab_size: usize,
}

impl EngineHandle {
    /// Hands a request to the engine. Its reader has room for
    /// `outbox_capacity` tokens of each sample. One that its tenant's limits
    /// were not asked about can't come here, and none gets more samples or
    /// tokens than were set aside.
    pub(crate) async fn submit(
        &self,
        mut request: Request,
        admitted: Admitted,
        outbox_capacity: usize,
    ) -> Result<Submitted, SubmitRefused> {
        request.share = Share {
            tenant: admitted.tenant_number(),
            weight: admitted.weight(),
        };
        let most = usize::try_from(admitted.max_output_tokens()).unwrap_or(usize::MAX);
        let stopping = &mut request.stopping;
        stopping.max_tokens = stopping.max_tokens.min(most);
        stopping.min_tokens = stopping.min_tokens.min(stopping.max_tokens);
        // What can never be served need not wait for the end of a step.
        request.check(&self.limits, self.vocab_size)?;
        let prompt_tokens = request.prompt.len();
        let samples = usize::try_from(admitted.samples()).unwrap_or(usize::MAX);
        let (reply, answer) = oneshot::channel();
        let submission = Submission {
            request,
            samples,
            at: self.origin.elapsed(),
            outbox_capacity,
            reply,
        };
        match self
            .commands
            .try_send(Command::Submit(Box::new(submission)))
        {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(SubmitRefused::Busy),
            Err(TrySendError::Disconnected(_)) => return Err(SubmitRefused::Stopped),
        }
        let Ok(answer) = answer.await else {
            return Err(SubmitRefused::Stopped);
        };
        let Accepted {
            first,
            events,
            position,
        } = answer?;
        Ok(Submitted {
            first,
            samples,
            events,
            waiting: Waiting::new(first, prompt_tokens, position, self.positions.clone()),
            admitted,
        })
    }

    pub(crate) fn load(&self) -> Load {
        self.load.read()
    }

    pub(crate) fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.clone()
    }

    /// A moment on the engine's clock.
    pub(crate) fn time(&self, at: Instant) -> Time {
        at.saturating_duration_since(self.origin)
    }
}

/// The running thread.
#[derive(Debug)]
pub(crate) struct EngineThread {
    commands: SyncSender<Command>,
    thread: JoinHandle<()>,
}

impl EngineThread {
    /// Ends the thread after the step it is in. Blocks until then.
    pub(crate) fn stop(self) {
        // Blocks while the channel is full, and fails only if the thread is gone.
        let _ = self.commands.send(Command::Stop);
        if self.thread.join().is_err() {
            tracing::error!("engine thread panicked");
        }
    }
}

/// Starts the thread, which first calls `begin`.
pub(crate) fn start<E: Executor + Send + 'static>(
    limits: Limits,
    vocabulary: Arc<dyn Vocabulary>,
    executor: E,
    begin: impl FnOnce() + Send + 'static,
) -> std::io::Result<(EngineHandle, EngineThread)> {
    let (engine_loop, handle) = EngineLoop::new(limits, vocabulary, executor);
    let commands = handle.commands.clone();
    let thread = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || {
            begin();
            engine_loop.run();
        })?;
    Ok((handle, EngineThread { commands, thread }))
}

struct EngineLoop<E> {
    limits: Limits,
    vocabulary: Arc<dyn Vocabulary>,
    engine: Engine,
    executor: Contained<E>,
    commands: Receiver<Command>,
    waker: Waker,
    /// Requests, by their first samples.
    live: BTreeMap<SequenceId, Live>,
    /// Reused from step to step.
    events: Vec<Event>,
    steps: u64,
    computed_tokens: u64,
    preemptions: u64,
    guesses: u64,
    true_guesses: u64,
    prefix_cache: PrefixCacheLoad,
    reruns: u64,
    longest_step: Duration,
    load: Arc<LatestLoad>,
    positions: Arc<Positions>,
    positions_told: Time,
    heartbeat: Heartbeat,
    origin: Instant,
}

struct Live {
    outbox: Outbox,
    /// Its samples that have not ended.
    alive: Vec<SequenceId>,
    /// The engine has been told.
    cancelled: bool,
}

/// What woke the loop.
enum Woken {
    Command(Command),
    /// There is a step to run, or a deadline has come.
    Step,
}

impl<E: Executor> EngineLoop<E> {
    fn new(
        limits: Limits,
        vocabulary: Arc<dyn Vocabulary>,
        executor: E,
    ) -> (EngineLoop<E>, EngineHandle) {
        let (sender, commands) = sync_channel(MAX_COMMANDS);
        let handle = EngineHandle {
            commands: sender.clone(),
            load: Arc::default(),
            positions: Arc::default(),
            heartbeat: Heartbeat::new(),
            origin: Instant::now(),
            limits,
            vocab_size: vocabulary.size(),
        };
        let engine_loop = EngineLoop {
            limits,
            engine: Engine::new(limits, vocabulary.clone()),
            vocabulary,
            executor: Contained(executor),
            commands,
            waker: Waker(sender),
            live: BTreeMap::new(),
            events: Vec::new(),
            steps: 0,
            computed_tokens: 0,
            preemptions: 0,
            guesses: 0,
            true_guesses: 0,
            prefix_cache: PrefixCacheLoad::default(),
            reruns: 0,
            longest_step: Duration::ZERO,
            load: handle.load.clone(),
            positions: handle.positions.clone(),
            positions_told: Time::ZERO,
            heartbeat: handle.heartbeat.clone(),
            origin: handle.origin,
        };
        engine_loop.publish();
        (engine_loop, handle)
    }

    fn run(mut self) {
        loop {
            match self.guarded(EngineLoop::turn) {
                Some(ControlFlow::Break(())) => return,
                Some(ControlFlow::Continue(())) | None => {}
            }
        }
    }

    /// Waits until there is something to do, and does it.
    fn turn(&mut self) -> ControlFlow<()> {
        let mut next = match self.wait() {
            Woken::Step => None,
            Woken::Command(command) => Some(command),
        };
        while let Some(command) = next {
            match command {
                Command::Stop => return ControlFlow::Break(()),
                Command::Submit(submission) => self.submit(*submission),
                Command::Wake => {}
            }
            next = self.commands.try_recv().ok();
        }
        self.step();
        ControlFlow::Continue(())
    }

    /// Runs something, and if it panics, starts over. Then the engine's state
    /// is unknown, so all it knew is given up and its requests fail. Panics of
    /// the executor don't come this far.
    fn guarded<T>(&mut self, run: impl FnOnce(&mut EngineLoop<E>) -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(|| run(self))) {
            Ok(done) => Some(done),
            Err(_) => {
                self.start_over();
                None
            }
        }
    }

    /// The loop holds a sender itself, for the wakers, so the channel is never
    /// disconnected.
    fn wait(&mut self) -> Woken {
        if !self.engine.has_work() {
            // The last step may have used up a reader's credit: without this
            // look, its outbox doesn't know that it has to wake us.
            self.look_at_readers();
        }
        self.heartbeat.beat();
        if self.engine.has_work() {
            let command = self.commands.try_recv().ok();
            return command.map_or(Woken::Step, Woken::Command);
        }
        loop {
            let left = self
                .engine
                .next_deadline()
                .map(|deadline| deadline.saturating_sub(self.origin.elapsed()));
            let patience = left.map_or(IDLE_BEAT, |left| left.min(IDLE_BEAT));
            match self.commands.recv_timeout(patience) {
                Ok(command) => return Woken::Command(command),
                Err(_) if left == Some(patience) => return Woken::Step,
                Err(_) => self.heartbeat.beat(),
            }
        }
    }

    fn submit(&mut self, submission: Submission) {
        let Submission {
            mut request,
            samples,
            at,
            outbox_capacity,
            reply,
        } = submission;
        let (outbox, events) = outbox(outbox_capacity, samples, self.waker.clone());
        request.credit = outbox.credit();
        let answer = match self.engine.submit_samples(request, samples, at) {
            Ok(first) => {
                let ids = first.0..first.0 + samples as u64;
                let live = Live {
                    outbox,
                    alive: ids.map(SequenceId).collect(),
                    cancelled: false,
                };
                self.live.insert(first, live);
                self.publish();
                let ahead = self.engine.ahead(first).unwrap_or_default();
                Ok(Accepted {
                    first,
                    events,
                    position: position(&self.engine.forecast(), ahead),
                })
            }
            Err(error) => Err(error),
        };
        // Whoever asked has gone: the outbox is closed with the answer, and
        // the next turn cancels.
        let _ = reply.send(answer);
    }

    /// One look around and one step.
    fn step(&mut self) {
        self.look_at_readers();
        let now = || self.origin.elapsed();
        let begin = now();
        let report = self.engine.step(now, &mut self.executor, &mut self.events);
        self.longest_step = self.longest_step.max(now().saturating_sub(begin));
        if report.num_reruns > 0 {
            tracing::warn!(
                sequences = report.scheduled.len(),
                reruns = report.num_reruns,
                "step failed, and was run again in parts"
            );
        }
        self.steps += u64::from(!report.scheduled.is_empty());
        self.computed_tokens += report.num_tokens as u64;
        self.preemptions += report.preempted.len() as u64;
        self.guesses += report.num_drafted as u64;
        self.true_guesses += report.num_accepted as u64;
        self.prefix_cache.add(report);
        self.reruns += report.num_reruns as u64;
        self.publish();
        self.tell_positions();
        self.deliver();
    }

    /// Now and then: it takes a look at all that wait.
    fn tell_positions(&mut self) {
        let now = self.origin.elapsed();
        if self.engine.num_waiting() == 0 || now < self.positions_told + POSITIONS_EVERY {
            return;
        }
        self.positions_told = now;
        let forecast = self.engine.forecast();
        self.positions.publish(|positions| {
            self.engine.each_waiting(|id, ahead| {
                positions.insert(id, position(&forecast, ahead));
            });
        });
    }

    fn look_at_readers(&mut self) {
        for live in self.live.values_mut() {
            if !live.outbox.is_abandoned() {
                let credit = live.outbox.credit();
                for id in &live.alive {
                    self.engine.set_credit(*id, credit);
                }
            } else if !live.cancelled {
                live.cancelled = true;
                let now = self.origin.elapsed();
                for id in &live.alive {
                    self.engine.cancel(*id, now);
                }
            }
        }
    }

    fn start_over(&mut self) {
        tracing::error!(
            requests = self.live.len(),
            "engine panicked and starts over"
        );
        let fresh = Engine::new(self.limits, self.vocabulary.clone());
        // Dropping it could panic again.
        std::mem::forget(std::mem::replace(&mut self.engine, fresh));
        self.events.clear();
        let alive = self.live.values().flat_map(|live| &live.alive);
        self.events.extend(alive.map(|id| Event::Finished {
            id: *id,
            reason: FinishReason::Failed {
                message: "engine panicked".to_owned(),
            },
            text_end: 0,
            usage: Usage::default(),
            timings: Timings::default(),
        }));
    }

    fn publish(&self) {
        self.load.publish(Load {
            running: self.engine.num_running(),
            parked: self.engine.num_parked(),
            waiting: self.engine.num_waiting(),
            queued_tokens: self.engine.num_queued_tokens(),
            forecast: self.engine.forecast(),
            kv_pages: self.engine.num_blocks(),
            kv_pages_free: self.engine.num_free_blocks(),
            steps: self.steps,
            computed_tokens: self.computed_tokens,
            preemptions: self.preemptions,
            guesses: self.guesses,
            true_guesses: self.true_guesses,
            prefix_cache: self.prefix_cache,
            reruns: self.reruns,
            longest_step: self.longest_step,
        });
    }

    fn deliver(&mut self) {
        for event in self.events.drain(..) {
            let id = match &event {
                Event::Started { id, .. }
                | Event::Token { id, .. }
                | Event::Finished { id, .. } => *id,
            };
            // The ids of samples follow that of the first.
            let owner = self.live.range_mut(..=id).next_back();
            let Some((first, live)) = owner.filter(|(_, live)| live.alive.contains(&id)) else {
                continue;
            };
            if let Event::Finished { reason, .. } = &event {
                if let FinishReason::Failed { message } = reason {
                    tracing::error!(sequence = id.0, message, "step failed");
                }
                live.alive.retain(|alive| *alive != id);
                live.outbox.put(event);
                if live.alive.is_empty() {
                    let first = *first;
                    self.live.remove(&first);
                }
            } else {
                live.outbox.put(event);
            }
        }
    }
}

fn position(forecast: &Forecast, ahead: Ahead) -> Position {
    let wait = forecast.wait(ahead);
    Position {
        ahead: ahead.requests,
        wait: Some(wait).filter(|_| forecast.is_founded()),
    }
}

/// An executor whose panics are errors of the step.
struct Contained<E>(E);

impl<E: Executor> Executor for Contained<E> {
    fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        self.0.copy_blocks(copies);
    }

    fn execute(&mut self, batch: &Batch) -> Result<&Logits, ExecutorError> {
        // A step writes KV pages and scratch memory that the next one writes
        // before it reads, so nothing half done is ever seen.
        let executor = AssertUnwindSafe(&mut self.0);
        let run = move || {
            // Moves the wrapper in; its field alone would be no promise.
            let executor = executor;
            executor.0.execute(batch)
        };
        catch_unwind(run).unwrap_or_else(|panic| {
            let message = panic_message(&*panic);
            Err(ExecutorError { message })
        })
    }

    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    fn crew(&self) -> Option<Arc<dyn Crew>> {
        self.0.crew()
    }
}

#[cfg(test)]
#[path = "engine_loop_tests.rs"]
mod tests;
