//! Which of the kernels that work is used: the one that is fastest here, as
//! [timed](ternion_compute::timing) at a start and remembered for the next.

use std::{
    collections::BTreeSet,
    fmt,
    io::{Read, Write},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use ternion_compute::timing::{self, KernelTiming, Timing};
use ternion_kernel_host::{CacheDir, CacheError, Choice, Kernel, Sha256, cpu_features};
use ternion_kernels::team::Team;
use ternion_model::Architecture;

/// Of what is written here. Another number is another question.
const FORMAT: u32 = 1;
const MAX_REMEMBERED_BYTES: u64 = 1 << 20;
const MAX_CPUINFO_BYTES: u64 = 1 << 20;

/// How a choice is made.
pub(crate) struct Contest<'a> {
    pub(crate) architecture: &'a Architecture,
    pub(crate) team: &'a Team,
    pub(crate) budget: Duration,
    /// Time all kernels to the end, and don't ask the cache.
    pub(crate) thorough: bool,
    pub(crate) cache: Option<&'a CacheDir>,
    /// Waits until nothing else of this process would disturb a measurement.
    pub(crate) quiet: &'a dyn Fn(),
    /// What the choice was made by; nothing, where there was none.
    pub(crate) measured: Measured,
    /// Whether there was the time to measure it all.
    pub(crate) is_settled: bool,
}

/// What was measured, now or before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// As they were given.
    pub(crate) kernels: Vec<MeasuredKernel>,
}

/// A kernel, by its file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MeasuredKernel {
    pub(crate) name: String,
    pub(crate) sha256: String,
    /// How many times longer than the best it takes, all in all; none if it
    /// was not timed to the end.
    pub(crate) cost: Option<f64>,
    pub(crate) timings: Vec<MeasuredPart>,
}

impl MeasuredKernel {
    /// Seconds of a whole layer by number of tokens, of those that were
    /// measured in all parts that any was measured in.
    pub(crate) fn layers(&self) -> Vec<(usize, f64)> {
        let batches: BTreeSet<usize> = self.timings.iter().map(|part| part.batch).collect();
        let of = |batch| self.timings.iter().filter(move |part| part.batch == batch);
        let most = batches.iter().map(|batch| of(*batch).count()).max();
        batches
            .iter()
            .filter(|batch| Some(of(**batch).count()) == most)
            .map(|batch| (*batch, of(*batch).map(|part| part.seconds).sum()))
            .collect()
    }
}

impl fmt::Display for MeasuredKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cost {
            Some(cost) => write!(f, "{}: {cost:.3} times the best", self.name)?,
            None => write!(f, "{}: not timed to the end", self.name)?,
        }
        for (batch, seconds) in self.layers() {
            let milliseconds = seconds * 1e3;
            write!(f, "; a layer with batch {batch} in {milliseconds:.3} ms")?;
        }
        Ok(())
    }
}

/// The ternary matrices of a layer that share their input, with some tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MeasuredPart {
    pub(crate) part: String,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) batch: usize,
    pub(crate) seconds: f64,
    pub(crate) tokens_per_second: f64,
    /// Of packed weights.
    pub(crate) gb_per_second: f64,
}

/// What a choice depends on, and so is remembered by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Question {
    format: u32,
    server: String,
    cpu: String,
    cpu_features: Vec<String>,
    threads: usize,
    layers: usize,
    /// Rows and columns of the parts of a layer.
    parts: Vec<(usize, usize)>,
    /// Digests of the plugins, in their order.
    kernels: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    question: Question,
    measured: Measured,
    chosen: usize,
}

