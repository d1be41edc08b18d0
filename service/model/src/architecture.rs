use crate::ModelError;

/// The shape of a model and the choices in its forward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// `general.architecture` of a GGUF, or the class name of a Hugging Face config.
    pub family: String,
    pub hidden: usize,
    pub ffn: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
    /// Positions the model was made for.
    pub context: usize,
    pub rope_theta: f32,
    pub rope: Rope,
    pub norm_eps: f32,
    pub activation: Activation,
    /// Whether a norm stands before `o_proj` and before `down_proj`.
    pub sub_norms: bool,
    /// Whether the embedding is the head.
    pub tied_head: bool,
}

/// Which elements of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rope {
    /// `j` with `j + head_dim / 2`.
    Neox,
    /// `2j` with `2j + 1`. GGUF files of the llama family have their q and k rows permuted to
    /// match, so the result is the same model.
    Interleaved,
}

/// What the gate goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `max(x, 0)^2`
    Relu2,
    Silu,
}

/// What the file calls the sizes, so that a complaint names something the operator can find.
pub(crate) struct Keys {
    pub file: &'static str,
    pub hidden: String,
    pub ffn: String,
    pub layers: String,
    pub heads: String,
    pub kv_heads: String,
    pub head_dim: String,
    pub vocab: String,
    pub context: String,
    pub rope_theta: String,
    pub norm_eps: String,
}

/// Far above any model there is, and low enough that no product of two of them overflows and that
/// a sum of `MAX_WIDTH` products of an int8 with a trit stays within 32 bits.
const MAX_WIDTH: usize = 1 << 20;
const MAX_LAYERS: usize = 1 << 12;
const MAX_VOCAB: usize = 1 << 24;
const MAX_CONTEXT: usize = 1 << 26;

impl Architecture {
    pub fn q_rows(&self) -> usize {
        self.heads * self.head_dim
    }

    pub fn kv_rows(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    pub(crate) fn check(&self, keys: &Keys) -> Result<(), ModelError> {
        let refuse = |key: &str, reason: String| ModelError::Config {
            file: keys.file.to_owned(),
            key: key.to_owned(),
            reason,
        };
        let sizes = [
            (&keys.hidden, self.hidden, MAX_WIDTH),
            (&keys.ffn, self.ffn, MAX_WIDTH),
            (&keys.layers, self.layers, MAX_LAYERS),
            (&keys.heads, self.heads, MAX_WIDTH),
            (&keys.kv_heads, self.kv_heads, MAX_WIDTH),
            (&keys.head_dim, self.head_dim, MAX_WIDTH),
            (&keys.vocab, self.vocab, MAX_VOCAB),
            (&keys.context, self.context, MAX_CONTEXT),
        ];
        for (key, size, max) in sizes {
            if !(1..=max).contains(&size) {
                return Err(refuse(key, format!("is {size}, expected 1 to {max}")));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let reason = format!(
                "{} heads cannot share {} key/value heads evenly",
                self.heads, self.kv_heads
            );
            return Err(refuse(&keys.kv_heads, reason));
        }
        if !self.head_dim.is_multiple_of(2) {
            let reason = format!("is {}, expected an even number", self.head_dim);
            return Err(refuse(&keys.head_dim, reason));
        }
        if self.heads.saturating_mul(self.head_dim) > MAX_WIDTH {
            let reason = format!(
                "{} heads of {} are wider than {MAX_WIDTH}",
                self.heads, self.head_dim
            );
            return Err(refuse(&keys.heads, reason));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta >= 1.0) {
            let reason = format!("is {}, expected a number of at least 1", self.rope_theta);
            return Err(refuse(&keys.rope_theta, reason));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            let reason = format!("is {}, expected a number between 0 and 1", self.norm_eps);
            return Err(refuse(&keys.norm_eps, reason));
        }
        Ok(())
    }
}
