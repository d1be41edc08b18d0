//! Ternary linear layers that share their input.

use std::ops::Range;
use std::sync::Mutex;

use half::bf16;
use ternion_kernel_host::{Kernel, KernelError, PackedMatrix, Prepared};
use ternion_kernels::float::{add_scaled, add_scaled_sums, dot, scale_sums};
use ternion_kernels::team::Team;

use crate::dialect::Products;

/// A ternary matrix in the kernel's layout, with its multiplier.
pub(crate) struct Linear {
    pub(crate) weights: PackedMatrix,
    pub(crate) scale: f32,
    pub(crate) lora: Option<Lora>,
}

/// A low-rank addition `scaling * B(A(x))` on the layer's unquantised input.
pub(crate) struct Lora {
    pub(crate) rank: usize,
    /// `[rank, cols]`.
    pub(crate) a: Vec<f32>,
    /// `[rows, rank]`.
    pub(crate) b: Vec<f32>,
    pub(crate) scaling: f32,
}

/// Layers that read the same activations, such as q, k and v: quantised and
/// prepared once, computed in one parallel region, their outputs side by side.
pub(crate) struct LinearGroup {
    linears: Vec<Linear>,
    /// What a worker computes at a time: a layer and some of its rows.
    chunks: Vec<(usize, Range<usize>)>,
    /// Columns of the output that each chunk fills.
    columns: Vec<Range<usize>>,
    width: usize,
    products: Products,
}

/// One token's activations as int8, for each token of a batch.
pub(crate) struct Quantised<'a> {
    pub(crate) batch: usize,
    /// Before quantisation, `[batch, cols]`: what low-rank additions read.
    /// Empty where there are none.
    pub(crate) exact: &'a [f32],
    /// Blocks of tokens, one after the other.
    pub(crate) prepared: &'a [Prepared],
    /// Scale of each token.
    pub(crate) scales: &'a [f32],
}

/// What becomes of a result.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    Replace,
    /// Adds to what is there: the residual stream.
    Add,
}

/// Rows per chunk at most. Of 512 tokens their int32 results take 640 KiB,
/// which a second-level cache of one MiB holds. Fewer rows cost one token a
/// tenth of its speed on two threads, as every chunk begins with a wait for
/// memory.
const MAX_CHUNK_ROWS: usize = 320;
/// Bytes of weights in a chunk at least, or thereabouts.
const MIN_CHUNK_BYTES: usize = 48 << 10;

impl LinearGroup {
    pub(crate) fn new(
        linears: Vec<Linear>,
        products: Products,
        kernel: &Kernel,
        team_size: usize,
    ) -> LinearGroup {
        let width: usize = linears.iter().map(|linear| linear.weights.rows()).sum();
        let tile = kernel.row_tile();
        let bytes: usize = linears.iter().map(|linear| linear.weights.bytes()).sum();
        let least = MIN_CHUNK_BYTES * width / bytes.max(1);
        let mut chunks = Vec::new();
        let mut columns = Vec::new();
        let mut offset = 0;
        for (index, linear) in linears.iter().enumerate() {
            let rows = linear.weights.rows();
            for rows in divide(offset..offset + rows, (width, team_size), tile, least) {
                chunks.push((index, rows.start - offset..rows.end - offset));
                columns.push(rows);
            }
            offset += rows;
        }
        LinearGroup {
            linears,
            chunks,
            columns,
            width,
            products,
        }
    }

    /// The same in other memory, without low-rank additions.
    pub(crate) fn try_clone(&self) -> Result<LinearGroup, KernelError> {
        let copy = |linear: &Linear| {
            Ok(Linear {
                weights: linear.weights.try_clone()?,
                scale: linear.scale,
                lora: None,
            })
        };
        Ok(LinearGroup {
            linears: self.linears.iter().map(copy).collect::<Result<_, _>>()?,
            chunks: self.chunks.clone(),
            columns: self.columns.clone(),
            width: self.width,
            products: self.products,
        })
    }

