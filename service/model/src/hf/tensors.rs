use std::{collections::HashMap, sync::OnceLock};

use super::{
    Directory,
    config::{Config, Linear},
};
use crate::{
    Architecture, ModelError, Norm, Projection, Weights,
    digest::Digest,
    json_object::JsonObject,
    mapped::FileBytes,
    safetensors::{self, Entry},
    weights::{Layer, MasterRule, StoredDense, StoredTernary, TernaryEncoding, checked_scale},
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MAX_INDEX: u64 = 16 << 20;
/// The index comes from outside, and each file it names is opened and mapped.
const MAX_SHARDS: usize = 1024;

pub(crate) fn read(
    directory: &Directory,
    config: &Config,
    digest: &mut Digest,
) -> Result<Weights, ModelError> {
    let tensors = Tensors::open(directory, digest)?;
    let of = &config.architecture;
    let embedding = tensors.dense("model.embed_tokens.weight", of.vocab, of.hidden)?;
    let head = if of.tied_head {
        None
    } else {
        Some(tensors.dense("lm_head.weight", of.vocab, of.hidden)?)
    };
    let output_norm = tensors.vector("model.norm.weight", of.hidden)?;
    let mut layers = Vec::new();
    for layer in 0..of.layers {
        layers.push(tensors.layer(layer, of, config.linear)?);
    }
    Ok(Weights {
        files: tensors.files,
        layers,
        output_norm,
        embedding,
        head,
    })
}

/// Every tensor of every shard by name.
struct Tensors {
    files: Vec<FileBytes>,
    entries: HashMap<String, (usize, Entry)>,
}

impl Tensors {
    fn open(directory: &Directory, digest: &mut Digest) -> Result<Tensors, ModelError> {
        let names = if directory.contains(SINGLE) {
            vec![SINGLE.to_owned()]
        } else {
            shards(directory)?
        };
        let mut tensors = Tensors {
            files: Vec::new(),
            entries: HashMap::new(),
        };
        for (file, name) in names.iter().enumerate() {
            let bytes = directory.weights(name)?;
            let (entries, data_start) = safetensors::parse(name, &bytes)?;
            digest.large(name, &bytes, data_start);
            for (tensor, entry) in entries {
                if let Some((other, _)) = tensors.entries.get(&tensor) {
                    return Err(ModelError::Config {
                        file: name.clone(),
                        key: tensor,
                        reason: format!("is in {} too", names[*other]),
                    });
                }
                tensors.entries.insert(tensor, (file, entry));
            }
            tensors.files.push(bytes);
        }
        Ok(tensors)
    }

    fn layer(&self, layer: usize, of: &Architecture, linear: Linear) -> Result<Layer, ModelError> {
        let mut projections = Vec::with_capacity(Projection::ALL.len());
        for projection in Projection::ALL {
            let name = format!("model.layers.{layer}.{}", projection_name(projection));
            projections.push(self.ternary(&name, projection.shape(of), linear)?);
        }
        let mut norms = [const { None }; 4];
        for (norm, slot) in Norm::ALL.into_iter().zip(&mut norms) {
            if norm.is_sub_norm() && !of.sub_norms {
                continue;
            }
            let names = norm_names(norm).map(|name| format!("model.layers.{layer}.{name}.weight"));
            let name = names
                .iter()
                .find(|name| self.entries.contains_key(*name))
                .unwrap_or(&names[0]);
            *slot = Some(self.vector(name, norm.len(of))?);
        }
        Ok(Layer {
            projections: projections
                .try_into()
                .expect("one matrix was pushed for each projection"),
            norms,
        })
    }

    /// A packed weight is told from an unpacked one by its shape, as transformers does it: the
    /// modes that configs declare do not always match what was saved.
    fn ternary(
        &self,
        module: &str,
        (rows, cols): (usize, usize),
        linear: Linear,
    ) -> Result<StoredTernary, ModelError> {
        let name = format!("{module}.weight");
        let scale_name = format!("{module}.weight_scale");
        let (file, entry) = self.entry(&name)?;
        let packed = [rows.div_ceil(4) as u64, cols as u64];
        let unpacked = [rows as u64, cols as u64];
        let has_scale = self.entries.contains_key(&scale_name);
        let encoding = if entry.shape == unpacked {
            let format = entry.float_format(&name)?;
            if has_scale {
                let scale = self.scale(&scale_name, linear)?;
                TernaryEncoding::Unpacked { format, scale }
            } else if linear == Linear::Multiply {
                TernaryEncoding::Master {
                    format,
                    rule: MasterRule::Absmean,
                    factor: 1.0,
                    levels: OnceLock::new(),
                }
            } else {
                return Err(ModelError::TensorMissing { name: scale_name });
            }
        } else if entry.shape == packed {
            if entry.dtype != "U8" && entry.dtype != "I8" {
                return Err(entry.wrong_type(&name, "U8"));
            }
            let scale = self.scale(&scale_name, linear)?;
            TernaryEncoding::RowQuarters { scale }
        } else {
            return Err(ModelError::TensorShape {
                name,
                got: entry.shape.clone(),
                want: format!("{packed:?} (packed) or {unpacked:?}"),
            });
        };
        Ok(StoredTernary {
            name,
            rows,
            cols,
            file: *file,
            bytes: entry.bytes.clone(),
            encoding,
        })
    }

    fn scale(&self, name: &str, linear: Linear) -> Result<f32, ModelError> {
        let stored = self.vector(name, 1)?[0];
        checked_scale(name, stored)?;
        match linear {
            Linear::Multiply => Ok(stored),
            Linear::Divide => checked_scale(name, 1.0 / stored),
        }
    }

    fn dense(&self, name: &str, rows: usize, cols: usize) -> Result<StoredDense, ModelError> {
        let (file, entry) = self.entry(name)?;
        entry.expect_shape(name, &[rows, cols])?;
        Ok(StoredDense {
            rows,
            cols,
            format: entry.float_format(name)?,
            file: *file,
            bytes: entry.bytes.clone(),
        })
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let (file, entry) = self.entry(name)?;
        // A scale may be stored as a scalar.
        if !(len == 1 && entry.shape.is_empty()) {
            entry.expect_shape(name, &[len])?;
        }
        let format = entry.float_format(name)?;
        let mut values = vec![0.0; len];
        format.decode(&self.files[*file][entry.bytes.clone()], &mut values);
        Ok(values)
    }

    fn entry(&self, name: &str) -> Result<&(usize, Entry), ModelError> {
        self.entries
            .get(name)
            .ok_or_else(|| ModelError::TensorMissing {
                name: name.to_owned(),
            })
    }
}

/// The files named by the index, in the order of their names.
fn shards(directory: &Directory) -> Result<Vec<String>, ModelError> {
    let Some(bytes) = directory.read(INDEX, MAX_INDEX)? else {
        return Err(ModelError::FileMissing {
            file: format!("{SINGLE} (or {INDEX})"),
        });
    };
    let json = JsonObject::parse(INDEX, &bytes)?;
    let map = json
        .object("weight_map")?
        .ok_or_else(|| json.refuse("weight_map", "is missing"))?;
    let mut names = Vec::new();
    for tensor in map.keys() {
        let name = map.text(tensor)?.unwrap_or_default();
        // A shard lies beside its index: a path could lead anywhere.
        let plain = name.ends_with(".safetensors") && !name.contains(['/', '\\']);
        if !plain {
            return Err(map.refuse(tensor, format!("is {name:?}, expected a .safetensors file")));
        }
        names.push(name.to_owned());
    }
    names.sort_unstable();
    names.dedup();
    if names.len() > MAX_SHARDS {
        let reason = format!("names {} files, the limit is {MAX_SHARDS}", names.len());
        return Err(json.refuse("weight_map", reason));
    }
    Ok(names)
}

pub(crate) fn projection_name(projection: Projection) -> &'static str {
    match projection {
        Projection::Q => "self_attn.q_proj",
        Projection::K => "self_attn.k_proj",
        Projection::V => "self_attn.v_proj",
        Projection::O => "self_attn.o_proj",
        Projection::Gate => "mlp.gate_proj",
        Projection::Up => "mlp.up_proj",
        Projection::Down => "mlp.down_proj",
    }
}

/// The name in 2B-4T, then the one in the 1bitLLM reproductions.
fn norm_names(norm: Norm) -> [&'static str; 2] {
    match norm {
        Norm::Attention => ["input_layernorm"; 2],
        Norm::AttentionSub => ["self_attn.attn_sub_norm", "self_attn.inner_attn_ln"],
        Norm::Ffn => ["post_attention_layernorm"; 2],
        Norm::FfnSub => ["mlp.ffn_sub_norm", "mlp.ffn_layernorm"],
    }
}
