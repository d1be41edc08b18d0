//! `ternion-server bench`: how fast the forward pass is here, how much of what
//! the machine can do that is, and what the machine can serve.

mod advice;
mod limits;
mod passes;
mod room;
mod row;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use ternion_compute::{
    CpuExecutor, HeadChoice, KvConfig, KvPrecision, Synthetic, WeightSource, architecture_of,
    kv_token_bytes, shape_names,
};
use ternion_engine::{Batch, Sought, Wanted as WantedLogits};
use ternion_kernel_host::Kernel;
use ternion_kernels::limits::ReadBandwidth;
use ternion_kernels::team::Team;
use ternion_model::{Architecture, Model, Projection};

use crate::energy::{Energy, POWERCAP};
use crate::kernel_choice::{Contest, Measured};
use crate::launch::{self, KernelSearch};
use crate::memory_room::memory_room;
use crate::preset::Preset;
use crate::processors::{Numa, Pinning, Wanted};
use crate::resident::Resident;
use advice::{Node, Wish};
use limits::Limits;
use passes::{BLOCK_SIZE, Bench, HeadUse, Run};
use room::Need;
use row::{Row, Sample, Subject, Test};

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
    /// Whether each stays on a processor of its own: auto, always or never
    #[arg(long, value_enum, default_value_t, hide_possible_values = true)]
    pin_threads: Pinning,
    /// Where there are several memory nodes: auto or never
    #[arg(long, value_enum, default_value_t, hide_possible_values = true)]
    numa: Numa,
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
    /// Leave out what the machine can do at most, which is measured between the
    /// runs and takes 512 MiB or more
    #[arg(long)]
    no_limits: bool,
    /// Directory of the counters of energy, as Linux' power capping framework has them
    #[arg(long, value_name = "DIR", default_value = POWERCAP)]
    powercap_dir: PathBuf,
    /// Tell what this node can serve, and with which settings
    #[arg(long, conflicts_with_all = ["pp", "tg", "batch", "depth", "repeat"])]
    advise: bool,
    /// With --advise: tokens a second that each stream gets at least
    #[arg(long, default_value_t = 10.0, value_name = "N", requires = "advise", value_parser = rate)]
    rate: f64,
    /// With --advise: tokens of a prompt, on average
    #[arg(long, default_value_t = 512, value_name = "N", requires = "advise", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    prompt_tokens: u32,
    /// With --advise: tokens of an answer, on average
    #[arg(long, default_value_t = 128, value_name = "N", requires = "advise", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    output_tokens: u32,
    /// Bounds of threads, memory, streams and context that go together, as for
    /// the setting of that name: mobile, edge, server or cloud
    #[arg(long, value_name = "NAME")]
    preset: Option<&'static Preset>,
    /// Print one JSON object a test, a line each
    #[arg(long)]
    json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok();
    let rate = rate.filter(|rate| (0.01..=10_000.0).contains(rate));
    rate.ok_or_else(|| "is not a number between 0.01 and 10000".to_owned())
}

/// Where weights come from.
enum Source {
    File(Arc<Model>),
    /// Made once there is room for them.
    Synthetic(Architecture),
}

impl Source {
    fn open(arguments: &BenchArguments) -> anyhow::Result<Source> {
        Ok(match &arguments.synthetic {
            Some(shape) => {
                Source::Synthetic(architecture_of(shape).context("clap checks the name")?)
            }
            None => Source::File(Arc::new(launch::open_model(arguments.model.as_deref())?)),
        })
    }

    fn name(&self) -> &str {
        match self {
            Source::File(model) => &model.name,
            Source::Synthetic(architecture) => &architecture.family,
        }
    }

    fn architecture(&self) -> &Architecture {
        match self {
            Source::File(model) => &model.architecture,
            Source::Synthetic(architecture) => architecture,
        }
    }

    fn kv_precision(&self) -> KvPrecision {
        match self {
            Source::File(model) => model.dialect().kv_precision(),
            Source::Synthetic(_) => Synthetic::DIALECT.kv_precision(),
        }
    }

    fn weights(self, team: &Team) -> Arc<dyn WeightSource> {
        match self {
            Source::File(model) => model,
            Source::Synthetic(architecture) => Arc::new(Synthetic::new(architecture, team)),
        }
    }
}

/// How much is asked of the executor.
struct Extent {
    /// Tokens of the longest context.
    longest: usize,
    num_blocks: usize,
    /// Of the largest step.
    step_tokens: usize,
}

