use std::borrow::Cow;

use super::Directory;
use crate::{
    Activation, Architecture, ModelError, Reference, Rope, architecture::Keys,
    json_object::JsonObject,
};

const MAX_CONFIG: u64 = 1 << 20;

/// `config.json`, understood.
pub(crate) struct Config {
    pub architecture: Architecture,
    pub linear: Linear,
    pub reference: Reference,
    pub json: JsonObject,
    pub bytes: Cow<'static, [u8]>,
}

/// What the file says about its ternary matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linear {
    /// `weight_scale` multiplies the output.
    Multiply,
    /// `weight_scale` divides it: the same key with the reciprocal meaning.
    Divide,
}

impl Config {
    pub(crate) fn read(directory: &Directory) -> Result<Config, ModelError> {
        let bytes = directory.require("config.json", MAX_CONFIG)?;
        let json = JsonObject::parse("config.json", &bytes)?;
        let family = family(&json)?;
        let linear = linear(&json, &family)?;
        refuse_unsupported(&json)?;
        let architecture = architecture(&json, family)?;
        architecture.check(&keys())?;
        Ok(Config {
            architecture,
            linear,
            reference: reference(&json, linear)?,
            json,
            bytes,
        })
    }
}

/// The two spellings are two models: `BitNet` is squared ReLU, `Bitnet` its predecessors.
const FAMILIES: [&str; 3] = ["BitNetForCausalLM", "BitnetForCausalLM", "LlamaForCausalLM"];

fn family(json: &JsonObject) -> Result<String, ModelError> {
    let named = json
        .value("architectures")
        .and_then(|list| list.get(0))
        .and_then(|name| name.as_str())
        .ok_or_else(|| json.refuse("architectures", "names no model class"))?;
    if FAMILIES.contains(&named) {
        Ok(named.to_owned())
    } else {
        let known = FAMILIES.join(", ");
        Err(json.refuse(
            "architectures",
            format!("is {named}, expected one of {known}"),
        ))
    }
}

fn linear(json: &JsonObject, family: &str) -> Result<Linear, ModelError> {
    let Some(quantization) = json.object("quantization_config")? else {
        // The BitNet classes are ternary by themselves and their plain checkpoints are masters.
        return if family == "LlamaForCausalLM" {
            Err(json.refuse(
                "quantization_config",
                "is missing: these weights are not ternary",
            ))
        } else {
            Ok(Linear::Multiply)
        };
    };
    let method = quantization.text("quant_method")?.unwrap_or("bitnet");
    if method != "bitnet" {
        return Err(quantization.refuse("quant_method", format!("is {method}, expected bitnet")));
    }
    if quantization.flag("use_rms_norm")? == Some(true) {
        return Err(quantization.refuse(
            "use_rms_norm",
            "is true: a norm inside every projection is not supported",
        ));
    }
    if let Some(kept) = quantization.value("modules_to_not_convert") {
        let only_the_head = kept
            .as_array()
            .is_some_and(|list| list.iter().all(|name| name == "lm_head"));
        if !only_the_head {
            return Err(quantization.refuse(
                "modules_to_not_convert",
                format!("is {kept}, expected nothing but lm_head"),
            ));
        }
    }
    // The first revision of the 2B-4T config said only `offline_quantization`.
    let old_spelling = quantization.flag("offline_quantization")?.is_some();
    match quantization.text("linear_class")? {
        Some("autobitlinear") => Ok(Linear::Multiply),
        None if old_spelling => Ok(Linear::Multiply),
        None | Some("bitlinear") => Ok(Linear::Divide),
        Some(other) => Err(quantization.refuse(
            "linear_class",
            format!("is {other}, expected autobitlinear or bitlinear"),
        )),
    }
}

/// The older class computes in the type that the model was saved in: bfloat16
/// in all that were published, and so taken for granted. Of others its
/// rounding is not known here, and sums stay exact.
fn reference(json: &JsonObject, linear: Linear) -> Result<Reference, ModelError> {
    let saved = match json.text("dtype")? {
        Some(dtype) => Some(dtype),
        None => json.text("torch_dtype")?,
    };
    Ok(match linear {
        Linear::Divide if matches!(saved, None | Some("bfloat16")) => Reference::BitLinear,
        Linear::Divide | Linear::Multiply => Reference::AutoBitLinear,
    })
}

