//! Table look-up of three weights in five bits.
//!
//! Weights are packed once ([`Layout`]) to 5/3 bits each, activations once for
//! all matrices that read them ([`Activations`]), and a [`Variant`] multiplies
//! the two: a shuffle of bytes finds the weights of a code in a table, and they
//! are multiplied as any others. The variants read the same bytes and return
//! the same integers; they differ in the instructions they need.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod code;
mod kernel;
mod layout;
mod portable;

use std::sync::OnceLock;

use layout::{BLOCK_FIELDS, Block};
pub use layout::{Layout, ROW_TILE, Triples};

use crate::kernel::Kernel;
pub use crate::output::Output;
pub use crate::panel::Activations;
use crate::panel::{Field, Part};

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

    /// What it needs of the CPU: `portable`, `avx2`, `avx512-vbmi`.
    pub fn name(self) -> &'static str {
        self.isa().to_str().expect("names are ASCII")
    }
}

type Product<'a> = crate::product::Product<'a, Triples>;

impl Product<'_> {
    /// Unpacks a part of the weights to a panel. The last block may have more
    /// columns than the activations.
    #[inline(always)]
    fn unpack(
        &self,
        part: &Part,
        fields: &mut [Field],
        mut unpack_block: impl FnMut(&Block, &mut [Field; BLOCK_FIELDS]),
    ) {
        let blocks = self.layout.blocks(self.packed, part);
        for (block, fields) in blocks.iter().zip(fields.chunks_mut(BLOCK_FIELDS)) {
            if let Ok(fields) = fields.try_into() {
                unpack_block(block, fields);
            } else {
                let mut all = [Field::ZERO; BLOCK_FIELDS];
                unpack_block(block, &mut all);
                fields.copy_from_slice(&all[..fields.len()]);
            }
        }
    }
}
