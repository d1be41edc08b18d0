//! What the server is doing now, as of the last step.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ternion_engine::{Ahead, Forecast, StepReport};

/// A snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Load {
    /// Requests with pages and a reader that has room.
    pub(crate) running: usize,
    /// Requests that wait for their readers.
    pub(crate) parked: usize,
    pub(crate) waiting: usize,
    /// Tokens of the prompts of those that were not started.
    pub(crate) queued_tokens: usize,
    /// How fast those that wait get on.
    pub(crate) forecast: Forecast,
    pub(crate) kv_pages: usize,
    pub(crate) kv_pages_free: usize,
    pub(crate) steps: u64,
    /// Tokens of all batches.
    pub(crate) computed_tokens: u64,
    pub(crate) preemptions: u64,
    /// Guesses at next tokens that were computed, and those that came true.
    pub(crate) guesses: u64,
    pub(crate) true_guesses: u64,
    /// Parts of batches that failed, which were run again.
    pub(crate) reruns: u64,
    /// The longest step of all.
    pub(crate) longest_step: Duration,
    pub(crate) prefix_cache: PrefixCacheLoad,
}

/// What the prefix cache has been good for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PrefixCacheLoad {
    /// Pages in it now.
    pub(crate) pages: usize,
    /// Tokens of the prompts that were begun, and those of them that were in
    /// it.
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    /// Requests of which some were.
    pub(crate) hits: u64,
    /// Tokens that preempted requests found in it.
    pub(crate) resumed_tokens: u64,
    /// Pages that it gave up to requests.
    pub(crate) evictions: u64,
}

impl PrefixCacheLoad {
    pub(crate) fn add(&mut self, report: &StepReport) {
        self.pages = report.num_kept_blocks;
        self.prompt_tokens += report.num_prompt as u64;
        self.cached_tokens += report.num_cached as u64;
        self.hits += report.num_hits as u64;
        self.resumed_tokens += report.num_resumed as u64;
        self.evictions += report.num_evicted as u64;
    }
}

impl Load {
    /// How long the last of those that wait can be expected to.
    pub(crate) fn expected_wait(&self) -> Duration {
        let Some(requests) = self.waiting.checked_sub(1) else {
            return Duration::ZERO;
        };
        self.forecast.wait(Ahead {
            requests,
            tokens: self.queued_tokens,
        })
    }
}

/// The latest snapshot. The lock is held for the copy of a few numbers, so it
/// can't hold up the engine's thread, and unlike as many atomics it never shows
/// half of a step.
#[derive(Debug, Default)]
pub(crate) struct LatestLoad(Mutex<Load>);

impl LatestLoad {
    pub(crate) fn publish(&self, load: Load) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = load;
    }

    pub(crate) fn read(&self) -> Load {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
