use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use super::observation::Observation;
use super::progress::Progress;
use super::report::Slo;
use super::schedule::{Next, Planned, Schedule};
use super::tally::Tally;
use super::target::Target;
use crate::failure::Failure;

/// How much is sent at a time, and how it is judged.
pub(crate) struct Plan {
    pub(crate) tenants: usize,
    pub(crate) warm_up: Duration,
    pub(crate) max_in_flight: usize,
    pub(crate) slo: Slo,
}

/// Sends all requests of a schedule and waits for their ends.
pub(crate) async fn run(
    plan: &Plan,
    schedule: Schedule,
    target: &Target,
    mut progress: Progress,
    signals: &mut Signals,
) -> Result<Tally, Failure> {
    let mut tally = Tally::new(plan.slo, plan.warm_up, plan.tenants);
    let mut running: JoinSet<Observation> = JoinSet::new();
    let mut outgoing = Outgoing::new(schedule, plan.tenants, tally.start());
    loop {
        let due = outgoing.due();
        if due.is_none() && running.is_empty() {
            break;
        }
        tokio::select! {
            biased;
            () = signals.next() => {
                if tally.interrupted {
                    return Err(Failure::Interrupted);
                }
                tally.interrupted = true;
                outgoing.stopped = true;
                progress.stopped();
            }
            due = until(due), if due.is_some() => {
                let planned = outgoing.take();
                tally.last_due = tally.since_start(due);
                if running.len() < plan.max_in_flight {
                    outgoing.in_flight[planned.tenant] += 1;
                    let target = target.clone();
                    running.spawn(Observation::of(target, planned.tenant, planned.request, due));
                } else {
                    tally.add_not_sent(planned.tenant, due);
                }
            }
            Some(done) = running.join_next() => {
                let observation = done
                    .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()));
                outgoing.in_flight[observation.tenant] -= 1;
                tally.add(&observation);
                progress.ended(&observation);
            }
        }
        tally.peak_in_flight = tally.peak_in_flight.max(running.len());
        progress.running(running.len());
    }
    tally.end();
    progress.clear();
    Ok(tally)
}

/// Requests that are to be sent, and what is in flight of them.
struct Outgoing {
    schedule: Schedule,
    start: Instant,
    /// Made before it is due, so that making it delays nothing.
    next: Option<Box<Planned>>,
    in_flight: Vec<usize>,
    stopped: bool,
}

impl Outgoing {
    fn new(schedule: Schedule, tenants: usize, start: Instant) -> Outgoing {
        Outgoing {
            schedule,
            start,
            next: None,
            in_flight: vec![0; tenants],
            stopped: false,
        }
    }

    /// `None` if nothing is to be sent, now or ever.
    fn due(&mut self) -> Option<Instant> {
        if self.stopped {
            return None;
        }
        if self.next.is_none() {
            match self.schedule.next(&self.in_flight, self.start.elapsed()) {
                Next::Planned(planned) => self.next = Some(planned),
                Next::Later => return None,
                Next::Over => {
                    self.stopped = true;
                    return None;
                }
            }
        }
        let planned = self.next.as_ref()?;
        match planned.due {
            Some(due) => self.start.checked_add(due),
            None => Some(Instant::now()),
        }
    }

    fn take(&mut self) -> Planned {
        *self.next.take().expect("it was due")
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

/// SIGINT and SIGTERM: people and scripts.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn install() -> Signals {
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

#[cfg(test)]
mod tests {
    use ternion_client::proto::FinishReason;

    use super::super::arrivals::{Arrivals, Process, Rate};
    use super::super::lengths::{Length, Lengths};
    use super::super::peer::{Peer, Url};
    use super::super::progress;
    use super::super::prompts::{Common, Prefixes, Prompts, Source};
    use super::super::schedule::Pace;
    use super::super::target::Way;
    use super::super::tenants::{Draw, Tenant};
    use super::*;

    /// All at once but for milliseconds, and long before any has ended.
    const PACE: Rate = Rate::Constant(1000.0);

    /// Sends requests to a server that never answers, with so long for each.
    async fn unanswered(pace: Pace, tenants: &[Tenant], requests: u64, most: usize) -> Tally {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let way = |_| {
            let url = Url::parse(&format!("http://{address}")).expect("it is one");
            Way::Peer(Box::new(Peer::new(url, None).expect("it can be made")))
        };
        let lengths = Lengths {
            prompt: Length::Fixed(2),
            output: Length::Fixed(2),
            scale: 1.0,
            context: None,
        };
        let common = Common {
            timeout: Some(Duration::from_millis(500)),
            ..Common::default()
        };
        let source = Source::random(lengths, 9, Prefixes::new(0.0, 1, 0));
        let schedule = Schedule {
            pace,
            prompts: Prompts::new(source, common, tenants, 0),
            left: Some(requests),
            end: None,
        };
        let plan = Plan {
            tenants: tenants.len(),
            warm_up: Duration::ZERO,
            max_in_flight: most,
            slo: Slo::default(),
        };
        let target = Target::new(tenants.iter().map(way).collect());
        let progress = Progress::new(progress::Length::Unknown, "", false);
        let signals = &mut Signals::install();
        let tally = run(&plan, schedule, &target, progress, signals).await;
        tally.expect("nobody interrupts")
    }

    #[tokio::test]
    async fn no_more_than_so_many_are_unanswered_and_the_rest_is_told() {
        let tenants = [Tenant::named("all")];
        let arrivals = Arrivals::new(Process::Constant, PACE, 0);
        let pace = Pace::Open(arrivals, Draw::new(&tenants, 0));
        let tally = unanswered(pace, &tenants, 5, 2).await;
        assert_eq!(tally.peak_in_flight, 2);
        assert_eq!((tally.all.sent, tally.all.not_sent), (2, 3));
        assert_eq!(tally.last_due, Duration::from_millis(5));
        assert_eq!(tally.all.num_finished(FinishReason::DeadlineExceeded), 2);
    }

    #[tokio::test]
    async fn in_a_closed_loop_each_is_followed_by_the_next_of_its_tenant() {
        let tenants = ["a", "b"].map(Tenant::named);
        let pace = Pace::Closed { slots: vec![1, 2] };
        let tally = unanswered(pace, &tenants, 6, 9).await;
        assert_eq!(tally.peak_in_flight, 3);
        assert_eq!((tally.all.sent, tally.all.not_sent), (6, 0));
    }
}
