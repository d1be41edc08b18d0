//! Tokens are not paid for with allocations, neither by the caller nor by the
//! other workers: a step works in the memory of those before it.

use std::alloc::System;
use std::sync::Arc;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use ternion_compute::{
    CpuExecutor, KvConfig, KvPrecision, LoadedModel, Synthetic, architecture_of,
};
use ternion_engine::{Batch, BlockId, Executor, Span, Wanted};
use ternion_kernels::team::Team;

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
            let mut executor = executor(precision, sequences);
            let mut positions = vec![0; sequences];
            let mut batch = Batch::default();
            let mut allocations = |executor: &mut CpuExecutor, len| {
                fill(&mut batch, &mut positions, len);
                let region = Region::new(ALLOCATOR);
                executor.execute(&batch).expect("a valid batch");
                let change = region.change();
                change.allocations + change.reallocations
            };
            let how = format!("{precision}, {sequences} sequences");
            assert!(allocations(&mut executor, 200) > 0, "nothing is counted");
            // Contexts grow beyond a segment, which two workers then share.
            for _ in 0..60 {
                allocations(&mut executor, 1);
            }
            let late: usize = (0..STEPS).map(|_| allocations(&mut executor, 1)).sum();
            assert!(late <= LATE, "{how}: {late} in {STEPS} steps");
        }
    }
}
