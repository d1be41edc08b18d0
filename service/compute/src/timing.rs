//! Which of several kernels is the fastest for a model here, by trying.
//!
//! What is timed is what a layer does with its ternary matrices: prepare the
//! activations once for the matrices that share them, and multiply, on all
//! threads of the team in the chunks that the forward pass uses. Weights are
//! random, in as many copies as it takes to leave the processor's caches, as a
//! model's layers do, and in no more than the model has layers.
//!
//! **Under a budget.** Of large matrices only as many rows are packed as the
//! budget has time for, and the times are scaled up. What counts most comes
//! first: single tokens before batches, large matrices before small ones.
//! Kernels take turns within each measurement, so that a disturbance hits all
//! alike; of each, the shortest time counts, as disturbances only ever add.
//! What isn't measured for all kernels counts for none.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ternion_kernel_host::{Kernel, KernelError, PackError, Prepared};
use ternion_kernels::team::Team;
use ternion_model::{Architecture, Projection};

use crate::dialect::Products;
use crate::linear::{Linear, LinearGroup, Quantised, Sums, Write};

/// Batches that are timed, and how much each counts: one sequence that
/// generates, several, and a prompt.
pub const BATCHES: [(usize, f64); 3] = [(1, 0.5), (8, 0.25), (MAX_BATCH, 0.25)];
const MAX_BATCH: usize = 64;

/// Kernels whose times differ by less are as good as each other, and their own
/// scores decide: a choice that changes with the weather helps nobody.
const INDISTINCT: f64 = 1.02;
/// A kernel that is slower by this factor is not timed any further, ...
const HOPELESS: f64 = 4.0;
/// ... if it was after so many tries: on a busy machine one may take any time.
const TRIES: usize = 3;

/// Weights packed of each part of a layer for each hundredth of a second of
/// the budget: it takes about a twentieth of the budget on one thread.
const WEIGHTS_PER_CENTISECOND: f64 = 1.0e5;
const MIN_WEIGHTS: usize = 1 << 19;

/// Where the processor doesn't say, and the most that is believed.
const CACHE_BYTES: usize = 32 << 20;
const MAX_CACHE_BYTES: usize = 256 << 20;

/// Shares of the budget after which packing and copying come to an end.
const PACKED_BY: f64 = 0.4;
const COPIED_BY: f64 = 0.6;
/// More don't make the shortest time shorter.
const MAX_ROUNDS: usize = 51;

/// How to time.
#[derive(Clone, Copy, Debug)]
pub struct Timing<'a> {
    /// Of the model.
    pub architecture: &'a Architecture,
    /// All of it, packing included.
    pub budget: Duration,
    /// Whether kernels that are clearly slower are timed all the same.
    pub thorough: bool,
}

/// Matrices of a layer that share their input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its projections, as in `q, k, v`.
    pub name: &'static str,
    /// Rows of its matrices together.
    pub rows: usize,
    /// Columns of each.
    pub cols: usize,
}

/// What a part takes with one number of tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// Which part.
    pub part: Part,
    /// How many tokens.
    pub batch: usize,
    /// Bytes of packed weights.
    pub bytes: usize,
    /// The shortest, preparation included.
    pub seconds: f64,
    /// How often it was measured.
    pub samples: usize,
}

/// What a kernel takes.
#[derive(Clone, Debug, Default)]
pub struct KernelTiming {
    /// Largest parts first, within each batch.
    pub cells: Vec<Cell>,
    /// Why there are no more.
    pub failure: Option<KernelError>,
    /// Was clearly slower, and so not timed to the end.
    pub is_hopeless: bool,
}

impl KernelTiming {
    /// Whether everything was measured often enough that another start would
    /// find the same.
    pub fn is_settled(&self) -> bool {
        let parts = BATCHES.len() * GROUPS.len();
        let often = self.cells.iter().all(|cell| cell.samples >= TRIES);
        self.is_hopeless || (often && self.cells.len() == parts)
    }

    /// A whole layer with so many tokens, if all of it was measured.
    fn seconds(&self, batch: usize, parts: &[Part]) -> Option<f64> {
        parts
            .iter()
            .map(|part| {
                let is_it = |cell: &&Cell| cell.part == *part && cell.batch == batch;
                self.cells.iter().find(is_it).map(|cell| cell.seconds)
            })
            .sum()
    }
}

/// The parts of a layer.
pub fn parts(architecture: &Architecture) -> [Part; 4] {
    GROUPS.map(|(name, projections)| Part {
        name,
        rows: projections.iter().map(|p| p.shape(architecture).0).sum(),
        cols: projections[0].shape(architecture).1,
    })
}

