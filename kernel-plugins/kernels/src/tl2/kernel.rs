//! tl2 as one kernel among others.

use core::ffi::CStr;

#[cfg(target_arch = "x86_64")]
use super::factors::Factors;
use super::portable;
use super::{ALIGNMENT, Activations, Instructions, Product, Triples, Variant};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::kernel::{Kernel, Weights};
use crate::output::Output;

/// Activations are the variant's own, as the trait says.
#[cfg(target_arch = "x86_64")]
pub(super) const MADE_FOR: &str = "factors are made for AVX-512";

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
            Instructions::Avx512(_) => c"avx512-vbmi2",
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
        let max_tables = match self.0 {
            Instructions::Portable => portable::MAX_TABLES,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(_) => avx2::MAX_TABLES,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(_) if batch == 1 => {
                return Factors::new(cols).map(Activations::Factors);
            }
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(_) => avx512::MAX_TABLES,
        };
        Activations::new(cols, batch, max_tables)
    }

    fn prepared_bytes(activations: Activations) -> usize {
        activations.prepared_bytes()
    }

    fn prepare(self, activations: Activations, x: &[i8], prepared: &mut [u8]) {
        assert_eq!(
            x.len(),
            activations.batch() * activations.cols(),
            "activations"
        );
        assert_eq!(
            prepared.len(),
            activations.prepared_bytes(),
            "prepared bytes"
        );
        match (activations, self.0) {
            (Activations::Panel(panel), _) => panel.prepare(x, prepared),
            (Activations::Tables(tables), Instructions::Portable) => tables.fill(x, prepared),
            #[cfg(target_arch = "x86_64")]
            (Activations::Tables(tables), Instructions::Avx2(avx2)) => {
                avx2.fill(tables, x, prepared);
            }
            #[cfg(target_arch = "x86_64")]
            (Activations::Tables(tables), Instructions::Avx512(avx512)) => {
                avx512.fill(tables, x, prepared);
            }
            #[cfg(target_arch = "x86_64")]
            (Activations::Factors(factors), Instructions::Avx512(avx512)) => {
                avx512.spread(factors, x, prepared);
            }
            #[cfg(target_arch = "x86_64")]
            (Activations::Factors(_), _) => unreachable!("{MADE_FOR}"),
        }
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
        assert_eq!(packed.len(), layout.packed_bytes(), "packed bytes");
        assert_eq!(
            prepared.len(),
            activations.prepared_bytes(),
            "prepared bytes"
        );
        assert_eq!(activations.cols(), layout.cols(), "columns");
        let are_tiles = layout.bytes_of(&rows).is_some();
        assert!(are_tiles, "rows {rows:?} are not whole tiles");
        assert_eq!(out.rows(), rows.len(), "rows of the output");
        assert_eq!(out.batch(), activations.batch(), "tokens of the output");
        let product = Product {
            layout,
            packed,
            activations,
            prepared,
            rows,
        };
        match self.0 {
            Instructions::Portable => portable::multiply(&product, out),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(avx2) => avx2.multiply(&product, out),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(avx512) => avx512.multiply(&product, out),
        }
    }
}
