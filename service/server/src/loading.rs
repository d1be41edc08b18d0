//! What it took to load the model.

use std::fmt;
use std::time::Duration;

use ternion_compute::CacheUse;

/// What loading consists of. The first two go on at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Opening the model's files, and its tokenizer.
    Model,
    /// Finding a kernel that works.
    Kernel,
    /// Packing the weights, or reading them from the cache.
    Weights,
    /// Reading the output head from the cache, or rounding it before the start.
    Head,
}

impl Stage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Stage::Model => "model",
            Stage::Kernel => "kernel",
            Stage::Weights => "weights",
            Stage::Head => "head",
        }
    }
}

/// A model was loaded.
pub(crate) struct Loading {
    pub(crate) stages: Vec<(Stage, Duration)>,
    /// Bytes of packed weights.
    pub(crate) packed_bytes: usize,
    /// None: there is no cache.
    pub(crate) cache_use: Option<CacheUse>,
}

impl Loading {
    pub(crate) fn new(
        stages: Vec<(Stage, Duration)>,
        packed_bytes: usize,
        cache_use: Option<CacheUse>,
    ) -> Loading {
        Loading {
            stages,
            packed_bytes,
            cache_use,
        }
    }

    /// What came of the cache, in a word.
    pub(crate) fn cache(&self) -> &'static str {
        match &self.cache_use {
            None => "off",
            Some(CacheUse::Hit) => "hit",
            Some(CacheUse::Written { .. }) => "written",
            Some(CacheUse::Failed { .. }) => "failed",
        }
    }

    pub(crate) fn log(&self) {
        let (rejected, failed) = match &self.cache_use {
            Some(CacheUse::Written { rejected }) => (rejected.as_ref(), None),
            Some(CacheUse::Failed { reason, rejected }) => (rejected.as_ref(), Some(reason)),
            _ => (None, None),
        };
        if let Some(reason) = rejected {
            tracing::warn!(reason, "packed weights in the cache were not used");
        }
        if let Some(reason) = failed {
            tracing::warn!(reason, "packed weights were not put into the cache");
        }
        tracing::info!(
            cache = self.cache(),
            bytes = self.packed_bytes,
            model_seconds = self.seconds(Stage::Model),
            kernel_seconds = self.seconds(Stage::Kernel),
            weights_seconds = self.seconds(Stage::Weights),
            head_seconds = self.seconds(Stage::Head),
            "model loaded"
        );
    }

    fn seconds(&self, stage: Stage) -> f64 {
        let laps = self.stages.iter().filter(|(of, _)| *of == stage);
        laps.map(|(_, took)| took.as_secs_f64()).sum()
    }
}

impl fmt::Display for Loading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = self.packed_bytes as f64 / f64::from(1 << 20);
        let how = match &self.cache_use {
            Some(CacheUse::Hit) => "from the cache",
            Some(CacheUse::Written { .. }) => "packed and put into the cache",
            Some(CacheUse::Failed { .. }) | None => "packed",
        };
        let seconds = self.seconds(Stage::Weights);
        write!(f, "{mebibytes:.1} MiB, {how} in {seconds:.2} s")
    }
}