/// As the forward pass groups them.
const GROUPS: [(&str, &[Projection]); 4] = [
    ("q, k, v", &[Projection::Q, Projection::K, Projection::V]),
    ("o", &[Projection::O]),
    ("gate, up", &[Projection::Gate, Projection::Up]),
    ("down", &[Projection::Down]),
];

/// The fastest: that with the least geometric mean of its times through the
/// best, weighted as [`BATCHES`] says. None if too little was measured.
pub fn fastest(timings: &[KernelTiming], kernels: &[Kernel]) -> Option<usize> {
    let scores: Vec<i32> = kernels.iter().map(Kernel::score).collect();
    let costs = costs(timings);
    let least = costs.iter().flatten().copied().reduce(f64::min)?;
    (0..costs.len())
        .filter(|i| costs[*i].is_some_and(|cost| cost <= least * INDISTINCT))
        // Of equals the first.
        .reduce(|best, next| {
            if scores[next] > scores[best] {
                next
            } else {
                best
            }
        })
}

/// Of each kernel that was timed to the end, 1 for one that is the best at
/// everything.
pub fn costs(timings: &[KernelTiming]) -> Vec<Option<f64>> {
    let works = |timing: &&KernelTiming| timing.failure.is_none();
    let longest = timings.iter().filter(works).max_by_key(|t| t.cells.len());
    let Some(longest) = longest.filter(|longest| !longest.cells.is_empty()) else {
        return vec![None; timings.len()];
    };
    // What the longest was not measured at can't be compared.
    let batches: Vec<(f64, usize, Vec<Part>)> = BATCHES
        .iter()
        .map(|(batch, weight)| {
            let cells = longest.cells.iter().filter(|cell| cell.batch == *batch);
            (*weight, *batch, cells.map(|cell| cell.part).collect())
        })
        .filter(|(_, _, parts): &(_, _, Vec<Part>)| !parts.is_empty())
        .collect();
    let total_weight: f64 = batches.iter().map(|(weight, ..)| weight).sum();
    let log = |timing: &KernelTiming| -> Option<f64> {
        batches
            .iter()
            .map(|(weight, batch, parts)| {
                Some(weight / total_weight * timing.seconds(*batch, parts)?.ln())
            })
            .sum()
    };
    let logs: Vec<Option<f64>> = timings
        .iter()
        .map(|timing| works(&timing).then(|| log(timing)).flatten())
        .collect();
    // Relative to the best at each number of tokens.
    let best: f64 = batches
        .iter()
        .map(|(weight, batch, parts)| {
            let complete = timings.iter().zip(&logs).filter(|(_, log)| log.is_some());
            let seconds = complete.filter_map(|(timing, _)| timing.seconds(*batch, parts));
            weight / total_weight * seconds.fold(f64::INFINITY, f64::min).ln()
        })
        .sum();
    logs.into_iter()
        .map(|log| log.map(|log| (log - best).exp()))
        .collect()
}

/// Times each of some kernels.
pub fn time_kernels(kernels: &[Kernel], team: &Team, timing: &Timing<'_>) -> Vec<KernelTiming> {
    let begin = Instant::now();
    let mut contest = Contest {
        kernels,
        team,
        workers: (0..team.size()).map(|_| Mutex::default()).collect(),
        timings: vec![KernelTiming::default(); kernels.len()],
        matrices: Vec::new(),
    };
    let spent = |share: f64| begin.elapsed() >= timing.budget.mul_f64(share);
    let mut parts: Vec<(usize, Part)> =
        parts(timing.architecture).into_iter().enumerate().collect();
    parts.sort_by_key(|(_, part)| std::cmp::Reverse(part.rows * part.cols));
    let centiseconds = timing.budget.as_secs_f64() * 100.0;
    let max_weights = ((centiseconds * WEIGHTS_PER_CENTISECOND) as usize).max(MIN_WEIGHTS);
    for (group, part) in parts {
        if !contest.matrices.is_empty() && spent(PACKED_BY) {
            break;
        }
        let shapes = GROUPS[group].1.iter().map(|p| p.shape(timing.architecture));
        contest.pack(part, &shapes.collect::<Vec<_>>(), max_weights);
    }
    let copies = contest.num_copies(timing.architecture.layers);
    for _ in 1..copies {
        if spent(COPIED_BY) || contest.copy().is_err() {
            break;
        }
    }
    let mut samples = Samples::default();
    for round in 0..MAX_ROUNDS {
        for (batch, _) in BATCHES {
            // Whoever is dropped after the first round was tried several times.
            let tries = if round == 0 { TRIES } else { 1 };
            for (index, attempt) in (0..contest.matrices.len())
                .flat_map(|index| (0..tries).map(move |attempt| (index, attempt)))
            {
                // The first of all is measured however late it is.
                let is_first = (round, batch, index, attempt) == (0, BATCHES[0].0, 0, 0);
                if spent(1.0) && !is_first {
                    return contest.finish(&samples);
                }
                contest.measure(index, batch, round + attempt, &mut samples);
            }
            if round == 0 && !timing.thorough {
                contest.drop_hopeless(batch, &samples);
            }
        }
    }
    contest.finish(&samples)
}