    /// Values a token has in the input.
    pub(crate) fn cols(&self) -> usize {
        self.linears[0].weights.cols()
    }

    /// Values a token has in the output.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Bytes of packed weights.
    pub(crate) fn bytes(&self) -> usize {
        self.linears
            .iter()
            .map(|linear| linear.weights.bytes())
            .sum()
    }

    /// Says that this will be computed soon: the team may fetch weights while it
    /// waits.
    pub(crate) fn expect(&self, team: &Team) {
        team.expect(&self.columns, |chunk| {
            let (index, rows) = &self.chunks[chunk];
            self.linears[*index].weights.from_row(rows.start)
        });
    }

    /// Computes `out`, `[batch, width]`.
    ///
    /// For each output `y = sum / s * w_s`, the exact integer sum divided by
    /// the token's scale and multiplied by the matrix's, in that order, as
    /// bitnet.cpp does; then the low-rank addition, if there is one.
    pub(crate) fn forward(
        &self,
        kernel: &Kernel,
        team: &Team,
        workers: &[Mutex<Sums>],
        input: &Quantised<'_>,
        write: Write,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let low = self.project_low(input);
        let failure = Failure::default();
        team.columns(
            out,
            self.width,
            &self.columns,
            |worker, chunk, mut columns| {
                let (index, rows) = &self.chunks[chunk];
                let linear = &self.linears[*index];
                let mut sums = workers[worker].lock().expect("a worker's own scratch");
                let mut first = 0;
                for prepared in input.prepared {
                    let sums = sums.of_len(prepared.batch() * rows.len());
                    let weights = &linear.weights;
                    let outcome = kernel.gemm(weights, prepared, rows.clone(), sums, rows.len());
                    if failure.note(outcome).is_none() {
                        return;
                    }
                    for (token, sums) in (first..).zip(sums.chunks_exact(rows.len())) {
                        let out = columns.row(token);
                        let scales = (input.scales[token], linear.scale);
                        self.scale(sums, scales, write, out);
                        if let Some(lora) = &linear.lora {
                            lora.add(rows.clone(), low[*index].token(token), out);
                        }
                    }
                    first += prepared.batch();
                }
            },
        );
        failure.into_result()
    }

    /// `sum / s * w_s` of each sum.
    fn scale(&self, sums: &[i32], (s, w_s): (f32, f32), write: Write, out: &mut [f32]) {
        match (self.products, write) {
            (Products::Exact, Write::Replace) => scale_sums(sums, s, w_s, out),
            (Products::Exact, Write::Add) => add_scaled_sums(sums, s, w_s, out),
            (Products::Bf16, _) => {
                let round = |sum: &i32| bf16::from_f32(*sum as f32).to_f32();
                let scaled = sums.iter().map(|sum| round(sum) / s * w_s);
                let outs = out.iter_mut().zip(scaled);
                match write {
                    Write::Replace => outs.for_each(|(out, y)| *out = y),
                    Write::Add => outs.for_each(|(out, y)| *out += y),
                }
            }
        }
    }

    /// Whether it reads activations before quantisation.
    pub(crate) fn reads_exact(&self) -> bool {
        self.linears.iter().any(|linear| linear.lora.is_some())
    }

    fn project_low(&self, input: &Quantised<'_>) -> Vec<Low> {
        if !self.reads_exact() {
            return Vec::new();
        }
        self.linears
            .iter()
            .map(|linear| match &linear.lora {
                Some(lora) => lora.project(input.exact, input.batch),
                None => Low::default(),
            })
            .collect()
    }
}