impl Contest<'_> {
    /// One of several kernels. None if there was no time to measure anything.
    pub(crate) fn decide(&mut self, kernels: &[Kernel]) -> Option<Choice> {
        if self.budget.is_zero() {
            return None;
        }
        let question = self.question(kernels);
        if let Some(remembered) = self.recall(&question) {
            self.measured = remembered.measured;
            let mut choice = self.choice(kernels, remembered.chosen);
            choice.why += ", measured at an earlier start";
            return Some(choice);
        }
        let Some(chosen) = self.measure(kernels) else {
            tracing::warn!("kernels could not be compared within kernel_timing_budget");
            return None;
        };
        // What was cut short by the budget, or by others' work, may be chance.
        if self.is_settled {
            self.remember(question, chosen);
        }
        Some(self.choice(kernels, chosen))
    }

    /// The fastest of them.
    pub(crate) fn measure(&mut self, kernels: &[Kernel]) -> Option<usize> {
        let begin = Instant::now();
        let timing = Timing {
            architecture: self.architecture,
            budget: self.budget,
            thorough: self.thorough,
        };
        (self.quiet)();
        let timings = timing::time_kernels(kernels, self.team, &timing);
        let seconds = begin.elapsed().as_secs_f64();
        tracing::info!(seconds, kernels = kernels.len(), "timed the kernels");
        self.measured = measured(kernels, &timings);
        self.is_settled = timings.iter().all(KernelTiming::is_settled);
        timing::fastest(&timings, kernels)
    }

    fn choice(&self, kernels: &[Kernel], chosen: usize) -> Choice {
        let cost = |index: usize| self.measured.kernels.get(index)?.cost;
        let second = (0..kernels.len())
            .filter(|index| *index != chosen)
            .filter_map(|index| Some((index, cost(index)?)))
            .min_by(|(_, a), (_, b)| a.total_cmp(b));
        let num_kernels = kernels.len();
        let why = match (second, cost(chosen)) {
            (Some((index, second)), Some(own)) if second >= own => format!(
                "fastest of {num_kernels} usable, {:.2} times as fast as {}",
                second / own,
                kernels[index].name()
            ),
            (Some((index, _)), Some(_)) => format!(
                "as fast as {} of {num_kernels} usable, and of a higher score",
                kernels[index].name()
            ),
            _ => format!("fastest of {num_kernels} usable, the others by far slower"),
        };
        Choice { index: chosen, why }
    }

    fn question(&self, kernels: &[Kernel]) -> Question {
        let parts = timing::parts(self.architecture);
        Question {
            format: FORMAT,
            server: env!("CARGO_PKG_VERSION").to_owned(),
            cpu: cpu_model(),
            cpu_features: cpu_features().into_iter().map(str::to_owned).collect(),
            threads: self.team.size(),
            layers: self.architecture.layers,
            parts: parts.map(|part| (part.rows, part.cols)).to_vec(),
            kernels: kernels.iter().map(digest).collect(),
        }
    }

    fn recall(&self, question: &Question) -> Option<Remembered> {
        let cache = self.cache.filter(|_| !self.thorough)?;
        match read(cache, question) {
            Ok(remembered) => remembered,
            Err(error) => {
                tracing::warn!(%error, "a remembered choice of kernel is not used");
                None
            }
        }
    }

    /// A start without a memory is only slower.
    fn remember(&self, question: Question, chosen: usize) {
        let Some(cache) = self.cache else {
            return;
        };
        let name = file_name(&question);
        let remembered = Remembered {
            question,
            measured: self.measured.clone(),
            chosen,
        };
        let written = cache.write(&name, |file| {
            let text = serde_json::to_vec_pretty(&remembered)?;
            file.write_all(&text)
        });
        if let Err(error) = written {
            tracing::warn!(%error, "the choice of kernel is not remembered");
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum RecallError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("{name}: {reason}")]
    Broken { name: String, reason: String },
}

fn read(cache: &CacheDir, question: &Question) -> Result<Option<Remembered>, RecallError> {
    let name = file_name(question);
    let Some(file) = cache.file(&name)? else {
        return Ok(None);
    };
    let broken = |reason: String| RecallError::Broken {
        name: name.clone(),
        reason,
    };
    let mut text = Vec::new();
    file.take(MAX_REMEMBERED_BYTES)
        .read_to_end(&mut text)
        .map_err(|error| broken(error.to_string()))?;
    let remembered: Remembered =
        serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    if remembered.question != *question {
        return Err(broken("answers another question".to_owned()));
    }
    let num_kernels = question.kernels.len();
    if remembered.chosen >= num_kernels || remembered.measured.kernels.len() != num_kernels {
        return Err(broken("names no kernel".to_owned()));
    }
    Ok(Some(remembered))
}

fn file_name(question: &Question) -> String {
    let text = serde_json::to_vec(question).expect("texts and numbers become JSON");
    format!("kernel-choice-{}.json", Sha256::of(&text))
}

fn measured(kernels: &[Kernel], timings: &[KernelTiming]) -> Measured {
    let costs = timing::costs(timings);
    let kernels = kernels
        .iter()
        .zip(timings)
        .zip(costs)
        .map(|((kernel, timing), cost)| MeasuredKernel {
            name: kernel.name().to_owned(),
            sha256: digest(kernel),
            cost,
            timings: timing
                .cells
                .iter()
                .map(|cell| MeasuredPart {
                    part: cell.part.name.to_owned(),
                    rows: cell.part.rows,
                    cols: cell.part.cols,
                    batch: cell.batch,
                    seconds: cell.seconds,
                    tokens_per_second: cell.batch as f64 / cell.seconds,
                    gb_per_second: cell.bytes as f64 / cell.seconds / 1e9,
                })
                .collect(),
        })
        .collect();
    for (kernel, timing) in timings.iter().enumerate() {
        if let Some(failure) = &timing.failure {
            tracing::error!(%failure, kernel, "a kernel failed while it was timed");
        }
    }
    Measured { kernels }
}

fn digest(kernel: &Kernel) -> String {
    kernel
        .sha256()
        .map(|digest| digest.to_string())
        .unwrap_or_default()
}

/// As the system calls the processor. Kernels only see its features, but its
/// caches and widths decide which is faster.
fn cpu_model() -> String {
    let mut text = String::new();
    if let Ok(file) = std::fs::File::open("/proc/cpuinfo") {
        // What was read before an error, or a text that isn't one, counts.
        let _ = file.take(MAX_CPUINFO_BYTES).read_to_string(&mut text);
    }
    // x86 tells a name, ARM numbers.
    let names = [
        "model name",
        "cpu family",
        "model",
        "CPU implementer",
        "CPU variant",
        "CPU part",
    ];
    let values: Vec<&str> = names
        .iter()
        .filter_map(|name| {
            text.lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim() == *name)
        })
        .map(|(_, value)| value.trim())
        .collect();
    values.join(" ")
}
