//! The same sequence gives the same logits, to the bit, however it is run:
//! whole or in chunks, alone or among others, on any number of threads, in any
//! pages, on any plugin path. Compared against the plainest way to run it: one
//! token a step, one thread, pages in order.

use std::sync::Arc;

use ternion_compute::{
    CpuExecutor, HeadChoice, KvConfig, KvPrecision, LoadedModel, Synthetic, architecture_of,
};
use ternion_engine::{Batch, BlockId, Executor, Row, Sought, Span, Wanted};
use ternion_kernels::team::Team;

mod plugin;

const BLOCK_SIZE: usize = 4;
const NUM_BLOCKS: usize = 64;
const VOCAB: usize = 1024;
const MAX_LEN: usize = 64;

fn executor(threads: usize) -> CpuExecutor {
    executor_with(threads, HeadChoice::F16, small_cache(), MAX_LEN)
}

fn small_cache() -> KvConfig {
    KvConfig {
        num_blocks: NUM_BLOCKS,
        block_size: BLOCK_SIZE,
        precision: KvPrecision::F16,
    }
}

fn executor_with(threads: usize, head: HeadChoice, kv: KvConfig, max_len: usize) -> CpuExecutor {
    let team = Arc::new(Team::new(threads));
    let architecture = architecture_of("tiny").expect("a known shape");
    let source = Arc::new(Synthetic::new(architecture, &team));
    let kernel = plugin::open("i2s");
    let loaded = LoadedModel::load(source, None, &kernel, &team, &|_, _| {}).expect("loads");
    loaded.choose_head(head, &team).expect("a head like others");
    CpuExecutor::new(Arc::new(loaded), team, kv, max_len)
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

/// A batch in which each sequence computes the given number of tokens.
fn batch_of(running: &[(&mut Running, usize)]) -> Batch {
    let mut batch = Batch::default();
    for (sequence, len) in running {
        batch.spans.push(Span {
            token_begin: batch.tokens.len(),
            len: *len,
            position: sequence.computed,
            table_begin: batch.block_tables.len(),
            table_len: sequence.table.len(),
            num_logits: *len,
            wanted: Wanted::All,
        });
        batch
            .tokens
            .extend(&sequence.tokens[sequence.computed..][..*len]);
        batch.block_tables.extend(&sequence.table);
    }
    batch
}

/// One step of it.
fn step(executor: &mut CpuExecutor, running: &mut [(&mut Running, usize)]) {
    let batch = batch_of(running);
    let mut logits = executor
        .execute(&batch)
        .expect("a valid batch")
        .whole_rows();
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

#[test]
fn a_screened_head_has_the_same_largest_logits_however_it_is_run() {
    const COUNT: usize = 7;
    let want = plainest(1, 37);
    for threads in [1, 2, 3] {
        let mut executor = executor_with(threads, HeadChoice::Screened, small_cache(), MAX_LEN);
        let mut mates = 0;
        for chunks in [vec![37], vec![5, 1, 31], vec![1; 37]] {
            let mut sequence = Running::new(1, 37, 0..16);
            let mut other = Running::new(5, 37, 16..32);
            for len in chunks {
                let begin = sequence.computed;
                mates += 1;
                let mut running = vec![(&mut sequence, len)];
                if mates % 2 == 0 {
                    running.insert(0, (&mut other, 1));
                }
                let rows = largest(&mut executor, &mut running, COUNT);
                let own = rows[rows.len() - len..]
                    .iter()
                    .zip(want[begin * VOCAB..].chunks(VOCAB));
                for (place, (row, want)) in own.enumerate() {
                    assert_largest(
                        row,
                        want,
                        COUNT,
                        &format!("{threads} threads, {}", begin + place),
                    );
                }
            }
        }
        let candidates = executor.candidates();
        assert!(candidates.positions >= 111, "they were screened");
        let mean = candidates.rows as f64 / candidates.positions as f64;
        assert!(mean < VOCAB as f64 / 2.0, "{mean} of {VOCAB} rows");
    }
}

/// One step in which each position needs its largest logits only.
fn largest(
    executor: &mut CpuExecutor,
    running: &mut [(&mut Running, usize)],
    count: usize,
) -> Vec<Vec<(u32, f32)>> {
    let mut batch = batch_of(running);
    for span in &mut batch.spans {
        span.wanted = Wanted::Some {
            sought: Sought::Largest(count),
            among: VOCAB,
            named_begin: 0,
            named_len: 0,
        };
    }
    let logits = executor.execute(&batch).expect("a valid batch");
    let rows = logits.rows().map(|row| match row {
        Row::Whole(_) => panic!("a position that was not screened"),
        Row::Some(row) => row.iter().map(|entry| (entry.token, entry.logit)).collect(),
    });
    let rows = rows.collect();
    for (sequence, len) in running {
        sequence.computed += *len;
    }
    rows
}

#[track_caller]
fn assert_largest(row: &[(u32, f32)], want: &[f32], count: usize, how: &str) {
    let mut sorted = want.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    for (token, logit) in row {
        assert_eq!(
            logit.to_bits(),
            want[*token as usize].to_bits(),
            "{how}: token {token}"
        );
    }
    for (token, logit) in want.iter().enumerate() {
        if *logit >= sorted[count - 1] {
            assert!(
                row.iter().any(|entry| entry.0 == token as u32),
                "{how}: no token {token}"
            );
        }
    }
}

/// Contexts of several segments, which several workers share: attention is cut
/// in other places for each way to run them.
#[test]
fn long_contexts_and_page_sizes_change_nothing() {
    const LEN: usize = 600;
    for precision in [KvPrecision::F32, KvPrecision::F16, KvPrecision::Int8] {
        let run = |threads, block_size: usize, chunks: &[usize]| {
            let num_blocks = LEN.div_ceil(block_size);
            let kv = KvConfig {
                num_blocks,
                block_size,
                precision,
            };
            let mut executor = executor_with(threads, HeadChoice::F16, kv, LEN);
            let mut sequence = Running::new(1, LEN, (0..num_blocks as u32).rev());
            for len in chunks {
                step(&mut executor, &mut [(&mut sequence, *len)]);
            }
            sequence.logits
        };
        let want = run(1, 16, &[1; LEN]);
        for (threads, block_size, chunks) in [
            (1, 16, vec![LEN]),
            (2, 16, vec![512, 3, 5, 1, 1, 78]),
            (3, 32, vec![300, 297, 1, 1, 1]),
            (5, 20, vec![256, 1, 1, 1, 341]),
            (2, 1, vec![100, 480, 20]),
            (2, 1024, vec![257, 343]),
        ] {
            let how = format!("{precision}, {threads} threads, pages of {block_size}, {chunks:?}");
            assert_same_bits(&run(threads, block_size, &chunks), &want, &how);
        }
    }
}
