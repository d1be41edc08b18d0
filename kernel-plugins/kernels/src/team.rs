//! A fixed team of threads that works through chunks together.
//!
//! A step of the forward pass is some hundred short parallel regions, so what
//! counts is the time from the caller's word to the last worker's. Workers
//! live as long as the team, wait for the next region by spinning for a short
//! while and then sleep; the caller works too and is worker 0.
//!
//! Each worker has a share of the chunks, one after the other, since what
//! follows in the index mostly follows in memory and is on its way already.
//! Who is through with its share goes on with the others': on a shared machine
//! a worker may lose its core for a while, and what it has not begun must not
//! wait for it. Which worker gets which chunk must therefore never matter to
//! the result.
//!
//! The team stands in this crate since lending a closure to threads that
//! outlive it, and giving each chunk its own part of one output buffer, takes
//! `unsafe`; what it offers is safe.

mod ahead;
mod matrix;

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use ahead::Ahead;
pub use matrix::Columns;
use matrix::{RowsOf, Shareable};

/// How long a worker waits for the next region before it goes to sleep: longer
/// than what lies between two regions of a step, which is microseconds, and
/// short enough not to take the core from the threads that feed and drain the
/// engine between steps. With ten times as much, a small model served over gRPC
/// on two cores took 27 ms a token instead of less than one.
const PATIENCE: Duration = Duration::from_micros(50);

/// Turns between two looks at the clock. How long a turn takes differs much
/// between CPUs, so that turns alone don't tell.
const TURNS: u32 = 256;

/// Threads that run parallel regions together.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held for the length of a region: the team runs one at a time.
    region: Mutex<()>,
}

/// What a region runs: worker index, chunk index.
type Region<'a> = dyn Fn(usize, usize) + Sync + 'a;

struct Shared {
    call: Line<Call>,
    shares: Vec<Line<Share>>,
    /// What each worker is to fetch while it waits.
    ahead: Vec<Line<Ahead>>,
    patience: Duration,
    asleep: Vec<AtomicBool>,
    panicked: AtomicBool,
    stop: AtomicBool,
}

/// A cache line that nothing else lies in: who waits for one value doesn't slow
/// down those who write another.
#[repr(align(64))]
struct Line<T>(T);

impl<T> Deref for Line<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What is left of a worker's chunks. Written by the caller between regions.
#[derive(Default)]
struct Share {
    /// The next to hand out; beyond the end when all are.
    next: AtomicUsize,
    end: AtomicUsize,
}

/// What goes between caller and workers, once each way: in one line, which is
/// faster than one for each direction.
struct Call {
    /// Counts regions. A worker that sees it change takes part in the new one.
    epoch: AtomicU32,
    /// The current region. Written by the caller while no worker is in one.
    job: UnsafeCell<Option<Job>>,
    /// Workers still in the current region.
    busy: AtomicUsize,
}

#[derive(Clone, Copy)]
struct Job {
    region: *const Region<'static>,
}

// SAFETY: `job` is the only field that is not Sync by itself. It is written
// by the caller of `run` alone, under `Team::region` and while `busy` is 0,
// and read by workers between the release of `epoch` and their release of
// `busy`, so a write never meets a read.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is used only inside a region, whose closure is
// Sync and outlives it.
unsafe impl Send for Shared {}

impl Team {
    /// A team of `size` workers, the caller of [`run`](Team::run) included.
    ///
    /// # Panics
    ///
    /// If `size` is 0 or the operating system refuses a thread.
    pub fn new(size: usize) -> Team {
        Team::starting_with(size, |_| {})
    }