/// Seconds by kernel, part and batch.
#[derive(Default)]
struct Samples(HashMap<(usize, usize, usize), Vec<f64>>);

impl Samples {
    fn shortest(&self, kernel: usize, part: usize, batch: usize) -> Option<f64> {
        let samples = self.0.get(&(kernel, part, batch))?;
        samples.iter().copied().reduce(f64::min)
    }
}

struct Contest<'a> {
    kernels: &'a [Kernel],
    team: &'a Team,
    workers: Vec<Mutex<Sums>>,
    timings: Vec<KernelTiming>,
    matrices: Vec<Matrices>,
}

/// A part's weights for each kernel.
struct Matrices {
    part: Part,
    /// By kernel, then by copy.
    packed: Vec<Vec<LinearGroup>>,
    /// How many times more there would be, were all rows packed.
    scale: f64,
    activations: Vec<i8>,
    prepared: Vec<Prepared>,
    out: Vec<f32>,
}

impl Contest<'_> {
    fn pack(&mut self, part: Part, shapes: &[(usize, usize)], max_weights: usize) {
        let shapes = self.cut(shapes, max_weights);
        let rows: usize = shapes.iter().map(|(rows, _)| rows).sum();
        let mut slots = Vec::new();
        slots.resize_with(self.kernels.len() * shapes.len(), || None);
        self.team.rows(&mut slots, 1, |_, index, slot| {
            let kernel = &self.kernels[index / shapes.len()];
            let (rows, cols) = shapes[index % shapes.len()];
            slot[0] = Some(pack(kernel, rows, cols));
        });
        let mut slots = slots.into_iter().map(|slot| slot.expect("each row ran"));
        let packed = self
            .kernels
            .iter()
            .zip(&mut self.timings)
            .map(|(kernel, timing)| {
                let linears = slots.by_ref().take(shapes.len()).collect::<Result<_, _>>();
                match linears {
                    Ok(linears) => {
                        let size = self.team.size();
                        vec![LinearGroup::new(linears, Products::Exact, kernel, size)]
                    }
                    Err(error) => {
                        timing.failure.get_or_insert(error);
                        Vec::new()
                    }
                }
            })
            .collect();
        self.matrices.push(Matrices {
            part,
            packed,
            scale: part.rows as f64 / rows as f64,
            activations: (0..MAX_BATCH * part.cols)
                .map(|i| (i * 89 % 251) as u8 as i8)
                .collect(),
            prepared: self.kernels.iter().map(|_| Prepared::default()).collect(),
            out: vec![0.0; MAX_BATCH * rows],
        });
    }

    /// As many rows of each matrix as the budget has time for, if every kernel
    /// takes such shapes.
    fn cut(&self, shapes: &[(usize, usize)], max_weights: usize) -> Vec<(usize, usize)> {
        let weights: usize = shapes.iter().map(|(rows, cols)| rows * cols).sum();
        let share = (max_weights as f64 / weights as f64).min(1.0);
        let cut: Vec<(usize, usize)> = shapes
            .iter()
            .map(|&(rows, cols)| {
                let some = (rows as f64 * share).ceil() as usize;
                (some.next_multiple_of(WHOLE_TILES).min(rows), cols)
            })
            .collect();
        let all_support = |&(rows, cols): &(usize, usize)| {
            self.kernels
                .iter()
                .all(|kernel| kernel.supports(rows, cols))
        };
        match cut.iter().all(all_support) {
            true => cut,
            false => shapes.to_vec(),
        }
    }

    /// As many as together are twice what the caches hold.
    fn num_copies(&self, layers: usize) -> usize {
        let groups = self.matrices.iter().flat_map(|matrices| &matrices.packed);
        let one: usize = groups.flatten().map(LinearGroup::bytes).sum();
        (2 * cache_bytes())
            .div_ceil(one.max(1))
            .clamp(1, layers.max(1))
    }

    fn copy(&mut self) -> Result<(), KernelError> {
        let mut groups: Vec<(&mut Vec<LinearGroup>, Option<LinearGroup>)> = self
            .matrices
            .iter_mut()
            .flat_map(|matrices| &mut matrices.packed)
            .filter(|copies| !copies.is_empty())
            .map(|copies| (copies, None))
            .collect();
        let failure = Mutex::new(None);
        self.team.rows(&mut groups, 1, |_, _, slot| {
            let (copies, copy) = &mut slot[0];
            match copies[0].try_clone() {
                Ok(cloned) => *copy = Some(cloned),
                Err(error) => *failure.lock().expect("no panic under this lock") = Some(error),
            }
        });
        for (copies, copy) in groups {
            copies.extend(copy);
        }
        failure
            .into_inner()
            .expect("no panic under this lock")
            .map_or(Ok(()), Err)
    }

    /// Each kernel once.
    fn measure(&mut self, index: usize, batch: usize, round: usize, samples: &mut Samples) {
        let num_kernels = self.kernels.len();
        for turn in 0..num_kernels {
            let kernel = (turn + round) % num_kernels;
            let timing = &mut self.timings[kernel];
            if timing.failure.is_some() || timing.is_hopeless {
                continue;
            }
            let matrices = &mut self.matrices[index];
            let begin = Instant::now();
            let outcome = matrices.run(
                kernel,
                &self.kernels[kernel],
                round,
                batch,
                self.team,
                &self.workers,
            );
            let seconds = begin.elapsed().as_secs_f64() * matrices.scale;
            match outcome {
                Ok(()) => samples
                    .0
                    .entry((kernel, index, batch))
                    .or_default()
                    .push(seconds),
                Err(error) => timing.failure = Some(error),
            }
        }
    }

    /// Whoever is far behind with so many tokens.
    fn drop_hopeless(&mut self, batch: usize, samples: &Samples) {
        let layer = |kernel: usize| -> Option<f64> {
            (0..self.matrices.len())
                .map(|part| samples.shortest(kernel, part, batch))
                .sum()
        };
        let layers: Vec<Option<f64>> = (0..self.kernels.len()).map(layer).collect();
        let best = layers
            .iter()
            .flatten()
            .copied()
            .fold(f64::INFINITY, f64::min);
        for (timing, seconds) in self.timings.iter_mut().zip(layers) {
            timing.is_hopeless |= seconds.is_some_and(|seconds| seconds > HOPELESS * best);
        }
    }

    fn finish(mut self, samples: &Samples) -> Vec<KernelTiming> {
        for (kernel, timing) in self.timings.iter_mut().enumerate() {
            for (batch, _) in BATCHES {
                for (index, matrices) in self.matrices.iter().enumerate() {
                    let Some(seconds) = samples.shortest(kernel, index, batch) else {
                        continue;
                    };
                    let num_samples = samples.0.get(&(kernel, index, batch)).map_or(0, Vec::len);
                    let bytes = matrices.packed[kernel]
                        .first()
                        .map_or(0, LinearGroup::bytes);
                    timing.cells.push(Cell {
                        part: matrices.part,
                        batch,
                        bytes: (bytes as f64 * matrices.scale) as usize,
                        seconds,
                        samples: num_samples,
                    });
                }
            }
        }
        self.timings
    }
}

