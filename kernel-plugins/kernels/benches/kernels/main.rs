//! Every kernel, shape and batch on this machine, and the machine's limits.
//!
//! `cargo bench -p ternion-kernels` runs all of it, for minutes. A name picks:
//! `-- avx2/`, `-- /2560x2560/`, `-- /1x2$` for one token on two threads.
//! criterion prints its statistics; the table at the end says what share of the
//! limits each case reached, which were measured before and after it.
//!
//! A case is what the server does with a group of matrices: one region of a
//! team, in chunks of rows, with weights that no cache holds.

mod case;
mod contender;
mod table;

use std::cell::LazyCell;
use std::io;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use ternion_kernels::limits::{MultiplyAdd, ReadBandwidth, Reading};
use ternion_kernels::team::Team;

use case::{Case, Matrices, Shape};
use contender::{Contender, contenders, i2s};
use table::{Samples, Table};

/// The matrices of BitNet b1.58 2B-4T.
const SHAPES: [Shape; 4] = [
    Shape {
        rows: 2560,
        cols: 2560,
    },
    Shape {
        rows: 640,
        cols: 2560,
    },
    Shape {
        rows: 6912,
        cols: 2560,
    },
    Shape {
        rows: 2560,
        cols: 6912,
    },
];
const BATCHES: [usize; 8] = [1, 2, 3, 4, 8, 16, 64, 512];
const THREADS: [usize; 2] = [1, 2];

/// The reference does some products a cycle: more tokens only take longer.
const MAX_SCALAR_BATCH: usize = 8;

fn main() -> io::Result<()> {
    let mut criterion = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(600))
        .configure_from_args();
    let memory = ReadBandwidth::new()?;
    let mut table = Table::default();
    for threads in THREADS {
        let team = Team::new(threads);
        let (reading, _) = memory.fastest(&team, Duration::from_secs(1));
        for contender in contenders() {
            for shape in SHAPES {
                measure_shape(
                    &mut criterion,
                    reading,
                    &team,
                    &*contender,
                    shape,
                    &mut table,
                );
            }
        }
    }
    criterion.final_summary();
    table.print();
    Ok(())
}

fn measure_shape(
    criterion: &mut Criterion,
    reading: Reading<'_>,
    team: &Team,
    contender: &dyn Contender,
    shape: Shape,
    table: &mut Table,
) {
    let name = contender.name();
    let peak = peak_of(contender);
    let mut group = criterion.benchmark_group(format!("{name}/{shape}"));
    group.sampling_mode(SamplingMode::Flat);
    // Only once a case is asked for by its name.
    let matrices = LazyCell::new(|| Matrices::new(contender, shape));
    let i2s = i2s();
    let i2s_matrices = LazyCell::new(|| Matrices::new(&i2s, shape));
    for batch in BATCHES {
        if name == "scalar" && batch > MAX_SCALAR_BATCH {
            continue;
        }
        let products = shape.rows * shape.cols * batch;
        group.throughput(Throughput::Elements(products as u64));
        let threads = team.size();
        let id = BenchmarkId::from_parameter(format!("{batch}x{threads}"));
        let mut samples = None;
        group.bench_function(id, |bencher| {
            let mut case = Case::new(contender, &matrices, batch, team);
            let samples = samples.get_or_insert_with(|| {
                let i2s = Case::new(&i2s, &i2s_matrices, batch, team);
                Samples::new(reading, peak, i2s)
            });
            bencher.iter_custom(|products| samples.take(&mut case, team, products));
        });
        if let Some(samples) = samples {
            table.add(&name, &matrices, (batch, threads), samples);
        }
    }
    group.finish();
}

fn peak_of(contender: &dyn Contender) -> MultiplyAdd {
    let all = MultiplyAdd::available();
    let peak = all
        .iter()
        .find(|peak| peak.name() == contender.instructions());
    *peak.expect("a variant's instructions are the CPU's")
}
