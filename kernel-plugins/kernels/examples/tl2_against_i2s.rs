//! tl2 against i2s, on the same matrices in the same minute: their best
//! variants, or those named on the command line, in turn, on one thread and on
//! two. For one and few tokens the matrices together are larger than any
//! cache, so that weights come from memory as they do in a model.

use std::hint::black_box;
use std::time::{Duration, Instant};

use ternion_kernels::kernel::{Kernel, Weights};
use ternion_kernels::{Output, i2s, tl2};

const SHAPES: [(usize, usize); 4] = [(2560, 2560), (640, 2560), (6912, 2560), (2560, 6912)];
const BATCHES: [usize; 7] = [1, 2, 4, 8, 16, 64, 512];
const WORKING_SET: usize = 192 << 20;
/// Rounds, in each of which every kernel has its turn.
const ROUNDS: usize = 5;

fn main() {
    let wanted: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let batches = match wanted.is_empty() {
        true => BATCHES.to_vec(),
        false => wanted,
    };
    let named = |name: &str| std::env::args().any(|arg| arg == name);
    let i2s = *i2s::Variant::available()
        .iter()
        .find(|variant| named(variant.name()))
        .unwrap_or(&i2s::Variant::best());
    let tl2 = *tl2::Variant::available()
        .iter()
        .find(|variant| named(variant.name()))
        .unwrap_or(&tl2::Variant::best());
    println!(
        "GMAC/s of i2s {} and tl2 {}, median of {ROUNDS} rounds, and the rounds' ratios",
        i2s.name(),
        tl2.name()
    );
    println!("threads  rows  cols batch     i2s     tl2  ratio  least  most  prepare i2s  tl2");
    for num_threads in [1, 2] {
        for (rows, cols) in SHAPES {
            for &batch in &batches {
                compare(i2s, tl2, num_threads, rows, cols, batch);
            }
        }
    }
}

fn compare(
    i2s: i2s::Variant,
    tl2: tl2::Variant,
    num_threads: usize,
    rows: usize,
    cols: usize,
    batch: usize,
) {
    let i2s = Work::new(i2s, rows, cols, batch);
    let tl2 = Work::new(tl2, rows, cols, batch);
    let rounds: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|_| (i2s.speed(num_threads), tl2.speed(num_threads)))
        .collect();
    let speeds_i2s = sorted(rounds.iter().map(|round| round.0));
    let speeds_tl2 = sorted(rounds.iter().map(|round| round.1));
    let ratios = sorted(rounds.iter().map(|(i2s, tl2)| tl2 / i2s));
    println!(
        "{num_threads:7} {rows:5} {cols:5} {batch:5}  {:6.0}  {:6.0}  {:5.2}  {:5.2} {:5.2}  {:8.1} us {:5.1}",
        speeds_i2s[ROUNDS / 2],
        speeds_tl2[ROUNDS / 2],
        ratios[ROUNDS / 2],
        ratios[0],
        ratios[ROUNDS - 1],
        i2s.prepare_seconds() * 1e6,
        tl2.prepare_seconds() * 1e6,
    );
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Bytes at the alignment that a host gives them.
#[derive(Clone)]
struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Buffer {
    fn new(len: usize) -> Buffer {
        let lines = vec![Line([0; 64]); len.div_ceil(64)];
        Buffer { lines, len }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: a line is 64 bytes without padding.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// Matrices of one shape and a batch of tokens.
struct Work<K: Kernel> {
    kernel: K,
    rows: usize,
    cols: usize,
    batch: usize,
    layout: K::Layout,
    matrices: Vec<Buffer>,
    x: Vec<i8>,
    activations: K::Activations,
    prepared: Buffer,
}

impl<K: Kernel + Sync> Work<K>
where
    K::Layout: Sync,
    K::Activations: Sync,
{
    fn new(kernel: K, rows: usize, cols: usize, batch: usize) -> Work<K> {
        let layout = K::layout(rows, cols).expect("a shape of the list");
        let mut state = 1u64;
        let trits: Vec<i8> = (0..rows * cols)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                ((state >> 40) % 3) as i8 - 1
            })
            .collect();
        let mut packed = Buffer::new(K::packed_bytes(layout));
        K::pack(layout, 0..rows, &trits, packed.bytes_mut()).expect("trits");
        let num_matrices = match batch {
            1..=16 => WORKING_SET / packed.len,
            _ => 2,
        };
        let activations = kernel
            .activations(cols, batch)
            .expect("a shape of the list");
        let x: Vec<i8> = (0..cols * batch).map(|i| (i * 37 % 255) as i8).collect();
        let mut prepared = Buffer::new(K::prepared_bytes(activations));
        kernel.prepare(activations, &x, prepared.bytes_mut());
        Work {
            kernel,
            rows,
            cols,
            batch,
            layout,
            matrices: vec![packed; num_matrices],
            x,
            activations,
            prepared,
        }
    }

    /// Multiply-adds a second, in thousands of millions, of threads that have
    /// rows of every matrix each.
    fn speed(&self, num_threads: usize) -> f64 {
        let tiles = self.rows.div_ceil(K::ROW_TILE);
        let begin = |thread: usize| (tiles * thread / num_threads * K::ROW_TILE).min(self.rows);
        let slowest = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..num_threads)
                .map(|thread| scope.spawn(move || self.seconds(begin(thread)..begin(thread + 1))))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .fold(0.0, f64::max)
        });
        let products = self.rows * self.cols * self.batch * self.matrices.len();
        products as f64 / slowest / 1e9
    }

    /// Of the best of some passes over all matrices.
    fn seconds(&self, rows: std::ops::Range<usize>) -> f64 {
        let mut out = vec![0; rows.len() * self.batch];
        let mut best = Duration::MAX;
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(60) {
            let start = Instant::now();
            for packed in &self.matrices {
                let weights = Weights {
                    layout: self.layout,
                    packed: packed.bytes(),
                    rows: rows.clone(),
                };
                let output = Output::new(&mut out, rows.len(), self.batch, rows.len());
                self.kernel
                    .multiply(weights, self.activations, self.prepared.bytes(), output);
                black_box(&out);
            }
            best = best.min(start.elapsed());
        }
        best.as_secs_f64()
    }

    fn prepare_seconds(&self) -> f64 {
        let mut prepared = self.prepared.clone();
        let mut best = Duration::MAX;
        for _ in 0..10 {
            let start = Instant::now();
            self.kernel
                .prepare(self.activations, &self.x, prepared.bytes_mut());
            best = best.min(start.elapsed());
            black_box(prepared.bytes());
        }
        best.as_secs_f64()
    }
}
