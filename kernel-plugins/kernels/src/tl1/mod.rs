//! Table lookup over pairs of weights.
//!
//! Two weights are one of nine pairs, a code of four bits, and a table of two
//! activations has the sum for each: a shuffle of bytes looks up sixteen rows
//! at once where a CPU would else multiply. Two bits a weight, as i2s, so this
//! wins nothing in bytes; it can win where the CPU multiplies bytes slowly, as
//! ARM cores without `dotprod` do.
//!
//! Few tokens are looked up. For more, tables would outgrow the caches, and
//! weights are unpacked to a panel and multiplied (`panel`).

mod activations;
mod kernel;
mod layout;
mod lookup;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod table;

pub use activations::Activations;
pub use layout::{Layout, Pairs, ROW_TILE};

#[cfg(target_arch = "aarch64")]
use crate::panel::neon::Neon;

/// Tokens that are few. A token's tables are sixteen times as large as its
/// activations: four tokens' of a thousand columns take 64 KiB, which a
/// second-level cache delivers while they are used.
const FEW_TOKENS: usize = 4;

/// An implementation this CPU can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant(Instructions);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instructions {
    Portable,
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

impl Variant {
    /// Plain Rust, for any CPU.
    pub const PORTABLE: Variant = Variant(Instructions::Portable);

    /// All that this CPU can run, the best one last.
    pub fn available() -> Vec<Variant> {
        #[cfg(target_arch = "aarch64")]
        let neon = Neon::available().into_iter().map(Instructions::Neon);
        #[cfg(not(target_arch = "aarch64"))]
        let neon = core::iter::empty();
        core::iter::once(Instructions::Portable)
            .chain(neon)
            .map(Variant)
            .collect()
    }

    /// The best one this CPU can run.
    pub fn best() -> Variant {
        *Variant::available().last().expect("one for any CPU")
    }

    /// Tokens that are looked up: with `sdot`, a panel serves two as fast.
    fn few_tokens(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon(neon) if neon.has_dotprod() => 1,
            _ => FEW_TOKENS,
        }
    }
}
