//! The forward pass of BitNet b1.58 models on CPUs.
//!
//! [`LoadedModel`] packs a model's ternary matrices for a kernel plugin,
//! [`CpuExecutor`] runs the engine's batches on it. The arithmetic is that of
//! bitnet.cpp ("dialect 2"): activations are quantised to int8 per token, the
//! product with the ternary weights is an exact int32, divided by the token's
//! scale and multiplied by the matrix's; the residual stream, norms, attention
//! and the output head are f32.
//!
//! **What a position's result depends on** is its own sequence's tokens and
//! nothing else: integer sums are exact, and every float reduction runs in an
//! order fixed by positions and widths, never by batch, chunk or thread.
//!
//! What is absent: requests, sampling and text. A batch is token ids,
//! positions and block tables.
#![forbid(unsafe_code)]

mod attention;
mod crew;
mod dialect;
mod forward;
mod head;
mod head_cache;
mod kv_cache;
mod kv_layout;
mod kv_pool;
mod kv_precision;
mod linear;
mod loaded;
mod packed_cache;
mod packing;
mod rope;
mod source;
mod synthetic;
pub mod timing;

pub use dialect::Dialect;
pub use forward::{CpuExecutor, kv_token_bytes};
pub use head::{Candidates, HeadChoice};
pub use kv_cache::KvConfig;
pub use kv_pool::{KvPool, KvTouch};
pub use kv_precision::KvPrecision;
pub use loaded::{LoadError, LoadedModel, shapes};
pub use packed_cache::{CacheUse, PackedCache};
pub use source::WeightSource;
pub use synthetic::{Synthetic, architecture_of, shape_names};
