//! Paged memory for keys and values.

use ternion_engine::BlockId;

/// Size of a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvConfig {
    /// Pages.
    pub num_blocks: usize,
    /// Tokens a page holds.
    pub block_size: usize,
}

/// Keys and values of every layer, in pages of `block_size` tokens.
///
/// A page is `[kv_heads][block_size][head_dim]`, so that attention over one
/// head reads consecutive memory. Values are f32: what attention reads is
/// exactly what the layer computed.
pub(crate) struct KvCache {
    layers: Vec<Layer>,
    shape: Shape,
}

struct Layer {
    keys: Vec<f32>,
    values: Vec<f32>,
}

#[derive(Clone, Copy)]
struct Shape {
    block_size: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Shape {
    /// Where the vector of one token and head begins.
    fn offset(self, block: BlockId, kv_head: usize, slot: usize) -> usize {
        ((block.0 as usize * self.kv_heads + kv_head) * self.block_size + slot) * self.head_dim
    }
}

impl KvCache {
    pub(crate) fn new(
        config: KvConfig,
        layers: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> KvCache {
        let shape = Shape {
            block_size: config.block_size,
            kv_heads,
            head_dim,
        };
        let len = config.num_blocks * config.block_size * kv_heads * head_dim;
        let layers = (0..layers)
            .map(|_| Layer {
                keys: vec![0.0; len],
                values: vec![0.0; len],
            })
            .collect();
        KvCache { layers, shape }
    }

    /// Bytes that a token takes in all layers.
    pub(crate) fn token_bytes(layers: usize, kv_heads: usize, head_dim: usize) -> usize {
        2 * layers * kv_heads * head_dim * size_of::<f32>()
    }

    /// Stores one token's key and value, `[kv_heads * head_dim]` each.
    pub(crate) fn write(
        &mut self,
        layer: usize,
        table: &[BlockId],
        position: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let Shape {
            block_size,
            kv_heads,
            head_dim,
        } = self.shape;
        let block = table[position / block_size];
        let layer = &mut self.layers[layer];
        for head in 0..kv_heads {
            let at = self.shape.offset(block, head, position % block_size);
            let part = head * head_dim..(head + 1) * head_dim;
            layer.keys[at..at + head_dim].copy_from_slice(&key[part.clone()]);
            layer.values[at..at + head_dim].copy_from_slice(&value[part]);
        }
    }

    /// Keys of a head at the first `len` positions, page by page: slices of
    /// whole vectors, in order of position.
    pub(crate) fn keys<'a>(
        &'a self,
        layer: usize,
        table: &'a [BlockId],
        kv_head: usize,
        len: usize,
    ) -> impl Iterator<Item = &'a [f32]> {
        self.pages(&self.layers[layer].keys, table, kv_head, len)
    }

    /// As [`keys`](Self::keys), of the values.
    pub(crate) fn values<'a>(
        &'a self,
        layer: usize,
        table: &'a [BlockId],
        kv_head: usize,
        len: usize,
    ) -> impl Iterator<Item = &'a [f32]> {
        self.pages(&self.layers[layer].values, table, kv_head, len)
    }

    fn pages<'a>(
        &'a self,
        memory: &'a [f32],
        table: &'a [BlockId],
        kv_head: usize,
        len: usize,
    ) -> impl Iterator<Item = &'a [f32]> {
        let shape = self.shape;
        (0..len)
            .step_by(shape.block_size)
            .zip(table)
            .map(move |(first, block)| {
                let tokens = shape.block_size.min(len - first);
                let at = shape.offset(*block, kv_head, 0);
                &memory[at..at + tokens * shape.head_dim]
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_by_head_and_position() {
        let config = KvConfig {
            num_blocks: 4,
            block_size: 2,
        };
        let mut cache = KvCache::new(config, 2, 2, 2);
        let table = [BlockId(3), BlockId(0), BlockId(2)];
        for position in 0..5 {
            let p = position as f32;
            let key = [p, p + 0.1, p + 0.2, p + 0.3];
            let value = key.map(|x| -x);
            cache.write(1, &table, position, &key, &value);
        }
        let keys: Vec<&[f32]> = cache.keys(1, &table, 1, 5).collect();
        assert_eq!(keys, [&[0.2, 0.3, 1.2, 1.3][..], &[2.2, 2.3, 3.2, 3.3], &[4.2, 4.3]]);
        let values: Vec<&[f32]> = cache.values(1, &table, 0, 3).collect();
        assert_eq!(values, [&[-0.0, -0.1, -1.0, -1.1][..], &[-2.0, -2.1]]);
        assert!(cache.keys(0, &table, 1, 5).flatten().all(|x| *x == 0.0));
    }
}