/// Runs the command.
pub(crate) fn run(arguments: &BenchArguments) -> anyhow::Result<()> {
    let preset = arguments.preset;
    let source = Source::open(arguments)?;
    let name = source.name().to_owned();
    let architecture = source.architecture().clone();
    let placement = launch::place(Wanted {
        threads: arguments.threads.map(usize::from),
        most: preset.and_then(|preset| preset.threads),
        pinning: arguments.pin_threads,
        numa: arguments.numa,
    });
    let threads = placement.threads;
    let team = launch::team(&placement);
    let kernel = choose_kernel(arguments, &architecture, &team)?;

    let precision = arguments.kv.unwrap_or(source.kv_precision());
    let token_bytes = kv_token_bytes(&architecture, precision);
    let mut room = memory_room();
    if let Some(bytes) = preset.and_then(|preset| preset.memory) {
        room = room.at_most(bytes, "preset");
    }
    let memory = room.left;
    let need = |kv_tokens: usize, step_tokens: usize| {
        let kv = kv_tokens as u64 * token_bytes as u64;
        Need::of(&architecture, &kernel, arguments.head, kv, step_tokens)
    };
    let wish = Wish {
        tokens_per_second: arguments.rate,
        prompt_tokens: arguments.prompt_tokens as usize,
        output_tokens: arguments.output_tokens as usize,
    };
    let context = preset
        .and_then(|preset| preset.context)
        .unwrap_or(usize::MAX)
        .min(architecture.context);
    let max_streams = match arguments.advise {
        true => {
            let most = preset.map_or(MAX_STREAMS, |preset| preset.max_num_seqs);
            let rest = memory.saturating_sub(need(0, PROMPT_STEP)?.total());
            let stream = (wish.pages() * BLOCK_SIZE * token_bytes) as u64;
            // One more for the prompt that is computed beside them.
            let fit = (rest / stream).saturating_sub(1);
            usize::try_from(fit).unwrap_or(most).clamp(1, most)
        }
        false => 0,
    };
    let extent = match arguments.advise {
        true => Extent::of_advice(&wish, max_streams, context)?,
        false => Extent::of_tests(arguments, architecture.context)?,
    };
    let kv_tokens = extent.num_blocks * BLOCK_SIZE;
    let full = need(kv_tokens, extent.step_tokens)?;
    anyhow::ensure!(
        full.total() <= memory,
        "{name} needs {full}, which are {} bytes; {room}",
        full.total(),
    );

    // Not before plugins were tried, by processes that take after this thread.
    placement.pin(0);
    let weights = source.weights(&team);
    let loaded = Arc::new(launch::pack(weights, None, &kernel, arguments.head, &team)?);
    let kv = KvConfig {
        num_blocks: extent.num_blocks,
        block_size: BLOCK_SIZE,
        precision,
    };
    let subject = Subject {
        threads,
        kv: kv.precision.to_string(),
        model: name,
        kernel: format!("{} ({})", kernel.name(), kernel.isa()),
        head: match loaded.head_variant() {
            Some(isa) => format!("{} ({isa})", loaded.head()),
            None => loaded.head().to_string(),
        },
        head_state_bytes: loaded.head_state_bytes(),
    };
    let mut bench = Bench {
        ternary_bytes: loaded.ternary_bytes(),
        head: HeadUse::of(&loaded, architecture.vocab),
        token_bytes,
        vocab: architecture.vocab,
        wanted: match arguments.top_k {
            0 => WantedLogits::All,
            count => WantedLogits::Some {
                sought: Sought::Largest(count),
                among: architecture.vocab,
                named_begin: 0,
                named_len: 0,
            },
        },
        executor: CpuExecutor::new(loaded, Arc::clone(&team), kv, extent.longest),
        batch: Batch::default(),
    };
    if arguments.advise || arguments.depth.iter().any(|depth| *depth > 0) {
        bench.executor.make_up_context();
    }
    // The first pass touches every page of weights and scratch.
    bench.prompt(0, extent.longest.clamp(1, 32))?;
    let resident = Resident::now();
    let memory_to_read = match arguments.no_limits {
        true => None,
        false => Some(ReadBandwidth::new().context("no memory to measure bandwidth with")?),
    };
    let limits = memory_to_read.as_ref();
    let limits = limits
        .map(|memory| Limits::new(memory, &team))
        .transpose()?;
    if arguments.advise {
        let node = Node {
            subject: &subject,
            placement: &placement,
            preset,
            limit: limits.map(|limits| limits.measure(&team)),
            memory,
            need: need(0, PROMPT_STEP)?,
            kv,
            page_bytes: (BLOCK_SIZE * token_bytes) as u64,
            context,
            max_streams,
        };
        return advice::advise(&mut bench, &node, wish, arguments.json);
    }
    Tests {
        subject,
        token_products: token_products(&architecture),
        team,
        bench,
        resident,
        read_bytes: memory_to_read.as_ref().map_or(0, ReadBandwidth::bytes),
        limits,
        energy: Energy::open(&arguments.powercap_dir),
    }
    .run(arguments)
}

fn choose_kernel(
    arguments: &BenchArguments,
    architecture: &Architecture,
    team: &Arc<Team>,
) -> anyhow::Result<Kernel> {
    let search = KernelSearch::simple(&arguments.plugin_dirs, arguments.kernel.as_deref())?;
    let mut contest = Contest {
        architecture,
        team,
        budget: TIMING_BUDGET,
        thorough: true,
        cache: None,
        quiet: &|| {},
        measured: Measured::default(),
        is_settled: false,
    };
    let mut choose = |kernels: &[Kernel]| contest.decide(kernels);
    Ok(search.survey(architecture, &mut choose)?.selected()?)
}

