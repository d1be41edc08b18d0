//! Ternary kernels, and the float primitives around them.
#![warn(missing_docs)]

pub mod float;
pub mod head;
pub mod i2s;
pub mod scalar;
pub mod team;
pub mod trits;
