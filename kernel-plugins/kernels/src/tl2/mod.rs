//! Table look-up over five bits for three weights.
//!
//! Weights are packed once ([`Layout`]) to 5/3 bits each. For few tokens their
//! activations are prepared as tables, in which the code of three weights
//! finds the exact sum of their products, or as what a kernel makes those
//! tables of; for many, unpacking the weights once for all tokens is faster,
//! and activations are prepared for that ([`Activations`]). A [`Variant`]
//! multiplies the two. The variants read the same packed weights and return
//! the same integers; they differ in the instructions they need, and in how
//! many tokens are few.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod code;
#[cfg(target_arch = "x86_64")]
mod factors;
mod kernel;
mod layout;
mod portable;
mod tables;

use core::ops::Range;
use std::sync::OnceLock;

pub use activations::Activations;
pub use layout::{Layout, ROW_TILE, Triples};

use crate::kernel::Kernel;
use crate::layout::Tile;
pub use crate::output::Output;
use crate::output::Rows;

/// Alignment in bytes at which packed and prepared buffers are fastest: a
/// cache line, and the widest vector. No variant needs it to be right.
pub const ALIGNMENT: usize = 64;

/// An implementation this CPU can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant(Instructions);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instructions {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
}

impl Variant {
    /// All that this CPU can run, the best one last.
    pub fn available() -> Vec<Variant> {
        let all = [
            Some(Instructions::Portable),
            #[cfg(target_arch = "x86_64")]
            avx2::Avx2::new().map(Instructions::Avx2),
            #[cfg(target_arch = "x86_64")]
            avx512::Avx512::new().map(Instructions::Avx512),
        ];
        all.into_iter().flatten().map(Variant).collect()
    }

    /// The best one this CPU can run.
    pub fn best() -> Variant {
        static BEST: OnceLock<Variant> = OnceLock::new();
        *BEST.get_or_init(|| *Variant::available().last().expect("one for any CPU"))
    }

    /// What it needs of the CPU: `portable`, `avx2`, `avx512-vbmi2`.
    pub fn name(self) -> &'static str {
        self.isa().to_str().expect("names are ASCII")
    }
}

/// Some rows of a packed matrix times prepared activations.
#[derive(Clone, Debug)]
struct Product<'a> {
    layout: Layout,
    packed: &'a [u8],
    activations: Activations,
    prepared: &'a [u8],
    rows: Range<usize>,
}

impl<'a> Product<'a> {
    fn tiles(&self) -> impl Iterator<Item = Tile<'a>> + use<'a> {
        self.layout.tiles(&self.rows, self.packed)
    }

    /// The packed weights of the rows.
    #[cfg(target_arch = "x86_64")]
    fn weights(&self) -> &'a [u8] {
        self.layout.weights(&self.rows, self.packed)
    }

    /// The rows of a tile's strip, counted from the output's first.
    fn rows_of(&self, tile: &Tile<'_>, strip: usize) -> Rows {
        let first_row = strip * layout::STRIP_ROWS;
        Rows {
            first: tile.first_row - self.rows.start + first_row,
            num: layout::STRIP_ROWS.min(tile.num_rows - first_row),
        }
    }
}
