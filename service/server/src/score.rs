//! `ternion-server score`: what a model says about given tokens.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;
use ternion_compute::{CpuExecutor, HeadChoice, KvConfig, KvPrecision, WeightSource};
use ternion_engine::{Batch, BlockId, Executor, Logits, Row, Sought, Span, TokenLogit, Wanted};
use ternion_kernels::team::Team;
use ternion_model::Adapter;

use crate::launch::{self, KernelSearch};

/// Score tokens exactly: their log-probabilities, all logits, and the greedy
/// continuation. For checks against other implementations.
#[derive(Debug, Args)]
pub(crate) struct ScoreArguments {
    /// Model file or directory; without one, the embedded demo
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Token ids, taken as they are: no beginning-of-text token is added
    #[arg(long, value_delimiter = ',', required = true, value_name = "ID,ID,…")]
    tokens: Vec<u32>,
    /// Also continue greedily by this many tokens, past any end token
    #[arg(long, default_value_t = 0, value_name = "N")]
    greedy: usize,
    /// PEFT LoRA adapter to apply
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Write the logits of every position of --tokens, float32
    /// [tokens, vocab], in NumPy's format
    #[arg(long, value_name = "FILE.npy")]
    logits: Option<PathBuf>,
    /// Directory of kernel plugins; may be given more than once
    #[arg(long = "plugin-dir", value_name = "DIR")]
    plugin_dirs: Vec<PathBuf>,
    /// Name of the kernel plugin to use
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Output head: how --greedy continues. Log-probabilities and --logits
    /// need all logits, which all but int8 compute from the head as it is
    #[arg(long, default_value_t = HeadChoice::F16, value_name = "CHOICE")]
    head: HeadChoice,
    /// Threads to compute with
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// What keys and values are kept as: f32, f16 or int8. Unset: as where the
    /// model's reference answers come from
    #[arg(long, value_name = "TYPE")]
    kv: Option<KvPrecision>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Score {
    model: String,
    kernel: String,
    tokens: Vec<u32>,
    /// Natural logarithm of each token's probability after those before it;
    /// null for the first, which nothing precedes.
    logprobs: Vec<Option<f64>>,
    greedy: Vec<u32>,
}

/// Positions per step: bounds the memory that logits take.
const CHUNK: usize = 64;
const BLOCK_SIZE: usize = 16;

/// Runs the command.
pub(crate) fn run(arguments: &ScoreArguments) -> anyhow::Result<()> {
    let score = score(arguments)?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer(&mut out, &score)?;
        writeln!(out)?;
        return Ok(());
    }
    writeln!(out, "model {}, kernel {}", score.model, score.kernel)?;
    for (token, logprob) in score.tokens.iter().zip(&score.logprobs) {
        match logprob {
            Some(logprob) => writeln!(out, "{token:>8}  {logprob:.6}")?,
            None => writeln!(out, "{token:>8}")?,
        }
    }
    if !score.greedy.is_empty() {
        writeln!(out, "greedy: {:?}", score.greedy)?;
    }
    Ok(())
}

