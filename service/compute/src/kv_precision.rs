//! How keys and values are kept.

use std::fmt;
use std::str::FromStr;

use ternion_kernels::float::attention::Arithmetic;

/// How keys and values are kept between steps. It is part of a model's
/// arithmetic: implementations that round them give other logits than those
/// that don't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvPrecision {
    /// What attention reads is exactly what the layer computed, as in
    /// transformers in f32.
    F32,
    /// Rounded to f16, as in bitnet.cpp.
    F16,
    /// Integers from -127 to 127, with a scale for each head and token.
    Int8,
}

impl KvPrecision {
    /// Names that [`from_str`](KvPrecision::from_str) knows.
    pub const NAMES: &'static [&'static str] = &["f32", "f16", "int8"];

    /// Of one element.
    pub(crate) fn cell_bytes(self) -> usize {
        match self {
            KvPrecision::F32 => 4,
            KvPrecision::F16 => 2,
            KvPrecision::Int8 => 1,
        }
    }

    /// How attention sums up what is kept so.
    pub(crate) fn arithmetic(self) -> Arithmetic {
        match self {
            KvPrecision::F32 | KvPrecision::F16 => Arithmetic::Float,
            KvPrecision::Int8 => Arithmetic::Integer,
        }
    }

    /// Of one head and position, key and value.
    pub(crate) fn scale_bytes(self) -> usize {
        match self {
            KvPrecision::F32 | KvPrecision::F16 => 0,
            KvPrecision::Int8 => 2 * size_of::<f32>(),
        }
    }
}

impl fmt::Display for KvPrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KvPrecision::F32 => "f32",
            KvPrecision::F16 => "f16",
            KvPrecision::Int8 => "int8",
        })
    }
}

impl FromStr for KvPrecision {
    type Err = String;

    fn from_str(name: &str) -> Result<KvPrecision, String> {
        match name {
            "f32" => Ok(KvPrecision::F32),
            "f16" => Ok(KvPrecision::F16),
            "int8" => Ok(KvPrecision::Int8),
            _ => Err(format!(
                "{name:?} is none of {}",
                KvPrecision::NAMES.join(", ")
            )),
        }
    }
}
