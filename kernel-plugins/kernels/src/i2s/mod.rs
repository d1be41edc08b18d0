//! Multiply-add over two-bit weights.
//!
//! Weights are packed once ([`Layout`]), activations once for all matrices
//! that read them ([`Activations`]), and a [`Variant`] multiplies the two. The
//! variants read the same bytes and return the same integers; they differ in
//! the instructions they need.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod kernel;
mod layout;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::sync::OnceLock;

pub use layout::{Layout, MAX_COLS, ROW_TILE, TwoBits};

use crate::kernel::Kernel;
pub use crate::output::Output;
pub use crate::panel::Activations;
use crate::panel::Part;
#[cfg(target_arch = "aarch64")]
use crate::panel::neon::Neon;

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
    AvxVnni(vnni::avx::Vnni),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(vnni::avx512::Vnni),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

impl Variant {
    /// Plain Rust, for any CPU.
    pub const PORTABLE: Variant = Variant(Instructions::Portable);

    /// All that this CPU can run, the best one last.
    pub fn available() -> Vec<Variant> {
        let mut all = vec![Variant::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        {
            let instructions = [
                avx2::Avx2::new().map(Instructions::Avx2),
                vnni::avx::Vnni::new().map(Instructions::AvxVnni),
                vnni::avx512::Vnni::new().map(Instructions::Avx512Vnni),
            ];
            all.extend(instructions.into_iter().flatten().map(Variant));
        }
        #[cfg(target_arch = "aarch64")]
        {
            let instructions = Neon::available().into_iter().map(Instructions::Neon);
            all.extend(instructions.map(Variant));
        }
        all
    }

    /// The best one this CPU can run.
    pub fn best() -> Variant {
        static BEST: OnceLock<Variant> = OnceLock::new();
        *BEST.get_or_init(|| *Variant::available().last().expect("one for any CPU"))
    }

    /// What it needs of the CPU: `portable`, `avx2`, `avx-vnni`,
    /// `avx512-vnni`, `neon`, `neon-dotprod`, `neon-i8mm`.
    pub fn name(self) -> &'static str {
        self.isa().to_str().expect("names are ASCII")
    }

    /// Writes the product's integers, all of them and nothing else.
    ///
    /// # Panics
    ///
    /// If the output's rows or tokens aren't the product's.
    pub fn multiply(self, product: &Product<'_>, out: Output<'_>) {
        product.check(&out);
        match self.0 {
            Instructions::Portable => portable::multiply(product, out),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(avx2) => avx2.multiply(product, out),
            #[cfg(target_arch = "x86_64")]
            Instructions::AvxVnni(vnni) => vnni.multiply(product, out),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512Vnni(vnni) => vnni.multiply(product, out),
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon(neon) => neon::multiply(neon, product, out),
        }
    }
}

/// Some rows of a packed matrix times prepared activations.
pub type Product<'a> = crate::product::Product<'a, TwoBits>;

impl<'a> Product<'a> {
    /// The steps that unpack to a part of a panel, whose fields are whole
    /// steps.
    fn steps(&self, part: &Part) -> &'a [layout::Step] {
        self.layout.steps(self.packed, part)
    }

    fn offset(&self, token: usize) -> i32 {
        self.activations.offset(self.prepared, token)
    }
}
