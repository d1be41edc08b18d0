//! Random requests at random times. Whatever they do, a tenant has no more than
//! its limits give, what is not used comes back, and what a refusal promises
//! is kept to the millisecond.
#![forbid(unsafe_code)]

mod acme;

use std::{cell::Cell, ops::Add, time::Duration};

use acme::{Acme, ms};
use proptest::{prelude::*, test_runner::TestRunner};
use ternion_policy::{Admitted, Cause, MaxOutput::Asked, Refusal, Ticket};

#[derive(Debug, Clone)]
enum Action {
    Enter,
    /// Admits one of the tickets.
    Admit {
        which: usize,
        prompt: u64,
        output: u64,
    },
    /// Computes some of an admitted request's prompt and output.
    Use {
        which: usize,
        tokens: u64,
    },
    /// Ends a ticket or an admitted request.
    Drop {
        which: usize,
    },
}

#[derive(Debug, Clone)]
struct Limits {
    requests: u64,
    tokens: u64,
    concurrent: u64,
}

fn action(tokens: u64) -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => Just(Action::Enter),
        3 => (any::<usize>(), 0..=tokens / 2, 0..=tokens / 2)
            .prop_map(|(which, prompt, output)| Action::Admit { which, prompt, output }),
        2 => (any::<usize>(), 0..=tokens / 2).prop_map(|(which, tokens)| Action::Use { which, tokens }),
        2 => any::<usize>().prop_map(|which| Action::Drop { which }),
    ]
}

/// Gaps between actions in nanoseconds: none, less than a millisecond, a few
/// seconds, minutes.
fn gap() -> impl Strategy<Value = Duration> {
    prop_oneof![
        2 => Just(0),
        2 => 0..1_000_000_u64,
        4 => 0..5_000_000_000_u64,
        1 => 0..200_000_000_000_u64,
    ]
    .prop_map(Duration::from_nanos)
}

fn limits() -> impl Strategy<Value = Limits> {
    let any = (1..12_u64, prop_oneof![1..50_u64, 1..100_000_u64], 1..8_u64);
    any.prop_map(|(requests, tokens, concurrent)| Limits {
        requests,
        tokens,
        concurrent,
    })
}

fn story() -> impl Strategy<Value = (Limits, Vec<(Duration, Action)>)> {
    limits().prop_flat_map(|limits| {
        let actions = prop::collection::vec((gap(), action(limits.tokens)), 1..120);
        (Just(limits), actions)
    })
}

struct Running {
    admitted: Admitted,
    reserved: u64,
    prompt: u64,
    output: u64,
    started: bool,
}

/// What a rate gave and got back, and when.
#[derive(Default)]
struct Flow(Vec<(Duration, i128)>);

impl Flow {
    fn gave(&mut self, now: Duration, amount: u64) {
        self.0.push((now, i128::from(amount)));
    }

    fn got_back(&mut self, now: Duration, amount: u64) {
        self.0.push((now, -i128::from(amount)));
    }

    /// In every window between two events, both included, a rate gives at most
    /// a minute's worth and what it gains meanwhile.
    fn check(&self, per_minute: u64) {
        let minute = Duration::from_secs(60).as_nanos() as i128;
        let per_minute = i128::from(per_minute);
        for (first, (start, _)) in self.0.iter().enumerate() {
            let mut sum = 0;
            for (end, amount) in &self.0[first..] {
                sum += amount;
                let gained = per_minute * (*end - *start).as_nanos() as i128;
                assert!(
                    sum * minute <= per_minute * minute + gained,
                    "{sum} between {start:?} and {end:?} at {per_minute} a minute"
                );
            }
        }
    }
}

/// A rate worked out from the flow by brute force, from the first event on.
fn level(flow: &Flow, per_minute: u64, now: Duration) -> i128 {
    let minute = Duration::from_secs(60).as_nanos() as i128;
    let full = i128::from(per_minute) * minute;
    let (mut level, mut at) = (full, Duration::ZERO);
    for (time, amount) in flow.0.iter().chain([&(now, 0)]) {
        let gained = i128::from(per_minute) * (*time - at).as_nanos() as i128;
        level = ((level + gained).min(full) - amount * minute).min(full);
        at = *time;
    }
    level
}

