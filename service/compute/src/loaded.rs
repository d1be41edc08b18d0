//! A model in memory, in the layout of a kernel.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ternion_kernel_host::{Kernel, PackError};
use ternion_kernels::team::Team;
use ternion_model::{Adapter, Architecture, ModelError, Norm, Projection};

use crate::head::{Head, HeadChoice};
use crate::linear::{Linear, LinearGroup, Lora};
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
    pub(crate) head: Head,
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
        let num_layers = source.architecture().layers;
        let total = num_layers * Projection::ALL.len();
        let done = AtomicUsize::new(0);
        let mut packed: Vec<Option<Result<Linear, LoadError>>> = Vec::new();
        packed.resize_with(total, || None);
        team.rows(&mut packed, 1, |_, index, slot| {
            let (layer, projection) =
                (index / Projection::ALL.len(), index % Projection::ALL.len());
            let linear = load_linear(
                &*source,
                adapter,
                kernel,
                layer,
                Projection::ALL[projection],
            );
            slot[0] = Some(linear);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
        });

        let products = source.dialect().products();
        let mut linears = packed.into_iter().map(|slot| slot.expect("each row ran"));
        let mut group = |size: usize| -> Result<LinearGroup, LoadError> {
            let linears = linears.by_ref().take(size).collect::<Result<_, _>>()?;
            Ok(LinearGroup::new(linears, products, kernel, team.size()))
        };
        let layers = (0..num_layers)
            .map(|layer| {
                Ok(Layer {
                    norms: Norm::ALL.map(|norm| source.norm(layer, norm)),
                    qkv: group(3)?,
                    o: group(1)?,
                    gate_up: group(2)?,
                    down: group(1)?,
                })
            })
            .collect::<Result<_, LoadError>>()?;
        Ok(LoadedModel {
            output_norm: source.output_norm(),
            layers,
            kernel: kernel.clone(),
            head: Head::Exact,
            source,
        })
    }

    /// Makes the output head ready to be computed in another way than
    /// [`HeadChoice::F16`].
    ///
    /// # Errors
    ///
    /// If it holds what can't be rounded.
    pub fn choose_head(&mut self, choice: HeadChoice, team: &Team) -> Result<(), LoadError> {
        let matrix = self.source.head();
        self.head = Head::new(choice, &matrix, team)
            .map_err(|reason| LoadError::Head { choice, reason })?;
        Ok(())
    }

    /// How the output head is computed: what became of the choice.
    pub fn head(&self) -> HeadChoice {
        self.head.choice()
    }

    /// Instruction set of the head's integer products, if it has any.
    pub fn head_variant(&self) -> Option<&'static str> {
        self.head.variant()
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
        self.head.bytes()
    }
}

fn load_linear(
    source: &dyn WeightSource,
    adapter: Option<&Adapter>,
    kernel: &Kernel,
    layer: usize,
    projection: Projection,
) -> Result<Linear, LoadError> {
    let (rows, cols) = projection.shape(source.architecture());
    if !kernel.supports(rows, cols) {
        return Err(LoadError::Unsupported {
            kernel: kernel.name().to_owned(),
            projection,
            rows,
            cols,
        });
    }
    let weights = kernel
        .pack(rows, cols, &mut |range: Range<usize>, trits: &mut [i8]| {
            source.trits_into(layer, projection, range, trits)
        })
        .map_err(|error| match error {
            PackError::Fill(error) => LoadError::Model(error),
            PackError::Kernel(error) => LoadError::Pack {
                layer,
                projection,
                reason: error.to_string(),
            },
        })?;
    let lora = adapter
        .and_then(|adapter| adapter.pair(layer, projection))
        .map(|pair| Lora {
            rank: pair.rank,
            a: pair.a.clone(),
            b: pair.b.clone(),
            scaling: pair.scaling,
        });
    Ok(Linear {
        weights,
        scale: source.scale(layer, projection)?,
        lora,
    })
}
