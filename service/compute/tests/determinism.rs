//! The same request and seed give the same tokens, log-probabilities and
//! logits, to the bit, however the engine runs it: everything that may differ
//! from one server to another, or from one minute to the next, is drawn from
//! seeds and compared with each request alone, a token a step, on one thread.
//!
//! Which instructions a plugin or a float primitive uses can't be chosen from
//! here: that all of them compute the same is for the tests of `kernels` and
//! `conformance`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ternion_compute::{
    CpuExecutor, HeadChoice, KvConfig, KvPrecision, LoadedModel, Synthetic, architecture_of,
};
use ternion_engine::{
    Batch, BlockCopy, Crew, Engine, Event, Executor, ExecutorError, Limits, Logits, Request, Row,
    Sampling, SequenceId, Share, Stopping, Time, TokenLogprob, Vocabulary,
};
use ternion_kernels::team::Team;

mod plugin;

const VOCAB: usize = 1024;
const MAX_LEN: usize = 96;
const NUM_REQUESTS: usize = 64;
const NUM_RUNS: u64 = 24;
/// Of them on ARM, which is an emulator here and takes twenty times as long.
const NUM_RUNS_ON_ARM: u64 = 1;
const PRECISIONS: [KvPrecision; 3] = [KvPrecision::F32, KvPrecision::F16, KvPrecision::Int8];

#[test]
fn every_answer_is_that_of_the_request_alone() {
    let seeds = match std::env::var("TERNION_SIM_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("TERNION_SIM_SEED is a number");
            seed..seed + 1
        }
        Err(_) if cfg!(target_arch = "aarch64") => 0..NUM_RUNS_ON_ARM,
        Err(_) => 0..NUM_RUNS,
    };
    let mut alone = HashMap::new();
    let mut seen = Seen::default();
    for seed in seeds.clone() {
        let way = Way::drawn(seed);
        let precision = way.kv.precision;
        let alone = alone
            .entry(precision.to_string())
            .or_insert_with(|| Alone::new(precision));
        let announce = Announce { seed, way: &way };
        alone.compare(&way, &mut seen);
        drop(announce);
    }
    if seeds.end - seeds.start == NUM_RUNS {
        seen.check();
    }
}

/// Says what was run and how to run it again, if it fails.
struct Announce<'a> {
    seed: u64,
    way: &'a Way,
}

impl Drop for Announce<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Announce { seed, way } = self;
            eprintln!("{way:?}\nrun it again with TERNION_SIM_SEED={seed}");
        }
    }
}

/// What happened over all runs: one in which nothing is ever preempted proves
/// nothing about preemption.
#[derive(Debug, Default)]
struct Seen {
    rows: usize,
    largest_batch: usize,
    chunks: usize,
    preemptions: usize,
    cached: usize,
    resumed: usize,
    accepted: usize,
    rejected: usize,
    parked: usize,
    screened: u64,
    copied: usize,
    shared_rows: usize,
    sampled_by_others: usize,
}

impl Seen {
    fn check(&self) {
        assert!(self.rows > 20_000, "{self:?}");
        assert_eq!(self.largest_batch, NUM_REQUESTS, "{self:?}");
        assert!(self.chunks > 1000, "{self:?}");
        assert!(self.preemptions > 100, "{self:?}");
        assert!(self.cached > 2000, "{self:?}");
        assert!(self.resumed > 500, "{self:?}");
        assert!(self.accepted > 60, "{self:?}");
        assert!(self.rejected > 200, "{self:?}");
        assert!(self.parked > 100, "{self:?}");
        assert!(self.screened > 1000, "{self:?}");
        assert!(self.copied > 100, "{self:?}");
        assert!(self.shared_rows > 100, "{self:?}");
        assert!(self.sampled_by_others > 1000, "{self:?}");
    }
}

/// A way to run requests.
#[derive(Debug, Clone)]
struct Way {
    kernel: &'static str,
    threads: usize,
    head: HeadChoice,
    kv: KvConfig,
    max_num_seqs: usize,
    max_num_batched_tokens: usize,
    step_budget: Option<Time>,
    max_draft_tokens: usize,
    shares_prefixes: bool,
    /// Whether requests that differ in their seeds only come as samples of one.
    as_samples: bool,
    /// Tokens for which a reader has room at first; it makes as much room again
    /// when all of them wait.
    credit: usize,
    /// Requests that come with each step.
    arrivals: usize,
    order: Vec<usize>,
}

