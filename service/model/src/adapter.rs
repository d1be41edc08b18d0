//! Low-rank adapters in the layout PEFT saves.
//!
//! An adapter adds `scaling * B (A x)` to a projection's output, where `x` is the input before it
//! is quantised. It is never merged: the sum of a ternary matrix and a float one is not ternary.

use std::{collections::BTreeMap, path::Path};

use crate::{
    Architecture, ModelError, Projection, Rope,
    hf::{Directory, projection_name},
    json_object::JsonObject,
    mapped::FileBytes,
    safetensors::{self, Entry},
};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const MAX_CONFIG: u64 = 1 << 20;
/// PEFT's default is 8; published adapters stay below 512.
const MAX_RANK: usize = 4096;

/// A LoRA adapter, checked against the model it is for.
#[derive(Clone, Debug)]
pub struct Adapter {
    pairs: BTreeMap<(usize, Projection), LoraPair>,
}

/// What an adapter adds to one projection.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPair {
    pub rank: usize,
    /// `rank` rows of the projection's inputs.
    pub a: Vec<f32>,
    /// The projection's outputs, in rows of `rank`; in the order of the model's own rows, also
    /// where its q and k are interleaved.
    pub b: Vec<f32>,
    pub scaling: f32,
}

impl Adapter {
    /// Opens the directory of an adapter for a model of this architecture.
    ///
    /// # Errors
    ///
    /// If it is damaged, of the wrong shape, or uses anything beyond plain LoRA on the seven
    /// projections: applying a part of it would be a third model that nobody trained.
    pub fn open(directory: &Path, of: &Architecture) -> Result<Adapter, ModelError> {
        let directory = Directory::Disk(directory.to_owned());
        let config = JsonObject::parse(CONFIG, &directory.require(CONFIG, MAX_CONFIG)?)?;
        refuse_unsupported(&config)?;
        let ranks = Pattern::read(&config, "r", "rank_pattern")?;
        let alphas = Pattern::read(&config, "lora_alpha", "alpha_pattern")?;
        let root_scaling = config.flag("use_rslora")?.unwrap_or(false);
        let tensors = Tensors::open(&directory, of)?;
        let mut pairs = BTreeMap::new();
        for &(layer, projection) in tensors.entries.keys() {
            let module = module(layer, projection);
            let rank = ranks.of(&module);
            if rank.fract() != 0.0 || !(1.0..=MAX_RANK as f64).contains(&rank) {
                let reason = format!("is {rank} for {module}, expected 1 to {MAX_RANK}");
                return Err(config.refuse("r", reason));
            }
            let divisor = if root_scaling { rank.sqrt() } else { rank };
            let scaling = (alphas.of(&module) / divisor) as f32;
            if !scaling.is_finite() {
                return Err(config.refuse("lora_alpha", format!("scales {module} by {scaling}")));
            }
            let pair = tensors.pair((layer, projection), rank as usize, scaling, of)?;
            pairs.insert((layer, projection), pair);
        }
        if pairs.is_empty() {
            return Err(ModelError::TensorMissing {
                name: "lora_A.weight of any projection".to_owned(),
            });
        }
        Ok(Adapter { pairs })
    }

    pub fn pair(&self, layer: usize, projection: Projection) -> Option<&LoraPair> {
        self.pairs.get(&(layer, projection))
    }

    /// All adapted projections, layer by layer.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, Projection, &LoraPair)> {
        let place = |(&(layer, projection), pair)| (layer, projection, pair);
        self.pairs.iter().map(place)
    }
}

fn module(layer: usize, projection: Projection) -> String {
    format!("model.layers.{layer}.{}", projection_name(projection))
}

fn refuse_unsupported(config: &JsonObject) -> Result<(), ModelError> {
    match config.text("peft_type")? {
        Some("LORA") => {}
        other => {
            let got = other.unwrap_or("missing");
            return Err(config.refuse("peft_type", format!("is {got}, expected LORA")));
        }
    }
    for key in [
        "use_dora",
        "use_qalora",
        "lora_bias",
        "fan_in_fan_out",
        "modules_to_save",
        "layer_replication",
        "target_parameters",
        "trainable_token_indices",
        "alora_invocation_tokens",
        "use_bdlora",
    ] {
        if let Some(value) = config.value(key) {
            let unused = value == false
                || value.as_array().is_some_and(Vec::is_empty)
                || value.as_object().is_some_and(serde_json::Map::is_empty);
            if !unused {
                return Err(config.refuse(key, format!("is {value}: not supported")));
            }
        }
    }
    let bias = config.text("bias")?.unwrap_or("none");
    if bias != "none" {
        return Err(config.refuse("bias", format!("is {bias}: not supported")));
    }
    // These start by taking something out of the base weights, which ternary ones cannot give.
    if let Some(start) = config.value("init_lora_weights").and_then(|v| v.as_str())
        && ["pissa", "olora", "corda", "loftq"]
            .iter()
            .any(|s| start.starts_with(s))
    {
        let reason = format!("is {start}: it changes the base weights");
        return Err(config.refuse("init_lora_weights", reason));
    }
    Ok(())
}

