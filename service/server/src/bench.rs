//! `ternion-server bench`: how fast the forward pass is here.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use ternion_compute::{
    Candidates, CpuExecutor, HeadChoice, KvConfig, KvPrecision, LoadedModel, Synthetic,
    WeightSource, architecture_of, kv_token_bytes, shape_names,
};
use ternion_engine::{Batch, BlockId, Executor, Span, Wanted};
use ternion_kernel_host::Kernel;
use ternion_kernels::team::Team;

use crate::kernel_choice::{Contest, Measured};
use crate::launch::{self, KernelSearch};
use crate::resident::Resident;

/// Measure prompt and generation speed.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// Model file or directory; without one, and without --synthetic, the
    /// embedded demo
    #[arg(long, value_name = "PATH", conflicts_with = "synthetic")]
    model: Option<PathBuf>,
    /// Random weights in the shape of a model: needs no file
    #[arg(long, value_name = "SHAPE", value_parser = shape_names().collect::<Vec<_>>())]
    synthetic: Option<String>,
    /// Threads to compute with
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Prompt tokens of the prompt test; 0 leaves it out
    #[arg(long, default_value_t = 512, value_name = "N")]
    pp: usize,
    /// Tokens of the generation test, for each sequence; 0 leaves it out
    #[arg(long, default_value_t = 64, value_name = "N")]
    tg: usize,
    /// Sequences that generate side by side, one test for each number
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "N,N,…")]
    batch: Vec<usize>,
    /// Tokens of context that are in the KV cache before a test begins, one
    /// test for each number. What they are doesn't matter to speed, so they are
    /// made up rather than computed
    #[arg(long, value_delimiter = ',', default_value = "0", value_name = "N,N,…")]
    depth: Vec<usize>,
    /// What keys and values are kept as: f32, f16 or int8. Unset: as where the
    /// model's reference answers come from
    #[arg(long, value_name = "TYPE")]
    kv: Option<KvPrecision>,
    /// Times each test is run; the median is printed
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    /// Directory of kernel plugins; may be given more than once
    #[arg(long = "plugin-dir", value_name = "DIR")]
    plugin_dirs: Vec<PathBuf>,
    /// Name of the kernel plugin to use
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Output head
    #[arg(long, default_value_t = HeadChoice::Auto, value_name = "CHOICE")]
    head: HeadChoice,
    /// How many of the largest logits each position needs, as top_k does; 0
    /// needs all, as sampling without top_k does
    #[arg(long, default_value_t = 1, value_name = "N")]
    top_k: usize,
    /// Print one JSON object a test, a line each
    #[arg(long)]
    json: bool,
}

/// One test's result.
#[derive(Serialize)]
struct Row {
    test: String,
    batch: usize,
    depth: usize,
    threads: usize,
    /// Of all sequences together, median of the runs.
    tokens_per_second: f64,
    /// Slowest and fastest run.
    tokens_per_second_min: f64,
    tokens_per_second_max: f64,
    /// Packed ternary weights, and head where it is used, streamed from
    /// memory: bytes of one pass times passes a second.
    weight_gb_per_second: f64,
    /// Keys and values of the context read from memory, likewise.
    kv_gb_per_second: f64,
    kv: String,
    model: String,
    kernel: String,
    /// How the output head was computed, and with which instruction set.
    head: String,
    /// Bytes in memory for it besides the model's own.
    head_state_bytes: usize,
    /// Rows of the head that were computed exactly for a position, on average;
    /// null where it was not screened.
    candidates: Option<f64>,
    /// Memory after the test; null where the system doesn't tell.
    memory: Option<Resident>,
}

/// What one run took.
struct Run {
    tokens: usize,
    weight_bytes: usize,
    kv_bytes: usize,
    candidates: Option<f64>,
    took: Duration,
}