    /// Likewise; each worker first calls `start` with its number, on its own
    /// thread, to bind it to a processor, say. The caller of [`run`](Team::run),
    /// worker 0, is nobody's to start.
    ///
    /// # Panics
    ///
    /// As [`new`](Team::new).
    pub fn starting_with(size: usize, start: impl Fn(usize) + Clone + Send + 'static) -> Team {
        assert!(size > 0, "a team has at least its caller");
        let shared = Arc::new(Shared {
            call: Line(Call {
                epoch: AtomicU32::new(0),
                job: UnsafeCell::new(None),
                busy: AtomicUsize::new(0),
            }),
            shares: (0..size).map(|_| Line(Share::default())).collect(),
            ahead: (0..size).map(|_| Line(Ahead::default())).collect(),
            patience: patience(size),
            asleep: (1..size).map(|_| AtomicBool::new(false)).collect(),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let workers = (1..size)
            .map(|worker| {
                let (shared, start) = (Arc::clone(&shared), start.clone());
                std::thread::Builder::new()
                    .name(format!("ternion-{worker}"))
                    .spawn(move || {
                        start(worker);
                        shared.work(worker);
                    })
                    .expect("the operating system gives a thread")
            })
            .collect();
        Team {
            shared,
            workers,
            region: Mutex::new(()),
        }
    }

    /// Number of workers, the caller included.
    pub fn size(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `region(worker, chunk)` once for every chunk in `0..num_chunks`,
    /// from all workers, and returns when all calls have.
    ///
    /// # Panics
    ///
    /// If a call panicked (after all others have returned), or if called from
    /// inside a region.
    pub fn run(&self, num_chunks: usize, region: &Region<'_>) {
        let size = self.size();
        self.run_divided(
            num_chunks,
            |worker| (worker + 1) * num_chunks / size,
            region,
        );
    }

    /// Likewise, where a worker's share ends before the chunk that `ends` says:
    /// ascending from worker to worker, the last one's is `num_chunks`.
    fn run_divided(&self, num_chunks: usize, ends: impl Fn(usize) -> usize, region: &Region<'_>) {
        if num_chunks == 0 {
            return;
        }
        // One chunk or one worker: no need to wake anybody.
        if num_chunks == 1 || self.workers.is_empty() {
            (0..num_chunks).for_each(|chunk| region(0, chunk));
            return;
        }
        let _one_at_a_time = self.region.try_lock().unwrap_or_else(|error| match error {
            std::sync::TryLockError::Poisoned(guard) => guard.into_inner(),
            std::sync::TryLockError::WouldBlock => panic!("a region runs on this team already"),
        });
        let shared = &*self.shared;
        // SAFETY: this only forgets the closure's lifetime. `run` does not
        // return, or unwind, before `busy` is 0 again, that is before the last
        // use of the pointer.
        let region_for_workers =
            unsafe { std::mem::transmute::<*const Region<'_>, *const Region<'static>>(region) };
        let job = Job {
            region: region_for_workers,
        };
        // SAFETY: `busy` is 0, so no worker reads the job; `region` is locked,
        // so no other caller writes it.
        unsafe { *shared.call.job.get() = Some(job) };
        let mut first = 0;
        for (worker, share) in shared.shares.iter().enumerate() {
            let end = ends(worker);
            share.next.store(first, Ordering::Relaxed);
            share.end.store(end, Ordering::Relaxed);
            first = end;
        }
        shared
            .call
            .busy
            .store(self.workers.len(), Ordering::Relaxed);
        shared.call.epoch.fetch_add(1, Ordering::SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&shared.asleep) {
            wake(asleep, worker.thread());
        }

        let own = catch_unwind(AssertUnwindSafe(|| shared.chunks(0, region)));
        let all_left = || shared.call.busy.load(Ordering::Acquire) == 0;
        shared.ahead[0].fetch_until(all_left);
        if !spin_until(shared.patience, all_left) {
            // Whoever is still in there may be waiting for this core.
            while !all_left() {
                std::thread::yield_now();
            }
        }
        let panicked = shared.has_panicked();
        if let Err(payload) = own {
            resume_unwind(payload);
        }
        assert!(!panicked, "a worker panicked in a parallel region");
    }

    /// Gives every row of `out`, `row_len` elements long, to one call of `f`
    /// as `f(worker, row, elements)`.
    ///
    /// # Panics
    ///
    /// If `out` is not a whole number of rows.
    pub fn rows<T: Send>(
        &self,
        out: &mut [T],
        row_len: usize,
        f: impl Fn(usize, usize, &mut [T]) + Sync,
    ) {
        assert!(
            row_len > 0 && out.len().is_multiple_of(row_len),
            "{} elements are not whole rows of {row_len}",
            out.len(),
        );
        let num_rows = out.len() / row_len;
        let out = RowsOf::new(out, num_rows);
        self.run(num_rows, &|worker, row| {
            // SAFETY: `run` gives each row to one call only, and `out` is
            // borrowed mutably until it returns.
            f(worker, row, unsafe { out.row(row) });
        });
    }

    /// Like [`rows`](Team::rows) for three matrices with `num_rows` rows each:
    /// `f(worker, row, a's, b's, c's)`.
    ///
    /// # Panics
    ///
    /// If one of them is not `num_rows` whole rows.
    pub fn zip_rows<A: Send, B: Send, C: Send>(
        &self,
        num_rows: usize,
        (a, b, c): (&mut [A], &mut [B], &mut [C]),
        f: impl Fn(usize, usize, (&mut [A], &mut [B], &mut [C])) + Sync,
    ) {
        let a = RowsOf::new(a, num_rows);
        let b = RowsOf::new(b, num_rows);
        let c = RowsOf::new(c, num_rows);
        self.run(num_rows, &|worker, row| {
            // SAFETY: `run` gives each row to one call only, and the matrices
            // are borrowed mutably until it returns.
            let rows = unsafe { (a.row(row), b.row(row), c.row(row)) };
            f(worker, row, rows);
        });
    }

    /// Splits the columns of `out`, a row-major matrix with rows of `stride`
    /// elements, and calls `f(worker, chunk, columns)` for each of `ranges`.
    ///
    /// # Panics
    ///
    /// If the ranges are not ascending, disjoint and inside `0..stride`, or
    /// `out` is not a whole number of rows.
    pub fn columns<T: Send>(
        &self,
        out: &mut [T],
        stride: usize,
        ranges: &[Range<usize>],
        f: impl Fn(usize, usize, Columns<'_, T>) + Sync,
    ) {
        assert!(
            stride > 0 && out.len().is_multiple_of(stride),
            "{} elements are not whole rows of {stride}",
            out.len(),
        );
        let mut end = 0;
        for range in ranges {
            assert!(
                range.start >= end && range.end >= range.start && range.end <= stride,
                "column ranges overlap or leave 0..{stride}",
            );
            end = range.end;
        }
        let num_rows = out.len() / stride;
        let base = Shareable(out.as_mut_ptr());
        // Shares of as many columns, not of as many ranges.
        let size = self.size();
        let ends = |worker| share_end(ranges, worker, size);
        self.run_divided(ranges.len(), ends, &|worker, chunk| {
            let columns = Columns {
                base: base.pointer(),
                num_rows,
                stride,
                range: ranges[chunk].clone(),
                _borrow: PhantomData,
            };
            f(worker, chunk, columns);
        });
    }
}

impl Team {
    /// Says what a later region begins with: its `ranges` as for
    /// [`columns`](Team::columns), and what is read for one of them and those
    /// that follow it. Who waits before that region, the caller for the last
    /// worker's end and workers for the caller, brings the first of its share to
    /// its cache.
    pub fn expect<'m>(&self, ranges: &[Range<usize>], read: impl Fn(usize) -> &'m [u8]) {
        let size = self.size();
        for (worker, ahead) in self.shared.ahead.iter().enumerate() {
            let first = match worker {
                0 => 0,
                _ => share_end(ranges, worker - 1, size),
            };
            if first < ranges.len() {
                ahead.expect(read(first));
            }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.call.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker only ends by returning: it catches what a region throws.
            let _ = worker.join();
        }
    }
}

/// Behind the last range of a worker's share.
fn share_end(ranges: &[Range<usize>], worker: usize, size: usize) -> usize {
    let all = ranges.last().map_or(0, |last| last.end);
    let end = (worker + 1) * all / size;
    ranges.partition_point(|range| range.end <= end)
}

/// No patience where there are more workers than the CPUs that this process may
/// use, affinity and cgroup quota taken into account: whoever is waited for may
/// need the core of whoever waits.
fn patience(size: usize) -> Duration {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if size > cpus {
        Duration::ZERO
    } else {
        PATIENCE
    }
}

/// Waits for a condition, not sleeping, and tells whether it came true in time.
fn spin_until(patience: Duration, condition: impl Fn() -> bool) -> bool {
    let mut began = None;
    loop {
        for _ in 0..TURNS {
            if condition() {
                return true;
            }
            std::hint::spin_loop();
        }
        if began.get_or_insert_with(Instant::now).elapsed() >= patience {
            return false;
        }
    }
}

fn wake(asleep: &AtomicBool, thread: &Thread) {
    if asleep.load(Ordering::SeqCst) {
        thread.unpark();
    }
}

impl Shared {
    fn work(&self, worker: usize) {
        let mut seen = 0;
        loop {
            seen = self.wait_for_region(worker, seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            // SAFETY: the epoch changed and this worker has not yet left the
            // region, so the caller waits and does not write the job.
            let job = unsafe { (*self.call.job.get()).expect("an epoch has a job") };
            // SAFETY: the caller of `run` keeps the closure alive until this
            // worker decrements `busy`, below.
            let region = unsafe { &*job.region };
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                self.chunks(worker, region);
            }));
            if outcome.is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.call.busy.fetch_sub(1, Ordering::Release);
        }
    }

    fn chunks(&self, worker: usize, region: &Region<'_>) {
        let size = self.shares.len();
        for owner in (worker..size).chain(0..worker) {
            let share = &self.shares[owner];
            let end = share.end.load(Ordering::Relaxed);
            loop {
                let chunk = share.next.fetch_add(1, Ordering::Relaxed);
                if chunk >= end {
                    break;
                }
                region(worker, chunk);
            }
        }
    }

    /// Whether a worker's region has panicked, and forgets it. Written only
    /// then, since the workers read what lies in the same cache line.
    fn has_panicked(&self) -> bool {
        self.panicked.load(Ordering::Relaxed) && self.panicked.swap(false, Ordering::Relaxed)
    }

    /// Returns the new epoch once it is no longer `seen`.
    fn wait_for_region(&self, worker: usize, seen: u32) -> u32 {
        let changed = || self.call.epoch.load(Ordering::Acquire) != seen;
        self.ahead[worker].fetch_until(changed);
        if spin_until(self.patience, changed) {
            return self.call.epoch.load(Ordering::Acquire);
        }
        // The flag is set before the epoch is read again, and the caller reads
        // the flag after it has written the epoch: one of the two sees the
        // other. By a swap, since qemu-user lets a load overtake a store even
        // where both are sequentially consistent. A stale unpark only costs a
        // turn of the loop.
        let asleep = &self.asleep[worker - 1];
        asleep.swap(true, Ordering::SeqCst);
        loop {
            let epoch = self.call.epoch.load(Ordering::SeqCst);
            if epoch != seen {
                asleep.store(false, Ordering::SeqCst);
                return epoch;
            }
            std::thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_runs_once_region_after_region() {
        for size in [1, 2, 3, 8] {
            let team = Team::new(size);
            for num_chunks in [0, 1, 2, 7, 100] {
                let counts: Vec<_> = (0..num_chunks).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..50 {
                    team.run(num_chunks, &|worker, chunk| {
                        assert!(worker < size);
                        counts[chunk].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(counts.iter().all(|n| n.load(Ordering::Relaxed) == 50));
            }
        }
    }

    #[test]
    fn every_worker_but_the_caller_starts_on_its_own_thread() {
        let (sender, started) = std::sync::mpsc::channel();
        let team = Team::starting_with(4, move |worker| {
            let name = std::thread::current().name().map(str::to_owned);
            sender.send((worker, name)).expect("it is listened to");
        });
        let mut workers: Vec<_> = started.iter().take(3).collect();
        workers.sort();
        let expected = |worker| (worker, Some(format!("ternion-{worker}")));
        assert_eq!(workers, [1, 2, 3].map(expected));
        drop(team);
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let team = Team::new(3);
        for _ in 0..3 {
            let all_asleep = || team.shared.asleep.iter().all(|a| a.load(Ordering::SeqCst));
            while !all_asleep() {
                std::thread::yield_now();
            }
            let workers: Vec<_> = (0..3).map(|_| AtomicBool::new(false)).collect();
            // Each chunk waits for the others, so all three workers are needed.
            let arrived = AtomicUsize::new(0);
            team.run(3, &|worker, _| {
                workers[worker].store(true, Ordering::Relaxed);
                arrived.fetch_add(1, Ordering::SeqCst);
                while arrived.load(Ordering::SeqCst) < 3 {
                    std::thread::yield_now();
                }
            });
            assert!(workers.iter().all(|w| w.load(Ordering::Relaxed)));
        }
    }

    #[test]
    fn nobody_spins_on_a_core_that_another_worker_needs() {
        let cpus = std::thread::available_parallelism().unwrap().get();
        assert_eq!(patience(cpus), PATIENCE);
        assert_eq!(patience(cpus + 1), Duration::ZERO);
        let turns = std::cell::Cell::new(0);
        let ask = || {
            turns.set(turns.get() + 1);
            false
        };
        assert!(!spin_until(Duration::ZERO, ask));
        assert_eq!(turns.get(), TURNS);
    }

    #[test]
    fn rows_and_columns_reach_every_element() {
        let team = Team::new(4);
        let mut matrix = vec![0_u32; 5 * 12];
        team.rows(&mut matrix, 12, |_, row, elements| {
            for (column, element) in elements.iter_mut().enumerate() {
                *element = (row * 100 + column) as u32;
            }
        });
        team.columns(
            &mut matrix,
            12,
            &[0..3, 3..4, 6..12],
            |_, chunk, mut columns| {
                for row in 0..columns.num_rows() {
                    for element in columns.row(row) {
                        *element += 1000 * (chunk as u32 + 1);
                    }
                }
            },
        );
        for (i, element) in matrix.iter().enumerate() {
            let (row, column) = (i / 12, i % 12);
            let chunk = match column {
                0..3 => 1,
                3 => 2,
                4..6 => 0,
                _ => 3,
            };
            assert_eq!(*element as usize, row * 100 + column + 1000 * chunk);
        }
    }

    #[test]
    fn workers_that_wait_fetch_what_they_read_next() {
        let team = Team::new(3);
        let memory = vec![0_u8; 6 << 10];
        let ranges = [0..1, 1..4, 4..5, 5..6];
        let asked = Mutex::new(Vec::new());
        team.expect(&ranges, |chunk| {
            asked.lock().expect("nobody panics").push(chunk);
            &memory[chunk << 10..]
        });
        // Shares of two columns each: the second begins in the second range.
        assert_eq!(asked.into_inner().expect("nobody panics"), [0, 1, 2]);
        team.run(3, &|_, _| {});
        while !team.shared.ahead[1..].iter().all(|ahead| ahead.is_done()) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_caller_that_waits_fetches_what_it_reads_next() {
        let team = Team::new(2);
        let memory = vec![0_u8; 2 << 10];
        team.expect(&[0..1, 1..2], |chunk| &memory[chunk << 10..]);
        let arrived = AtomicUsize::new(0);
        team.run(2, &|worker, _| {
            // Each has one, so that the caller waits for the other.
            arrived.fetch_add(1, Ordering::SeqCst);
            while arrived.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
            let end = Instant::now() + Duration::from_secs(60);
            while worker == 1 && !team.shared.ahead[0].is_done() {
                assert!(Instant::now() < end, "the caller fetches nothing");
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn shares_have_as_many_columns() {
        let ranges = [0..4, 4..6, 6..7, 7..8, 8..12, 12..14, 14..15, 15..16];
        assert_eq!([0, 1].map(|worker| share_end(&ranges, worker, 2)), [4, 8]);
        assert_eq!(
            [0, 1, 2].map(|worker| share_end(&ranges, worker, 3)),
            [1, 4, 8]
        );
        assert_eq!(share_end(&[], 0, 2), 0);
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn overlapping_columns_are_refused() {
        Team::new(2).columns(&mut [0_u8; 8], 8, &[0..4, 3..8], |_, _, _| {});
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let team = Team::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| {
            team.run(64, &|_, chunk| assert_ne!(chunk, 40));
        }));
        assert!(result.is_err());
        let sum = AtomicUsize::new(0);
        team.run(64, &|_, chunk| {
            sum.fetch_add(chunk, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 63 * 64 / 2);
    }
}
