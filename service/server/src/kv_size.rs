//! How large the KV cache is.

use ternion_compute::{HeadChoice, KvConfig, KvPrecision, kv_token_bytes};
use ternion_model::{Architecture, Projection};

use crate::memory_room::MemoryRoom;
use crate::settings::{KvSettings, SchedulerSettings};

/// Without configuration the KV cache takes at most this part of the memory
/// that the process may use, and of what is left beside everything else.
const DEFAULT_SHARE: u64 = 4;
const DEFAULT_SHARE_OF_REST: (u64, u64) = (3, 4);

/// The program, its tokenizer, connections.
const OTHER_BYTES: u64 = 96 << 20;

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
    #[error("{setting}: {pages} pages are more than the {max} that can be", max = u32::MAX)]
    TooMany { setting: &'static str, pages: u64 },
    #[error(
        "{setting}: {pages} KV pages of {page} bytes take {bytes} bytes, and weights, output head \
         and buffers {besides}; {room}"
    )]
    DoesNotFit {
        setting: &'static str,
        pages: u64,
        page: u64,
        bytes: u64,
        besides: u64,
        room: MemoryRoom,
    },
}

/// What a KV cache must leave: bytes that have to be in memory besides.
pub(crate) fn besides(
    architecture: &Architecture,
    head: HeadChoice,
    scheduler: &SchedulerSettings,
) -> u64 {
    let a = architecture;
    let product = |factors: &[usize]| -> u64 {
        let factors = factors.iter().map(|n| *n as u64);
        factors.fold(1, u64::saturating_mul)
    };
    // The widest packing has two bits a weight.
    let ternary = Projection::ALL.iter().map(|projection| {
        let (rows, cols) = projection.shape(a);
        product(&[a.layers, rows, cols]) / 4
    });
    let head_weights = product(&[a.vocab, a.hidden]);
    let head = match head {
        HeadChoice::F16 => head_weights.saturating_mul(2),
        HeadChoice::Int8 => head_weights,
        HeadChoice::Auto | HeadChoice::Screened => head_weights / 2,
    };
    let token = product(&[4, 4 * a.hidden + 2 * a.ffn + a.q_rows()]);
    let tokens = token.saturating_mul(scheduler.max_num_batched_tokens as u64);
    let logits = product(&[4, a.vocab, scheduler.max_num_seqs]);
    ternary
        .chain([head, tokens, logits])
        .fold(OTHER_BYTES, u64::saturating_add)
}

