//! What a parallel region costs that has nothing to do, in nanoseconds: the
//! caller's word, the workers' way in and out. `region_cost [THREADS]`

use std::hint::black_box;
use std::time::Instant;

use ternion_kernels::team::Team;

const REGIONS: u32 = 2_000;
const RUNS: usize = 50;

fn main() {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = std::env::args().nth(1);
    let threads = threads.map_or(cpus, |text| text.parse().expect("a number of threads"));
    let team = Team::new(threads);
    println!("threads  chunks  median ns  fastest ns");
    for chunks in [2, 8, 32, 128] {
        let mut runs: Vec<f64> = (0..RUNS).map(|_| nanoseconds(&team, chunks)).collect();
        runs.sort_by(f64::total_cmp);
        println!(
            "{threads:>7}  {chunks:>6}  {:>9.0}  {:>10.0}",
            runs[RUNS / 2],
            runs[0]
        );
    }
}

fn nanoseconds(team: &Team, chunks: usize) -> f64 {
    let begin = Instant::now();
    for _ in 0..REGIONS {
        team.run(chunks, &|_, chunk| {
            black_box(chunk);
        });
    }
    begin.elapsed().as_nanos() as f64 / f64::from(REGIONS)
}
