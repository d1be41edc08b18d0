//! What simulations draw from, and how one that failed is run again.

/// Runs a simulation for so many seeds, on all cores, and returns what each of
/// them gathered; `None` where `TERNION_SIM_SEED` names the one seed to run.
pub(super) fn over_seeds<T: Default + Send>(
    count: u64,
    run: impl Fn(u64, &mut T) + Sync,
) -> Option<Vec<T>> {
    let run = |seeds: &mut dyn Iterator<Item = u64>| {
        let mut gathered = T::default();
        for seed in seeds {
            let announce = Announce(seed);
            run(seed, &mut gathered);
            drop(announce);
        }
        gathered
    };
    if let Ok(seed) = std::env::var("TERNION_SIM_SEED") {
        let seed = seed.parse().expect("TERNION_SIM_SEED is a number");
        run(&mut std::iter::once(seed));
        return None;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let run = &run;
        let start = |core| scope.spawn(move || run(&mut (core as u64..count).step_by(cores)));
        let threads: Vec<_> = (0..cores).map(start).collect();
        let gathered = threads.into_iter().map(|thread| thread.join());
        gathered
            .map(|one| one.expect("the schedule above failed"))
            .collect::<Vec<T>>()
    })
    .into()
}

/// Says how to run the schedule again, if it fails.
struct Announce(u64);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("run it again with TERNION_SIM_SEED={}", self.0);
        }
    }
}

/// Numbers that a seed makes.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        // xorshift64*, by Vigna.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }

    pub(super) fn within(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        range.start() + self.below((range.end() - range.start() + 1) as u64) as usize
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }
}
