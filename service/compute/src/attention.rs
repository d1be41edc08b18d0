//! Causal attention over paged keys and values.

use std::sync::Mutex;

use ternion_engine::{Batch, BlockId};
use ternion_kernels::float::{add_scaled, dot, softmax};
use ternion_kernels::team::Team;

use crate::kv_cache::KvCache;

/// Heads of a model.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl Heads {
    /// Query heads that share a key head.
    fn group(self) -> usize {
        self.heads / self.kv_heads
    }
}

/// Where a token of the batch stands.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) span: usize,
    pub(crate) position: usize,
}

/// Scores of one token and one group of heads. Grows to the longest context.
#[derive(Default)]
pub(crate) struct Scores(Vec<f32>);

/// Attention of every token of a batch in one layer.
///
/// `qkv` is `[batch, stride]` with the rotated queries first in each row; `out`
/// is `[batch, heads * head_dim]`. A work item is a token and a key head: each
/// key and value is read once for all query heads that share it. Scores,
/// their sum and the weighted values are taken in order of position, so the
/// result depends on nothing but the sequence itself.
#[expect(clippy::too_many_arguments, reason = "one call, and each is a different thing")]
pub(crate) fn attend(
    heads: Heads,
    layer: usize,
    cache: &KvCache,
    batch: &Batch,
    places: &[Place],
    qkv: &[f32],
    stride: usize,
    team: &Team,
    workers: &[Mutex<Scores>],
    out: &mut [f32],
) {
    let group_width = heads.group() * heads.head_dim;
    team.rows(out, group_width, |worker, item, out| {
        let (token, kv_head) = (item / heads.kv_heads, item % heads.kv_heads);
        let place = places[token];
        let queries = &qkv[token * stride + kv_head * group_width..][..group_width];
        let table = batch.table_of(&batch.spans[place.span]);
        let mut scores = workers[worker].lock().expect("a worker's own scratch");
        let one = OneGroup {
            heads,
            layer,
            kv_head,
            table,
            len: place.position + 1,
        };
        one.attend(cache, queries, &mut scores.0, out);
    });
}

struct OneGroup<'a> {
    heads: Heads,
    layer: usize,
    kv_head: usize,
    table: &'a [BlockId],
    /// Positions to look at: all up to the token's own.
    len: usize,
}

impl OneGroup<'_> {
    fn attend(&self, cache: &KvCache, queries: &[f32], scores: &mut Vec<f32>, out: &mut [f32]) {
        let dim = self.heads.head_dim;
        let factor = 1.0 / (dim as f32).sqrt();
        if scores.len() < self.heads.group() * self.len {
            scores.resize(self.heads.group() * self.len, 0.0);
        }
        let scores = &mut scores[..self.heads.group() * self.len];

        let keys = cache.keys(self.layer, self.table, self.kv_head, self.len);
        for (position, key) in keys.flat_map(|page| page.chunks_exact(dim)).enumerate() {
            for (query, scores) in queries.chunks_exact(dim).zip(scores.chunks_exact_mut(self.len)) {
                scores[position] = dot(query, key) * factor;
            }
        }
        scores.chunks_exact_mut(self.len).for_each(softmax);
        out.fill(0.0);
        let values = cache.values(self.layer, self.table, self.kv_head, self.len);
        for (position, value) in values.flat_map(|page| page.chunks_exact(dim)).enumerate() {
            for (out, scores) in out.chunks_exact_mut(dim).zip(scores.chunks_exact(self.len)) {
                add_scaled(scores[position], value, out);
            }
        }
    }
}
