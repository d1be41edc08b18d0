//! Threads that the engine may use.

/// Threads that work through something together, the caller among them.
pub trait Crew: Send + Sync {
    /// How many they are, at least 1.
    fn size(&self) -> usize;

    /// Calls `work(worker, item)` once for each item below `count`, and returns
    /// when all calls have. Workers are numbered from 0, and none has two calls
    /// at once. Which of them gets which item is chance.
    fn each(&self, count: usize, work: &(dyn Fn(usize, usize) + Sync));
}

/// The caller alone.
#[derive(Debug)]
pub(crate) struct Alone;

impl Crew for Alone {
    fn size(&self) -> usize {
        1
    }

    fn each(&self, count: usize, work: &(dyn Fn(usize, usize) + Sync)) {
        (0..count).for_each(|item| work(0, item));
    }
}
