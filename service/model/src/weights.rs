use std::{ops::Range, sync::OnceLock};

use crate::{
    ModelError,
    dense::{DenseFormat, DenseMatrix},
    mapped::FileBytes,
    ternary::{Packing, TernaryMatrix},
};

/// The ternary matrices of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Projection {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl Projection {
    /// In the order in which a forward pass uses them.
    pub const ALL: [Projection; 7] = [
        Projection::Q,
        Projection::K,
        Projection::V,
        Projection::O,
        Projection::Gate,
        Projection::Up,
        Projection::Down,
    ];

    /// Output and input features.
    pub fn shape(self, of: &crate::Architecture) -> (usize, usize) {
        match self {
            Projection::Q => (of.q_rows(), of.hidden),
            Projection::K | Projection::V => (of.kv_rows(), of.hidden),
            Projection::O => (of.hidden, of.q_rows()),
            Projection::Gate | Projection::Up => (of.ffn, of.hidden),
            Projection::Down => (of.hidden, of.ffn),
        }
    }
}

/// The norms of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Norm {
    Attention,
    /// Before `o_proj`; only where [`crate::Architecture::sub_norms`].
    AttentionSub,
    Ffn,
    /// Before `down_proj`; only where [`crate::Architecture::sub_norms`].
    FfnSub,
}

impl Norm {
    pub const ALL: [Norm; 4] = [Norm::Attention, Norm::AttentionSub, Norm::Ffn, Norm::FfnSub];

    pub fn len(self, of: &crate::Architecture) -> usize {
        match self {
            Norm::Attention | Norm::Ffn => of.hidden,
            Norm::AttentionSub => of.q_rows(),
            Norm::FfnSub => of.ffn,
        }
    }

    pub(crate) fn is_sub_norm(self) -> bool {
        matches!(self, Norm::AttentionSub | Norm::FfnSub)
    }
}

/// All weights of a model. Large ones stay in the file's mapping; norms are copied out.
#[derive(Debug)]
pub struct Weights {
    pub(crate) files: Vec<FileBytes>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) output_norm: Vec<f32>,
    pub(crate) embedding: StoredDense,
    pub(crate) head: Option<StoredDense>,
}

#[derive(Debug)]
pub(crate) struct Layer {
    /// In the order of [`Projection::ALL`].
    pub projections: [StoredTernary; 7],
    /// In the order of [`Norm::ALL`].
    pub norms: [Option<Vec<f32>>; 4],
}

impl Weights {
    /// A projection of a layer.
    ///
    /// # Errors
    ///
    /// Float masters find their scale when they are first asked for, by reading the whole matrix;
    /// one that holds an infinity is refused then.
    ///
    /// # Panics
    ///
    /// If there is no such layer.
    pub fn ternary(
        &self,
        layer: usize,
        projection: Projection,
    ) -> Result<TernaryMatrix<'_>, ModelError> {
        let stored = &self.layers[layer].projections[projection as usize];
        stored.matrix(&self.files[stored.file])
    }

    /// Names all that a projection's trits and scale are made of.
    ///
    /// # Panics
    ///
    /// If there is no such layer.
    pub fn ternary_digest(&self, layer: usize, projection: Projection) -> [u8; 32] {
        let stored = &self.layers[layer].projections[projection as usize];
        stored.digest(&self.files[stored.file])
    }

    /// Gives the memory of a projection's stored weights back to the system; they are read again when they are looked
    /// at.
    ///
    /// # Panics
    ///
    /// If there is no such layer.
    pub fn give_back_ternary(&self, layer: usize, projection: Projection) {
        let stored = &self.layers[layer].projections[projection as usize];
        self.files[stored.file].give_back(stored.bytes.clone());
    }

    /// The same for all there is in the files.
    pub fn give_back(&self) {
        for file in &self.files {
            file.give_back(0..file.len());
        }
    }

    /// Names the files as they were when they were opened, without a look at their bytes: as long as they are where they
    /// were, have their lengths and were not written to, they have this stamp. `None` for weights that lie in no file,
    /// and for files so new that they could be written again with no trace of it.
    pub fn stamp(&self) -> Option<[u8; 32]> {
        let mut hasher = blake3::Hasher::new();
        for file in &self.files {
            for number in file.stamp()?.bytes() {
                hasher.update(&number);
            }
        }
        Some(hasher.finalize().into())
    }

    /// The norm's weights, or `None` if the architecture has no sub-norms and this is one.
    ///
    /// # Panics
    ///
    /// If there is no such layer.
    pub fn norm(&self, layer: usize, norm: Norm) -> Option<&[f32]> {
        self.layers[layer].norms[norm as usize].as_deref()
    }

    pub fn output_norm(&self) -> &[f32] {
        &self.output_norm
    }

    pub fn embedding(&self) -> DenseMatrix<'_> {
        self.embedding.matrix(&self.files)
    }

    /// The matrix that turns the last hidden vector into logits: the embedding where it is tied.
    pub fn head(&self) -> DenseMatrix<'_> {
        self.head
            .as_ref()
            .unwrap_or(&self.embedding)
            .matrix(&self.files)
    }
}