/// A number for every module, some of which have their own.
struct Pattern {
    default: f64,
    own: Vec<(String, f64)>,
}

impl Pattern {
    fn read(config: &JsonObject, key: &str, patterns: &str) -> Result<Pattern, ModelError> {
        // PEFT's default for both.
        let default = config.number(key)?.unwrap_or(8.0);
        let mut own = Vec::new();
        if let Some(patterns) = config.object(patterns)? {
            for name in patterns.keys() {
                let number = patterns.number(name)?.unwrap_or(default);
                // PEFT matches these as regular expressions. Names of modules are all that anyone
                // writes, and a dot that is meant as one.
                let plain = name.replace("\\.", ".");
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
                if plain.is_empty() || !plain.chars().all(is_name) {
                    return Err(patterns.refuse(name, "is not the name of a module"));
                }
                own.push((plain, number));
            }
        }
        Ok(Pattern { default, own })
    }

    /// The first pattern that is the module's name, or the end of it after a dot.
    fn of(&self, module: &str) -> f64 {
        let matches = |name: &str| {
            let before = module.strip_suffix(name);
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        let own = self.own.iter().find(|(name, _)| matches(name));
        own.map_or(self.default, |(_, number)| *number)
    }
}

struct Tensors {
    file: FileBytes,
    /// The A and the B of each projection.
    entries: BTreeMap<(usize, Projection), [Option<Half>; 2]>,
}

struct Half {
    name: String,
    entry: Entry,
}

impl Tensors {
    fn open(directory: &Directory, of: &Architecture) -> Result<Tensors, ModelError> {
        if !directory.contains(TENSORS) {
            return Err(ModelError::FileMissing {
                file: TENSORS.to_owned(),
            });
        }
        let file = directory.weights(TENSORS)?;
        let (named, _) = safetensors::parse(TENSORS, &file)?;
        let mut entries: BTreeMap<_, [Option<Half>; 2]> = BTreeMap::new();
        for (name, entry) in named {
            let Some((place, half)) = place(&name, of.layers) else {
                return Err(ModelError::Config {
                    file: TENSORS.to_owned(),
                    key: name,
                    reason: "is not the lora_A or lora_B of a projection of this model".to_owned(),
                });
            };
            entries.entry(place).or_default()[half] = Some(Half { name, entry });
        }
        Ok(Tensors { file, entries })
    }

    fn pair(
        &self,
        at: (usize, Projection),
        rank: usize,
        scaling: f32,
        of: &Architecture,
    ) -> Result<LoraPair, ModelError> {
        let (rows, cols) = at.1.shape(of);
        let a = self.matrix(at, 0, [rank, cols])?;
        let mut b = self.matrix(at, 1, [rows, rank])?;
        if of.rope == Rope::Interleaved {
            match at.1 {
                Projection::Q => b = interleave(&b, of.heads, of.head_dim, rank),
                Projection::K => b = interleave(&b, of.kv_heads, of.head_dim, rank),
                _ => {}
            }
        }
        Ok(LoraPair {
            rank,
            a,
            b,
            scaling,
        })
    }

    fn matrix(
        &self,
        at: (usize, Projection),
        half: usize,
        shape: [usize; 2],
    ) -> Result<Vec<f32>, ModelError> {
        let Some(Half { name, entry }) = &self.entries[&at][half] else {
            return Err(ModelError::TensorMissing {
                name: format!("{}.lora_{}.weight", module(at.0, at.1), ["A", "B"][half]),
            });
        };
        entry.expect_shape(name, &shape)?;
        let format = entry.float_format(name)?;
        let mut values = vec![0.0; shape[0] * shape[1]];
        format.decode(&self.file[entry.bytes.clone()], &mut values);
        match values.iter().find(|x| !x.is_finite()) {
            None => Ok(values),
            Some(x) => Err(ModelError::Config {
                file: TENSORS.to_owned(),
                key: name.clone(),
                reason: format!("holds {x}"),
            }),
        }
    }
}

/// `base_model.model.model.layers.N.<projection>.lora_A.weight`, 0 for A and 1 for B.
fn place(name: &str, layers: usize) -> Option<((usize, Projection), usize)> {
    let rest = name.strip_prefix("base_model.model.model.layers.")?;
    let (layer, rest) = rest.split_once('.')?;
    let layer = layer.parse().ok().filter(|&layer| layer < layers)?;
    Projection::ALL.into_iter().find_map(|projection| {
        let rest = rest.strip_prefix(projection_name(projection))?;
        let half = match rest {
            ".lora_A.weight" => 0,
            ".lora_B.weight" => 1,
            _ => return None,
        };
        Some(((layer, projection), half))
    })
}

/// Puts row `p * half + j` of each head at `2j + p`, as the conversion to GGUF did with the weights.
fn interleave(rows: &[f32], heads: usize, head_dim: usize, width: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.len());
    for row in 0..heads * head_dim {
        let (head, at) = (row / head_dim, row % head_dim);
        let from = head * head_dim + at % 2 * (head_dim / 2) + at / 2;
        out.extend_from_slice(&rows[from * width..(from + 1) * width]);
    }
    out
}
