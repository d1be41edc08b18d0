//! Ternary kernels, and the float primitives around them.
#![warn(missing_docs)]

#[cfg(target_arch = "x86_64")]
mod ahead;
mod fetch;
pub mod float;
pub mod head;
pub mod i2s;
pub mod kernel;
pub mod layout;
pub mod limits;
pub mod memory_policy;
mod output;
mod panel;
mod product;
pub mod scalar;
pub mod team;
pub mod tl1;
pub mod tl2;
pub mod trits;

pub use output::Output;