fn score(arguments: &ScoreArguments) -> anyhow::Result<Score> {
    let model = launch::open_model(arguments.model.as_deref())?;
    let architecture = model.architecture.clone();
    let name = model.name.clone();
    let num_tokens = arguments.tokens.len();
    let len = num_tokens + arguments.greedy;
    ensure!(
        len <= architecture.context,
        "--tokens and --greedy make {len} tokens, more than the model's context of {}",
        architecture.context,
    );
    if let Some(token) = arguments
        .tokens
        .iter()
        .find(|token| **token as usize >= architecture.vocab)
    {
        anyhow::bail!(
            "--tokens: {token} is not below the vocabulary's {}",
            architecture.vocab
        );
    }
    let adapter = arguments
        .adapter
        .as_deref()
        .map(|dir| {
            Adapter::open(dir, &architecture)
                .with_context(|| format!("can't use adapter {}", dir.display()))
        })
        .transpose()?;

    let search = KernelSearch::simple(&arguments.plugin_dirs, arguments.kernel.as_deref())?;
    let kernel = search.select(&architecture)?;
    let team = Arc::new(Team::new(launch::num_threads(
        arguments.threads.map(usize::from),
    )));
    let precision = arguments.kv.unwrap_or(model.dialect().kv_precision());
    let loaded = launch::pack(
        Arc::new(model),
        adapter.as_ref(),
        &kernel,
        arguments.head,
        &team,
    )?;
    let kv = KvConfig {
        num_blocks: len.div_ceil(BLOCK_SIZE),
        block_size: BLOCK_SIZE,
        precision,
    };
    let mut one = OneSequence {
        executor: CpuExecutor::new(Arc::new(loaded), team, kv, len),
        batch: Batch::default(),
        num_blocks: kv.num_blocks,
    };

    let mut file = arguments
        .logits
        .as_deref()
        .map(|path| Npy::create(path, [num_tokens, architecture.vocab]))
        .transpose()?;
    let mut logprobs = vec![None];
    let mut best = 0;
    for (chunk, tokens) in arguments.tokens.chunks(CHUNK).enumerate() {
        let position = chunk * CHUNK;
        let logits = one.step(position, tokens, Wanted::All)?.whole_rows();
        if let Some(file) = &mut file {
            file.write(logits)?;
        }
        for (i, row) in logits.chunks_exact(architecture.vocab).enumerate() {
            if let Some(next) = arguments.tokens.get(position + i + 1) {
                logprobs.push(Some(log_probability(row, *next as usize)));
            }
            best = argmax(row);
        }
    }
    if let Some(file) = file {
        file.finish()?;
    }

    let mut greedy = Vec::with_capacity(arguments.greedy);
    while greedy.len() < arguments.greedy {
        greedy.push(best);
        if greedy.len() < arguments.greedy {
            let position = num_tokens + greedy.len() - 1;
            let logits = one.step(position, &[best], LARGEST)?;
            best = match logits.row(0) {
                Row::Whole(row) => argmax(row),
                Row::Some(row) => argmax_of(row),
            };
        }
    }
    Ok(Score {
        model: name,
        kernel: format!("{} ({})", kernel.name(), kernel.isa()),
        tokens: arguments.tokens.clone(),
        logprobs,
        greedy,
    })
}

/// A sequence that has the executor to itself, with its pages in order.
struct OneSequence {
    executor: CpuExecutor,
    batch: Batch,
    num_blocks: usize,
}

impl OneSequence {
    /// Logits of `tokens` at `position` and after.
    fn step(&mut self, position: usize, tokens: &[u32], wanted: Wanted) -> anyhow::Result<&Logits> {
        self.batch.clear();
        self.batch.tokens.extend_from_slice(tokens);
        self.batch
            .block_tables
            .extend((0..self.num_blocks as u32).map(BlockId));
        self.batch.spans.push(Span {
            token_begin: 0,
            len: tokens.len(),
            position,
            table_begin: 0,
            table_len: self.num_blocks,
            num_logits: tokens.len(),
            wanted,
        });
        Ok(self.executor.execute(&self.batch)?)
    }
}

/// The largest logit will do.
const LARGEST: Wanted = Wanted::Some {
    sought: Sought::Largest(1),
    among: usize::MAX,
    named_begin: 0,
    named_len: 0,
};

/// The same of some tokens, in ascending order of their ids.
fn argmax_of(row: &[TokenLogit]) -> u32 {
    let mut best = row[0];
    for entry in row {
        if entry.logit > best.logit {
            best = *entry;
        }
    }
    best.token
}

/// Lowest id of the largest logit.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// By functions that are the same on every machine, as the logits are.
fn log_probability(logits: &[f32], token: usize) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|logit| libm::exp(f64::from(logit - largest)))
        .sum();
    f64::from(logits[token] - largest) - libm::log(sum)
}

/// A float32 matrix in NumPy's format, version 1.0 (numpy.lib.format), written
/// to a file beside the wanted one that takes its name when it is complete.
struct Npy {
    out: BufWriter<File>,
    partial: PathBuf,
    path: PathBuf,
}

impl Npy {
    fn create(path: &Path, shape: [usize; 2]) -> anyhow::Result<Npy> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file =
            File::create(&partial).with_context(|| format!("can't write {}", partial.display()))?;
        let mut out = BufWriter::new(file);
        let [rows, cols] = shape;
        let dict =
            format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
        // Magic, version and length take 10 bytes, a newline ends the header,
        // and the data begins at a multiple of 64.
        let header_len = (10 + dict.len() + 1).next_multiple_of(64) - 10;
        out.write_all(b"\x93NUMPY\x01\x00")?;
        out.write_all(&u16::try_from(header_len)?.to_le_bytes())?;
        writeln!(out, "{dict:<width$}", width = header_len - 1)?;
        Ok(Npy {
            out,
            partial,
            path: path.to_owned(),
        })
    }

    fn write(&mut self, values: &[f32]) -> anyhow::Result<()> {
        for value in values {
            self.out.write_all(&value.to_le_bytes())?;
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<()> {
        self.out.flush()?;
        std::fs::rename(&self.partial, &self.path)
            .with_context(|| format!("can't write {}", self.path.display()))
    }
}
