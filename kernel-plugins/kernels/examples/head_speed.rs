//! Speed of the head's products over a matrix in the shape of 2B-4T's, beside
//! the read bandwidth of the same threads in the same run.

use std::hint::black_box;
use std::time::{Duration, Instant};

use ternion_kernels::head::rounding::Dither;
use ternion_kernels::head::{Activations, Bits, Codes, Stored, TILE_ROWS, Variant, dense_product};
use ternion_kernels::team::Team;

const ROWS: usize = 128_256;
const COLS: usize = 2560;
/// Rows that a worker takes at a time.
const CHUNK: usize = 512;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |otherwise| {
        arguments
            .next()
            .map_or(otherwise, |n| n.parse().expect("a number"))
    };
    let (threads, least_ms) = (number(2), number(700));
    let team = Team::new(threads);
    let least = Duration::from_millis(least_ms as u64);
    let mut rows = vec![0_u8; 2 * ROWS * COLS];
    team.rows(&mut rows, 2 * COLS, |_, row, bytes| {
        for (i, value) in bytes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let bits = ((row * 7919 + i) as u32).wrapping_mul(2_654_435_761) >> 16;
            *value = (bits as u16 & 0x87ff | 0x2400).to_le_bytes();
        }
    });
    println!("{threads} threads, {ROWS} x {COLS}");
    let read = best(least, || read_all(&team, &rows));
    report("read", "", 1, rows.len(), read, read);
    for batch in [1, 2, 4, 6, 8, 16] {
        let hidden: Vec<f32> = (0..batch * COLS).map(|i| (i % 97) as f32 - 48.0).collect();
        let time = best(least, || {
            team.run(ROWS.div_ceil(CHUNK), &|_, chunk| {
                let bytes = &rows[chunk * 2 * CHUNK * COLS..];
                let bytes = &bytes[..bytes.len().min(2 * CHUNK * COLS)];
                let mut total = 0.0;
                dense_product(Stored::F16, bytes, &hidden, COLS, &mut |_, _, sum| {
                    total += sum
                });
                black_box(total);
            });
        });
        report("f16", "", batch, rows.len(), time, read);
    }
    drop(rows);
    for bits in [Bits::Four, Bits::Eight] {
        let mut codes = Codes::new(bits, ROWS, COLS);
        let lines = codes.tile_lines();
        let some: Vec<u8> = (0..COLS)
            .map(|i| (i * 31 % 251) as u8 & bits.max())
            .collect();
        team.rows(codes.lines_mut(), lines, |_, _, tile| {
            (0..TILE_ROWS).for_each(|row| Codes::pack(bits, row, &some, tile));
        });
        let mut activations = Activations::default();
        for variant in Variant::available().filter(|v| v.name() != "portable") {
            for batch in [1, 2, 3, 4, 6, 8, 16] {
                let hidden: Vec<f32> = (0..batch * COLS).map(|i| (i % 97) as f32 - 48.0).collect();
                activations.prepare(&hidden, &Dither::none(COLS), bits);
                let time = best(least, || {
                    team.run(ROWS / CHUNK, &|_, chunk| {
                        let tiles = CHUNK / TILE_ROWS;
                        let mut out = vec![0; batch * CHUNK];
                        let tiles = chunk * tiles..(chunk + 1) * tiles;
                        variant.sums(&codes, tiles, &activations, &mut out);
                        black_box(out);
                    });
                });
                report(
                    &format!("{bits:?}"),
                    variant.name(),
                    batch,
                    codes.bytes(),
                    time,
                    read,
                );
            }
        }
    }
}

/// Shortest of repeated calls.
fn best(least: Duration, mut run: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut best = Duration::MAX;
    while begin.elapsed() < least {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
    }
    best.as_secs_f64()
}

fn read_all(team: &Team, bytes: &[u8]) {
    const SLICE: usize = 1 << 20;
    team.run(bytes.len() / SLICE, &|_, slice| {
        let mut sums = [0_u64; 64];
        for line in bytes[slice * SLICE..][..SLICE].as_chunks::<512>().0 {
            for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
                *sum ^= u64::from_le_bytes(*word);
            }
        }
        black_box(sums);
    });
}

fn report(what: &str, variant: &str, batch: usize, bytes: usize, seconds: f64, read: f64) {
    let rate = bytes as f64 / seconds / 1e9;
    let limit = (2 * ROWS * COLS) as f64 / read / 1e9;
    println!(
        "{what:6} {variant:12} batch {batch:2} {:7.2} ms {rate:6.1} GB/s {:4.0} % of read  {:6.0} GMAC/s",
        seconds * 1e3,
        100.0 * rate / limit,
        (ROWS * COLS * batch) as f64 / seconds / 1e9,
    );
}