/// Chooses the number of pages for a model whose own precision is `precision`.
pub(crate) fn kv_size(
    kv: &KvSettings,
    scheduler: &SchedulerSettings,
    architecture: &Architecture,
    precision: KvPrecision,
    context_limit: usize,
    besides: u64,
    room: &MemoryRoom,
) -> Result<KvSize, KvSizeError> {
    let precision = kv.precision.unwrap_or(precision);
    let token_bytes = kv_token_bytes(architecture, precision) as u64;
    let page = token_bytes.saturating_mul(kv.block_size as u64).max(1);
    let (setting, pages) = match (kv.pages, kv.memory_bytes) {
        (Some(pages), _) => ("kv.pages", pages as u64),
        (None, Some(wanted)) if wanted < page => {
            return Err(KvSizeError::LessThanAPage { wanted, page });
        }
        (None, Some(wanted)) => ("kv.memory_bytes", wanted / page),
        (None, None) => {
            let full = context_limit.div_ceil(kv.block_size) as u64;
            let all_full = full.saturating_mul(scheduler.max_num_seqs as u64);
            let (share, of) = DEFAULT_SHARE_OF_REST;
            let rest = room.left.saturating_sub(besides) / of * share;
            let most = (room.total / DEFAULT_SHARE).min(rest) / page;
            ("kv.pages, unset", all_full.min(most).max(1))
        }
    };
    if u32::try_from(pages).is_err() {
        return Err(KvSizeError::TooMany { setting, pages });
    }
    let bytes = pages.saturating_mul(page);
    if bytes.saturating_add(besides) > room.left {
        return Err(KvSizeError::DoesNotFit {
            setting,
            pages,
            page,
            bytes,
            besides,
            room: room.clone(),
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

    const SCHEDULER: SchedulerSettings = SchedulerSettings {
        max_num_seqs: 3,
        max_num_batched_tokens: 64,
        step_budget: None,
        max_draft_tokens: 0,
        max_queued: 0,
        max_queued_tokens: 65536,
    };

    fn pages(
        pages: Option<usize>,
        bytes: Option<u64>,
        besides: u64,
        memory: u64,
    ) -> Result<usize, KvSizeError> {
        let kv = KvSettings {
            block_size: 16,
            pages,
            memory_bytes: bytes,
            prefix_cache: true,
            public_prompts: None,
            precision: None,
        };
        let size = kv_size(
            &kv,
            &SCHEDULER,
            &architecture(),
            KvPrecision::F32,
            100,
            besides,
            &MemoryRoom::of(memory),
        )?;
        assert_eq!(size.bytes, size.config.num_blocks as u64 * 16 * TOKEN_BYTES);
        Ok(size.config.num_blocks)
    }

    #[test]
    fn pages_come_from_settings_or_from_what_full_contexts_take() {
        let page = 16 * TOKEN_BYTES;
        assert_eq!(pages(Some(5), None, 0, 1 << 30), Ok(5));
        assert_eq!(pages(None, Some(3 * page + 1), 0, 1 << 30), Ok(3));
        // 100 tokens are 7 pages, three times.
        assert_eq!(pages(None, None, 0, 1 << 30), Ok(21));
        // A quarter of the memory holds 10 pages and a half.
        assert_eq!(pages(None, None, 0, 42 * page), Ok(10));
        // Of the 12 that are left beside the rest, three quarters are 9.
        assert_eq!(pages(None, None, 30 * page, 42 * page), Ok(9));
        assert_eq!(
            pages(None, Some(page - 1), 0, 1 << 30),
            Err(KvSizeError::LessThanAPage {
                wanted: page - 1,
                page
            })
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        let page = 16 * TOKEN_BYTES;
        assert_eq!(pages(Some(10), None, 0, 10 * page), Ok(10));
        let refused = |setting, bytes, besides| {
            let said = pages(setting, bytes, besides, 10 * page).map_err(|e| e.to_string());
            said.expect_err("it does not fit")
        };
        let memory = format!("{} bytes are available on this machine", 10 * page);
        assert_eq!(
            refused(Some(10), None, 1),
            format!(
                "kv.pages: 10 KV pages of 4096 bytes take 40960 bytes, and weights, output head \
                 and buffers 1; {memory}"
            )
        );
        let said = refused(None, Some(11 * page), 0);
        assert!(said.starts_with("kv.memory_bytes: 11 KV pages"), "{said}");
        let said = refused(None, None, 10 * page);
        assert!(said.starts_with("kv.pages, unset: 1 KV pages"), "{said}");
        let said = refused(Some(1 << 32), None, 0);
        assert!(said.starts_with("kv.pages: 4294967296 pages"), "{said}");
    }

    #[test]
    fn what_a_model_takes_besides_is_two_bits_a_weight_and_its_head() {
        let architecture = architecture_of("2b-4t").expect("a known shape");
        let scheduler = SchedulerSettings {
            max_num_batched_tokens: 0,
            max_num_seqs: 0,
            ..SCHEDULER
        };
        let besides = |head| besides(&architecture, head, &scheduler) - OTHER_BYTES;
        // 2.08 G ternary weights; 128,256 rows of 2,560.
        let ternary = 521_011_200;
        assert_eq!(besides(HeadChoice::F16), ternary + 656_670_720);
        assert_eq!(besides(HeadChoice::Int8), ternary + 328_335_360);
        assert_eq!(besides(HeadChoice::Auto), ternary + 164_167_680);
    }

    #[test]
    fn a_narrower_type_makes_more_pages_of_the_same_memory() {
        let pages = |precision| {
            let kv = KvSettings {
                block_size: 16,
                pages: None,
                memory_bytes: Some(64 << 10),
                prefix_cache: true,
                public_prompts: None,
                precision,
            };
            kv_size(
                &kv,
                &SCHEDULER,
                &architecture(),
                KvPrecision::F16,
                100,
                0,
                &MemoryRoom::of(1 << 30),
            )
            .map(|size| (size.config.precision, size.config.num_blocks))
        };
        assert_eq!(pages(None), Ok((KvPrecision::F16, 32)));
        assert_eq!(pages(Some(KvPrecision::F32)), Ok((KvPrecision::F32, 16)));
        // 64 bytes and two scales a token.
        assert_eq!(pages(Some(KvPrecision::Int8)), Ok((KvPrecision::Int8, 56)));
    }
}
