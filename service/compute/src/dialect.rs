//! Where reference implementations round differently.

use ternion_kernels::float::{rms_norm, rms_norm_by_reciprocal};

use crate::kv_cache::KvPrecision;

/// Whose float arithmetic a model is run in. The integer products are the
/// same; activations that lie close to a rounding boundary fall to the side
/// they have there only if the float steps before them round alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// transformers in f32.
    Transformers,
    /// bitnet.cpp: keys and values in f16, norms by reciprocal.
    BitnetCpp,
}

/// RMSNorm: input, weight, eps, output.
pub(crate) type NormFunction = fn(&[f32], &[f32], f32, &mut [f32]);

impl Dialect {
    /// How keys and values are kept between steps.
    pub fn kv_precision(self) -> KvPrecision {
        match self {
            Dialect::Transformers => KvPrecision::F32,
            Dialect::BitnetCpp => KvPrecision::F16,
        }
    }

    pub(crate) fn norm(self) -> NormFunction {
        match self {
            Dialect::Transformers => rms_norm,
            Dialect::BitnetCpp => rms_norm_by_reciprocal,
        }
    }
}
