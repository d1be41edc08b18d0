//! The KV cache's memory before it is used.

use std::io;
use std::ops::Range;

use ternion_kernel_host::Toucher;
use ternion_model::Architecture;

use crate::kv_cache::{KvCache, KvConfig};

/// Of each head's part of the cache, what is touched before anything else. A
/// huge page may come of it: then the rest costs as little as this.
const FIRST_BYTES: usize = 256 << 10;

/// What is touched of each head's part before the next one's turn: a huge page.
const TURN_BYTES: usize = 2 << 20;

/// Memory for keys and values: its addresses are reserved, its pages not there
/// yet.
pub struct KvPool {
    pub(crate) cache: KvCache,
    pub(crate) config: KvConfig,
    bytes: usize,
}

/// Touches a pool's pages while it is used already, in the order in which the
/// engine hands them out: the first of all heads, then the next of all.
#[derive(Clone, Debug)]
pub struct KvTouch {
    toucher: Toucher,
    /// Of one head in all pages.
    head_bytes: usize,
    /// Of all heads.
    bytes: usize,
}

impl KvPool {
    /// Reserves a pool for a model.
    ///
    /// # Errors
    ///
    /// If the system doesn't promise so much memory.
    pub fn reserve(config: KvConfig, architecture: &Architecture) -> io::Result<KvPool> {
        let Architecture {
            layers,
            kv_heads,
            head_dim,
            ..
        } = *architecture;
        let bytes = KvCache::token_bytes(config.precision, layers, kv_heads, head_dim);
        Ok(KvPool {
            cache: KvCache::reserve(config, layers, kv_heads, head_dim)?,
            config,
            bytes: bytes * config.block_size * config.num_blocks,
        })
    }

    /// What touches it.
    pub fn touch(&self) -> KvTouch {
        let (toucher, head_bytes) = self.cache.toucher();
        KvTouch {
            toucher,
            head_bytes,
            bytes: self.bytes,
        }
    }
}

impl KvTouch {
    /// Touches the pages that the first requests get. In the result, whether
    /// the pool was still there to its end.
    ///
    /// # Errors
    ///
    /// If what is in use can't be touched here.
    pub fn first(&self) -> io::Result<bool> {
        self.part(0..FIRST_BYTES)
    }

    /// Touches all others. In the result, likewise.
    ///
    /// # Errors
    ///
    /// Likewise.
    pub fn rest(&self) -> io::Result<bool> {
        for start in (0..self.head_bytes).step_by(TURN_BYTES) {
            if !self.part(start..start + TURN_BYTES)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The bytes of a range in each head's part.
    fn part(&self, range: Range<usize>) -> io::Result<bool> {
        for head in (0..self.bytes).step_by(self.head_bytes.max(1)) {
            if !self.toucher.is_wanted() {
                return Ok(false);
            }
            let end = range.end.min(self.head_bytes);
            self.toucher.touch(head + range.start..head + end)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture_of;
    use crate::kv_precision::KvPrecision;

    #[test]
    fn a_touched_pool_is_as_large_as_its_pages() {
        let architecture = architecture_of("tiny").expect("a known shape");
        for (num_blocks, precision) in [(1, KvPrecision::Int8), (300, KvPrecision::F32)] {
            let config = KvConfig {
                num_blocks,
                block_size: 48,
                precision,
            };
            let pool = KvPool::reserve(config, &architecture).expect("there is that much");
            let heads = architecture.layers * architecture.kv_heads;
            let touch = pool.touch();
            assert_eq!(touch.head_bytes * heads, touch.bytes);
            for touched in [touch.first(), touch.rest()] {
                assert!(touched.expect("it can be touched"));
            }
            drop(pool);
            assert!(!touch.rest().expect("there is nothing to do"));
        }
    }
}
