//! Tokens are not paid for with allocations, neither by the caller nor by the
//! other workers: a step works in the memory of those before it.

use std::alloc::System;
use std::sync::Arc;

use numbers::Numbers;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use ternion_compute::{
    CpuExecutor, KvConfig, KvPrecision, LoadedModel, Synthetic, architecture_of,
};
use ternion_engine::{
    Batch, BlockId, Engine, Executor, Limits, Request, Sampling, Share, Span, Stopping, Time,
    Wanted,
};
use ternion_kernels::team::Team;

#[path = "../examples/numbers/mod.rs"]
mod numbers;
mod plugin;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const BLOCK_SIZE: usize = 16;
const MAX_LEN: usize = 640;

fn executor(precision: KvPrecision, sequences: usize) -> CpuExecutor {
    let team = Arc::new(Team::new(2));
    let architecture = architecture_of("tiny").expect("a known shape");
    let source = Arc::new(Synthetic::new(architecture, &team));
    let kernel = plugin::open("i2s");
    let loaded = LoadedModel::load(source, None, &kernel, &team, &|_, _| {}).expect("loads");
    let kv = KvConfig {
        num_blocks: sequences * MAX_LEN / BLOCK_SIZE,
        block_size: BLOCK_SIZE,
        precision,
    };
    CpuExecutor::new(Arc::new(loaded), team, kv, MAX_LEN)
}

/// The next `len` tokens of each sequence, logits of the last.
fn fill(batch: &mut Batch, positions: &mut [usize], len: usize) {
    batch.clear();
    for (sequence, position) in positions.iter_mut().enumerate() {
        batch.spans.push(Span {
            token_begin: batch.tokens.len(),
            len,
            position: *position,
            table_begin: batch.block_tables.len(),
            table_len: MAX_LEN / BLOCK_SIZE,
            num_logits: 1,
            wanted: Wanted::All,
        });
        batch
            .tokens
            .extend((0..len).map(|i| ((*position + i) * 7 % 1024) as u32));
        let first = (sequence * MAX_LEN / BLOCK_SIZE) as u32;
        let blocks = first..first + (MAX_LEN / BLOCK_SIZE) as u32;
        batch.block_tables.extend(blocks.map(BlockId));
        *position += len;
    }
}

/// Steps that are counted.
const STEPS: usize = 100;

/// Allocations that may come late: which worker gets which part of a step is
/// chance, and it takes memory for a kind of part when it gets the first.
const LATE: usize = STEPS / 4;

/// One test: the allocator counts for the whole process.
#[test]
fn steps_allocate_nothing_for_their_tokens() {
    for precision in [KvPrecision::F32, KvPrecision::F16, KvPrecision::Int8] {
        for sequences in [1, 3] {
            let late = of_a_forward_pass(precision, sequences);
            let how = format!("{precision}, {sequences} sequences");
            assert!(late <= LATE, "{how}: {late} in {STEPS} steps");
        }
    }
    let late = of_whole_rows();
    assert!(late <= LATE, "whole rows: {late} in {STEPS} steps");
}

fn counted(run: impl FnOnce()) -> usize {
    let region = Region::new(ALLOCATOR);
    run();
    let change = region.change();
    change.allocations + change.reallocations
}

fn of_a_forward_pass(precision: KvPrecision, sequences: usize) -> usize {
    let mut executor = executor(precision, sequences);
    let mut positions = vec![0; sequences];
    let mut batch = Batch::default();
    let mut allocations = |executor: &mut CpuExecutor, len| {
        fill(&mut batch, &mut positions, len);
        counted(|| {
            executor.execute(&batch).expect("a valid batch");
        })
    };
    assert!(allocations(&mut executor, 200) > 0, "nothing is counted");
    // Contexts grow beyond a segment, which two workers then share.
    for _ in 0..60 {
        allocations(&mut executor, 1);
    }
    (0..STEPS).map(|_| allocations(&mut executor, 1)).sum()
}

/// The engine's and the sampler's, on all threads, where sampling looks at all
/// logits.
fn of_whole_rows() -> usize {
    let sequences = 3;
    let mut executor = executor(KvPrecision::F16, sequences);
    let limits = Limits {
        num_blocks: executor.kv().num_blocks,
        block_size: BLOCK_SIZE,
        max_num_seqs: sequences,
        max_num_batched_tokens: 64,
        step_budget: None,
        max_draft_tokens: 0,
        max_queued: 0,
        max_queued_tokens: MAX_LEN,
        max_model_len: MAX_LEN,
    };
    let mut engine = Engine::new(limits, Arc::new(Numbers(executor.vocab_size())));
    for sequence in 0..sequences {
        let request = request(sequence as u32);
        engine.submit(request, Time::ZERO).expect("it fits");
    }
    let mut events = Vec::with_capacity(MAX_LEN);
    let mut step = || {
        events.clear();
        engine.step(|| Time::ZERO, &mut executor, &mut events);
    };
    (0..60).for_each(|_| step());
    counted(|| (0..STEPS).for_each(|_| step()))
}

fn request(first: u32) -> Request {
    Request {
        prompt: vec![first, 7],
        sampling: Sampling {
            temperature: 0.9,
            top_p: 0.8,
            repetition_penalty: 1.1,
            frequency_penalty: 0.1,
            ..Sampling::default()
        },
        stopping: Stopping {
            max_tokens: MAX_LEN - 2,
            ..Stopping::default()
        },
        share: Share::default(),
        priority: 0,
        salt: None,
        num_public: 0,
        deadline: None,
        credit: usize::MAX,
    }
}
