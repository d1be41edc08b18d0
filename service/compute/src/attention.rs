//! Causal attention over paged keys and values.

use std::sync::Mutex;

use ternion_engine::Batch;
use ternion_kernels::float::attention::{Aligned, Arithmetic, Attention, SEGMENT, partial_len};
use ternion_kernels::team::Team;

use crate::kv_cache::{Gathered, KvCache, View};

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

    /// Tokens whose queries go through keys and values together.
    fn run_len(self) -> usize {
        (MAX_ROWS / self.group()).max(1)
    }
}

/// Queries of one key head that go through keys and values together: enough
/// that converting them is a small part of the work, and few enough that a
/// prompt is many pieces.
const MAX_ROWS: usize = 64;

/// Rows of queries that cost as much as one: fewer wait for memory.
const ROWS_FOR_FREE: usize = 8;

/// Pieces a worker should have to choose from. A run that is more of the step
/// than one of these is split at segments.
const PIECES: usize = 4;

/// Bytes of a layer's keys and values, for each worker, that drive out what its
/// cache holds.
const LONG: usize = 256 << 10;

/// Consecutive tokens of one sequence.
struct Run {
    span: usize,
    /// In the batch.
    first_token: usize,
    len: usize,
    /// Of its first token.
    position: usize,
    /// Segments that its last token sees.
    segments: usize,
    /// Its pieces: for each key head one, or one for each segment.
    first_piece: usize,
    split: bool,
}

impl Run {
    /// Pieces of one key head.
    fn parts(&self) -> usize {
        if self.split { self.segments } else { 1 }
    }

    /// About how long one key head of it takes, in segments read.
    fn cost(&self, group: usize) -> usize {
        self.segments * (self.len * group).max(ROWS_FOR_FREE)
    }
}

/// What one worker computes at a time.
#[derive(Clone, Copy)]
struct Piece {
    run: usize,
    kv_head: usize,
    /// The only segment, or all.
    segment: Option<usize>,
}

/// How a step's attention is divided, and memory for it. The same in all
/// layers.
///
/// A piece is some consecutive tokens of a sequence and one key head, so that
/// each key and value is read once for all query heads that share it and for
/// all those tokens. Results of the kernel depend on segments alone, and
/// segments are joined in order: so how work is divided never shows.
pub(crate) struct Plan {
    heads: Heads,
    runs: Vec<Run>,
    pieces: Vec<Piece>,
    /// Run of each token.
    run_of: Vec<usize>,
    any_split: bool,
    /// `[pieces][piece_len]`.
    results: Aligned,
    piece_len: usize,
    /// Layers that were attended to, in all steps.
    layers: u64,
}

/// Whose queries a worker has: the layer as [`Plan::layers`] counts them, and
/// run and key head.
type Queries = (u64, usize, usize);

/// A worker's memory.
pub(crate) struct Worker {
    attention: Attention,
    gathered: Gathered,
    /// `[rows][head_dim]`.
    queries: Vec<f32>,
    has: Option<Queries>,
    /// Positions that each row sees of a segment.
    counts: Vec<usize>,
    /// Results of a segment.
    later: Aligned,
}

impl Worker {
    pub(crate) fn new(heads: Heads, arithmetic: Arithmetic) -> Worker {
        let rows = heads.run_len() * heads.group();
        Worker {
            attention: Attention::new(arithmetic, heads.head_dim, rows),
            gathered: Gathered::default(),
            queries: Vec::with_capacity(rows * heads.head_dim),
            has: None,
            counts: Vec::with_capacity(rows),
            later: Aligned::new(partial_len(rows, heads.head_dim)),
        }
    }
}

impl Plan {
    pub(crate) fn new(heads: Heads) -> Plan {
        Plan {
            heads,
            runs: Vec::new(),
            pieces: Vec::new(),
            run_of: Vec::new(),
            any_split: false,
            results: Aligned::new(0),
            piece_len: 0,
            layers: 0,
        }
    }

    /// Divides a batch among `num_workers`.
    pub(crate) fn divide(&mut self, batch: &Batch, num_workers: usize) {
        self.runs.clear();
        self.run_of.clear();
        for (span, s) in batch.spans.iter().enumerate() {
            for offset in (0..s.len).step_by(self.heads.run_len()) {
                let len = self.heads.run_len().min(s.len - offset);
                self.run_of.resize(self.run_of.len() + len, self.runs.len());
                self.runs.push(Run {
                    span,
                    first_token: s.token_begin + offset,
                    len,
                    position: s.position + offset,
                    segments: (s.position + offset + len).div_ceil(SEGMENT),
                    first_piece: 0,
                    split: false,
                });
            }
        }
        self.cut(num_workers);
        let longest = self.runs.iter().map(|run| run.len).max().unwrap_or(0);
        self.piece_len = partial_len(longest * self.heads.group(), self.heads.head_dim);
        self.results.at_least(self.pieces.len() * self.piece_len);
    }

    fn cut(&mut self, num_workers: usize) {
        let Heads { kv_heads, .. } = self.heads;
        let group = self.heads.group();
        let total: usize = self.runs.iter().map(|run| kv_heads * run.cost(group)).sum();
        self.pieces.clear();
        self.any_split = false;
        for (index, run) in self.runs.iter_mut().enumerate() {
            let large = run.cost(group) * PIECES * num_workers > total;
            run.split = num_workers > 1 && run.segments > 1 && large;
            run.first_piece = self.pieces.len();
            self.any_split |= run.split;
            for kv_head in 0..kv_heads {
                self.pieces.extend((0..run.parts()).map(|part| Piece {
                    run: index,
                    kv_head,
                    segment: run.split.then_some(part),
                }));
            }
        }
    }