impl Matrices {
    /// As a step of the forward pass does, on one copy of the weights.
    fn run(
        &mut self,
        index: usize,
        kernel: &Kernel,
        round: usize,
        batch: usize,
        team: &Team,
        workers: &[Mutex<Sums>],
    ) -> Result<(), KernelError> {
        let copies = &self.packed[index];
        let weights = &copies[round % copies.len()];
        let cols = self.part.cols;
        let prepared = &mut self.prepared[index];
        kernel.prepare(cols, batch, &self.activations[..batch * cols], prepared)?;
        let input = Quantised {
            batch,
            exact: &[],
            prepared: std::slice::from_ref(prepared),
            scales: &[1.0; MAX_BATCH][..batch],
        };
        let out = &mut self.out[..batch * weights.width()];
        weights.forward(kernel, team, workers, &input, Write::Replace, out)
    }
}

/// Rows are cut to a multiple of this, which is one of every kernel's tile.
const WHOLE_TILES: usize = 256;

/// Random weights, a new shift of the same row for each row.
fn pack(kernel: &Kernel, rows: usize, cols: usize) -> Result<Linear, KernelError> {
    const SHIFTS: usize = 1021;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let trits: Vec<i8> = (0..cols + SHIFTS)
        .map(|_| {
            // Xorshift.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 32) % 3) as i8 - 1
        })
        .collect();
    let packed = kernel.pack(rows, cols, |range, out| {
        for (row, out) in range.zip(out.chunks_exact_mut(cols)) {
            out.copy_from_slice(&trits[row * 37 % SHIFTS..][..cols]);
        }
        Ok::<(), Infallible>(())
    });
    match packed {
        Ok(weights) => Ok(Linear {
            weights,
            scale: 1.0,
            lora: None,
        }),
        Err(PackError::Kernel(error)) => Err(error),
        Err(PackError::Fill(never)) => match never {},
    }
}

