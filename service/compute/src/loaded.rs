//! A model in memory, in the layout of a kernel.

use std::sync::{Arc, OnceLock};

use ternion_kernel_host::Kernel;
use ternion_kernels::team::Team;
use ternion_model::{Adapter, Architecture, Model, ModelError, Norm, Projection};

use crate::head::{Head, HeadChoice};
use crate::linear::{Linear, LinearGroup, Lora};
use crate::packed_cache::{CacheUse, PackedCache};
use crate::packing::{Packed, Packing};
use crate::source::WeightSource;

/// Why a model can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file's fault.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The kernel has no way to multiply a matrix of this shape.
    #[error("kernel {kernel} does not support {projection:?} of {rows} x {cols}")]
    Unsupported {
        /// Name of the kernel.
        kernel: String,
        /// Which matrix.
        projection: Projection,
        /// Its output features.
        rows: usize,
        /// Its input features.
        cols: usize,
    },
    /// The kernel failed to pack a matrix.
    #[error("layer {layer}, {projection:?}: {reason}")]
    Pack {
        /// Layer of the matrix.
        layer: usize,
        /// Which matrix.
        projection: Projection,
        /// What the kernel said.
        reason: String,
    },
    /// The output head holds what can't be rounded.
    #[error("output head as {choice}: {reason}; f16 computes it as it is")]
    Head {
        /// How it was to be computed.
        choice: HeadChoice,
        /// Why not.
        reason: String,
    },
}

/// A model's weights, packed for a kernel and ready to run.
pub struct LoadedModel {
    pub(crate) source: Arc<dyn WeightSource>,
    pub(crate) kernel: Kernel,
    pub(crate) layers: Vec<Layer>,
    pub(crate) output_norm: Vec<f32>,
    /// As it is stored, until it has been made ready in another way.
    head: OnceLock<Head>,
}

pub(crate) struct Layer {
    norms: [Option<Vec<f32>>; Norm::ALL.len()],
    pub(crate) qkv: LinearGroup,
    pub(crate) o: LinearGroup,
    pub(crate) gate_up: LinearGroup,
    pub(crate) down: LinearGroup,
}

impl Layer {
    /// Weights of a norm; `None` where the model has no such norm.
    pub(crate) fn norm(&self, norm: Norm) -> Option<&[f32]> {
        let index = Norm::ALL.iter().position(|n| *n == norm)?;
        self.norms[index].as_deref()
    }
}

/// The different shapes of a model's ternary matrices.
pub fn shapes(architecture: &Architecture) -> Vec<(usize, usize)> {
    let mut shapes = Projection::ALL
        .map(|projection| projection.shape(architecture))
        .to_vec();
    shapes.sort_unstable();
    shapes.dedup();
    shapes
}