impl Way {
    fn plainest(precision: KvPrecision) -> Way {
        Way {
            kernel: "i2s",
            threads: 1,
            head: HeadChoice::F16,
            kv: KvConfig {
                num_blocks: MAX_LEN / 16,
                block_size: 16,
                precision,
            },
            max_num_seqs: 1,
            max_num_batched_tokens: 1,
            step_budget: None,
            max_draft_tokens: 0,
            shares_prefixes: false,
            as_samples: false,
            credit: usize::MAX,
            arrivals: NUM_REQUESTS,
            order: (0..NUM_REQUESTS).collect(),
        }
    }

    fn drawn(seed: u64) -> Way {
        let mut random = Random(seed);
        let block_size = random.of([1, 3, 4, 8, 16, 40]);
        let few = MAX_LEN.div_ceil(block_size);
        let many = NUM_REQUESTS * few;
        let max_num_seqs = random.of([1, 4, NUM_REQUESTS]);
        let mut order: Vec<usize> = (0..NUM_REQUESTS).collect();
        for place in (1..order.len()).rev() {
            order.swap(place, random.below(place + 1));
        }
        Way {
            kernel: random.of(KERNELS),
            threads: random.of([1, 2, 2, 3]),
            head: random.of([HeadChoice::F16, HeadChoice::Screened]),
            kv: KvConfig {
                num_blocks: random.of([few, 4 * few, many]),
                block_size,
                // By turns, so that each is run as often.
                precision: PRECISIONS[seed as usize % PRECISIONS.len()],
            },
            max_num_seqs,
            max_num_batched_tokens: max_num_seqs + random.of([0, 9, 200, 2000]),
            step_budget: random.of([None, Some(Time::from_millis(11))]),
            max_draft_tokens: random.of([0, 8, 16]),
            shares_prefixes: random.of([false, true]),
            credit: random.of([usize::MAX, usize::MAX, 7]),
            arrivals: random.of([1, 5, NUM_REQUESTS]),
            as_samples: random.of([false, true]),
            order,
        }
    }

    fn executor(&self) -> CpuExecutor {
        let team = Arc::new(Team::new(self.threads));
        let architecture = architecture_of("tiny").expect("a known shape");
        let source = Arc::new(Synthetic::new(architecture, &team));
        let kernel = plugin::open(self.kernel);
        let loaded = LoadedModel::load(source, None, &kernel, &team, &|_, _| {}).expect("loads");
        loaded.choose_head(self.head, &team).expect("a known head");
        CpuExecutor::new(Arc::new(loaded), team, self.kv, MAX_LEN)
    }

    fn limits(&self) -> Limits {
        Limits {
            num_blocks: self.kv.num_blocks,
            block_size: self.kv.block_size,
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            max_draft_tokens: self.max_draft_tokens,
            step_budget: self.step_budget,
            max_queued: NUM_REQUESTS,
            max_queued_tokens: NUM_REQUESTS * MAX_LEN,
            max_model_len: MAX_LEN,
        }
    }

    /// Answers to all requests, by request.
    fn run(&self, logits: Recording<'_>, seen: &mut Seen) -> Vec<Answer> {
        let mut engine = Engine::new(self.limits(), Arc::new(Numbers));
        let executor = self.executor();
        let crew = Counted {
            crew: executor.crew().expect("it has a team"),
            by_others: AtomicUsize::new(0),
        };
        let mut executor = Recorded {
            executor,
            crew: Arc::new(crew),
            block_size: self.kv.block_size,
            tokens: vec![0; self.kv.num_blocks * self.kv.block_size],
            logits,
            rows: 0,
        };
        let mut answers = vec![Answer::default(); NUM_REQUESTS];
        let mut ids: HashMap<SequenceId, usize> = HashMap::new();
        let comes = |index: &&usize| !self.as_samples || first_sample(**index) == **index;
        let mut waiting = self.order.iter().filter(comes);
        let (mut events, mut steps) = (Vec::new(), 0);
        loop {
            let time = Time::from_millis(10 * steps);
            for &index in waiting.by_ref().take(self.arrivals) {
                let same = |other: &usize| first_sample(*other) == index;
                let count = match self.as_samples {
                    true => (index..NUM_REQUESTS).take_while(same).count(),
                    false => 1,
                };
                let mut request = request(index);
                request.credit = self.credit;
                request.salt = self.shares_prefixes.then_some(1);
                let first = engine.submit_samples(request, count, time);
                let first = first.expect("it fits").0;
                ids.extend((0..count).map(|n| (SequenceId(first + n as u64), index + n)));
            }
            if !engine.has_work() {
                if engine.num_parked() == 0 {
                    break;
                }
                seen.parked += engine.num_parked();
                for id in ids.keys() {
                    engine.set_credit(*id, self.credit);
                }
            }
            // However many tokens a step has it takes the same time, so that
            // guesses are made wherever they can be.
            let mut times = [time, time + Time::from_millis(10)].into_iter();
            let now = || times.next().expect("asked before and after the batch");
            let report = engine.step(now, &mut executor, &mut events);
            seen.largest_batch = seen.largest_batch.max(report.num_sampled);
            seen.chunks += report.scheduled.len() - report.num_sampled;
            seen.preemptions += report.preempted.len();
            seen.cached += report.num_cached;
            seen.resumed += report.num_resumed;
            seen.copied += report.num_copied;
            seen.shared_rows += report.num_shared_rows;
            seen.accepted += report.num_accepted;
            seen.rejected += report.num_drafted - report.num_accepted;
            for event in events.drain(..) {
                if let Event::Token {
                    id,
                    token,
                    logprob,
                    top,
                    ..
                } = event
                {
                    answers[ids[&id]].push(token, logprob, &top);
                }
            }
            steps += 1;
        }
        seen.rows += executor.rows;
        seen.sampled_by_others += executor.crew.by_others.load(Ordering::Relaxed);
        seen.screened += executor.executor.candidates().positions;
        answers
    }
}

