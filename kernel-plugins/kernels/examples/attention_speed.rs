//! Speed of attention, in units to compare with the machine's limits: bytes of
//! keys and values a second for a few tokens, multiply-adds a second for a prompt.

use std::hint::black_box;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytemuck::Pod;
use half::f16;
use memmap2::{Advice, MmapMut};
use ternion_kernels::float::attention::{
    Aligned, Arithmetic, Attention, SEGMENT, SEGMENT_TILES, Scales, TILE, TILES_AHEAD, Tile, Tiles,
    Variant, partial_len, value_len,
};
use ternion_kernels::team::Team;

const DIM: usize = 128;
const GROUP: usize = 4;

/// Positions in memory: for cells of two bytes 256 MiB, more than any cache.
const POSITIONS: usize = 1 << 19;

fn main() {
    println!("variant      cells  threads  queries   GB/s  GMAC/s");
    for variant in Variant::available().skip(1) {
        for threads in [1, 2] {
            let team = Team::new(threads);
            for queries in [1, 2, 4, 16] {
                measure(
                    variant,
                    &team,
                    "f16",
                    queries,
                    f16::from_f32(0.25),
                    |tiles| Tiles::F16(tiles),
                );
                measure(variant, &team, "int8", queries, 3_i8, |tiles| {
                    Tiles::I8(tiles)
                });
            }
            read(&team);
        }
    }
}

/// Cells of a page of sixteen positions: keys, values, and the scales of int8.
fn page_cells<T>() -> usize {
    let scales = if size_of::<T>() == 1 {
        2 * size_of::<f32>()
    } else {
        0
    };
    TILE * (DIM + value_len(DIM) + scales)
}

fn tile<T: Pod>(page: &[T]) -> Tile<'_, T> {
    let (keys, rest) = page.split_at(TILE * DIM);
    let (values, scales) = rest.split_at(TILE * value_len(DIM));
    let (scales, _) = bytemuck::cast_slice::<T, f32>(scales).as_chunks();
    Tile {
        keys,
        values,
        scales: match scales {
            [keys, values] => Some(Scales { keys, values }),
            _ => None,
        },
    }
}

fn measure<T: Pod + Sync>(
    variant: Variant,
    team: &Team,
    cells: &str,
    queries: usize,
    cell: T,
    kind: impl for<'a> Fn(&'a [Tile<'a, T>]) -> Tiles<'a> + Sync,
) {
    let rows = queries * GROUP;
    let page = page_cells::<T>();
    // A prompt's come from a cache.
    let positions = if queries > 4 { 4096 } else { POSITIONS };
    let mut bytes = mapped(positions / TILE * page * size_of::<T>());
    let memory: &mut [T] = bytemuck::cast_slice_mut(&mut bytes);
    memory.fill(cell);
    let memory = &*memory;
    let workers: Vec<_> = (0..team.size())
        .map(|_| {
            let arithmetic = match size_of::<T>() {
                1 => Arithmetic::Integer,
                _ => Arithmetic::Float,
            };
            let mut attention = Attention::with(variant, arithmetic, DIM, rows);
            attention.set_queries(&vec![0.01; rows * DIM]);
            Mutex::new((attention, Aligned::new(partial_len(rows, DIM))))
        })
        .collect();
    let counts = vec![SEGMENT; rows];
    let segments = positions / SEGMENT;
    let seconds = best(|| {
        team.run(segments, &|worker, segment| {
            let mut worker = workers[worker].lock().expect("no panic");
            let (attention, out) = &mut *worker;
            let from = |segment| memory[segment * SEGMENT_TILES * page..].chunks_exact(page);
            let tiles: Vec<_> = from(segment).take(SEGMENT_TILES).map(tile).collect();
            // As the forward pass does it: what this worker takes next.
            let next: Vec<_> = match segment + 1 < segments {
                true => from(segment + 1).take(TILES_AHEAD).map(tile).collect(),
                false => Vec::new(),
            };
            attention.attend(kind(&tiles), Some(kind(&next)), &counts, 0.1, out);
            black_box(&out);
        });
    });
    println!(
        "{:11} {cells:>6} {:8} {queries:8} {:6.1}  {:6.1}",
        variant.name(),
        team.size(),
        size_of_val(memory) as f64 / seconds / 1e9,
        (rows * positions * 2 * DIM) as f64 / seconds / 1e9,
    );
}

/// The limit: memory summed up.
fn read(team: &Team) {
    let mut bytes = mapped(512 << 20);
    let memory: &mut [u64] = bytemuck::cast_slice_mut(&mut bytes);
    memory.fill(1);
    let memory = &*memory;
    let seconds = best(|| {
        team.run(64, &|_, part| {
            let part = &memory[part << 20..][..1 << 20];
            let mut sums = [0_u64; 32];
            for chunk in part.as_chunks::<32>().0 {
                for (sum, x) in sums.iter_mut().zip(chunk) {
                    *sum = sum.wrapping_add(*x);
                }
            }
            black_box(sums);
        });
    });
    let rate = size_of_val(memory) as f64 / seconds / 1e9;
    println!("reading     {:15}          {rate:6.1}", team.size());
}

/// Memory as the KV cache has it.
fn mapped(bytes: usize) -> MmapMut {
    let memory = MmapMut::map_anon(bytes).expect("memory");
    let _ = memory.advise(Advice::HugePage);
    memory
}

fn best(mut run: impl FnMut()) -> f64 {
    let mut best = Duration::MAX;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(700) {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
    }
    best.as_secs_f64()
}
