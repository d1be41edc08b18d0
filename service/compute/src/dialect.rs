//! Where reference implementations round differently.

use ternion_kernels::float::{quantise, quantise_torch, rms_norm, rms_norm_ggml, rms_norm_torch};
use ternion_model::Reference;

use crate::kv_precision::KvPrecision;

/// Whose float arithmetic a model is run in. The integer products are the
/// same; activations that lie close to a rounding boundary fall to the side
/// they have there only if the float steps before them round alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// transformers in f32, `AutoBitLinear`. It multiplies dequantised floats,
    /// so the last bits of its products are not to be had from exact integers,
    /// and steps around them are not its own to the bit either.
    Transformers,
    /// transformers in f32, `BitLinear`: its integer products are exact, but
    /// leave the matrix in bfloat16, the type of models that are saved in it,
    /// even when all else is widened. Such products are multiples of few
    /// steps, so activations in the middle between two integers are common,
    /// and norm and quantisation have to be torch's own to the bit.
    TransformersBitLinear,
    /// bitnet.cpp: keys and values in f16, norms with sums in f64.
    BitnetCpp,
}

/// What a ternary product is before it is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Products {
    /// The integer, as f32.
    Exact,
    /// The integer rounded to bfloat16.
    Bf16,
}

/// Quantisation: input, output, and the scale is returned.
pub(crate) type QuantiseFunction = fn(&[f32], &mut [i8]) -> f32;

/// RMSNorm: input, weight, eps, output.
pub(crate) type NormFunction = fn(&[f32], &[f32], f32, &mut [f32]);

impl From<Reference> for Dialect {
    /// That of the implementation whose format it is, so that its logits are
    /// ours.
    fn from(reference: Reference) -> Dialect {
        match reference {
            Reference::AutoBitLinear => Dialect::Transformers,
            Reference::BitLinear => Dialect::TransformersBitLinear,
            Reference::BitnetCpp => Dialect::BitnetCpp,
        }
    }
}

impl Dialect {
    /// How keys and values are kept between steps.
    pub fn kv_precision(self) -> KvPrecision {
        match self {
            Dialect::Transformers | Dialect::TransformersBitLinear => KvPrecision::F32,
            Dialect::BitnetCpp => KvPrecision::F16,
        }
    }

    pub(crate) fn products(self) -> Products {
        match self {
            Dialect::Transformers | Dialect::BitnetCpp => Products::Exact,
            Dialect::TransformersBitLinear => Products::Bf16,
        }
    }

    pub(crate) fn norm(self) -> NormFunction {
        match self {
            Dialect::Transformers => rms_norm,
            Dialect::TransformersBitLinear => rms_norm_torch,
            Dialect::BitnetCpp => rms_norm_ggml,
        }
    }

    pub(crate) fn quantise(self) -> QuantiseFunction {
        match self {
            Dialect::Transformers | Dialect::BitnetCpp => quantise,
            Dialect::TransformersBitLinear => quantise_torch,
        }
    }
}
