use std::time::Duration;

use super::arrivals::Arrivals;
use super::prompts::{Prompts, Request};
use super::tenants::Draw;
use super::trace::Entry;

/// Which request comes next, and when: the same for the same seed.
#[derive(Debug)]
pub(crate) struct Schedule {
    pub(crate) pace: Pace,
    pub(crate) prompts: Prompts,
    /// Requests that are left to send, if that is what ends it.
    pub(crate) left: Option<u64>,
    /// Nothing is sent from then on.
    pub(crate) end: Option<Duration>,
}

#[derive(Debug)]
pub(crate) enum Pace {
    /// At times that don't depend on answers.
    Open(Arrivals, Draw),
    /// As recorded.
    Traced(std::vec::IntoIter<Entry>),
    /// As soon as a tenant has fewer than so many.
    Closed { slots: Vec<usize> },
}

#[derive(Debug, PartialEq)]
pub(crate) struct Planned {
    /// Since the start; at once if there is none.
    pub(crate) due: Option<Duration>,
    pub(crate) tenant: usize,
    pub(crate) request: Request,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Planned(Box<Planned>),
    /// When an answer has ended.
    Later,
    Over,
}

impl Schedule {
    /// `in_flight` are the unanswered requests of each tenant.
    pub(crate) fn next(&mut self, in_flight: &[usize], now: Duration) -> Next {
        if self.left == Some(0) {
            return Next::Over;
        }
        let (due, tenant, traced) = match &mut self.pace {
            Pace::Open(arrivals, draw) => {
                let due = arrivals.next();
                arrivals.advance();
                (Some(due), draw.next(), None)
            }
            Pace::Traced(entries) => match entries.next() {
                Some(entry) => {
                    let lengths = (entry.prompt_tokens, entry.output_tokens);
                    (Some(entry.due), entry.tenant, Some(lengths))
                }
                None => return Next::Over,
            },
            Pace::Closed { slots } => {
                let mut tenants = slots.iter().zip(in_flight);
                match tenants.position(|(slots, in_flight)| in_flight < slots) {
                    Some(tenant) => (None, tenant, None),
                    None => return Next::Later,
                }
            }
        };
        if self.end.is_some_and(|end| due.unwrap_or(now) >= end) {
            return Next::Over;
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        Next::Planned(Box::new(Planned {
            due,
            tenant,
            request: self.prompts.next(tenant, traced),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::arrivals::{Process, Rate};
    use super::super::lengths::Preset;
    use super::super::prompts::{Common, Prefixes, Source};
    use super::super::tenants::Tenant;
    use super::*;

    fn schedule(pace: Pace, tenants: &[Tenant], seed: u64) -> Schedule {
        let preset = Preset::named("azure-conv").expect("it is one");
        let prefixes = Prefixes::new(0.5, 4, seed);
        let source = Source::random(preset.lengths(None, Some(1024)), 1000, prefixes);
        Schedule {
            pace,
            prompts: Prompts::new(source, Common::default(), tenants, seed),
            left: None,
            end: Some(Duration::from_secs(10)),
        }
    }

    fn tenants() -> [Tenant; 2] {
        ["a", "b"].map(Tenant::named)
    }

    fn open(seed: u64) -> Vec<Planned> {
        let arrivals = Arrivals::new(Process::Gamma(1.0), Rate::Constant(20.0), seed);
        let pace = Pace::Open(arrivals, Draw::new(&tenants(), seed));
        let mut schedule = schedule(pace, &tenants(), seed);
        let mut planned = Vec::new();
        while let Next::Planned(next) = schedule.next(&[0, 0], Duration::ZERO) {
            planned.push(*next);
        }
        planned
    }

    #[test]
    fn the_same_seed_gives_the_same_schedule_to_the_last_token() {
        let first = open(3);
        assert!(first.len() > 100, "{}", first.len());
        assert!(
            first
                .iter()
                .all(|next| next.due < Some(Duration::from_secs(10)))
        );
        assert_eq!(first, open(3));
        assert_ne!(first[0], open(4)[0]);
    }

    #[test]
    fn a_closed_loop_fills_the_slots_of_each_tenant() {
        let mut schedule = schedule(Pace::Closed { slots: vec![1, 2] }, &tenants(), 1);
        schedule.left = Some(4);
        let mut tenant = |in_flight: [usize; 2], now| match schedule
            .next(&in_flight, Duration::from_secs(now))
        {
            Next::Planned(next) => Some(next.tenant),
            Next::Later => None,
            Next::Over => panic!("it is over"),
        };
        assert_eq!(tenant([0, 0], 0), Some(0));
        assert_eq!(tenant([1, 0], 0), Some(1));
        assert_eq!(tenant([1, 1], 0), Some(1));
        assert_eq!(tenant([1, 2], 0), None);
        assert_eq!(tenant([0, 2], 9), Some(0));
        assert_eq!(schedule.next(&[0, 0], Duration::ZERO), Next::Over);
        schedule.left = None;
        assert_eq!(schedule.next(&[0, 0], Duration::from_secs(10)), Next::Over);
    }
}
