//! The forward pass.

use std::sync::{Arc, Mutex};

use ternion_engine::{Batch, BlockCopy, Crew, Executor, ExecutorError, Logits};
use ternion_kernel_host::{KernelError, Prepared};
use ternion_kernels::float::{relu2_times, silu_times};
use ternion_kernels::team::Team;
use ternion_model::{Activation, Architecture, Norm};

use crate::attention::{self, Heads, Plan};
use crate::crew::TeamCrew;
use crate::dialect::NormFunction;
use crate::head::{self, Candidates};
use crate::kv_cache::{Entry, KvCache, KvConfig};
use crate::kv_pool::KvPool;
use crate::kv_precision::KvPrecision;
use crate::linear::{Failure, LinearGroup, Quantised, Sums, Write};
use crate::loaded::LoadedModel;
use crate::rope::RopeTable;

/// Runs a model's batches on a team of threads.
pub struct CpuExecutor {
    model: Arc<LoadedModel>,
    team: Arc<Team>,
    crew: Arc<TeamCrew>,
    cache: KvCache,
    kv: KvConfig,
    rope: RopeTable,
    plan: Plan,
    scratch: Scratch,
}

/// Where a token of the batch stands.
#[derive(Clone, Copy)]
struct Place {
    span: usize,
    position: usize,
}

/// Memory of a step, kept from one to the next.
#[derive(Default)]
struct Scratch {
    places: Vec<Place>,
    /// The residual stream, `[batch, hidden]`.
    x: Vec<f32>,
    /// Output of a norm for those who read it before it is quantised,
    /// `[tokens, its width]`.
    normed: Vec<f32>,
    quantised: Vec<i8>,
    scales: Vec<f32>,
    /// At least one for each [`BLOCK_TOKENS`] tokens.
    prepared: Vec<Prepared>,
    /// q, k and v side by side, or gate and up: `[batch, width]`.
    wide: Vec<f32>,
    /// Attention output, `[batch, width]`.
    mixed: Vec<f32>,
    rows: Vec<Mutex<Row>>,
    /// For a row of the embedding.
    row: head::Row,
    head: head::Scratch,
    sums: Vec<Mutex<Sums>>,
    attention: Vec<Mutex<attention::Worker>>,
}

/// One token's values on their way to int8.
#[derive(Default)]
struct Row {
    gated: Vec<f32>,
    normed: Vec<f32>,
}

/// Tokens that are prepared together, at most. Blocks are prepared side by side,
/// and the integers of one block and some rows stay in the second-level cache;
/// smaller ones make a kernel unpack its weights more often.
const BLOCK_TOKENS: usize = 128;

/// What a norm is applied to.
#[derive(Clone, Copy)]
enum Input {
    Residual,
    Attention,
    /// The gated product of what gate and up gave.
    Gated,
}

/// Bytes of KV cache that one token takes.
pub fn kv_token_bytes(architecture: &Architecture, precision: KvPrecision) -> usize {
    let a = architecture;
    KvCache::token_bytes(precision, a.layers, a.kv_heads, a.head_dim)
}

impl CpuExecutor {
    /// Allocates the KV cache and the tables for sequences of up to
    /// `max_model_len` tokens.
    ///
    /// # Panics
    ///
    /// If the system has not that much memory.
    pub fn new(
        model: Arc<LoadedModel>,
        team: Arc<Team>,
        kv: KvConfig,
        max_model_len: usize,
    ) -> CpuExecutor {
        let pool = KvPool::reserve(kv, model.architecture())
            .unwrap_or_else(|error| panic!("no memory for the KV cache: {error}"));
        CpuExecutor::with_pool(model, team, pool, max_model_len)
    }

