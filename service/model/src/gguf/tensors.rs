use std::sync::OnceLock;

use super::{
    reader::Header,
    tensor::{I2S_TAIL, Kind, Tensor},
};
use crate::{
    Architecture, ModelError, Norm, Projection, Weights,
    dense::DenseFormat,
    mapped::FileBytes,
    weights::{Layer, MasterRule, StoredDense, StoredTernary, TernaryEncoding, checked_scale},
};

/// Weights that still lack the file they lie in.
pub(crate) struct Stored {
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    embedding: StoredDense,
    head: Option<StoredDense>,
}

impl Stored {
    pub(crate) fn weights(self, file: FileBytes) -> Weights {
        Weights {
            files: vec![file],
            layers: self.layers,
            output_norm: self.output_norm,
            embedding: self.embedding,
            head: self.head,
        }
    }
}

pub(crate) fn read(
    header: &Header<'_>,
    of: &Architecture,
    file: &[u8],
) -> Result<Stored, ModelError> {
    let tensors = Tensors { header, file };
    let embedding = tensors.dense("token_embd.weight", of.vocab, of.hidden)?;
    let head = if of.tied_head {
        None
    } else {
        Some(tensors.dense("output.weight", of.vocab, of.hidden)?)
    };
    let mut layers = Vec::new();
    for layer in 0..of.layers {
        layers.push(tensors.layer(layer, of)?);
    }
    Ok(Stored {
        layers,
        output_norm: tensors.vector("output_norm.weight", of.hidden)?,
        embedding,
        head,
    })
}

struct Tensors<'a> {
    header: &'a Header<'a>,
    file: &'a [u8],
}

impl Tensors<'_> {
    fn layer(&self, layer: usize, of: &Architecture) -> Result<Layer, ModelError> {
        let mut projections = Vec::with_capacity(Projection::ALL.len());
        for projection in Projection::ALL {
            let name = format!("blk.{layer}.{}", projection_name(projection));
            projections.push(self.ternary(&name, projection.shape(of))?);
        }
        let mut norms = [const { None }; 4];
        for (norm, slot) in Norm::ALL.into_iter().zip(&mut norms) {
            if norm.is_sub_norm() && !of.sub_norms {
                continue;
            }
            let name = format!("blk.{layer}.{}.weight", norm_name(norm));
            *slot = Some(self.vector(&name, norm.len(of))?);
        }
        Ok(Layer {
            projections: projections
                .try_into()
                .expect("one matrix was pushed for each projection"),
            norms,
        })
    }

    fn ternary(
        &self,
        module: &str,
        (rows, cols): (usize, usize),
    ) -> Result<StoredTernary, ModelError> {
        let name = format!("{module}.weight");
        // Some conversions keep weights of one and put their magnitude beside them.
        let scale_name = format!("{module}.scale");
        let factor = if self.header.tensors.contains_key(&*scale_name) {
            checked_scale(&scale_name, self.vector(&scale_name, 1)?[0])?
        } else {
            1.0
        };
        let tensor = self.tensor(&name)?;
        expect_shape(tensor, &[cols, rows])?;
        let mut bytes = tensor.bytes.clone();
        let encoding = match tensor.kind {
            Kind::I2S => {
                bytes.end -= I2S_TAIL;
                let tail = &self.file[bytes.end..bytes.end + 4];
                let scale = f32::from_le_bytes(tail.try_into().expect("four bytes"));
                let scale = checked_scale(&name, scale)?;
                TernaryEncoding::I2S {
                    scale: checked_scale(&name, scale * factor)?,
                }
            }
            Kind::Dense(format @ (DenseFormat::F32 | DenseFormat::F16 | DenseFormat::BF16)) => {
                TernaryEncoding::Master {
                    format,
                    rule: MasterRule::UniformOrAbsmean,
                    factor,
                    levels: OnceLock::new(),
                }
            }
            Kind::Dense(DenseFormat::Q8_0 | DenseFormat::Q6K) => {
                return Err(wrong_type(tensor, "I2_S, F32, F16 or BF16"));
            }
        };
        Ok(StoredTernary {
            name,
            rows,
            cols,
            file: 0,
            bytes,
            encoding,
        })
    }

    fn dense(&self, name: &str, rows: usize, cols: usize) -> Result<StoredDense, ModelError> {
        let tensor = self.tensor(name)?;
        expect_shape(tensor, &[cols, rows])?;
        let Kind::Dense(format) = tensor.kind else {
            return Err(wrong_type(tensor, "F32, F16, BF16, Q8_0 or Q6_K"));
        };
        Ok(StoredDense {
            rows,
            cols,
            format,
            file: 0,
            bytes: tensor.bytes.clone(),
        })
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let tensor = self.tensor(name)?;
        expect_shape(tensor, &[len])?;
        let Kind::Dense(format @ (DenseFormat::F32 | DenseFormat::F16 | DenseFormat::BF16)) =
            tensor.kind
        else {
            return Err(wrong_type(tensor, "F32, F16 or BF16"));
        };
        let mut values = vec![0.0; len];
        format.decode(&self.file[tensor.bytes.clone()], &mut values);
        Ok(values)
    }

    fn tensor(&self, name: &str) -> Result<&Tensor<'_>, ModelError> {
        self.header
            .tensors
            .get(name)
            .ok_or_else(|| ModelError::TensorMissing {
                name: name.to_owned(),
            })
    }
}

fn projection_name(projection: Projection) -> &'static str {
    match projection {
        Projection::Q => "attn_q",
        Projection::K => "attn_k",
        Projection::V => "attn_v",
        Projection::O => "attn_output",
        Projection::Gate => "ffn_gate",
        Projection::Up => "ffn_up",
        Projection::Down => "ffn_down",
    }
}

fn norm_name(norm: Norm) -> &'static str {
    match norm {
        Norm::Attention => "attn_norm",
        Norm::AttentionSub => "attn_sub_norm",
        Norm::Ffn => "ffn_norm",
        Norm::FfnSub => "ffn_sub_norm",
    }
}

fn wrong_type(tensor: &Tensor<'_>, want: &'static str) -> ModelError {
    ModelError::TensorType {
        name: tensor.name.to_owned(),
        got: tensor.kind.name().to_owned(),
        want,
    }
}

/// Trailing dimensions of one are padding, and some writers add them.
fn expect_shape(tensor: &Tensor<'_>, want: &[usize]) -> Result<(), ModelError> {
    let (got, padding) = tensor.dims.split_at(want.len().min(tensor.dims.len()));
    let same = got.len() == want.len()
        && got.iter().zip(want).all(|(&got, &want)| got == want as u64)
        && padding.iter().all(|&dim| dim == 1);
    if same {
        Ok(())
    } else {
        Err(ModelError::TensorShape {
            name: tensor.name.to_owned(),
            got: tensor.dims.clone(),
            want: format!("{want:?}"),
        })
    }
}