/// What happened.
#[derive(Debug, Default)]
struct Seen {
    requests_promised: u64,
    tokens_promised: u64,
    concurrent_refused: u64,
    given_back: u64,
}

impl Add for Seen {
    type Output = Seen;

    fn add(self, other: Seen) -> Seen {
        Seen {
            requests_promised: self.requests_promised + other.requests_promised,
            tokens_promised: self.tokens_promised + other.tokens_promised,
            concurrent_refused: self.concurrent_refused + other.concurrent_refused,
            given_back: self.given_back + other.given_back,
        }
    }
}

struct Story {
    seen: Seen,
    acme: Acme,
    limits: Limits,
    now: Duration,
    tickets: Vec<Ticket>,
    running: Vec<Running>,
    requests: Flow,
    tokens: Flow,
    output: u64,
    input: u64,
}

impl Story {
    fn new(limits: Limits) -> Story {
        let Limits {
            requests,
            tokens,
            concurrent,
        } = limits;
        let acme = Acme::new(&format!(
            "requests_per_minute = {requests}\ntokens_per_minute = {tokens}\n\
             concurrent_requests = {concurrent}"
        ));
        Story {
            seen: Seen::default(),
            acme,
            limits,
            now: Duration::ZERO,
            tickets: Vec::new(),
            running: Vec::new(),
            requests: Flow::default(),
            tokens: Flow::default(),
            output: 0,
            input: 0,
        }
    }

    fn run(mut self, actions: Vec<(Duration, Action)>) -> Seen {
        for (gap, action) in actions {
            self.now += gap;
            match action {
                Action::Enter => self.enter(),
                Action::Admit {
                    which,
                    prompt,
                    output,
                } => self.admit(which, prompt, output),
                Action::Use { which, tokens } => self.use_tokens(which, tokens),
                Action::Drop { which } => self.drop_one(which),
            }
            let usage = self.acme.usage();
            let alive = (self.tickets.len() + self.running.len()) as u64;
            assert_eq!(usage.running, alive);
            assert!(alive <= self.limits.concurrent);
            assert_eq!(
                (usage.input_tokens, usage.output_tokens),
                (self.input, self.output)
            );
        }
        while !self.tickets.is_empty() || !self.running.is_empty() {
            self.drop_one(0);
        }
        assert_eq!(self.acme.usage().running, 0);
        self.requests.check(self.limits.requests);
        self.tokens.check(self.limits.tokens);
        // Nothing was lost on the way: after a minute all is there.
        self.now += Duration::from_secs(60);
        let ticket = self.try_enter(self.now).unwrap();
        ticket
            .admit(0, Asked(self.limits.tokens), self.now)
            .unwrap();
        self.seen
    }

    fn try_enter(&self, now: Duration) -> Result<Ticket, Refusal> {
        self.acme.policy.enter(&self.acme.caller, now)
    }

    fn enter(&mut self) {
        let minute = Duration::from_secs(60).as_nanos() as i128;
        let alive = (self.tickets.len() + self.running.len()) as u64;
        let there = level(&self.requests, self.limits.requests, self.now) >= minute;
        match self.try_enter(self.now) {
            Ok(ticket) => {
                assert!(there && alive < self.limits.concurrent);
                self.requests.gave(self.now, 1);
                self.tickets.push(ticket);
            }
            Err(refusal) => match refusal.cause() {
                Cause::ConcurrentRequests { limit, retry_after } => {
                    assert_eq!((alive, *limit), (*limit, self.limits.concurrent));
                    assert!(*retry_after >= ms(1) && *retry_after <= ms(60_000));
                    self.seen.concurrent_refused += 1;
                }
                Cause::RequestsPerMinute { retry_after, .. } => {
                    assert!(!there && alive < self.limits.concurrent);
                    let early = self.now + *retry_after - ms(1);
                    // A millisecond of wait has nothing before it to try.
                    if early > self.now {
                        self.seen.requests_promised += 1;
                        let again = self.try_enter(early).unwrap_err();
                        assert_eq!(again.retry_after(), Some(ms(1)));
                    }
                    self.now += *retry_after;
                    let ticket = self.try_enter(self.now).unwrap();
                    self.requests.gave(self.now, 1);
                    self.tickets.push(ticket);
                }
                other => panic!("{other:?}"),
            },
        }
    }