/// The largest cache of the first processor.
fn cache_bytes() -> usize {
    let size = |index: usize| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        let text = fs::read_to_string(path).ok()?;
        let kibibytes: usize = text.trim().strip_suffix('K')?.parse().ok()?;
        kibibytes.checked_mul(1024)
    };
    let largest = (0..8).map_while(size).max();
    largest.unwrap_or(CACHE_BYTES).min(MAX_CACHE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: [Part; 2] = [
        Part {
            name: "gate, up",
            rows: 200,
            cols: 100,
        },
        Part {
            name: "o",
            rows: 100,
            cols: 100,
        },
    ];

    /// Seconds of both parts with 1, 8 and 64 tokens, as far as measured.
    fn timing(seconds: &[f64]) -> KernelTiming {
        let cells = BATCHES
            .iter()
            .flat_map(|(batch, _)| PARTS.map(|part| (*batch, part)))
            .zip(seconds)
            .map(|((batch, part), seconds)| Cell {
                part,
                batch,
                bytes: 1,
                seconds: *seconds,
                samples: TRIES,
            });
        KernelTiming {
            cells: cells.collect(),
            ..KernelTiming::default()
        }
    }

    #[track_caller]
    fn assert_costs(timings: &[KernelTiming], expected: &[Option<f64>]) {
        let costs = costs(timings);
        assert_eq!(costs.len(), expected.len());
        for (cost, expected) in costs.iter().zip(expected) {
            match (cost, expected) {
                (Some(cost), Some(expected)) => {
                    assert!((cost - expected).abs() < 1e-9, "{costs:?}");
                }
                (cost, expected) => assert_eq!(cost, expected, "{costs:?}"),
            }
        }
    }

    #[test]
    fn single_tokens_count_as_much_as_all_batches_together() {
        // Twice as fast at one token, half as fast at 64, the same at 8.
        let a = timing(&[1.0, 1.0, 4.0, 4.0, 8.0, 8.0]);
        let b = timing(&[2.0, 2.0, 4.0, 4.0, 4.0, 4.0]);
        assert_costs(&[a, b], &[Some(2_f64.powf(0.25)), Some(2_f64.powf(0.5))]);
    }

    #[test]
    fn parts_count_by_their_time() {
        let a = timing(&[9.0, 1.0, 9.0, 1.0, 9.0, 1.0]);
        let b = timing(&[8.0, 1.5, 8.0, 1.5, 8.0, 1.5]);
        assert_costs(&[a, b], &[Some(10.0 / 9.5), Some(1.0)]);
    }

    #[test]
    fn what_was_not_measured_counts_for_nobody() {
        // Only the larger part with one token.
        let short = [timing(&[3.0]), timing(&[2.0])];
        assert_costs(&short, &[Some(1.5), Some(1.0)]);
        assert_costs(&[timing(&[]), timing(&[])], &[None, None]);
        // One that was given up, and one that failed.
        let mut hopeless = timing(&[9.0, 9.0]);
        hopeless.is_hopeless = true;
        let mut failed = timing(&[0.1; 6]);
        failed.failure = Some(KernelError::Columns {
            matrix: 1,
            activations: 2,
        });
        let whole = timing(&[1.0; 6]);
        assert_costs(&[hopeless, failed, whole], &[None, None, Some(1.0)]);
    }

    #[test]
    fn only_the_shortest_of_several_times_counts() {
        let mut samples = Samples::default();
        samples.0.insert((0, 0, 1), vec![9.0, 1.0, 5.0]);
        assert_eq!(samples.shortest(0, 0, 1), Some(1.0));
        assert_eq!(samples.shortest(1, 0, 1), None);
    }

    #[test]
    fn what_was_cut_short_is_not_settled() {
        assert!(!timing(&[1.0; 6]).is_settled(), "half of the parts");
        let mut hopeless = timing(&[1.0]);
        hopeless.is_hopeless = true;
        assert!(hopeless.is_settled());
    }
}
