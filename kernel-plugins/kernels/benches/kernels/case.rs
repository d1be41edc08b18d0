//! One kernel, shape, batch and team.

use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use memmap2::{MmapMut, MmapOptions};
use ternion_kernels::team::Team;

use crate::contender::{Contender, Work};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.cols)
    }
}

/// Bytes of packed weights that are gone through before the first come again:
/// eight times the third-level cache of the machine this was written on.
const WORKING_SET: usize = 256 << 20;

/// Bytes times tokens of a region. A team takes a microsecond or two to come
/// together, and the server too asks it for more than one small matrix at once.
const REGION: usize = 16 << 20;

/// Rows that a thread takes at a time are what the server's would be.
const MAX_CHUNK_ROWS: usize = 320;

/// Copies of a packed matrix, each at its own place in memory.
pub(crate) struct Matrices {
    shape: Shape,
    bytes: usize,
    /// On huge pages where they are to be had: small ones cost a fifth of the
    /// bandwidth, which is no property of a kernel.
    memory: MmapMut,
}

impl Matrices {
    pub(crate) fn new(contender: &dyn Contender, shape: Shape) -> Matrices {
        let trits: Vec<i8> = (0..shape.rows * shape.cols)
            .map(|i| (i * i % 3) as i8 - 1)
            .collect();
        let packed = contender.pack(shape, &trits);
        let copies = WORKING_SET.div_ceil(packed.len());
        let mut memory = MmapOptions::new()
            .len(copies * packed.len())
            .map_anon()
            .expect("memory for the matrices");
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        for copy in memory.chunks_exact_mut(packed.len()) {
            copy.copy_from_slice(&packed);
        }
        Matrices {
            shape,
            bytes: packed.len(),
            memory,
        }
    }

    fn copies(&self) -> usize {
        self.memory.len() / self.bytes
    }

    fn packed(&self, index: usize) -> &[u8] {
        &self.memory[index * self.bytes..][..self.bytes]
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// Bytes of one.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A worker's results behind a lock that no other worker's lies beside: in one
/// cache line, two cores on two dies lost a tenth with 640 rows and 8 tokens.
#[repr(align(128))]
struct Own(Mutex<Vec<i32>>);

pub(crate) struct Case<'a> {
    contender: &'a dyn Contender,
    matrices: &'a Matrices,
    batch: usize,
    prepared: Vec<u8>,
    team: &'a Team,
    /// Matrices of a region, and the first of the next.
    per_region: usize,
    next: usize,
    chunks: Vec<Range<usize>>,
    sums: Vec<Own>,
}

impl<'a> Case<'a> {
    pub(crate) fn new(
        contender: &'a dyn Contender,
        matrices: &'a Matrices,
        batch: usize,
        team: &'a Team,
    ) -> Case<'a> {
        let Shape { rows, cols } = matrices.shape;
        let x: Vec<i8> = (0..cols * batch).map(|i| (i * 37 % 255) as i8).collect();
        let tile = contender.row_tile();
        let step = (rows / (4 * team.size()))
            .clamp(tile, MAX_CHUNK_ROWS.max(tile))
            .next_multiple_of(tile);
        Case {
            contender,
            matrices,
            batch,
            prepared: contender.prepare(cols, batch, &x),
            team,
            per_region: REGION
                .div_ceil(matrices.bytes() * batch)
                .min(matrices.copies()),
            next: 0,
            chunks: (0..rows)
                .step_by(step)
                .map(|first| first..rows.min(first + step))
                .collect(),
            sums: (0..team.size())
                .map(|_| Own(Mutex::new(vec![0; batch * step])))
                .collect(),
        }
    }

    /// The time of so many products of a whole matrix, rounded up to regions
    /// and scaled back.
    pub(crate) fn run(&mut self, products: u64) -> Duration {
        let regions = products.div_ceil(self.per_region as u64);
        let start = Instant::now();
        for _ in 0..regions {
            self.region();
        }
        let scale = products as f64 / (regions * self.per_region as u64) as f64;
        start.elapsed().mul_f64(scale)
    }

    fn region(&mut self) {
        let Case {
            contender,
            matrices,
            batch,
            prepared,
            chunks,
            sums,
            ..
        } = &*self;
        self.team
            .run(self.per_region * chunks.len(), &|worker, chunk| {
                let matrix = (self.next + chunk / chunks.len()) % matrices.copies();
                let rows = chunks[chunk % chunks.len()].clone();
                let mut sums = sums[worker].0.lock().expect("a worker's own");
                let work = Work {
                    shape: matrices.shape,
                    batch: *batch,
                    packed: matrices.packed(matrix),
                    prepared,
                };
                let len = batch * rows.len();
                contender.multiply(&work, rows, &mut sums[..len]);
            });
        self.next = (self.next + self.per_region) % self.matrices.copies();
    }
}