/// A dense matrix in one of the files, its size checked.
#[derive(Debug)]
pub(crate) struct StoredDense {
    pub rows: usize,
    pub cols: usize,
    pub format: DenseFormat,
    pub file: usize,
    pub bytes: Range<usize>,
}

impl StoredDense {
    fn matrix<'a>(&self, files: &'a [FileBytes]) -> DenseMatrix<'a> {
        let (file, bytes) = (&files[self.file], self.bytes.clone());
        DenseMatrix::in_file(self.rows, self.cols, self.format, file, bytes)
            .expect("the size was checked when the file was opened")
    }
}

/// A ternary matrix in one of the files, its size checked.
#[derive(Debug)]
pub(crate) struct StoredTernary {
    pub name: String,
    pub rows: usize,
    pub cols: usize,
    pub file: usize,
    pub bytes: Range<usize>,
    pub encoding: TernaryEncoding,
}

#[derive(Debug)]
pub(crate) enum TernaryEncoding {
    RowQuarters {
        scale: f32,
    },
    I2S {
        scale: f32,
    },
    /// Floats that are -1, 0 and +1, with their scale beside them.
    Unpacked {
        format: DenseFormat,
        scale: f32,
    },
    /// Floats whose trits and scale follow from their magnitudes.
    Master {
        format: DenseFormat,
        rule: MasterRule,
        /// Multiplies the scale found.
        factor: f32,
        levels: OnceLock<Levels>,
    },
}

/// How float weights become trits and a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MasterRule {
    /// As in training: the scale is the mean magnitude.
    Absmean,
    /// If all weights that are not zero have one magnitude they have been through training's rule
    /// before, and that magnitude is the scale; their mean would count the zeros a second time.
    UniformOrAbsmean,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Levels {
    inverse: f32,
    scale: f32,
}

impl StoredTernary {
    fn matrix<'a>(&'a self, file: &'a [u8]) -> Result<TernaryMatrix<'a>, ModelError> {
        let bytes = &file[self.bytes.clone()];
        let (packing, scale) = match &self.encoding {
            TernaryEncoding::RowQuarters { scale } => (Packing::RowQuarters(bytes), *scale),
            TernaryEncoding::I2S { scale } => (Packing::I2S(bytes), *scale),
            TernaryEncoding::Unpacked { format, scale } => {
                let packing = Packing::Floats {
                    format: *format,
                    inverse: 1.0,
                    exact: true,
                    bytes,
                };
                (packing, *scale)
            }
            TernaryEncoding::Master {
                format,
                rule,
                factor,
                levels,
            } => {
                let levels = *levels.get_or_init(|| self.levels(*format, *rule, bytes));
                let packing = Packing::Floats {
                    format: *format,
                    inverse: levels.inverse,
                    exact: false,
                    bytes,
                };
                (packing, levels.scale * factor)
            }
        };
        Ok(TernaryMatrix {
            name: &self.name,
            rows: self.rows,
            cols: self.cols,
            scale: checked_scale(&self.name, scale)?,
            packing,
            file_offset: self.bytes.start,
        })
    }

    fn digest(&self, file: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let encoding = match &self.encoding {
            TernaryEncoding::RowQuarters { scale } => {
                format!("row quarters {:08x}", scale.to_bits())
            }
            TernaryEncoding::I2S { scale } => format!("i2_s {:08x}", scale.to_bits()),
            TernaryEncoding::Unpacked { format, scale } => {
                format!("unpacked {format:?} {:08x}", scale.to_bits())
            }
            TernaryEncoding::Master {
                format,
                rule,
                factor,
                ..
            } => format!("master {format:?} {rule:?} {:08x}", factor.to_bits()),
        };
        let head = format!("{} x {} {encoding}\n", self.rows, self.cols);
        hasher.update(head.as_bytes());
        hasher.update(&file[self.bytes.clone()]);
        hasher.finalize().into()
    }

    fn levels(&self, format: DenseFormat, rule: MasterRule, bytes: &[u8]) -> Levels {
        let mut weights = vec![0.0; self.cols];
        let (mut sum, mut least, mut most) = (0.0_f64, f32::INFINITY, 0.0_f32);
        for row in bytes.chunks_exact(bytes.len() / self.rows) {
            format.decode(row, &mut weights);
            for w in &weights {
                let magnitude = w.abs();
                sum += f64::from(magnitude);
                most = most.max(magnitude);
                if magnitude > 0.0 {
                    least = least.min(magnitude);
                }
            }
        }
        let mean = (sum / (self.rows * self.cols) as f64) as f32;
        let scale = match rule {
            MasterRule::UniformOrAbsmean if least == most => most,
            // The floor is training's; it keeps an all-zero matrix from dividing by zero. `max`
            // would swallow a NaN, which must reach the check of the scale.
            _ if mean < MIN_MEAN => MIN_MEAN,
            _ => mean,
        };
        Levels {
            inverse: 1.0 / scale,
            scale,
        }
    }
}

const MIN_MEAN: f32 = 1e-5;

pub(crate) fn checked_scale(name: &str, value: f32) -> Result<f32, ModelError> {
    if value.is_finite() && value > 0.0 {
        Ok(value)
    } else {
        Err(ModelError::Scale {
            name: name.to_owned(),
            value,
        })
    }
}

#[cfg(test)]
mod tests;
