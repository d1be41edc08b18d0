//! Which processors this process may use, and how it computes on them: how many
//! threads, on which processors each, and whose memory.
//!
//! Affinity (a cpuset, `taskset`) and a cgroup's quota are the standard
//! library's to find out, rounded down. What is added here is which node of
//! memory each processor belongs to (NUMA). Threads that fit one node stay
//! there, with their memory. More are the same number on each node, and memory
//! is spread over all of them page by page: every thread reads every matrix, so
//! there is no node where it would rather be.

use std::{fmt, fs, path::Path, thread::available_parallelism};

use clap::ValueEnum;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Deserialize;

/// Where Linux tells of processors and nodes.
const SYSFS: &str = "/sys";

/// More than Linux numbers.
const MAX_PROCESSORS: usize = 1 << 14;

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Processors {
    /// By affinity, ascending; empty where it can't be told.
    allowed: Vec<usize>,
    /// Of the machine.
    num_online: usize,
    /// By affinity and quota.
    budget: usize,
    /// Those with processors that are allowed.
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    id: usize,
    /// Allowed ones.
    processors: Vec<usize>,
}

/// Whether compute threads are bound to a processor each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pinning {
    /// Where the processors seem to be this process's alone.
    #[default]
    Auto,
    Always,
    Never,
}

impl Pinning {
    pub(crate) const NAMES: [&str; 3] = ["auto", "always", "never"];
}

/// What is done about nodes of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Numa {
    /// One node if the threads fit, or memory spread over all.
    #[default]
    Auto,
    Never,
}

impl Numa {
    pub(crate) const NAMES: [&str; 2] = ["auto", "never"];
}

/// What is wanted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    pub(crate) threads: Option<usize>,
    /// More are not taken by themselves.
    pub(crate) most: Option<usize>,
    pub(crate) pinning: Pinning,
    pub(crate) numa: Numa,
}

/// What the number of threads comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Setting,
    Preset,
    Machine,
    Affinity,
    Quota,
    /// The same number on each node.
    Nodes,
}

impl Limit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Limit::Setting => "setting",
            Limit::Preset => "preset",
            Limit::Machine => "machine",
            Limit::Affinity => "affinity",
            Limit::Quota => "quota",
            Limit::Nodes => "nodes",
        }
    }
}

/// How to compute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) threads: usize,
    pub(crate) limit: Limit,
    /// Nodes that the threads run on; empty where nothing is done about nodes.
    pub(crate) nodes: Vec<usize>,
    /// Processors of these nodes, or all that are allowed: those of a node
    /// first, in turn with other nodes'.
    processors: Vec<usize>,
    /// Whether thread `n` stays on the `n`th of these.
    pub(crate) is_pinned: bool,
}

impl Processors {
    /// Those of this process, as it is now.
    pub(crate) fn of_this_process() -> Processors {
        let budget = available_parallelism().map_or(1, usize::from);
        // Fails on machines with more processors than the type has bits for.
        let allowed = match sched_getaffinity(None) {
            Ok(set) => (0..CpuSet::MAX_CPU).filter(|&n| set.is_set(n)).collect(),
            Err(_) => Vec::new(),
        };
        Processors::read(Path::new(SYSFS), allowed, budget)
    }

    fn read(sysfs: &Path, allowed: Vec<usize>, budget: usize) -> Processors {
        let list = |path: &str| {
            let text = fs::read_to_string(sysfs.join(path)).ok()?;
            parse_list(text.trim())
        };
        let node = |id: usize| {
            let mut processors = list(&format!("devices/system/node/node{id}/cpulist"))?;
            processors.retain(|processor| allowed.contains(processor));
            (!processors.is_empty()).then_some(Node { id, processors })
        };
        let nodes = list("devices/system/node/online").unwrap_or_default();
        Processors {
            num_online: list("devices/system/cpu/online").map_or(allowed.len(), |all| all.len()),
            nodes: nodes.into_iter().filter_map(node).collect(),
            budget,
            allowed,
        }
    }

