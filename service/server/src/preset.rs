//! Where a server runs, in one word: settings that go together. What is set
//! explicitly, in any way, is stronger than what a preset says of it.

use std::fmt;
use std::str::FromStr;

use serde_json::Value as Json;

const GIB: u64 = 1 << 30;

/// A preset, and why it says what it says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Preset {
    pub(crate) name: &'static str,
    pub(crate) meant_for: &'static str,
    /// At most: fewer where this process may use fewer processors.
    pub(crate) threads: Option<usize>,
    /// At most: less where there is less.
    pub(crate) memory: Option<u64>,
    /// At most: less where the model has less.
    pub(crate) context: Option<usize>,
    pub(crate) max_num_seqs: usize,
    pub(crate) max_num_batched_tokens: usize,
}

pub(crate) const PRESETS: [Preset; 4] = [
    Preset {
        name: "mobile",
        meant_for: "a phone, a small board or a laptop beside its user's other programs: one \
                    stream at a time, the few large cores that such chips have, memory for a 2B \
                    model and one context",
        threads: Some(4),
        memory: Some(2 * GIB),
        context: Some(4096),
        max_num_seqs: 1,
        max_num_batched_tokens: 128,
    },
    Preset {
        name: "edge",
        meant_for: "a gateway or mini-PC that several people or devices share, beside other \
                    services: few streams, and short steps, so that none waits long for the \
                    prompt of another",
        threads: Some(8),
        memory: Some(8 * GIB),
        context: Some(4096),
        max_num_seqs: 4,
        max_num_batched_tokens: 128,
    },
    Preset {
        name: "server",
        meant_for: "a machine of its own: all processors, memory and context there are, many \
                    streams, and long steps, which make the most tokens in all",
        threads: None,
        memory: None,
        context: None,
        max_num_seqs: 32,
        max_num_batched_tokens: 512,
    },
    Preset {
        name: "cloud",
        meant_for: "a pod, one of several replicas: processors and memory are its limits, and \
                    the context is bounded, so that one request can't take the pages of many",
        threads: None,
        memory: None,
        context: Some(8192),
        max_num_seqs: 16,
        max_num_batched_tokens: 256,
    },
];

impl Preset {
    pub(crate) const NAMES: [&str; 4] = [
        PRESETS[0].name,
        PRESETS[1].name,
        PRESETS[2].name,
        PRESETS[3].name,
    ];

    /// What it says of a setting.
    pub(crate) fn value(&self, key: &str) -> Option<Json> {
        match key {
            "threads" => self.threads.map(Json::from),
            "memory_limit" => self.memory.map(Json::from),
            "context_limit" => self.context.map(Json::from),
            "scheduler.max_num_seqs" => Some(self.max_num_seqs.into()),
            "scheduler.max_num_batched_tokens" => Some(self.max_num_batched_tokens.into()),
            _ => None,
        }
    }

    /// Whether it bounds a setting rather than setting it: what the value is
    /// becomes known with the machine and the model.
    pub(crate) fn bounds(key: &str) -> bool {
        matches!(key, "threads" | "memory_limit" | "context_limit")
    }
}

impl FromStr for &'static Preset {
    type Err = String;

    fn from_str(name: &str) -> Result<&'static Preset, String> {
        let preset = PRESETS.iter().find(|preset| preset.name == name);
        preset.ok_or_else(|| format!("{name:?} is none of {}", Preset::NAMES.join(", ")))
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_most = |value: Option<String>, otherwise: &str| match value {
            Some(value) => format!("at most {value}"),
            None => otherwise.to_owned(),
        };
        write!(
            f,
            "{}: for {}. Threads: {}; memory: {}; context: {}; streams in a step: {}; tokens in a \
             step: {}",
            self.name,
            self.meant_for,
            at_most(self.threads.map(|n| n.to_string()), "all processors"),
            at_most(
                self.memory.map(|bytes| format!("{} GiB", bytes / GIB)),
                "all there is",
            ),
            at_most(self.context.map(|n| n.to_string()), "the model's"),
            self.max_num_seqs,
            self.max_num_batched_tokens,
        )
    }
}
