//! Speed of the i2s variants on one core, in units to compare with the
//! machine's limits: packed bytes a second for one token, multiply-adds a
//! second for many.

use std::hint::black_box;
use std::time::{Duration, Instant};

use ternion_kernels::i2s::{Activations, Layout, Output, Product, Variant};

const SHAPES: [(usize, usize); 3] = [(2560, 2560), (6912, 2560), (2560, 6912)];

/// Matrices in turn, together larger than any cache, so that one token's
/// weights come from memory as they do in a model.
const WORKING_SET: usize = 256 << 20;

fn main() {
    println!("variant      rows  cols batch   GB/s  GMAC/s");
    for variant in Variant::available() {
        for (rows, cols) in SHAPES {
            for batch in [1, 2, 4, 6, 8, 12, 16, 64, 512] {
                measure(variant, rows, cols, batch);
            }
        }
    }
}

fn measure(variant: Variant, rows: usize, cols: usize, batch: usize) {
    let layout = Layout::new(rows, cols).expect("a shape of the list");
    let trits: Vec<i8> = (0..rows * cols).map(|i| (i * i % 3) as i8 - 1).collect();
    let mut packed = vec![0; layout.packed_bytes()];
    layout.pack(0..rows, &trits, &mut packed).expect("trits");
    let num_matrices = match batch {
        1..=12 => WORKING_SET / packed.len(),
        _ => 1,
    };
    let matrices = vec![packed; num_matrices];

    let activations = Activations::new(cols, batch).expect("a shape of the list");
    let x: Vec<i8> = (0..cols * batch).map(|i| (i * 37 % 255) as i8).collect();
    let mut prepared = vec![0; activations.prepared_bytes()];
    activations.prepare(&x, &mut prepared);
    let mut out = vec![0; rows * batch];

    let mut best = Duration::MAX;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(700) {
        let start = Instant::now();
        for packed in &matrices {
            let product = Product::new(layout, packed, activations, &prepared, 0..rows);
            variant.multiply(&product, Output::new(&mut out, rows, batch, rows));
            black_box(&out);
        }
        best = best.min(start.elapsed() / num_matrices as u32);
    }
    let seconds = best.as_secs_f64();
    println!(
        "{:11} {rows:5} {cols:5} {batch:5} {:6.1}  {:6.1}",
        variant.name(),
        layout.packed_bytes() as f64 / seconds / 1e9,
        (rows * cols * batch) as f64 / seconds / 1e9,
    );
}