    /// How to compute on them.
    pub(crate) fn place(&self, wanted: Wanted) -> Placement {
        let (mut threads, mut limit) = self.count(wanted);
        let nodes = match wanted.numa {
            Numa::Auto if self.nodes.len() > 1 => self.nodes_for(threads),
            _ => Vec::new(),
        };
        let whole = threads - threads % nodes.len().max(1);
        if whole != threads && limit != Limit::Setting {
            (threads, limit) = (whole, Limit::Nodes);
        }
        let processors = match nodes.is_empty() {
            true => self.allowed.clone(),
            false => in_turn(&nodes),
        };
        let is_pinned = match wanted.pinning {
            Pinning::Never => false,
            Pinning::Always => processors.len() >= threads,
            Pinning::Auto => self.are_ours_alone() && processors.len() == threads,
        };
        Placement {
            threads,
            limit,
            nodes: nodes.iter().map(|node| node.id).collect(),
            processors,
            is_pinned,
        }
    }

    fn count(&self, wanted: Wanted) -> (usize, Limit) {
        if let Some(threads) = wanted.threads {
            return (threads, Limit::Setting);
        }
        if let Some(most) = wanted.most.filter(|most| *most < self.budget) {
            return (most, Limit::Preset);
        }
        let limit = if self.budget < self.allowed.len() {
            Limit::Quota
        } else if self.allowed.len() < self.num_online {
            Limit::Affinity
        } else {
            Limit::Machine
        };
        (self.budget, limit)
    }

    /// The smallest node that has room for all threads, or all nodes.
    fn nodes_for(&self, threads: usize) -> Vec<&Node> {
        let with_room = self.nodes.iter();
        let with_room = with_room.filter(|node| node.processors.len() >= threads);
        match with_room.min_by_key(|node| node.processors.len()) {
            Some(node) => vec![node],
            None => self.nodes.iter().collect(),
        }
    }

    /// Whether somebody gave this process processors of the machine for itself,
    /// as far as can be told: some of them, and no quota on their time. Who may
    /// use the whole machine shares it with everybody, and a thread that is
    /// bound to a processor can't make way.
    fn are_ours_alone(&self) -> bool {
        self.allowed.len() < self.num_online && self.budget >= self.allowed.len()
    }
}

/// The first processor of each node, then the second of each, and so on.
fn in_turn(nodes: &[&Node]) -> Vec<usize> {
    let most = nodes.iter().map(|node| node.processors.len()).max();
    (0..most.unwrap_or(0))
        .flat_map(|n| nodes.iter().filter_map(move |node| node.processors.get(n)))
        .copied()
        .collect()
}

impl Placement {
    /// Moves this thread, and those it will start, to the placement's nodes,
    /// and spreads the memory they will touch over these. To be called before
    /// there are others. What the system refuses is logged, and left.
    pub(crate) fn enter(&self) {
        if self.nodes.is_empty() {
            return;
        }
        if let Err(error) = bind(&self.processors) {
            tracing::warn!(%error, "threads are not kept on the nodes that they were placed on");
        }
        if self.nodes.len() > 1
            && let Err(error) = ternion_kernels::memory_policy::interleave(&self.nodes)
        {
            tracing::warn!(%error, "memory is not spread over nodes, and lies where it is touched");
        }
    }

    /// Binds the calling thread, which is compute thread `worker`, if that is
    /// what was placed.
    pub(crate) fn pin(&self, worker: usize) {
        let processor = self.processors.get(worker).filter(|_| self.is_pinned);
        if let Some(&processor) = processor
            && let Err(error) = bind(&[processor])
        {
            tracing::warn!(%error, worker, processor, "compute thread is not pinned");
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.threads == 1 { "" } else { "s" };
        write!(f, "{} thread{s}", self.threads)?;
        match self.limit {
            Limit::Setting => f.write_str(", as set")?,
            Limit::Preset => f.write_str(", by preset")?,
            Limit::Machine => {}
            Limit::Affinity => f.write_str(", by affinity")?,
            Limit::Quota => f.write_str(", by quota")?,
            Limit::Nodes => f.write_str(", as many on each node")?,
        }
        match &self.nodes[..] {
            [] => {}
            [node] => write!(f, ", on memory node {node}")?,
            nodes => write!(f, ", memory spread over {} nodes", nodes.len())?,
        }
        if self.is_pinned {
            f.write_str(", pinned")?;
        }
        Ok(())
    }
}

fn bind(processors: &[usize]) -> rustix::io::Result<()> {
    let mut set = CpuSet::new();
    for &processor in processors.iter().filter(|n| **n < CpuSet::MAX_CPU) {
        set.set(processor);
    }
    sched_setaffinity(None, &set)
}

/// Reads `0-3,8,10-11`; an empty text is an empty list.
fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MAX_PROCESSORS || numbers.len() > MAX_PROCESSORS {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

#[cfg(test)]
#[path = "processors_tests.rs"]
mod tests;