/// Runs the command.
pub(crate) fn run(arguments: &BenchArguments) -> anyhow::Result<()> {
    let threads = launch::num_threads(arguments.threads.map(usize::from));
    let team = Arc::new(Team::new(threads));
    let (name, source): (String, Arc<dyn WeightSource>) = match &arguments.synthetic {
        Some(shape) => {
            let architecture = architecture_of(shape).context("clap checks the name")?;
            (
                architecture.family.clone(),
                Arc::new(Synthetic::new(architecture, &team)),
            )
        }
        None => {
            let model = launch::open_model(arguments.model.as_deref())?;
            (model.name.clone(), Arc::new(model))
        }
    };
    let architecture = source.architecture().clone();
    let dialect = source.dialect();
    let search = KernelSearch::simple(&arguments.plugin_dirs, arguments.kernel.as_deref())?;
    let mut contest = Contest {
        architecture: &architecture,
        team: &team,
        budget: TIMING_BUDGET,
        thorough: true,
        cache: None,
        quiet: &|| {},
        measured: Measured::default(),
        is_settled: false,
    };
    let mut choose = |kernels: &[Kernel]| contest.decide(kernels);
    let kernel = search.survey(&architecture, &mut choose)?.selected()?;
    let loaded = Arc::new(launch::pack(source, None, &kernel, arguments.head, &team)?);

    let deepest = arguments.depth.iter().copied().max().unwrap_or(0);
    let longest = arguments.pp.max(arguments.tg).saturating_add(deepest);
    anyhow::ensure!(
        longest <= architecture.context,
        "--depth and a test make {longest} tokens, more than the model's context of {}",
        architecture.context,
    );
    let widest = arguments.batch.iter().copied().max().unwrap_or(1);
    anyhow::ensure!(
        !arguments.batch.contains(&0) && widest <= 4096,
        "--batch: {:?} must be between 1 and 4096",
        arguments.batch,
    );
    let blocks = |tokens: usize| tokens.div_ceil(BLOCK_SIZE);
    let kv = KvConfig {
        num_blocks: blocks(longest)
            .max(blocks(deepest + arguments.tg) * widest)
            .max(1),
        block_size: BLOCK_SIZE,
        precision: arguments.kv.unwrap_or(dialect.kv_precision()),
    };
    let head = match loaded.head_variant() {
        Some(isa) => format!("{} ({isa})", loaded.head()),
        None => loaded.head().to_string(),
    };
    let head_state_bytes = loaded.head_state_bytes();
    let mut bench = Bench {
        ternary_bytes: loaded.ternary_bytes(),
        head: HeadUse::of(&loaded, architecture.vocab),
        token_bytes: kv_token_bytes(&architecture, kv.precision),
        vocab: architecture.vocab,
        wanted: match arguments.top_k {
            0 => Wanted::All,
            count => Wanted::Largest {
                count,
                among: architecture.vocab,
                named_begin: 0,
                named_len: 0,
            },
        },
        executor: CpuExecutor::new(loaded, Arc::clone(&team), kv, longest),
        batch: Batch::default(),
    };
    if deepest > 0 {
        bench.executor.make_up_context();
    }

    let report = |test: String, batch: usize, depth: usize, mut runs: Vec<Run>| {
        runs.sort_by_key(|run| run.took);
        let rate = |run: &Run| run.tokens as f64 / run.took.as_secs_f64();
        let median = &runs[runs.len() / 2];
        let per_second = |bytes: usize| bytes as f64 / median.took.as_secs_f64() / 1e9;
        let row = Row {
            test,
            batch,
            depth,
            threads,
            tokens_per_second: rate(median),
            tokens_per_second_min: rate(&runs[runs.len() - 1]),
            tokens_per_second_max: rate(&runs[0]),
            weight_gb_per_second: per_second(median.weight_bytes),
            kv_gb_per_second: per_second(median.kv_bytes),
            kv: kv.precision.to_string(),
            model: name.clone(),
            kernel: format!("{} ({})", kernel.name(), kernel.isa()),
            head: head.clone(),
            head_state_bytes,
            candidates: median.candidates,
            memory: Resident::now(),
        };
        print(&row, arguments.json)
    };
    // The first pass touches every page of weights and scratch.
    bench.prompt(0, arguments.pp.clamp(1, 32))?;
    let BenchArguments { pp, tg, repeat, .. } = *arguments;
    for depth in arguments.depth.iter().copied() {
        if pp > 0 {
            let runs = (0..repeat).map(|_| bench.prompt(depth, pp));
            report(format!("pp{pp}"), 1, depth, runs.collect::<Result<_, _>>()?)?;
        }
        if tg == 0 {
            continue;
        }
        for batch in arguments.batch.iter().copied() {
            let runs = (0..repeat).map(|_| bench.generation(batch, depth, tg));
            report(
                format!("tg{tg}"),
                batch,
                depth,
                runs.collect::<Result<_, _>>()?,
            )?;
        }
    }
    if !arguments.json
        && let Some(memory) = Resident::now()
    {
        writeln!(std::io::stdout().lock(), "memory   {memory}")?;
    }
    Ok(())
}

fn print(row: &Row, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, row)?;
        writeln!(out)?;
    } else {
        writeln!(
            out,
            "{:>7}  batch {:>3}  depth {:>5}  threads {}  {:8.2} tokens/s ({:.2}–{:.2})  \
             {:6.2} GB/s weights {:6.2} kv {}  {} on {}, head {}",
            row.test,
            row.batch,
            row.depth,
            row.threads,
            row.tokens_per_second,
            row.tokens_per_second_min,
            row.tokens_per_second_max,
            row.weight_gb_per_second,
            row.kv_gb_per_second,
            row.kv,
            row.model,
            row.kernel,
            row.head,
        )?;
    }
    Ok(())
}