    /// The same with a KV cache that was reserved before, for a model of this
    /// architecture.
    pub fn with_pool(
        model: Arc<LoadedModel>,
        team: Arc<Team>,
        pool: KvPool,
        max_model_len: usize,
    ) -> CpuExecutor {
        let a = model.architecture();
        let heads = Heads {
            heads: a.heads,
            kv_heads: a.kv_heads,
            head_dim: a.head_dim,
        };
        let attention = || {
            Mutex::new(attention::Worker::new(
                heads,
                pool.config.precision.arithmetic(),
            ))
        };
        let scratch = Scratch {
            sums: per_worker(&team),
            rows: per_worker(&team),
            attention: (0..team.size()).map(|_| attention()).collect(),
            head: head::Scratch::new(a.vocab, team.size()),
            ..Scratch::default()
        };
        CpuExecutor {
            kv: pool.config,
            cache: pool.cache,
            plan: Plan::new(heads),
            rope: RopeTable::new(a.rope, a.rope_theta, a.head_dim, max_model_len),
            scratch,
            crew: Arc::new(TeamCrew(Arc::clone(&team))),
            team,
            model,
        }
    }

    /// The KV cache's size.
    pub fn kv(&self) -> KvConfig {
        self.kv
    }

    /// How many rows of the head were computed after screening.
    pub fn candidates(&self) -> Candidates {
        self.scratch.head.candidates()
    }

    /// Fills the KV cache with something, as if all its pages had been computed:
    /// for measuring speed, to which only their number matters.
    pub fn make_up_context(&mut self) {
        self.cache
            .make_up(&self.team, self.model.architecture().layers);
    }

    /// The pass, top to bottom, in the arithmetic of bitnet.cpp: exact integer
    /// products of int8 activations and ternary weights, everything else f32.
    fn forward(&mut self, batch: &Batch) -> Result<(), KernelError> {
        let model = &*self.model;
        let a = model.architecture();
        let n = batch.tokens.len();
        self.plan.divide(batch, self.team.size());
        let mut step = Step {
            model,
            team: &self.team,
            n,
            s: &mut self.scratch,
        };
        let long = self.plan.is_long(&self.cache, &self.team);
        step.place_tokens(batch);
        step.embed(batch)?;

        for (index, layer) in model.layers.iter().enumerate() {
            step.quantise(Input::Residual, layer.norm(Norm::Attention), &layer.qkv)?;
            if !long {
                layer.o.expect(step.team);
            }
            step.linear(&layer.qkv)?;
            step.rotate(&self.rope, a);
            step.store(&mut self.cache, batch, index, a);
            step.s.mixed.resize(n * a.q_rows(), 0.0);
            if long {
                layer.o.expect(step.team);
            }
            self.plan.attend(
                index,
                &self.cache,
                batch,
                &step.s.wide[..n * layer.qkv.width()],
                layer.qkv.width(),
                step.team,
                &step.s.attention,
                &mut step.s.mixed,
            );
            step.quantise(Input::Attention, layer.norm(Norm::AttentionSub), &layer.o)?;
            layer.gate_up.expect(step.team);
            step.linear_into_residual(&layer.o)?;

            step.quantise(Input::Residual, layer.norm(Norm::Ffn), &layer.gate_up)?;
            layer.down.expect(step.team);
            step.linear(&layer.gate_up)?;
            step.quantise(Input::Gated, layer.norm(Norm::FfnSub), &layer.down)?;
            match model.layers.get(index + 1) {
                Some(next) => next.qkv.expect(step.team),
                None => step.expect_head(),
            }
            step.linear_into_residual(&layer.down)?;
        }
        step.logits(batch);
        Ok(())
    }
}

impl Executor for CpuExecutor {
    fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        self.cache.copy(copies);
    }

    fn execute(&mut self, batch: &Batch) -> Result<&Logits, ExecutorError> {
        self.forward(batch).map_err(|error| ExecutorError {
            message: error.to_string(),
        })?;
        Ok(&self.scratch.head.logits)
    }

    fn vocab_size(&self) -> usize {
        self.model.architecture().vocab
    }

    fn crew(&self) -> Option<Arc<dyn Crew>> {
        Some(self.crew.clone())
    }
}