/// int8 products that a token makes with all ternary matrices.
fn token_products(architecture: &Architecture) -> usize {
    let layer = Projection::ALL.map(|projection| {
        let (rows, cols) = projection.shape(architecture);
        rows * cols
    });
    architecture.layers * layer.iter().sum::<usize>()
}

impl Extent {
    fn of_tests(arguments: &BenchArguments, context: usize) -> anyhow::Result<Extent> {
        let BenchArguments { pp, tg, .. } = *arguments;
        let deepest = arguments.depth.iter().copied().max().unwrap_or(0);
        let longest = pp.max(tg).saturating_add(deepest);
        anyhow::ensure!(
            longest <= context,
            "--depth and a test make {longest} tokens, more than the model's context of {context}",
        );
        let widest = arguments.batch.iter().copied().max().unwrap_or(1);
        anyhow::ensure!(
            !arguments.batch.contains(&0) && widest <= 4096,
            "--batch: {:?} must be between 1 and 4096",
            arguments.batch,
        );
        let blocks = |tokens: usize| tokens.div_ceil(BLOCK_SIZE);
        Ok(Extent {
            longest,
            num_blocks: blocks(longest).max(blocks(deepest + tg) * widest).max(1),
            step_tokens: widest.max(pp.min(PROMPT_STEP)),
        })
    }

    fn of_advice(wish: &Wish, max_streams: usize, context: usize) -> anyhow::Result<Extent> {
        let longest = wish.prompt_tokens + wish.output_tokens;
        anyhow::ensure!(
            longest <= context,
            "--prompt-tokens and --output-tokens make {longest} tokens, more than the context of \
             {context}",
        );
        Ok(Extent {
            longest,
            num_blocks: wish.pages() * (max_streams + 1),
            step_tokens: max_streams + PROMPT_STEP,
        })
    }
}

/// The tests of a call, and what is measured beside them.
struct Tests<'a> {
    subject: Subject,
    token_products: usize,
    team: Arc<Team>,
    bench: Bench,
    /// Before there was memory to measure bandwidth with, ...
    resident: Option<Resident>,
    /// ... which is so much.
    read_bytes: usize,
    limits: Option<Limits<'a>>,
    energy: Option<Energy>,
}

impl Tests<'_> {
    fn run(&mut self, arguments: &BenchArguments) -> anyhow::Result<()> {
        let BenchArguments {
            pp,
            tg,
            repeat,
            json,
            ..
        } = *arguments;
        for depth in arguments.depth.iter().copied() {
            if pp > 0 {
                let samples = self.samples(repeat, |bench| bench.prompt(depth, pp))?;
                self.report(format!("pp{pp}"), 1, depth, samples, json)?;
            }
            if tg == 0 {
                continue;
            }
            for batch in arguments.batch.iter().copied() {
                let samples = self.samples(repeat, |bench| bench.generation(batch, depth, tg))?;
                self.report(format!("tg{tg}"), batch, depth, samples, json)?;
            }
        }
        if !json && let Some(memory) = self.memory() {
            println!("memory   {memory}");
        }
        Ok(())
    }

    /// What is resident, but for what bandwidth is measured with.
    fn memory(&self) -> Option<Resident> {
        let (before, now) = self.resident.zip(Resident::now())?;
        let own = self.read_bytes as u64;
        Some(Resident {
            peak_bytes: before.peak_bytes.max(now.peak_bytes.saturating_sub(own)),
            anonymous_bytes: now.anonymous_bytes.saturating_sub(own),
            file_bytes: now.file_bytes,
        })
    }

    fn samples(
        &mut self,
        repeat: u16,
        mut run: impl FnMut(&mut Bench) -> anyhow::Result<Run>,
    ) -> anyhow::Result<Vec<Sample>> {
        let sample = |_| {
            let limit = self
                .limits
                .as_ref()
                .map(|limits| limits.measure(&self.team));
            let before = self.energy.as_mut().map(joules);
            let run = run(&mut self.bench)?;
            let after = self.energy.as_mut().map(joules);
            Ok(Sample {
                run,
                limit,
                joules: after.zip(before).map(|(after, before)| after - before),
            })
        };
        (0..repeat).map(sample).collect()
    }

    fn report(
        &self,
        name: String,
        batch: usize,
        depth: usize,
        samples: Vec<Sample>,
        json: bool,
    ) -> anyhow::Result<()> {
        let test = Test {
            name,
            batch,
            depth,
            token_products: self.token_products,
        };
        Row::new(test, &self.subject, samples, self.memory()).print(json)
    }
}

fn joules(energy: &mut Energy) -> f64 {
    energy.sample();
    energy.joules()
}

/// For the choice among several kernels.
const TIMING_BUDGET: Duration = Duration::from_secs(1);

/// Streams that advice goes up to: beyond, steps of one token each take longer
/// than readers like.
const MAX_STREAMS: usize = 64;

/// Tokens of the largest step of a prompt.
const PROMPT_STEP: usize = passes::PROMPT_CHUNK;
