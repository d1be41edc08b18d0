use super::{
    reader::Header,
    value::{Array, Value},
};
use crate::{Activation, Architecture, ModelError, Rope, architecture::Keys, chat::BITNET_2B_4T};

/// A header's keys, read with an eye to which family of models wrote them.
pub(crate) struct Metadata<'a> {
    header: &'a Header<'a>,
    family: &'a str,
}

const ARCHITECTURE: &str = "general.architecture";
const FAMILIES: [&str; 4] = ["bitnet", "bitnet-25", "bitnet-b1.58", "llama"];
/// In the template that the official converter writes into every file, and that no model has seen.
const PLACEHOLDER: &str = "BITNETAssistant";

impl<'a> Metadata<'a> {
    pub(crate) fn new(header: &'a Header<'a>) -> Result<Metadata<'a>, ModelError> {
        let mut metadata = Metadata { header, family: "" };
        let family = metadata
            .text(ARCHITECTURE)?
            .ok_or_else(|| refuse(ARCHITECTURE, "is missing"))?;
        if !FAMILIES.contains(&family) {
            let known = FAMILIES.join(", ");
            return Err(refuse(
                ARCHITECTURE,
                format!("is {family}, expected one of {known}"),
            ));
        }
        metadata.family = family;
        Ok(metadata)
    }

    pub(crate) fn architecture(&self, header: &Header<'_>) -> Result<Architecture, ModelError> {
        let own = |name: &str| format!("{}.{name}", self.family);
        let keys = self.keys();
        let hidden = self.required(&keys.hidden)?;
        let heads = self.required(&keys.heads)?;
        let head_dim = match self.count(&keys.head_dim)? {
            Some(given) => given,
            None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let reason = format!("is missing, and {hidden} is not {heads} equal heads");
                return Err(refuse(&keys.head_dim, reason));
            }
        };
        for key in ["rope.dimension_count", "attention.value_length"] {
            let key = own(key);
            if let Some(other) = self.count(&key)?
                && other != head_dim
            {
                let reason = format!("is {other}, but a head has {head_dim} dimensions");
                return Err(refuse(&key, reason));
            }
        }
        self.refuse_scaling(&own("rope.scaling.type"), &own("rope.scaling.factor"))?;
        let llama = self.family == "llama";
        if llama && header.tensors.contains_key("rope_freqs.weight") {
            return Err(refuse("rope_freqs.weight", "rope scaling is not supported"));
        }
        let architecture = Architecture {
            family: self.family.to_owned(),
            hidden,
            ffn: self.required(&keys.ffn)?,
            layers: self.required(&keys.layers)?,
            heads,
            kv_heads: self.count(&keys.kv_heads)?.unwrap_or(heads),
            head_dim,
            vocab: self.vocab(&keys.vocab)?,
            context: self.required(&keys.context)?,
            rope_theta: self.number(&keys.rope_theta)?.unwrap_or(10_000.0) as f32,
            rope: if llama { Rope::Interleaved } else { Rope::Neox },
            norm_eps: self.number(&keys.norm_eps)?.unwrap_or(1e-5) as f32,
            activation: self.activation(&own("hidden_activation"))?,
            sub_norms: !llama,
            // The bitnet graphs use the embedding even where a file repeats it as a head.
            tied_head: !llama || !header.tensors.contains_key("output.weight"),
        };
        architecture.check(&keys)?;
        Ok(architecture)
    }

    /// The architecture alone does not tell: since July 2026 one converter writes `bitnet-b1.58`
    /// for squared ReLU and SiLU models alike.
    fn activation(&self, key: &str) -> Result<Activation, ModelError> {
        match self.text(key)? {
            Some("relu2") => return Ok(Activation::Relu2),
            Some("silu") => return Ok(Activation::Silu),
            Some(other) => {
                return Err(refuse(key, format!("is {other}, expected relu2 or silu")));
            }
            None => {}
        }
        let reproduction =
            self.text("tokenizer.ggml.model")? == Some("llama") && self.tokens()?.len() == 32_002;
        Ok(match self.family {
            "bitnet-25" => Activation::Relu2,
            "bitnet-b1.58" if !reproduction => Activation::Relu2,
            _ => Activation::Silu,
        })
    }

    fn refuse_scaling(&self, kind: &str, factor: &str) -> Result<(), ModelError> {
        let factor_is_one = self.number(factor)?.is_none_or(|f| f == 1.0);
        match self.text(kind)? {
            None | Some("none") => Ok(()),
            // A converter writes linear scaling by one, which is none.
            Some("linear") if factor_is_one => Ok(()),
            Some(other) => Err(refuse(kind, format!("is {other}: not supported"))),
        }
    }

    fn vocab(&self, key: &str) -> Result<usize, ModelError> {
        let tokens = self.tokens()?.len();
        match self.count(key)? {
            Some(vocab) if vocab != tokens => Err(refuse(
                key,
                format!("is {vocab}, but tokenizer.ggml.tokens has {tokens}"),
            )),
            _ => Ok(tokens),
        }
    }

    pub(crate) fn tokens(&self) -> Result<&'a [&'a str], ModelError> {
        self.strings("tokenizer.ggml.tokens")?
            .ok_or_else(|| refuse("tokenizer.ggml.tokens", "is missing"))
    }

    pub(crate) fn name(&self) -> Result<Option<&'a str>, ModelError> {
        self.text("general.name")
    }

    pub(crate) fn chat_template(&self) -> Result<Option<String>, ModelError> {
        let template = self.text("tokenizer.chat_template")?;
        Ok(template.map(|template| {
            if template.contains(PLACEHOLDER) {
                BITNET_2B_4T.to_owned()
            } else {
                template.to_owned()
            }
        }))
    }

    /// `tokenizer.ggml.NAME_token_id`, checked to be a token.
    pub(crate) fn token_id(&self, name: &str) -> Result<Option<u32>, ModelError> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(id) = self.count(&key)? else {
            return Ok(None);
        };
        let tokens = self.tokens()?.len();
        if id >= tokens {
            return Err(refuse(
                &key,
                format!("is {id}, but there are {tokens} tokens"),
            ));
        }
        Ok(Some(id as u32))
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(*text),
            _ => None,
        })
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "a bool", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Option<&'a [&'a str]>, ModelError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::Strings(strings)) => Some(strings.as_slice()),
            _ => None,
        })
    }

    pub(crate) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, ModelError> {
        self.typed(key, "an array of numbers", |value| match value {
            Value::Array(array) => array.numbers(),
            _ => None,
        })
    }

    fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.typed(key, "a number", |value| match value {
            Value::Float(x) => Some(*x),
            other => other.count().map(|n| n as f64),
        })
    }

    fn count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.typed(key, "a whole number of at least zero", |value| {
            usize::try_from(value.count()?).ok()
        })
    }

    fn required(&self, key: &str) -> Result<usize, ModelError> {
        self.count(key)?.ok_or_else(|| refuse(key, "is missing"))
    }

    fn typed<T>(
        &self,
        key: &str,
        wanted: &str,
        read: impl FnOnce(&'a Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.header.metadata.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(refuse(
                key,
                format!("is {}, expected {wanted}", value.describe()),
            )),
        }
    }

    fn keys(&self) -> Keys {
        let own = |name: &str| format!("{}.{name}", self.family);
        Keys {
            file: "gguf",
            hidden: own("embedding_length"),
            ffn: own("feed_forward_length"),
            layers: own("block_count"),
            heads: own("attention.head_count"),
            kv_heads: own("attention.head_count_kv"),
            head_dim: own("attention.key_length"),
            vocab: own("vocab_size"),
            context: own("context_length"),
            rope_theta: own("rope.freq_base"),
            norm_eps: own("attention.layer_norm_rms_epsilon"),
        }
    }
}

pub(crate) fn refuse(key: &str, reason: impl Into<String>) -> ModelError {
    ModelError::Config {
        file: "gguf".to_owned(),
        key: key.to_owned(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests;
