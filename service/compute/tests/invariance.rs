//! The same sequence gives the same logits, to the bit, however it is run:
//! whole or in chunks, alone or among others, on any number of threads, in any
//! pages, on any plugin path. Compared against the plainest way to run it: one
//! token a step, one thread, pages in order.

use std::sync::Arc;

use ternion_compute::{CpuExecutor, KvConfig, LoadedModel, Synthetic, architecture_of};
use ternion_engine::{Batch, BlockId, Executor, Span};
use ternion_kernels::team::Team;

mod plugin;

const BLOCK_SIZE: usize = 4;
const NUM_BLOCKS: usize = 64;
const VOCAB: usize = 1024;
const MAX_LEN: usize = 64;

fn executor(threads: usize) -> CpuExecutor {
    let team = Arc::new(Team::new(threads));
    let architecture = architecture_of("tiny").expect("a known shape");
    let source = Arc::new(Synthetic::new(architecture, &team));
    let kernel = plugin::open("i2s");
    let loaded = LoadedModel::load(source, None, &kernel, &team, &|_, _| {}).expect("loads");
    let kv = KvConfig {
        num_blocks: NUM_BLOCKS,
        block_size: BLOCK_SIZE,
    };
    CpuExecutor::new(Arc::new(loaded), team, kv, MAX_LEN)
}

/// Tokens of a sequence, different for each seed.
fn tokens(seed: usize, len: usize) -> Vec<u32> {
    (0..len)
        .map(|i| ((i * 7919 + seed * 104_729 + 13) % VOCAB) as u32)
        .collect()
}

/// A sequence under way.
struct Running {
    tokens: Vec<u32>,
    table: Vec<BlockId>,
    computed: usize,
    /// Logits of all computed positions.
    logits: Vec<f32>,
}

impl Running {
    fn new(seed: usize, len: usize, table: impl IntoIterator<Item = u32>) -> Running {
        Running {
            tokens: tokens(seed, len),
            table: table.into_iter().map(BlockId).collect(),
            computed: 0,
            logits: Vec::new(),
        }
    }
}

/// One step in which each sequence computes the given number of tokens.
fn step(executor: &mut CpuExecutor, running: &mut [(&mut Running, usize)]) {
    let mut batch = Batch::default();
    for (sequence, len) in running.iter() {
        batch.spans.push(Span {
            token_begin: batch.tokens.len(),
            len: *len,
            position: sequence.computed,
            table_begin: batch.block_tables.len(),
            table_len: sequence.table.len(),
            num_logits: *len,
        });
        batch
            .tokens
            .extend(&sequence.tokens[sequence.computed..][..*len]);
        batch.block_tables.extend(&sequence.table);
    }
    let mut logits = executor.execute(&batch).expect("a valid batch");
    for (sequence, len) in running {
        let (own, rest) = logits.split_at(*len * VOCAB);
        sequence.logits.extend(own);
        sequence.computed += *len;
        logits = rest;
    }
}

fn plainest(seed: usize, len: usize) -> Vec<f32> {
    let mut executor = executor(1);
    let mut sequence = Running::new(seed, len, 0..(MAX_LEN / BLOCK_SIZE) as u32);
    for _ in 0..len {
        step(&mut executor, &mut [(&mut sequence, 1)]);
    }
    sequence.logits
}

#[track_caller]
fn assert_same_bits(got: &[f32], want: &[f32], how: &str) {
    assert_eq!(got.len(), want.len());
    let differs = got
        .iter()
        .zip(want)
        .position(|(a, b)| a.to_bits() != b.to_bits());
    if let Some(at) = differs {
        panic!(
            "{how}: position {}, token {}: {} is not {}",
            at / VOCAB,
            at % VOCAB,
            got[at],
            want[at],
        );
    }
    assert!(
        want.iter().any(|x| *x != want[0]),
        "{how}: all logits are alike"
    );
}

#[test]
fn chunks_and_threads_change_nothing() {
    let want = plainest(1, 37);
    for threads in [1, 2, 3, 5] {
        let mut executor = executor(threads);
        for chunks in [vec![37], vec![1, 36], vec![16, 16, 5], vec![7, 1, 1, 20, 8]] {
            let mut sequence = Running::new(1, 37, 0..16);
            for len in &chunks {
                step(&mut executor, &mut [(&mut sequence, *len)]);
            }
            assert_same_bits(
                &sequence.logits,
                &want,
                &format!("{threads} threads, {chunks:?}"),
            );
        }
    }
}

#[test]
fn batch_mates_and_pages_change_nothing() {
    let mut executor = executor(2);
    let mut a = Running::new(1, 37, (0..16).rev());
    let mut b = Running::new(2, 30, (16..32).map(|i| i * 7 % 16 + 16));
    let mut c = Running::new(3, 20, 32..48);
    step(&mut executor, &mut [(&mut b, 9)]);
    step(&mut executor, &mut [(&mut a, 12), (&mut b, 1)]);
    step(&mut executor, &mut [(&mut b, 1), (&mut c, 17), (&mut a, 1)]);
    step(
        &mut executor,
        &mut [(&mut a, 24), (&mut b, 19), (&mut c, 3)],
    );
    for (sequence, seed) in [(a, 1), (b, 2), (c, 3)] {
        let want = plainest(seed, sequence.tokens.len());
        assert_same_bits(
            &sequence.logits,
            &want,
            &format!("sequence {seed} among others"),
        );
    }
}

#[test]
fn pages_of_a_finished_sequence_leave_no_trace() {
    let mut executor = executor(2);
    let mut old = Running::new(9, 64, 0..16);
    step(&mut executor, &mut [(&mut old, 64)]);
    let mut new = Running::new(1, 37, [5, 3, 1, 0, 2, 4, 6, 8, 7, 9]);
    step(&mut executor, &mut [(&mut new, 37)]);
    assert_same_bits(&new.logits, &plainest(1, 37), "in used pages");
}
