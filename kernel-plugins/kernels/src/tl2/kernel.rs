//! tl2 as one kernel among others.

use core::ffi::CStr;

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::{ALIGNMENT, Activations, Instructions, Product, Triples, Variant, portable};
use crate::kernel::{Kernel, Weights};
use crate::output::Output;

impl Kernel for Variant {
    const ALIGNMENT: usize = ALIGNMENT;

    type Packing = Triples;
    type Activations = Activations;

    fn isa(self) -> &'static CStr {
        match self.0 {
            Instructions::Portable => c"portable",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(_) => c"avx2",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(_) => c"avx512-vbmi",
        }
    }

    /// Less than i2s, which is better at many tokens: whether a model is better
    /// off with fewer bytes is for a host to measure.
    fn score(self) -> i32 {
        match self.0 {
            Instructions::Portable => 50,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(_) => 150,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(_) => 290,
        }
    }

    fn activations(self, cols: usize, batch: usize) -> Option<Activations> {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(_) if batch <= avx512::FEW_TOKENS => {
                Activations::in_groups(cols, batch, avx512::GROUP_TOKENS)
            }
            _ => Activations::new(cols, batch),
        }
    }

    fn prepared_bytes(activations: Activations) -> usize {
        activations.prepared_bytes()
    }

    fn prepare(self, activations: Activations, x: &[i8], prepared: &mut [u8]) {
        activations.prepare(x, prepared);
    }

    fn multiply(
        self,
        weights: Weights<'_, Variant>,
        activations: Activations,
        prepared: &[u8],
        out: Output<'_>,
    ) {
        let Weights {
            layout,
            packed,
            rows,
        } = weights;
        let product = Product::new(layout, packed, activations, prepared, rows);
        product.check(&out);
        match self.0 {
            Instructions::Portable => portable::multiply(&product, out),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(avx2) => avx2.multiply(&product, out),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(avx512) => avx512.multiply(&product, out),
        }
    }
}