/// tl1 is slow but on ARM.
const KERNELS: [&str; 7] = ["i2s", "i2s", "i2s", "tl2", "tl2", "tl2", "tl1"];

/// What a request is answered.
#[derive(Debug, Default, Clone, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    /// Bits of what came with them.
    logprobs: Vec<u32>,
}

impl Answer {
    fn push(&mut self, token: u32, logprob: Option<f32>, top: &[TokenLogprob]) {
        self.tokens.push(token);
        self.logprobs.extend(logprob.map(f32::to_bits));
        let top = top
            .iter()
            .flat_map(|top| [top.token, top.logprob.to_bits()]);
        self.logprobs.extend(top);
    }
}

/// All logits behind some tokens.
type Known = HashMap<Vec<u32>, Vec<f32>>;

/// What each request gives when it is run the plainest way.
struct Alone {
    answers: Vec<Answer>,
    logits: Known,
}

impl Alone {
    fn new(precision: KvPrecision) -> Alone {
        let mut logits = Known::new();
        let way = Way::plainest(precision);
        let answers = way.run(Recording::Write(&mut logits), &mut Seen::default());
        for (index, answer) in answers.iter().enumerate() {
            assert_eq!(answer.tokens.len(), request(index).stopping.max_tokens);
        }
        Alone { answers, logits }
    }

    fn compare(&self, way: &Way, seen: &mut Seen) {
        let answers = way.run(Recording::Compare(&self.logits), seen);
        for (index, (answer, alone)) in answers.iter().zip(&self.answers).enumerate() {
            assert_eq!(answer, alone, "request {index}");
        }
    }
}

enum Recording<'a> {
    Write(&'a mut Known),
    Compare(&'a Known),
}

impl Recording<'_> {
    /// Behind guesses that did not come true nothing is known.
    fn take(&mut self, tokens: Vec<u32>, row: Row<'_>) {
        match (self, row) {
            (Recording::Write(known), Row::Whole(row)) => {
                known.insert(tokens, row.to_vec());
            }
            (Recording::Write(_), Row::Some(_)) => panic!("this head gives all"),
            (Recording::Compare(known), row) => {
                if let Some(want) = known.get(&tokens) {
                    assert_same_bits(row, want, &tokens);
                }
            }
        }
    }
}

#[track_caller]
fn assert_same_bits(row: Row<'_>, want: &[f32], tokens: &[u32]) {
    let assert_same = |token: usize, got: f32| {
        assert_eq!(
            got.to_bits(),
            want[token].to_bits(),
            "logit of {token} behind {tokens:?}: {got} is not {}",
            want[token],
        );
    };
    match row {
        Row::Whole(row) => {
            assert_eq!(row.len(), want.len());
            row.iter()
                .enumerate()
                .for_each(|(token, got)| assert_same(token, *got));
        }
        Row::Some(row) => {
            row.iter()
                .for_each(|got| assert_same(got.token as usize, got.logit));
        }
    }
}

