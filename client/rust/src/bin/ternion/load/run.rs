use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use super::arrivals::Pace;
use super::event_source::Target;
use super::observation::Observation;
use super::prompts::Prompts;
use super::report::Slo;
use super::tally::Tally;
use crate::failure::Failure;

/// How much is sent, and how it is judged.
pub(crate) struct Plan {
    pub(crate) requests: Option<u64>,
    pub(crate) duration: Option<Duration>,
    pub(crate) max_in_flight: usize,
    pub(crate) slo: Slo,
    pub(crate) progress: bool,
}

/// Sends all requests of a plan and waits for their ends.
pub(crate) async fn run(
    plan: &Plan,
    pace: Pace,
    prompts: &mut Prompts,
    target: &Target,
) -> Result<Tally, Failure> {
    let mut signals = Signals::install();
    let bar = progress_bar(plan);
    let mut tally = Tally::new(plan.slo);
    let mut running: JoinSet<Observation> = JoinSet::new();
    let start = Instant::now();
    let mut schedule = Schedule::new(plan, pace, start);
    loop {
        let due = schedule.due(running.len());
        if due.is_none() && running.is_empty() {
            break;
        }
        tokio::select! {
            biased;
            () = signals.next() => {
                if schedule.stopped {
                    return Err(Failure::Interrupted);
                }
                schedule.stopped = true;
                bar.set_message("waiting for what runs");
            }
            Some(done) = running.join_next() => {
                let observation = done
                    .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()));
                tally.add(&observation);
                bar.inc(1);
            }
            due = until(due), if due.is_some() => {
                schedule.advance();
                if running.len() < plan.max_in_flight {
                    running.spawn(Observation::of(target.clone(), prompts.next(), due));
                } else {
                    tally.not_sent += 1;
                }
            }
        }
        bar.set_prefix(format!("{} running", running.len()));
    }
    tally.elapsed = start.elapsed();
    bar.finish_and_clear();
    Ok(tally)
}

/// When the next request is due, until there are no more.
struct Schedule {
    start: Instant,
    end: Option<Instant>,
    left: Option<u64>,
    stopped: bool,
    pace: Pace,
}

impl Schedule {
    fn new(plan: &Plan, pace: Pace, start: Instant) -> Schedule {
        Schedule {
            start,
            end: plan
                .duration
                .and_then(|duration| start.checked_add(duration)),
            left: plan.requests,
            stopped: false,
            pace,
        }
    }

    /// `None` if nothing is to be sent, now or ever.
    fn due(&self, running: usize) -> Option<Instant> {
        if self.stopped || self.left == Some(0) {
            return None;
        }
        let due = match &self.pace {
            Pace::Open(arrivals) => self.start.checked_add(arrivals.next())?,
            Pace::Closed { concurrency } if running < *concurrency => Instant::now(),
            Pace::Closed { .. } => return None,
        };
        self.end.is_none_or(|end| due < end).then_some(due)
    }

    fn advance(&mut self) {
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        if let Pace::Open(arrivals) = &mut self.pace {
            arrivals.advance();
        }
    }
}

async fn until(due: Option<Instant>) -> Instant {
    match due {
        Some(due) => {
            tokio::time::sleep_until(due.into()).await;
            due
        }
        None => std::future::pending().await,
    }
}

/// Draws nothing where standard error is no terminal.
fn progress_bar(plan: &Plan) -> ProgressBar {
    if !plan.progress {
        return ProgressBar::hidden();
    }
    let (bar, template) = match plan.requests {
        Some(requests) => (
            ProgressBar::new(requests),
            "{bar:30} {pos}/{len} requests, {prefix}, {elapsed} {msg}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {pos} requests, {prefix}, {elapsed} {msg}",
        ),
    };
    bar.enable_steady_tick(Duration::from_millis(200));
    bar.with_style(ProgressStyle::with_template(template).expect("the template is well-formed"))
}

/// SIGINT and SIGTERM: people and scripts.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn install() -> Signals {
        let install = |kind| signal(kind).expect("the runtime handles signals");
        Signals {
            interrupt: install(SignalKind::interrupt()),
            terminate: install(SignalKind::terminate()),
        }
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
