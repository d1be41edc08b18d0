//! The loop, turn by turn on this thread, with an executor that always
//! continues a token with the next higher one.

use ternion_engine::{Sampling, Stopping};

use super::*;
use crate::fake_model::{Counting, FAILS, Letters, PANICS, admitted};

const LIMITS: Limits = Limits {
    num_blocks: 8,
    block_size: 4,
    max_num_seqs: 4,
    max_num_batched_tokens: 16,
    step_budget: None,
    max_draft_tokens: 0,
    max_queued: 1,
    max_queued_tokens: usize::MAX,
    max_model_len: 32,
};

struct Bench {
    engine_loop: EngineLoop<Counting>,
    handle: EngineHandle,
}

impl Bench {
    fn new() -> Bench {
        let executor = Counting::new(Letters::SIZE);
        let (engine_loop, handle) = EngineLoop::new(LIMITS, Arc::new(Letters), executor);
        Bench {
            engine_loop,
            handle,
        }
    }

    /// Submits as the gRPC side does, and answers as the thread does.
    fn submit(
        &mut self,
        first: u32,
        max_tokens: usize,
        room: usize,
    ) -> Result<OutboxReader, SubmitRefused> {
        self.submit_until(first, max_tokens, room, None)
    }

    fn submit_until(
        &mut self,
        first: u32,
        max_tokens: usize,
        room: usize,
        deadline: Option<Time>,
    ) -> Result<OutboxReader, SubmitRefused> {
        let (reply, mut answer) = oneshot::channel();
        self.engine_loop.submit(Submission {
            request: Request {
                prompt: vec![first],
                sampling: Sampling::default(),
                stopping: Stopping {
                    max_tokens,
                    ..Stopping::default()
                },
                share: Share::default(),
                priority: 0,
                salt: None,
                num_public: 0,
                deadline,
                credit: 0,
            },
            samples: 1,
            at: self.handle.time(Instant::now()),
            outbox_capacity: room,
            reply,
        });
        let accepted = answer.try_recv().expect("answered at once")?;
        Ok(accepted.events)
    }

    fn turns(&mut self, n: usize) {
        for _ in 0..n {
            self.engine_loop.step();
        }
    }

    fn pages_free(&self) -> usize {
        self.handle.load().kv_pages_free
    }
}

/// What a reader has got: its tokens, and how it ended.
fn read(reader: &mut OutboxReader) -> (Vec<u32>, Option<FinishReason>) {
    let (mut tokens, mut ending) = (Vec::new(), None);
    while let Some(event) = reader.try_recv() {
        match event {
            Event::Started { .. } => {}
            Event::Token { token, .. } => tokens.push(token),
            Event::Finished { reason, .. } => ending = Some(reason),
        }
    }
    (tokens, ending)
}

#[test]
fn a_request_runs_to_its_end_and_gives_its_pages_back() {
    let mut bench = Bench::new();
    let mut reader = bench.submit(10, 3, 8).expect("accepted");
    assert_eq!(bench.handle.load().waiting, 1, "seen before the first step");
    bench.turns(1);
    assert_eq!(bench.handle.load().running, 1);
    assert!(bench.pages_free() < 8);
    bench.turns(2);
    assert_eq!(
        read(&mut reader),
        (vec![11, 12, 13], Some(FinishReason::Length))
    );
    let load = bench.handle.load();
    assert_eq!((load.kv_pages_free, load.running, load.steps), (8, 0, 3));
    assert!(bench.engine_loop.live.is_empty());
}

#[test]
fn a_reader_without_room_parks_its_sequence_and_nobody_else() {
    let mut bench = Bench::new();
    let mut slow = bench.submit(0, 6, 2).expect("accepted");
    let mut quick = bench.submit(20, 6, 64).expect("accepted");
    bench.turns(6);
    assert_eq!(
        read(&mut quick),
        ((21..27).collect(), Some(FinishReason::Length))
    );
    let load = bench.handle.load();
    assert_eq!((load.parked, load.running), (1, 0));
    assert!(!bench.engine_loop.engine.has_work(), "parked is not work");

    // Reading wakes the loop, which goes on where it stopped.
    assert_eq!(read(&mut slow), (vec![1, 2], None));
    assert!(
        matches!(bench.engine_loop.commands.try_recv(), Ok(Command::Wake)),
        "the reader woke the thread"
    );
    let mut rest = Vec::new();
    for _ in 0..6 {
        bench.turns(1);
        let (tokens, ending) = read(&mut slow);
        rest.extend(tokens);
        if ending.is_some() {
            assert_eq!(ending, Some(FinishReason::Length));
            break;
        }
    }
    assert_eq!(rest, [3, 4, 5, 6], "not one token lost or repeated");
    assert_eq!(bench.pages_free(), 8);
}

#[tokio::test]
async fn whoever_waits_for_an_event_and_makes_room_wakes_the_thread() {
    let mut bench = Bench::new();
    let mut reader = bench.submit(0, 9, 1).expect("accepted");
    let mut tokens = Vec::new();
    loop {
        // It goes on until there is no room, and sees that there is none.
        bench.turns(4);
        let is_parked = bench.handle.load().parked == 1;
        while bench.engine_loop.commands.try_recv().is_ok() {}
        match reader.recv().await.expect("the thread goes on") {
            Event::Started { .. } => assert!(is_parked),
            Event::Token { token, .. } => tokens.push(token),
            Event::Finished { .. } => break,
        }
        let woken = bench.engine_loop.commands.try_recv();
        assert_eq!(matches!(woken, Ok(Command::Wake)), is_parked, "{tokens:?}");
    }
    assert_eq!(tokens, (1..10).collect::<Vec<u32>>());
}

