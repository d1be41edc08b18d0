//! Products of the output head: exact ones in f32, and integer ones with rows
//! rounded to 4 or 8 bits.
//!
//! [`dense_product`] multiplies stored rows with several tokens' activations
//! and reads each row once; each result is [`dot`](crate::float::dot) to the
//! bit. [`Codes`] holds rounded rows, sixteen side by side, and their products
//! with [`Activations`] of 16 bits are exact integers, alike on every CPU.
//! What may be concluded from them about the exact ones is the business of
//! whoever rounded the rows: see [`rounding`].

mod activations;
mod codes;
mod dense;
pub mod rounding;
mod sums;

pub use activations::{Activations, Token};
pub use codes::{Bits, Codes, Line, SharedBytes, TILE_ROWS};
pub use dense::{Stored, dense_product};
pub use sums::Variant;
