//! The forward pass.

use std::sync::{Arc, Mutex};

use ternion_engine::{Batch, Executor, ExecutorError, Logits};
use ternion_kernel_host::{KernelError, Prepared};
use ternion_kernels::float::{relu2_times, silu_times};
use ternion_kernels::team::Team;
use ternion_model::{Activation, Architecture, Norm};

use crate::attention::{self, Heads, Plan};
use crate::dialect::{NormFunction, QuantiseFunction};
use crate::head::{self, Candidates};
use crate::kv_cache::{Entry, KvCache, KvConfig, KvPrecision};
use crate::linear::{LinearGroup, Quantised, Sums, Write};
use crate::loaded::LoadedModel;
use crate::rope::RopeTable;

/// Runs a model's batches on a team of threads.
pub struct CpuExecutor {
    model: Arc<LoadedModel>,
    team: Arc<Team>,
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
    /// Output of the last norm, `[batch, its width]`.
    normed: Vec<f32>,
    quantised: Vec<i8>,
    scales: Vec<f32>,
    prepared: Prepared,
    /// q, k and v side by side, or gate and up: `[batch, width]`.
    wide: Vec<f32>,
    /// Attention output or gated values, `[batch, width]`.
    mixed: Vec<f32>,
    head: head::Scratch,
    sums: Vec<Mutex<Sums>>,
    attention: Vec<Mutex<attention::Worker>>,
}

/// Bytes of KV cache that one token takes.
pub fn kv_token_bytes(architecture: &Architecture, precision: KvPrecision) -> usize {
    let a = architecture;
    KvCache::token_bytes(precision, a.layers, a.kv_heads, a.head_dim)
}

impl CpuExecutor {
    /// Allocates the KV cache and the tables for sequences of up to
    /// `max_model_len` tokens.
    pub fn new(
        model: Arc<LoadedModel>,
        team: Arc<Team>,
        kv: KvConfig,
        max_model_len: usize,
    ) -> CpuExecutor {
        let a = model.architecture();
        let heads = Heads {
            heads: a.heads,
            kv_heads: a.kv_heads,
            head_dim: a.head_dim,
        };
        let attention = || Mutex::new(attention::Worker::new(heads));
        let scratch = Scratch {
            sums: per_worker(&team),
            attention: (0..team.size()).map(|_| attention()).collect(),
            head: head::Scratch::new(a.vocab, team.size()),
            ..Scratch::default()
        };
        CpuExecutor {
            cache: KvCache::new(kv, a.layers, a.kv_heads, a.head_dim),
            kv,
            plan: Plan::new(heads),
            rope: RopeTable::new(a.rope, a.rope_theta, a.head_dim, max_model_len),
            scratch,
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
        step.place_tokens(batch);
        step.embed(batch)?;

        for (index, layer) in model.layers.iter().enumerate() {
            step.norm_residual(layer.norm(Norm::Attention));
            step.linear(&layer.qkv)?;
            step.rotate(&self.rope, a);
            step.store(&mut self.cache, batch, index, a);
            step.s.mixed.resize(n * a.q_rows(), 0.0);
            self.plan.attend(
                index,
                &self.cache,
                batch,
                &step.s.wide,
                layer.qkv.width(),
                step.team,
                &step.s.attention,
                &mut step.s.mixed,
            );
            step.norm_mixed(layer.norm(Norm::AttentionSub));
            step.linear_into_residual(&layer.o)?;

            step.norm_residual(layer.norm(Norm::Ffn));
            step.linear(&layer.gate_up)?;
            step.gate(a);
            step.norm_mixed(layer.norm(Norm::FfnSub));
            step.linear_into_residual(&layer.down)?;
        }
        step.logits(batch);
        Ok(())
    }
}

impl Executor for CpuExecutor {
    fn execute(&mut self, batch: &Batch) -> Result<&Logits, ExecutorError> {
        self.forward(batch).map_err(|error| ExecutorError {
            message: error.to_string(),
        })?;
        Ok(&self.scratch.head.logits)
    }