    /// Whether a step reads so much of the cache in each layer that what workers
    /// fetch before it has left theirs when it ends.
    pub(crate) fn is_long(&self, cache: &KvCache, team: &Team) -> bool {
        let segments = self.runs.iter().map(|run| run.segments).sum::<usize>();
        self.heads.kv_heads * segments * cache.segment_bytes() > LONG * team.size()
    }

    /// Attention of every token of the batch in one layer. `qkv` is
    /// `[batch, stride]` with the rotated queries first in each row; `out` is
    /// `[batch, heads * head_dim]`.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call, and each is a different thing"
    )]
    pub(crate) fn attend(
        &mut self,
        layer: usize,
        cache: &KvCache,
        batch: &Batch,
        qkv: &[f32],
        stride: usize,
        team: &Team,
        workers: &[Mutex<Worker>],
        out: &mut [f32],
    ) {
        let (heads, piece_len) = (self.heads, self.piece_len);
        self.layers += 1;
        let layers = self.layers;
        let results = self.results.at_least(self.pieces.len() * piece_len);
        let (pieces, runs) = (&self.pieces, &self.runs);
        let views = |piece: &Piece| {
            let Piece { run, kv_head, .. } = *piece;
            let run = &runs[run];
            let segments = match piece.segment {
                Some(segment) => segment..segment + 1,
                None => 0..run.segments,
            };
            segments.map(move |segment| View {
                layer,
                table: batch.table_of(&batch.spans[run.span]),
                kv_head,
                segment,
                len: (run.position + run.len - segment * SEGMENT).min(SEGMENT),
            })
        };
        team.rows(results, piece_len, |worker, index, result| {
            let piece = &pieces[index];
            let run = &runs[piece.run];
            let mut worker = workers[worker].lock().expect("a worker's own memory");
            let queries = (layers, piece.run, piece.kv_head);
            if worker.has != Some(queries) {
                worker.set_queries(heads, run, piece.kv_head, qkv, stride);
                worker.has = Some(queries);
            }
            // Most often what this worker takes next.
            let next = pieces.get(index + 1).and_then(|piece| views(piece).next());
            worker.attend(heads, run, cache, views(piece), next, result);
        });

        let group_width = heads.group() * heads.head_dim;
        // Where nothing is to be joined, one worker finishes a token's heads.
        let groups = if self.any_split { 1 } else { heads.kv_heads };
        let results = &*results;
        team.rows(out, groups * group_width, |worker, index, out| {
            let first = index * groups;
            let mut worker = workers[worker].lock().expect("a worker's own memory");
            for (offset, out) in out.chunks_exact_mut(group_width).enumerate() {
                let token = (first + offset) / heads.kv_heads;
                let kv_head = (first + offset) % heads.kv_heads;
                let run = &self.runs[self.run_of[token]];
                let parts = run.parts() * piece_len;
                let first = (run.first_piece + kv_head * run.parts()) * piece_len;
                let parts = &results[first..first + parts];
                let rows = run.len * heads.group();
                let first_row = (token - run.first_token) * heads.group();
                for (row, out) in out.chunks_exact_mut(heads.head_dim).enumerate() {
                    let row = first_row + row;
                    worker.attention.finish(rows, parts, piece_len, row, out);
                }
            }
        });
    }
}

impl Worker {
    fn set_queries(&mut self, heads: Heads, run: &Run, kv_head: usize, qkv: &[f32], stride: usize) {
        let width = heads.group() * heads.head_dim;
        self.queries.clear();
        for token in run.first_token..run.first_token + run.len {
            let queries = &qkv[token * stride + kv_head * width..][..width];
            self.queries.extend_from_slice(queries);
        }
        self.attention.set_queries(&self.queries);
    }

    /// Attention of a run to some segments, joined in `result`. What comes
    /// `next` is fetched.
    fn attend<'a>(
        &mut self,
        heads: Heads,
        run: &Run,
        cache: &KvCache,
        views: impl Iterator<Item = View<'a>>,
        next: Option<View<'a>>,
        result: &mut [f32],
    ) {
        let factor = 1.0 / (heads.head_dim as f32).sqrt();
        let rows = run.len * heads.group();
        let mut views = views.enumerate().peekable();
        while let Some((index, view)) = views.next() {
            let next = views.peek().map(|(_, view)| *view).or(next);
            self.counts.clear();
            self.counts.extend((0..rows).map(|row| {
                let seen = run.position + row / heads.group() + 1;
                seen.saturating_sub(view.segment * SEGMENT).min(SEGMENT)
            }));
            let (attention, counts) = (&mut self.attention, &self.counts);
            let out = if index == 0 {
                &mut *result
            } else {
                &mut *self.later
            };
            cache.tiles(view, next, &mut self.gathered, |tiles, next| {
                attention.attend(tiles, next, counts, factor, out);
            });
            if index > 0 {
                self.attention.merge(rows, result, &self.later);
            }
        }
    }
}
