//! Ternary kernels, and the float primitives around them.
#![warn(missing_docs)]

pub mod float;
pub mod i2s;
pub mod limits;
mod output;
mod panel;
pub mod scalar;
pub mod team;
pub mod trits;