fn refuse_unsupported(json: &JsonObject) -> Result<(), ModelError> {
    for key in ["attention_bias", "mlp_bias"] {
        if json.flag(key)? == Some(true) {
            return Err(json.refuse(key, "is true: biases are not supported"));
        }
    }
    if let Some(factor) = json.number("partial_rotary_factor")?
        && factor != 1.0
    {
        return Err(json.refuse(
            "partial_rotary_factor",
            format!("is {factor}: rotating part of a head is not supported"),
        ));
    }
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(rope) = json.object(key)? else {
            continue;
        };
        let kind = match rope.text("rope_type")? {
            Some(kind) => kind,
            None => rope.text("type")?.unwrap_or("default"),
        };
        if kind != "default" {
            return Err(json.refuse(key, format!("has type {kind}: not supported")));
        }
    }
    Ok(())
}

fn architecture(json: &JsonObject, family: String) -> Result<Architecture, ModelError> {
    let size = |key: &str| {
        json.count(key)?
            .ok_or_else(|| json.refuse(key, "is missing"))
    };
    let hidden = size("hidden_size")?;
    let heads = size("num_attention_heads")?;
    let head_dim = match json.count("head_dim")? {
        Some(given) => given,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let reason = format!("is missing, and hidden_size {hidden} is not {heads} equal heads");
            return Err(json.refuse("head_dim", reason));
        }
    };
    let bitnet = family == "BitNetForCausalLM";
    let activation = match json.text("hidden_act")? {
        Some("relu2") => Activation::Relu2,
        Some("silu") => Activation::Silu,
        None if bitnet => Activation::Relu2,
        None => Activation::Silu,
        Some(other) => {
            return Err(json.refuse("hidden_act", format!("is {other}, expected relu2 or silu")));
        }
    };
    let rope_theta = match json.object("rope_parameters")? {
        Some(rope) if rope.value("rope_theta").is_some() => rope.number("rope_theta")?,
        _ => json.number("rope_theta")?,
    };
    let llama = family == "LlamaForCausalLM";
    Ok(Architecture {
        hidden,
        ffn: size("intermediate_size")?,
        layers: size("num_hidden_layers")?,
        heads,
        kv_heads: json.count("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        vocab: size("vocab_size")?,
        context: size("max_position_embeddings")?,
        // Where the file is silent, the defaults of the class it names.
        rope_theta: rope_theta.unwrap_or(if bitnet { 500_000.0 } else { 10_000.0 }) as f32,
        rope: Rope::Neox,
        norm_eps: json
            .number("rms_norm_eps")?
            .unwrap_or(if llama { 1e-6 } else { 1e-5 }) as f32,
        activation,
        sub_norms: !llama,
        // The 1bitLLM checkpoints tie their head and do not all say so; whether a head is stored
        // is what decides for them.
        tied_head: json
            .flag("tie_word_embeddings")?
            .unwrap_or(family == "BitnetForCausalLM"),
        family,
    })
}

fn keys() -> Keys {
    Keys {
        file: "config.json",
        hidden: "hidden_size".into(),
        ffn: "intermediate_size".into(),
        layers: "num_hidden_layers".into(),
        heads: "num_attention_heads".into(),
        kv_heads: "num_key_value_heads".into(),
        head_dim: "head_dim".into(),
        vocab: "vocab_size".into(),
        context: "max_position_embeddings".into(),
        rope_theta: "rope_theta".into(),
        norm_eps: "rms_norm_eps".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_older_class_in_bfloat16_rounds_its_sums() {
        use Reference::{AutoBitLinear, BitLinear};
        for (json, linear, expected) in [
            (r#"{"torch_dtype": "bfloat16"}"#, Linear::Divide, BitLinear),
            (r#"{"dtype": "bfloat16"}"#, Linear::Divide, BitLinear),
            ("{}", Linear::Divide, BitLinear),
            (
                r#"{"torch_dtype": "float32"}"#,
                Linear::Divide,
                AutoBitLinear,
            ),
            (
                r#"{"torch_dtype": "float16"}"#,
                Linear::Divide,
                AutoBitLinear,
            ),
            (
                r#"{"torch_dtype": "bfloat16"}"#,
                Linear::Multiply,
                AutoBitLinear,
            ),
        ] {
            let config = JsonObject::parse("config.json", json.as_bytes()).expect("JSON");
            assert_eq!(
                reference(&config, linear).expect("texts"),
                expected,
                "{json}"
            );
        }
    }
}