    fn admit(&mut self, which: usize, prompt: u64, output: u64) {
        if self.tickets.is_empty() {
            return;
        }
        let ticket = self.tickets.swap_remove(which % self.tickets.len());
        let minute = Duration::from_secs(60).as_nanos() as i128;
        let asked = prompt + output;
        let there = level(&self.tokens, self.limits.tokens, self.now) >= i128::from(asked) * minute;
        match ticket.admit(prompt, Asked(output), self.now) {
            Ok(admitted) => {
                assert!(there);
                self.begin(admitted, prompt, output);
            }
            Err(refusal) => {
                // As if it had never entered.
                assert!(!there);
                self.requests.got_back(self.now, 1);
                let Cause::TokensPerMinute {
                    asked: told,
                    retry_after,
                    ..
                } = *refusal.cause()
                else {
                    panic!("{refusal:?}");
                };
                assert_eq!(told, asked);
                self.keep_promise(retry_after, prompt, output);
            }
        }
    }

    /// The same request, from the door, a millisecond early and in time.
    fn keep_promise(&mut self, retry_after: Duration, prompt: u64, output: u64) {
        let try_again = |now| {
            let ticket = self.try_enter(now).unwrap();
            ticket.admit(prompt, Asked(output), now)
        };
        let early = self.now + retry_after - ms(1);
        if early > self.now {
            let again = try_again(early).unwrap_err();
            assert_eq!(again.retry_after(), Some(ms(1)));
        }
        let in_time = self.now + retry_after;
        let admitted = try_again(in_time).unwrap();
        self.seen.tokens_promised += u64::from(early > self.now);
        self.now = in_time;
        self.requests.gave(self.now, 1);
        self.begin(admitted, prompt, output);
    }

    fn begin(&mut self, admitted: Admitted, prompt: u64, output: u64) {
        assert_eq!(admitted.max_output_tokens(), output);
        let reserved = prompt + output;
        self.tokens.gave(self.now, reserved);
        self.running.push(Running {
            admitted,
            reserved,
            prompt,
            output: 0,
            started: false,
        });
    }

    fn use_tokens(&mut self, which: usize, tokens: u64) {
        if self.running.is_empty() {
            return;
        }
        let which = which % self.running.len();
        let running = &mut self.running[which];
        if !running.started {
            running.started = true;
            self.input += running.prompt;
        }
        let output = (running.output + tokens).min(running.admitted.max_output_tokens());
        self.output += output - running.output;
        running.output = output;
        match output {
            0 => running.admitted.started(),
            output => running.admitted.used(output, self.now),
        }
    }

    fn drop_one(&mut self, which: usize) {
        let alive = self.running.len() + self.tickets.len();
        if alive == 0 {
            return;
        }
        let which = which % alive;
        if let Some(ticket) = which.checked_sub(self.running.len()) {
            self.tickets.swap_remove(ticket);
            return;
        }
        let running = self.running.swap_remove(which);
        let prompt = if running.started { running.prompt } else { 0 };
        let unused = running.reserved - prompt - running.output;
        self.tokens.got_back(self.now, unused);
        self.seen.given_back += u64::from(unused > 0);
    }
}

#[test]
fn limits_hold_and_promises_are_kept() {
    let seen = Cell::new(Seen::default());
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 2000,
        // A failure is shown as the shortest story that fails.
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let told = |(limits, actions)| {
        seen.set(seen.take() + Story::new(limits).run(actions));
        Ok(())
    };
    if let Err(failure) = runner.run(&story(), told) {
        panic!("{failure}");
    }
    // Stories in which nothing is refused prove nothing about refusals.
    let seen = seen.take();
    assert!(seen.requests_promised > 1000, "{seen:?}");
    assert!(seen.tokens_promised > 1000, "{seen:?}");
    assert!(seen.concurrent_refused > 1000, "{seen:?}");
    assert!(seen.given_back > 1000, "{seen:?}");
}