/// One pass under way.
struct Step<'a> {
    model: &'a LoadedModel,
    team: &'a Team,
    /// Tokens in the batch.
    n: usize,
    s: &'a mut Scratch,
}

impl Step<'_> {
    fn place_tokens(&mut self, batch: &Batch) {
        self.s.places.clear();
        for (span, s) in batch.spans.iter().enumerate() {
            let positions = s.position..s.position + s.len;
            self.s
                .places
                .extend(positions.map(|position| Place { span, position }));
        }
        assert_eq!(self.s.places.len(), self.n, "spans cover the batch");
    }

    fn embed(&mut self, batch: &Batch) -> Result<(), KernelError> {
        let embedding = self.model.source.embedding();
        let hidden = embedding.cols();
        self.s.x.resize(self.n * hidden, 0.0);
        for (token, x) in batch.tokens.iter().zip(self.s.x.chunks_exact_mut(hidden)) {
            head::read(&embedding, *token as usize, &mut self.s.row, x);
        }
        Ok(())
    }

    fn norming<'b>(&self, weight: &'b [f32]) -> Norming<'b> {
        Norming {
            function: self.model.source.dialect().norm(),
            weight,
            eps: self.model.architecture().norm_eps,
        }
    }

    /// Norm, where the model has one here, quantisation and preparation of what
    /// a group reads.
    fn quantise(
        &mut self,
        input: Input,
        norm: Option<&[f32]>,
        group: &LinearGroup,
    ) -> Result<(), KernelError> {
        let a = self.model.architecture();
        let norm = norm.map(|weight| self.norming(weight));
        let quantise = self.model.source.dialect().quantise();
        let s = &mut *self.s;
        let width = group.cols();
        s.normed.resize(
            if group.reads_exact() {
                self.n * width
            } else {
                0
            },
            0.0,
        );
        let quantised = room(&mut s.quantised, self.n * width);
        let scales = room(&mut s.scales, self.n);
        let (x, mixed, wide, rows) = (&s.x, &s.mixed, &s.wide, &s.rows);
        self.team.zip_rows(
            self.n,
            (&mut s.normed, quantised, scales),
            |worker, token, (exact, quantised, scale)| {
                let mut row = rows[worker].lock().expect("a worker's own scratch");
                let Row { gated, normed } = &mut *row;
                let x = match input {
                    Input::Residual => &x[token * width..][..width],
                    Input::Attention => &mixed[token * width..][..width],
                    Input::Gated => {
                        gate(a.activation, &wide[2 * token * width..][..2 * width], gated)
                    }
                };
                let x = norm.map_or(x, |norm| norm.apply(x, normed));
                if !exact.is_empty() {
                    exact.copy_from_slice(x);
                }
                scale[0] = quantise(x, quantised);
            },
        );
        self.prepare(width)
    }

    fn prepare(&mut self, cols: usize) -> Result<(), KernelError> {
        let (n, blocks) = (self.n, self.num_blocks());
        let s = &mut *self.s;
        if s.prepared.len() < blocks {
            s.prepared.resize_with(blocks, Prepared::default);
        }
        let failure = Failure::default();
        let (kernel, quantised) = (&self.model.kernel, &s.quantised);
        self.team
            .rows(&mut s.prepared[..blocks], 1, |_, block, into| {
                let tokens = block * n / blocks..(block + 1) * n / blocks;
                let x = &quantised[tokens.start * cols..tokens.end * cols];
                failure.note(kernel.prepare(cols, tokens.len(), x, &mut into[0]));
            });
        failure.into_result()
    }

    /// Blocks that the batch is prepared in.
    fn num_blocks(&self) -> usize {
        self.n.div_ceil(BLOCK_TOKENS)
    }

    fn linear(&mut self, group: &LinearGroup) -> Result<(), KernelError> {
        let blocks = self.num_blocks();
        let s = &mut *self.s;
        let input = Quantised {
            batch: self.n,
            exact: &s.normed,
            prepared: &s.prepared[..blocks],
            scales: &s.scales,
        };
        group.forward(
            &self.model.kernel,
            self.team,
            &s.sums,
            &input,
            Write::Replace,
            room(&mut s.wide, self.n * group.width()),
        )
    }

    fn linear_into_residual(&mut self, group: &LinearGroup) -> Result<(), KernelError> {
        let blocks = self.num_blocks();
        let s = &mut *self.s;
        let input = Quantised {
            batch: self.n,
            exact: &s.normed,
            prepared: &s.prepared[..blocks],
            scales: &s.scales,
        };
        group.forward(
            &self.model.kernel,
            self.team,
            &s.sums,
            &input,
            Write::Add,
            &mut s.x,
        )
    }

    fn rotate(&mut self, rope: &RopeTable, a: &Architecture) {
        let rotated = a.q_rows() + a.kv_rows();
        let places = &self.s.places;
        let width = rotated + a.kv_rows();
        let qkv = room(&mut self.s.wide, self.n * width);
        self.team.rows(qkv, width, |_, token, qkv| {
            rope.rotate(places[token].position, &mut qkv[..rotated]);
        });
    }

    fn store(&self, cache: &mut KvCache, batch: &Batch, layer: usize, a: &Architecture) {
        let stride = a.q_rows() + 2 * a.kv_rows();
        let (places, wide) = (&self.s.places, &self.s.wide);
        cache.write(self.team, layer, self.n, |token| {
            let Place { span, position } = places[token];
            let qkv = &wide[token * stride..][..stride];
            let (key, value) = qkv[a.q_rows()..].split_at(a.kv_rows());
            Entry {
                table: batch.table_of(&batch.spans[span]),
                position,
                key,
                value,
            }
        });
    }

    fn expect_head(&self) {
        let matrix = self.model.source.head();
        let head = self.model.ready_head();
        self.s.head.expect(head, &matrix, self.team);
    }

    fn logits(&mut self, batch: &Batch) {
        let a = self.model.architecture();
        let norm = self.norming(&self.model.output_norm);
        let s = &mut *self.s;
        s.normed.clear();
        for span in &batch.spans {
            let end = span.token_begin + span.len;
            for token in end - span.num_logits..end {
                let begin = s.normed.len();
                s.normed.resize(begin + a.hidden, 0.0);
                let x = &s.x[token * a.hidden..][..a.hidden];
                norm.apply_into(x, &mut s.normed[begin..]);
            }
        }
        let matrix = self.model.source.head();
        let head = self.model.ready_head();
        // Of the next step.
        self.model.layers[0].qkv.expect(self.team);
        s.head.fill(head, &matrix, batch, &s.normed, self.team);
    }
}