/// An executor whose logits are taken down by the tokens they follow, as these
/// are found in the pages that it reads.
struct Recorded<'a> {
    executor: CpuExecutor,
    crew: Arc<Counted>,
    block_size: usize,
    /// By slot of the cache.
    tokens: Vec<u32>,
    logits: Recording<'a>,
    rows: usize,
}

impl Executor for Recorded<'_> {
    fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        self.executor.copy_blocks(copies);
        for copy in copies {
            let [from, to] = [copy.from, copy.to].map(|block| block.0 as usize * self.block_size);
            self.tokens.copy_within(from..from + self.block_size, to);
        }
    }

    fn execute(&mut self, batch: &Batch) -> Result<&Logits, ExecutorError> {
        let block_size = self.block_size;
        let mut first_row = 0;
        let logits = self.executor.execute(batch)?;
        for span in &batch.spans {
            let table = batch.table_of(span);
            let slot = |position: usize| {
                table[position / block_size].0 as usize * block_size + position % block_size
            };
            for (position, token) in (span.position..).zip(batch.tokens_of(span)) {
                self.tokens[slot(position)] = *token;
            }
            let end = span.position + span.len;
            let rows = first_row..first_row + span.num_logits;
            for (row, end) in rows.clone().zip(end + 1 - span.num_logits..) {
                let tokens = (0..end).map(|position| self.tokens[slot(position)]);
                self.logits.take(tokens.collect(), logits.row(row));
                self.rows += 1;
            }
            first_row = rows.end;
        }
        Ok(logits)
    }

    fn vocab_size(&self) -> usize {
        self.executor.vocab_size()
    }

    fn crew(&self) -> Option<Arc<dyn Crew>> {
        Some(self.crew.clone())
    }
}

/// Counts what is not done by the caller.
struct Counted {
    crew: Arc<dyn Crew>,
    by_others: AtomicUsize,
}

impl Crew for Counted {
    fn size(&self) -> usize {
        self.crew.size()
    }

    fn each(&self, count: usize, work: &(dyn Fn(usize, usize) + Sync)) {
        self.crew.each(count, &|worker, item| {
            self.by_others
                .fetch_add(usize::from(worker > 0), Ordering::Relaxed);
            work(worker, item);
        });
    }
}

/// Tokens without text.
struct Numbers;

impl Vocabulary for Numbers {
    fn token_bytes(&self, _: u32) -> &[u8] {
        b"."
    }

    fn size(&self) -> usize {
        VOCAB
    }

    fn is_end(&self, _: u32) -> bool {
        false
    }
}

/// Of a request that differs from those before it in its seed only, the first
/// of them.
fn first_sample(index: usize) -> usize {
    index - usize::from(index % 4 == 3)
}

/// Short and long ones, some that begin alike and some that repeat themselves;
/// every way of sampling, with log-probabilities and without.
fn request(index: usize) -> Request {
    let kind = first_sample(index);
    let mut random = Random(1000 + kind as u64);
    let len = 1 + random.below(40);
    let common = random.below(4) as u64;
    let (mut shared, num_words) = (Random(common), random.of([3, VOCAB]));
    let prompt = (0..len).map(|place| match place < 24 {
        true => shared.below(VOCAB) as u32,
        false => random.below(num_words) as u32,
    });
    let prompt = prompt.collect();
    let greedy = Sampling {
        num_logprobs: random.of([None, None, Some(0), Some(3)]),
        seed: index as u64,
        ..Sampling::default()
    };
    let sampled = Sampling {
        temperature: random.of([0.02, 0.7, 1.3]),
        top_k: random.of([0, 5, 40]),
        top_p: random.of([0.9, 1.0]),
        ..greedy.clone()
    };
    Request {
        prompt,
        sampling: match kind % 4 {
            0 => greedy,
            1 => sampled,
            // Below 1 it makes text repeat itself.
            _ => Sampling {
                repetition_penalty: random.of([1.2, 0.1, 0.02]),
                frequency_penalty: random.of([0.0, 0.01]),
                ..random.of([greedy, sampled])
            },
        },
        stopping: Stopping {
            max_tokens: 8 + random.below(32),
            ..Stopping::default()
        },
        share: Share {
            tenant: random.below(3) as u32,
            weight: 1 + random.below(2) as u32,
        },
        priority: random.below(3) as i32,
        salt: None,
        num_public: 0,
        deadline: None,
        credit: usize::MAX,
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % end as u64) as usize
    }

    fn of<T: Clone, const N: usize>(&mut self, choices: [T; N]) -> T {
        choices[self.below(N)].clone()
    }
}
