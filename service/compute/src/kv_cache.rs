//! Paged memory for keys and values.

use half::f16;
use ternion_engine::BlockId;
use ternion_kernels::float::widen_f16;

/// Size of a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvConfig {
    /// Pages.
    pub num_blocks: usize,
    /// Tokens a page holds.
    pub block_size: usize,
}

/// How keys and values are kept between steps. It is part of a model's
/// arithmetic: implementations that round them give other logits than those
/// that don't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvPrecision {
    /// What attention reads is exactly what the layer computed, as in
    /// transformers in f32.
    F32,
    /// Rounded to f16, as in bitnet.cpp.
    F16,
}

impl KvPrecision {
    fn bytes(self) -> usize {
        match self {
            KvPrecision::F32 => 4,
            KvPrecision::F16 => 2,
        }
    }
}

/// Keys and values of every layer, in pages of `block_size` tokens.
///
/// A page is `[kv_heads][block_size][head_dim]`, so that attention over one
/// head reads consecutive memory.
pub(crate) struct KvCache {
    layers: Vec<Layer>,
    shape: Shape,
}

struct Layer {
    keys: Cells,
    values: Cells,
}

enum Cells {
    F32(Vec<f32>),
    /// Little endian.
    F16(Vec<u8>),
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

impl Cells {
    fn new(precision: KvPrecision, len: usize) -> Cells {
        match precision {
            KvPrecision::F32 => Cells::F32(vec![0.0; len]),
            KvPrecision::F16 => Cells::F16(vec![0; 2 * len]),
        }
    }

    fn write(&mut self, at: usize, vector: &[f32]) {
        match self {
            Cells::F32(cells) => cells[at..at + vector.len()].copy_from_slice(vector),
            Cells::F16(cells) => {
                let cells = cells[2 * at..][..2 * vector.len()].as_chunks_mut::<2>().0;
                for (cell, value) in cells.iter_mut().zip(vector) {
                    *cell = f16::from_f32(*value).to_le_bytes();
                }
            }
        }
    }

    /// Elements from `at`, converted in `scratch` if need be.
    fn read<'a>(&'a self, at: usize, len: usize, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        match self {
            Cells::F32(cells) => &cells[at..at + len],
            Cells::F16(cells) => {
                scratch.resize(len, 0.0);
                widen_f16(&cells[2 * at..][..2 * len], scratch);
                scratch
            }
        }
    }
}

/// The positions of one head that attention looks at.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) layer: usize,
    pub(crate) table: &'a [BlockId],
    pub(crate) kv_head: usize,
    /// All from 0 up to this.
    pub(crate) len: usize,
}

impl KvCache {
    pub(crate) fn new(
        config: KvConfig,
        precision: KvPrecision,
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
                keys: Cells::new(precision, len),
                values: Cells::new(precision, len),
            })
            .collect();
        KvCache { layers, shape }
    }

    /// Bytes that a token takes in all layers.
    pub(crate) fn token_bytes(
        precision: KvPrecision,
        layers: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> usize {
        2 * layers * kv_heads * head_dim * precision.bytes()
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
        let shape = self.shape;
        let block = table[position / shape.block_size];
        let layer = &mut self.layers[layer];
        for head in 0..shape.kv_heads {
            let at = shape.offset(block, head, position % shape.block_size);
            let part = head * shape.head_dim..(head + 1) * shape.head_dim;
            layer.keys.write(at, &key[part.clone()]);
            layer.values.write(at, &value[part]);
        }
    }

    /// Calls `f(position, key)` in order of position.
    pub(crate) fn keys(
        &self,
        view: View<'_>,
        scratch: &mut Vec<f32>,
        f: impl FnMut(usize, &[f32]),
    ) {
        self.vectors(&self.layers[view.layer].keys, view, scratch, f);
    }

    /// Calls `f(position, value)` in order of position.
    pub(crate) fn values(
        &self,
        view: View<'_>,
        scratch: &mut Vec<f32>,
        f: impl FnMut(usize, &[f32]),
    ) {
        self.vectors(&self.layers[view.layer].values, view, scratch, f);
    }

    fn vectors(
        &self,
        cells: &Cells,
        view: View<'_>,
        scratch: &mut Vec<f32>,
        mut f: impl FnMut(usize, &[f32]),
    ) {
        let shape = self.shape;
        for (first, block) in (0..view.len).step_by(shape.block_size).zip(view.table) {
            let tokens = shape.block_size.min(view.len - first);
            let at = shape.offset(*block, view.kv_head, 0);
            let page = cells.read(at, tokens * shape.head_dim, scratch);
            for (slot, vector) in page.chunks_exact(shape.head_dim).enumerate() {
                f(first + slot, vector);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(read: impl Fn(&mut Vec<f32>, &mut dyn FnMut(usize, &[f32]))) -> Vec<(usize, Vec<f32>)> {
        let mut vectors = Vec::new();
        read(&mut Vec::new(), &mut |position, vector| {
            vectors.push((position, vector.to_vec()));
        });
        vectors
    }

    #[test]
    fn what_is_written_is_read_by_head_and_position() {
        let config = KvConfig {
            num_blocks: 4,
            block_size: 2,
        };
        let table = [BlockId(3), BlockId(0), BlockId(2)];
        for precision in [KvPrecision::F32, KvPrecision::F16] {
            let mut cache = KvCache::new(config, precision, 2, 2, 2);
            for position in 0..5 {
                let p = position as f32;
                let key = [p, p + 0.25, p + 0.5, p + 0.75];
                cache.write(1, &table, position, &key, &key.map(|x| -x));
            }
            let view = |layer, kv_head, len| View {
                layer,
                table: &table,
                kv_head,
                len,
            };
            let keys = all(|scratch, f| cache.keys(view(1, 1, 5), scratch, f));
            let want = (0..5).map(|p| (p, vec![p as f32 + 0.5, p as f32 + 0.75]));
            assert_eq!(keys, want.collect::<Vec<_>>());
            let values = all(|scratch, f| cache.values(view(1, 0, 3), scratch, f));
            let want = (0..3).map(|p| (p, vec![-(p as f32), -(p as f32 + 0.25)]));
            assert_eq!(values, want.collect::<Vec<_>>());
            let untouched = all(|scratch, f| cache.keys(view(0, 1, 5), scratch, f));
            assert!(untouched.iter().all(|(_, vector)| vector == &[0.0, 0.0]));
        }
    }

    #[test]
    fn f16_rounds_and_f32_does_not() {
        let config = KvConfig {
            num_blocks: 1,
            block_size: 1,
        };
        // 1 + 2^-11 lies half-way between two values of f16 and goes to the even one.
        let value = 1.0 + 1.0 / 2048.0;
        for (precision, want) in [(KvPrecision::F32, value), (KvPrecision::F16, 1.0)] {
            let mut cache = KvCache::new(config, precision, 1, 1, 1);
            cache.write(0, &[BlockId(0)], 0, &[value], &[value]);
            let view = View {
                layer: 0,
                table: &[BlockId(0)],
                kv_head: 0,
                len: 1,
            };
            assert_eq!(all(|s, f| cache.keys(view, s, f)), [(0, vec![want])]);
        }
    }
}
