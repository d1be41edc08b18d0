//! How large the KV cache is.

use std::fs;

use ternion_compute::{KvConfig, KvPrecision, kv_token_bytes};
use ternion_model::Architecture;

use crate::settings::{KvSettings, SchedulerSettings};

/// Without configuration the KV cache takes at most this part of the memory
/// that the process may use: weights, activations and others need theirs.
const DEFAULT_SHARE: u64 = 4;

/// What is assumed where the memory can't be found out.
const ASSUMED_MEMORY: u64 = 4 << 30;

/// What the KV cache takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KvSize {
    pub(crate) config: KvConfig,
    pub(crate) bytes: u64,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum KvSizeError {
    #[error("kv.memory_bytes is {wanted}, less than one page of {page} bytes")]
    LessThanAPage { wanted: u64, page: u64 },
    #[error(
        "{pages} KV pages of {page} bytes take {bytes} bytes, and this process may use {memory}"
    )]
    MoreThanMemory {
        pages: u64,
        page: u64,
        bytes: u64,
        memory: u64,
    },
}

/// Chooses the number of pages for a model whose own precision is `precision`.
pub(crate) fn kv_size(
    kv: &KvSettings,
    scheduler: &SchedulerSettings,
    architecture: &Architecture,
    precision: KvPrecision,
    context_limit: usize,
    memory: u64,
) -> Result<KvSize, KvSizeError> {
    let precision = kv.precision.unwrap_or(precision);
    let token_bytes = kv_token_bytes(architecture, precision) as u64;
    let page = token_bytes.saturating_mul(kv.block_size as u64).max(1);
    let pages = match (kv.pages, kv.memory_bytes) {
        (Some(pages), _) => pages as u64,
        (None, Some(wanted)) if wanted < page => {
            return Err(KvSizeError::LessThanAPage { wanted, page });
        }
        (None, Some(wanted)) => wanted / page,
        (None, None) => {
            let full = context_limit.div_ceil(kv.block_size) as u64;
            let all_full = full.saturating_mul(scheduler.max_num_seqs as u64);
            all_full.min(memory / DEFAULT_SHARE / page).max(1)
        }
    };
    let bytes = pages.saturating_mul(page);
    let pages_fit = u32::try_from(pages).is_ok();
    if bytes > memory || !pages_fit {
        return Err(KvSizeError::MoreThanMemory {
            pages,
            page,
            bytes,
            memory,
        });
    }
    Ok(KvSize {
        config: KvConfig {
            num_blocks: pages as usize,
            block_size: kv.block_size,
            precision,
        },
        bytes,
    })
}

/// Bytes that this process may use: the machine's, or less if its cgroup says
/// so.
pub(crate) fn memory() -> u64 {
    let limits = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    limits
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok())
        .chain(machine_memory())
        .min()
        .unwrap_or(ASSUMED_MEMORY)
}

fn machine_memory() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use ternion_compute::architecture_of;

    use super::*;

    /// One layer and head of 32 elements, keys and values, in f32.
    const TOKEN_BYTES: u64 = 256;

    fn architecture() -> Architecture {
        let mut architecture = architecture_of("tiny").expect("a known shape");
        architecture.layers = 1;
        architecture.kv_heads = 1;
        architecture
    }

    fn pages(pages: Option<usize>, bytes: Option<u64>, memory: u64) -> Result<usize, KvSizeError> {
        let kv = KvSettings {
            block_size: 16,
            pages,
            memory_bytes: bytes,
            precision: None,
        };
        let scheduler = SchedulerSettings {
            max_num_seqs: 3,
            max_num_batched_tokens: 64,
            step_budget: None,
            max_draft_tokens: 0,
            max_queued: 0,
            max_queued_tokens: 65536,
        };
        let size = kv_size(
            &kv,
            &scheduler,
            &architecture(),
            KvPrecision::F32,
            100,
            memory,
        )?;
        assert_eq!(size.bytes, size.config.num_blocks as u64 * 16 * TOKEN_BYTES);
        Ok(size.config.num_blocks)
    }

    #[test]
    fn pages_come_from_settings_or_from_what_full_contexts_take() {
        let page = 16 * TOKEN_BYTES;
        assert_eq!(pages(Some(5), None, 1 << 30), Ok(5));
        assert_eq!(pages(None, Some(3 * page + 1), 1 << 30), Ok(3));
        // 100 tokens are 7 pages, three times.
        assert_eq!(pages(None, None, 1 << 30), Ok(21));
        // A quarter of the memory holds 10 pages and a half.
        assert_eq!(pages(None, None, 42 * page), Ok(10));
        assert_eq!(
            pages(None, Some(page - 1), 1 << 30),
            Err(KvSizeError::LessThanAPage {
                wanted: page - 1,
                page
            })
        );
        assert!(matches!(
            pages(Some(11), None, 10 * page),
            Err(KvSizeError::MoreThanMemory { .. })
        ));
    }

    #[test]
    fn a_narrower_type_makes_more_pages_of_the_same_memory() {
        let pages = |precision| {
            let kv = KvSettings {
                block_size: 16,
                pages: None,
                memory_bytes: Some(64 << 10),
                precision,
            };
            let scheduler = SchedulerSettings {
                max_num_seqs: 3,
                max_num_batched_tokens: 64,
                step_budget: None,
                max_draft_tokens: 0,
                max_queued: 0,
                max_queued_tokens: 65536,
            };
            let memory = 1 << 30;
            kv_size(
                &kv,
                &scheduler,
                &architecture(),
                KvPrecision::F16,
                100,
                memory,
            )
            .map(|size| (size.config.precision, size.config.num_blocks))
        };
        assert_eq!(pages(None), Ok((KvPrecision::F16, 32)));
        assert_eq!(pages(Some(KvPrecision::F32)), Ok((KvPrecision::F32, 16)));
        // 64 bytes and two scales a token.
        assert_eq!(pages(Some(KvPrecision::Int8)), Ok((KvPrecision::Int8, 56)));
    }
}