/// A norm ready to be applied.
#[derive(Clone, Copy)]
struct Norming<'a> {
    function: NormFunction,
    weight: &'a [f32],
    eps: f32,
}

impl Norming<'_> {
    fn apply<'x>(self, x: &[f32], out: &'x mut Vec<f32>) -> &'x [f32] {
        let out = room(out, x.len());
        self.apply_into(x, out);
        out
    }

    fn apply_into(self, x: &[f32], out: &mut [f32]) {
        (self.function)(x, self.weight, self.eps, out);
    }
}

/// The first elements of a buffer, of any content: it grows to the longest that
/// was asked for, and is not cleared from one width to the next.
fn room<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    &mut buffer[..len]
}

/// The gated product of one token's `[gate, up]`.
fn gate<'x>(activation: Activation, gate_up: &[f32], out: &'x mut Vec<f32>) -> &'x [f32] {
    let (gate, up) = gate_up.split_at(gate_up.len() / 2);
    let out = room(out, up.len());
    match activation {
        Activation::Relu2 => relu2_times(gate, up, out),
        Activation::Silu => silu_times(gate, up, out),
    }
    out
}

fn per_worker<T: Default>(team: &Team) -> Vec<Mutex<T>> {
    (0..team.size()).map(|_| Mutex::default()).collect()
}
