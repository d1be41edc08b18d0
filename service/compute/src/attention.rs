//! Causal attention over paged keys and values.

use std::sync::Mutex;

use ternion_engine::Batch;
use ternion_kernels::float::{add_scaled, dot, softmax};
use ternion_kernels::team::Team;

use crate::kv_cache::{KvCache, View};

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

/// A worker's memory for one token and one group of heads. Grows to the
/// longest context.
#[derive(Default)]
pub(crate) struct Scratch {
    scores: Vec<f32>,
    page: Vec<f32>,
}

/// Attention of every token of a batch in one layer.
///
/// `qkv` is `[batch, stride]` with the rotated queries first in each row; `out`
/// is `[batch, heads * head_dim]`. A work item is a token and a key head: each
/// key and value is read once for all query heads that share it. Scores,
/// their sum and the weighted values are taken in order of position, so the
/// result depends on nothing but the sequence itself.
#[expect(
    clippy::too_many_arguments,
    reason = "one call, and each is a different thing"
)]
pub(crate) fn attend(
    heads: Heads,
    layer: usize,
    cache: &KvCache,
    batch: &Batch,
    places: &[Place],
    qkv: &[f32],
    stride: usize,
    team: &Team,
    workers: &[Mutex<Scratch>],
    out: &mut [f32],
) {
    let group_width = heads.group() * heads.head_dim;
    team.rows(out, group_width, |worker, item, out| {
        let (token, kv_head) = (item / heads.kv_heads, item % heads.kv_heads);
        let place = places[token];
        let queries = &qkv[token * stride + kv_head * group_width..][..group_width];
        let view = View {
            layer,
            table: batch.table_of(&batch.spans[place.span]),
            kv_head,
            len: place.position + 1,
        };
        let mut scratch = workers[worker].lock().expect("a worker's own scratch");
        attend_group(heads, cache, view, queries, &mut scratch, out);
    });
}

/// Attention of one token for the query heads that share a key head.
fn attend_group(
    heads: Heads,
    cache: &KvCache,
    view: View<'_>,
    queries: &[f32],
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let dim = heads.head_dim;
    let factor = 1.0 / (dim as f32).sqrt();
    let Scratch { scores, page } = scratch;
    if scores.len() < heads.group() * view.len {
        scores.resize(heads.group() * view.len, 0.0);
    }
    let scores = &mut scores[..heads.group() * view.len];

    cache.keys(view, page, |position, key| {
        for (query, scores) in queries
            .chunks_exact(dim)
            .zip(scores.chunks_exact_mut(view.len))
        {
            scores[position] = dot(query, key) * factor;
        }
    });
    scores.chunks_exact_mut(view.len).for_each(softmax);
    out.fill(0.0);
    cache.values(view, page, |position, value| {
        for (out, scores) in out.chunks_exact_mut(dim).zip(scores.chunks_exact(view.len)) {
            add_scaled(scores[position], value, out);
        }
    });
}
