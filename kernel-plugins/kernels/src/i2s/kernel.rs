//! i2s as one kernel among others.

use core::ffi::CStr;

use super::{ALIGNMENT, Activations, Instructions, Product, TwoBits, Variant};
use crate::kernel::{Kernel, Weights};
use crate::output::Output;

impl Kernel for Variant {
    const ALIGNMENT: usize = ALIGNMENT;

    type Packing = TwoBits;
    type Activations = Activations;

    fn isa(self) -> &'static CStr {
        match self.0 {
            Instructions::Portable => c"portable",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(_) => c"avx2",
            #[cfg(target_arch = "x86_64")]
            Instructions::AvxVnni(_) => c"avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512Vnni(_) => c"avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon(neon) => neon.isa(),
        }
    }

    fn score(self) -> i32 {
        match self.0 {
            Instructions::Portable => 100,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(_) => 200,
            #[cfg(target_arch = "x86_64")]
            Instructions::AvxVnni(_) => 250,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512Vnni(_) => 300,
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon(neon) => neon.score(),
        }
    }

    fn activations(self, cols: usize, batch: usize) -> Option<Activations> {
        Activations::new(cols, batch)
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
        Variant::multiply(self, &product, out);
    }
}