/// Cuts some of `width` rows, which a matrix has, into chunks of whole tiles.
/// Each worker's share of all rows begins with large ones, as it is through
/// them soonest, and ends with small ones: nobody waits long for the last.
fn divide(
    rows: Range<usize>,
    (width, team_size): (usize, usize),
    tile: usize,
    least: usize,
) -> Vec<Range<usize>> {
    let [least, most] = [least, MAX_CHUNK_ROWS].map(|rows| rows.next_multiple_of(tile));
    let mut chunks = Vec::new();
    let mut first = rows.start;
    for worker in 1..=team_size {
        // A matrix begins with a tile, a share need not.
        let share_end = worker * width / team_size;
        let end = share_end.clamp(first, rows.end);
        let end = rows
            .end
            .min(rows.start + (end - rows.start).next_multiple_of(tile));
        while first < end {
            let half = (end - first).div_ceil(2).next_multiple_of(tile);
            let next = end.min(first + half.clamp(least, most.max(least)));
            chunks.push(first..next);
            first = next;
        }
    }
    chunks
}

/// The first error of a region.
#[derive(Default)]
pub(crate) struct Failure(Mutex<Option<KernelError>>);

impl Failure {
    /// What came of a call, unless it failed.
    pub(crate) fn note<T>(&self, outcome: Result<T, KernelError>) -> Option<T> {
        outcome
            .map_err(|error| {
                let mut first = self.0.lock().expect("no panic under this lock");
                first.get_or_insert(error);
            })
            .ok()
    }

    pub(crate) fn into_result(self) -> Result<(), KernelError> {
        let first = self.0.into_inner().expect("no panic under this lock");
        first.map_or(Ok(()), Err)
    }
}

/// `A(x)` of every token, `[batch, rank]`.
#[derive(Default)]
struct Low {
    rank: usize,
    values: Vec<f32>,
}

impl Low {
    fn token(&self, token: usize) -> &[f32] {
        &self.values[token * self.rank..][..self.rank]
    }
}

impl Lora {
    fn project(&self, exact: &[f32], batch: usize) -> Low {
        let cols = self.a.len() / self.rank;
        let values = exact
            .chunks_exact(cols)
            .take(batch)
            .flat_map(|x| self.a.chunks_exact(cols).map(move |row| dot(row, x)))
            .collect();
        Low {
            rank: self.rank,
            values,
        }
    }

    fn add(&self, rows: Range<usize>, low: &[f32], out: &mut [f32]) {
        for (row, out) in rows.zip(out) {
            let b = &self.b[row * self.rank..][..self.rank];
            add_scaled(self.scaling, &[dot(b, low)], std::slice::from_mut(out));
        }
    }
}

/// A worker's integer results. Grows to the largest batch seen.
#[derive(Default)]
pub(crate) struct Sums(Vec<i32>);

impl Sums {
    fn of_len(&mut self, len: usize) -> &mut [i32] {
        if self.0.len() < len {
            self.0.resize(len, 0);
        }
        &mut self.0[..len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_begin_with_large_chunks_and_end_with_small_ones() {
        let chunks = divide(0..2560, (2560, 2), 32, 64);
        let half = [320, 320, 320, 160, 96, 64];
        let sizes: Vec<_> = chunks.iter().map(ExactSizeIterator::len).collect();
        assert_eq!(sizes, [half, half].concat());
    }

    #[test]
    fn chunks_are_whole_tiles_and_all_rows() {
        for (matrices, team_size, tile) in [
            (vec![2560, 640, 640], 2, 32),
            (vec![6912, 6912], 2, 128),
            (vec![6912, 6912], 7, 32),
            (vec![40], 3, 32),
            (vec![1, 33, 64], 16, 32),
            (vec![32; 5], 1, 32),
        ] {
            let width = matrices.iter().sum();
            let mut offset = 0;
            for rows in matrices {
                let mut end = offset;
                for chunk in divide(offset..offset + rows, (width, team_size), tile, 50) {
                    assert_eq!(chunk.start, end);
                    assert!(!chunk.is_empty() && chunk.len() < MAX_CHUNK_ROWS + tile);
                    let is_whole = chunk.len().is_multiple_of(tile) || chunk.end == offset + rows;
                    assert!(is_whole, "{chunk:?} of {offset} and {rows}");
                    end = chunk.end;
                }
                offset += rows;
                assert_eq!(end, offset);
            }
        }
    }
}