impl LoadedModel {
    /// Packs every matrix of `source` for `kernel`, on all threads of `team`.
    /// `progress(done, total)` is called after each matrix.
    ///
    /// # Errors
    ///
    /// If the file holds what is not a weight, or the kernel can't do a shape.
    pub fn load(
        source: Arc<dyn WeightSource>,
        adapter: Option<&Adapter>,
        kernel: &Kernel,
        team: &Team,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<LoadedModel, LoadError> {
        let packing = Packing {
            source: &*source,
            kernel,
            team,
            progress,
        };
        let matrices = packing.each(|matrix| packing.pack(matrix))?;
        Ok(LoadedModel::of(matrices, source, adapter, kernel, team))
    }

    /// Likewise, with the packed matrices from a cache if they are there, and
    /// put there if not. Whatever is wrong with the cache is no error, and the
    /// weights are the same.
    ///
    /// # Errors
    ///
    /// As [`load`](LoadedModel::load).
    pub fn load_cached(
        model: Arc<Model>,
        cache: PackedCache<'_>,
        kernel: &Kernel,
        team: &Team,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<(LoadedModel, CacheUse), LoadError> {
        let packing = Packing {
            source: &*model,
            kernel,
            team,
            progress,
        };
        let (matrices, cache_use) = cache.matrices(&packing)?;
        let loaded = LoadedModel::of(matrices, model, None, kernel, team);
        Ok((loaded, cache_use))
    }

    /// `matrices` are all of the source, in order.
    fn of(
        matrices: Vec<Packed>,
        source: Arc<dyn WeightSource>,
        adapter: Option<&Adapter>,
        kernel: &Kernel,
        team: &Team,
    ) -> LoadedModel {
        let products = source.dialect().products();
        let mut linears = matrices.into_iter().enumerate().map(|(index, packed)| {
            let of_a_layer = Projection::ALL.len();
            let (layer, projection) = (index / of_a_layer, Projection::ALL[index % of_a_layer]);
            Linear {
                weights: packed.weights,
                scale: packed.scale,
                lora: adapter.and_then(|adapter| lora(adapter, layer, projection)),
            }
        });
        let mut group = |size: usize| -> LinearGroup {
            let linears = linears.by_ref().take(size).collect();
            LinearGroup::new(linears, products, kernel, team.size())
        };
        let layers = (0..source.architecture().layers)
            .map(|layer| Layer {
                norms: Norm::ALL.map(|norm| source.norm(layer, norm)),
                qkv: group(3),
                o: group(1),
                gate_up: group(2),
                down: group(1),
            })
            .collect();
        let output_norm = source.output_norm();
        source.all_packed();
        LoadedModel {
            output_norm,
            layers,
            kernel: kernel.clone(),
            head: OnceLock::new(),
            source,
        }
    }

    /// Makes the output head ready to be computed in another way than
    /// [`HeadChoice::F16`], once. The model may run meanwhile: until then the
    /// head is computed as it is stored, which a screened one answers like.
    ///
    /// # Errors
    ///
    /// If it holds what can't be rounded.
    pub fn choose_head(&self, choice: HeadChoice, team: &Team) -> Result<(), LoadError> {
        let head = Head::new(choice, &self.source.head(), team);
        self.head_is(head.map_err(|reason| LoadError::Head { choice, reason })?);
        Ok(())
    }

    /// Likewise if it is in the cache, or nothing is to be done: whether the
    /// head is ready now.
    ///
    /// # Errors
    ///
    /// Why what is there isn't used.
    pub fn find_head(
        &self,
        choice: HeadChoice,
        cache: PackedCache<'_>,
        team: &Team,
    ) -> Result<bool, String> {
        let Some(bits) = choice.bits(&self.source.head()) else {
            self.head_is(Head::Exact);
            return Ok(true);
        };
        let found = cache.head(bits, team).map_err(|error| error.to_string())?;
        Ok(found
            .map(|rounding| self.head_is(Head::of(rounding)))
            .is_some())
    }

    /// As [`choose_head`](LoadedModel::choose_head), putting it into the cache:
    /// in the result why that failed, if it did.
    ///
    /// # Errors
    ///
    /// If it holds what can't be rounded.
    pub fn choose_head_cached(
        &self,
        choice: HeadChoice,
        cache: PackedCache<'_>,
        team: &Team,
    ) -> Result<Result<(), String>, LoadError> {
        let Some(bits) = choice.bits(&self.source.head()) else {
            self.head_is(Head::Exact);
            return Ok(Ok(()));
        };
        let (head, put) = match cache.round_head(bits, team) {
            Ok((rounding, put)) => (Head::of(rounding), put),
            Err(_) if choice == HeadChoice::Auto => (Head::Exact, Ok(())),
            Err(reason) => return Err(LoadError::Head { choice, reason }),
        };
        self.head_is(head);
        Ok(put)
    }

    fn head_is(&self, head: Head) {
        self.head.get_or_init(|| head);
        // Until then whole heads were read for each token.
        self.source.all_packed();
    }

    /// The head as it is by now.
    pub(crate) fn ready_head(&self) -> &Head {
        self.head.get().unwrap_or(&Head::Exact)
    }

    /// How the output head is computed: what became of the choice.
    pub fn head(&self) -> HeadChoice {
        self.ready_head().choice()
    }

    /// Instruction set of the head's integer products, if it has any.
    pub fn head_variant(&self) -> Option<&'static str> {
        self.ready_head().variant()
    }

    /// Shapes and choices of the forward pass.
    pub fn architecture(&self) -> &Architecture {
        self.source.architecture()
    }

    /// Bytes of packed ternary weights: what a step reads of them.
    pub fn ternary_bytes(&self) -> usize {
        self.layers
            .iter()
            .flat_map(|layer| [&layer.qkv, &layer.o, &layer.gate_up, &layer.down])
            .map(LinearGroup::bytes)
            .sum()
    }

    /// Bytes of the output head as it is stored.
    pub fn head_bytes(&self) -> usize {
        self.source.head().bytes().len()
    }

    /// Bytes of memory that the head takes besides.
    pub fn head_state_bytes(&self) -> usize {
        self.ready_head().bytes()
    }
}

/// An adapter adds to what the packed weights give and leaves them alone.
fn lora(adapter: &Adapter, layer: usize, projection: Projection) -> Option<Lora> {
    let pair = adapter.pair(layer, projection)?;
    Some(Lora {
        rank: pair.rank,
        a: pair.a.clone(),
        b: pair.b.clone(),
        scaling: pair.scaling,
    })
}