#[test]
fn the_ending_has_a_place_even_in_a_full_outbox() {
    let mut bench = Bench::new();
    let mut reader = bench.submit(0, 20, 3).expect("accepted");
    bench.turns(5);
    reader.cancel();
    bench.turns(1);
    assert_eq!(
        read(&mut reader),
        (vec![1, 2, 3], Some(FinishReason::Cancelled))
    );
}

#[test]
fn a_vanished_reader_frees_its_pages_within_one_turn() {
    let mut bench = Bench::new();
    let reader = bench.submit(0, 20, 64).expect("accepted");
    bench.turns(2);
    assert!(bench.pages_free() < 8);
    drop(reader);
    assert!(
        matches!(bench.engine_loop.commands.try_recv(), Ok(Command::Wake)),
        "the thread is woken to notice"
    );
    bench.turns(1);
    assert_eq!(bench.pages_free(), 8);
    assert!(bench.engine_loop.live.is_empty());
}

#[test]
fn a_deadline_ends_a_request_with_what_it_used() {
    let mut bench = Bench::new();
    let deadline = bench.handle.time(Instant::now());
    let mut reader = bench
        .submit_until(0, 20, 64, Some(deadline))
        .expect("accepted");
    bench.turns(1);
    assert_eq!(
        read(&mut reader),
        (vec![], Some(FinishReason::DeadlineExceeded))
    );
    assert_eq!(bench.pages_free(), 8);
}

#[test]
fn a_failing_or_panicking_step_ends_its_requests_and_nothing_else() {
    for (first, what) in [(FAILS, "told to fail"), (PANICS, "told to panic")] {
        let mut bench = Bench::new();
        let mut bad = bench.submit(first, 3, 8).expect("accepted");
        bench.turns(1);
        let (tokens, ending) = read(&mut bad);
        assert!(tokens.is_empty());
        assert!(
            matches!(&ending, Some(FinishReason::Failed { message }) if message.contains(what)),
            "{ending:?}"
        );
        assert_eq!(bench.pages_free(), 8);

        let mut good = bench.submit(1, 2, 8).expect("accepted");
        bench.turns(2);
        assert_eq!(
            read(&mut good),
            (vec![2, 3], Some(FinishReason::Length)),
            "the loop goes on"
        );
    }
}

#[test]
fn a_request_that_fails_or_panics_in_the_executor_ends_alone() {
    for (first, what) in [(FAILS, "told to fail"), (PANICS, "told to panic")] {
        let mut bench = Bench::new();
        let mut good = [0, 10, 20].map(|first| bench.submit(first, 5, 8).expect("accepted"));
        bench.turns(2);
        let mut bad = bench.submit(first, 5, 8).expect("accepted");
        bench.turns(3);
        let (_, ending) = read(&mut bad);
        assert!(
            matches!(&ending, Some(FinishReason::Failed { message }) if message.contains(what)),
            "{ending:?}"
        );
        for (reader, first) in good.iter_mut().zip([0, 10, 20]) {
            let all = (first + 1..=first + 5).collect();
            assert_eq!(read(reader), (all, Some(FinishReason::Length)));
        }
        let load = bench.handle.load();
        assert_eq!((load.kv_pages_free, load.reruns), (8, 4), "{load:?}");
        assert!(load.longest_step > Duration::ZERO);
    }
}

#[test]
fn refusals_come_back_typed() {
    let mut bench = Bench::new();
    let mut readers = Vec::new();
    for _ in 0..5 {
        readers.push(bench.submit(0, 2, 8).expect("accepted"));
    }
    let refused = bench.submit(0, 2, 8).expect_err("4 + 1 are alive");
    assert!(
        matches!(
            refused,
            SubmitRefused::Engine(SubmitError::QueueFull {
                queued: 5,
                limit: 5
            })
        ),
        "{refused:?}"
    );
    bench.turns(4);
    bench.submit(0, 2, 8).expect("there is room again");
    let refused = bench.submit(0, 99, 8).expect_err("too long");
    assert!(
        matches!(
            refused,
            SubmitRefused::Engine(SubmitError::TooManyTokens { .. })
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn the_thread_serves_and_stops() {
    let executor = Counting::new(Letters::SIZE);
    let (handle, thread) = start(LIMITS, Arc::new(Letters), executor, || {}).expect("a thread");
    let request = Request {
        prompt: vec![0],
        sampling: Sampling::default(),
        stopping: Stopping {
            max_tokens: 20,
            ..Stopping::default()
        },
        share: Share::default(),
        priority: 0,
        salt: None,
        num_public: 0,
        deadline: None,
        credit: 0,
    };
    // With room for one token only, the thread parks and is woken at every token.
    // More was asked for than its tenant was granted.
    let accepted = handle
        .submit(request.clone(), admitted(12), 1)
        .await
        .expect("accepted");
    assert_eq!(accepted.waiting.queued().ahead, 0);
    let mut reader = accepted.events;
    let mut tokens = Vec::new();
    while let Some(event) = reader.recv().await {
        match event {
            Event::Token { token, .. } => tokens.push(token),
            Event::Finished { reason, .. } => {
                assert_eq!(reason, FinishReason::Length);
                assert_eq!(handle.load().kv_pages_free, 8, "pages are back first");
                break;
            }
            Event::Started { .. } => {}
        }
    }
    assert_eq!(tokens, (1..13).collect::<Vec<u32>>());

    thread.stop();
    assert!(matches!(
        handle.submit(request, admitted(12), 1).await,
        Err(SubmitRefused::Stopped)
    ));
}