/// For the choice among several kernels.
const TIMING_BUDGET: Duration = Duration::from_secs(1);

const BLOCK_SIZE: usize = 16;
/// Prompt tokens in a step.
const PROMPT_CHUNK: usize = 512;

struct Bench {
    executor: CpuExecutor,
    batch: Batch,
    ternary_bytes: usize,
    head: HeadUse,
    /// Keys and values of a token.
    token_bytes: usize,
    vocab: usize,
    wanted: Wanted,
}

/// What a step reads of the head.
struct HeadUse {
    choice: HeadChoice,
    /// Of it as the model has it.
    bytes: usize,
    row_bytes: usize,
    state_bytes: usize,
}

impl HeadUse {
    fn of(loaded: &LoadedModel, vocab: usize) -> HeadUse {
        HeadUse {
            choice: loaded.head(),
            bytes: loaded.head_bytes(),
            row_bytes: loaded.head_bytes() / vocab,
            state_bytes: loaded.head_state_bytes(),
        }
    }

    /// Bytes of `steps` steps in which so many rows were looked up.
    fn read(&self, steps: usize, screened: Candidates) -> usize {
        match self.choice {
            HeadChoice::Int8 => steps * self.state_bytes,
            HeadChoice::Screened if screened.positions > 0 => {
                steps * self.state_bytes + screened.rows as usize * self.row_bytes
            }
            _ => steps * self.bytes,
        }
    }
}

/// What was looked up since `before`.
fn since(before: Candidates, now: Candidates) -> Candidates {
    Candidates {
        positions: now.positions - before.positions,
        rows: now.rows - before.rows,
    }
}

/// Rows looked up for each position.
fn mean(screened: Candidates) -> Option<f64> {
    (screened.positions > 0).then(|| screened.rows as f64 / screened.positions as f64)
}

impl Bench {
    /// A prompt of `len` tokens after `depth` others, without logits but for the
    /// last.
    fn prompt(&mut self, depth: usize, len: usize) -> anyhow::Result<Run> {
        let before = self.executor.candidates();
        let begin = Instant::now();
        let (mut steps, mut kv_bytes) = (0, 0);
        let last = depth + len;
        for position in (depth..last).step_by(PROMPT_CHUNK) {
            let end = last.min(position + PROMPT_CHUNK);
            let num_logits = usize::from(end == last);
            self.batch.clear();
            self.add_span(
                0,
                position,
                end - position,
                num_logits,
                last.div_ceil(BLOCK_SIZE),
            );
            self.executor.execute(&self.batch)?;
            steps += 1;
            kv_bytes += position * self.token_bytes;
        }
        let took = begin.elapsed();
        let screened = since(before, self.executor.candidates());
        Ok(Run {
            tokens: len,
            weight_bytes: steps * self.ternary_bytes + self.head.read(1, screened),
            candidates: mean(screened),
            kv_bytes,
            took,
        })
    }

    /// `len` tokens in each of `sequences`, from contexts of `depth` tokens.
    fn generation(&mut self, sequences: usize, depth: usize, len: usize) -> anyhow::Result<Run> {
        let before = self.executor.candidates();
        let begin = Instant::now();
        let table_len = (depth + len).div_ceil(BLOCK_SIZE);
        let mut kv_bytes = 0;
        for position in depth..depth + len {
            self.batch.clear();
            for sequence in 0..sequences {
                self.add_span(sequence, position, 1, 1, table_len);
            }
            self.executor.execute(&self.batch)?;
            kv_bytes += sequences * position * self.token_bytes;
        }
        let took = begin.elapsed();
        let screened = since(before, self.executor.candidates());
        Ok(Run {
            tokens: sequences * len,
            weight_bytes: len * self.ternary_bytes + self.head.read(len, screened),
            candidates: mean(screened),
            kv_bytes,
            took,
        })
    }

    fn add_span(
        &mut self,
        sequence: usize,
        position: usize,
        len: usize,
        num_logits: usize,
        table_len: usize,
    ) {
        let batch = &mut self.batch;
        let vocab = self.vocab;
        let span = Span {
            token_begin: batch.tokens.len(),
            len,
            position,
            table_begin: batch.block_tables.len(),
            table_len,
            num_logits,
            wanted: self.wanted,
        };
        // Different tokens, so that no embedding row stays in a cache.
        let tokens =
            (position..position + len).map(|p| ((p * 7919 + sequence * 104_729) % vocab) as u32);
        batch.tokens.extend(tokens);
        let first = sequence * table_len;
        batch
            .block_tables
            .extend((first..first + table_len).map(|block| BlockId(block as u32)));
        batch.spans.push(span);
    }
}