    fn vocab_size(&self) -> usize {
        self.model.architecture().vocab
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
            head::widen(&embedding, *token as usize, x);
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

    /// Norm and quantisation of the residual stream.
    fn norm_residual(&mut self, weight: Option<&[f32]>) {
        let norm = weight.map(|weight| self.norming(weight));
        let quantise = self.model.source.dialect().quantise();
        let s = &mut *self.s;
        let out = (&mut s.normed, &mut s.quantised, &mut s.scales);
        norm_and_quantise(self.team, self.n, &s.x, norm, quantise, out);
    }

    /// Norm and quantisation of attention output or gated values.
    fn norm_mixed(&mut self, weight: Option<&[f32]>) {
        let norm = weight.map(|weight| self.norming(weight));
        let quantise = self.model.source.dialect().quantise();
        let s = &mut *self.s;
        let out = (&mut s.normed, &mut s.quantised, &mut s.scales);
        norm_and_quantise(self.team, self.n, &s.mixed, norm, quantise, out);
    }

    fn linear(&mut self, group: &LinearGroup) -> Result<(), KernelError> {
        self.s.wide.resize(self.n * group.width(), 0.0);
        self.prepare()?;
        let s = &mut *self.s;
        let input = Quantised {
            batch: self.n,
            exact: &s.normed,
            prepared: &s.prepared,
            scales: &s.scales,
        };
        group.forward(
            &self.model.kernel,
            self.team,
            &s.sums,
            &input,
            Write::Replace,
            &mut s.wide,
        )
    }

    fn linear_into_residual(&mut self, group: &LinearGroup) -> Result<(), KernelError> {
        self.prepare()?;
        let s = &mut *self.s;
        let input = Quantised {
            batch: self.n,
            exact: &s.normed,
            prepared: &s.prepared,
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

    fn prepare(&mut self) -> Result<(), KernelError> {
        let cols = self.s.quantised.len() / self.n;
        self.model
            .kernel
            .prepare(cols, self.n, &self.s.quantised, &mut self.s.prepared)
    }

    fn rotate(&mut self, rope: &RopeTable, a: &Architecture) {
        let rotated = a.q_rows() + a.kv_rows();
        let places = &self.s.places;
        self.team
            .rows(&mut self.s.wide, rotated + a.kv_rows(), |_, token, qkv| {
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

    fn gate(&mut self, a: &Architecture) {
        self.s.mixed.resize(self.n * a.ffn, 0.0);
        let wide = &self.s.wide;
        self.team.rows(&mut self.s.mixed, a.ffn, |_, token, out| {
            let (gate, up) = wide[2 * token * a.ffn..][..2 * a.ffn].split_at(a.ffn);
            match a.activation {
                Activation::Relu2 => relu2_times(gate, up, out),
                Activation::Silu => silu_times(gate, up, out),
            }
        });
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
                norm.apply(&s.x[token * a.hidden..][..a.hidden], &mut s.normed[begin..]);
            }
        }
        let matrix = self.model.source.head();
        let head = &self.model.head;
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
    fn apply(self, x: &[f32], out: &mut [f32]) {
        (self.function)(x, self.weight, self.eps, out);
    }
}

/// RMSNorm of each of `n` tokens, where the model has a norm here, then its
/// int8 values and their scale.
fn norm_and_quantise(
    team: &Team,
    n: usize,
    x: &[f32],
    norm: Option<Norming<'_>>,
    quantise: QuantiseFunction,
    (normed, quantised, scales): (&mut Vec<f32>, &mut Vec<i8>, &mut Vec<f32>),
) {
    let width = x.len() / n;
    normed.resize(x.len(), 0.0);
    quantised.resize(x.len(), 0);
    scales.resize(n, 0.0);
    team.zip_rows(
        n,
        (normed, quantised, scales),
        |_, token, (normed, quantised, scale)| {
            let x = &x[token * width..][..width];
            match norm {
                Some(norm) => norm.apply(x, normed),
                None => normed.copy_from_slice(x),
            }
            scale[0] = quantise(normed, quantised);
        },
    );
}

fn per_worker<T: Default>(team: &Team) -> Vec<Mutex<T>> {
    (0..team.size()).map(|_| Mutex::default()).collect()
}
