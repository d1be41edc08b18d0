//! tl1 as one kernel among others.

use core::ffi::CStr;

use super::layout::Step;
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::{Activations, Instructions, Pairs, Variant, lookup, portable};
use crate::kernel::{Kernel, Weights};
use crate::output::Output;
use crate::panel::{self, Field, Part, Tokens};

/// Fields that a packed step unpacks to.
const STEP_FIELDS: usize = 1;

impl Kernel for Variant {
    const ALIGNMENT: usize = 64;

    type Packing = Pairs;
    type Activations = Activations;

    fn isa(self) -> &'static CStr {
        match self.0 {
            Instructions::Portable => c"portable",
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon(neon) => neon.isa(),
        }
    }

    /// Below i2s on every CPU, since the models of cores without `dotprod`
    /// differ on which of the two is faster: where tl1 is, timing shows it.
    fn score(self) -> i32 {
        match self.0 {
            Instructions::Portable => 50,
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon(_) => 190,
        }
    }

    fn activations(self, cols: usize, batch: usize) -> Option<Activations> {
        Activations::new(cols, batch, self.few_tokens())
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
        mut out: Output<'_>,
    ) {
        let Weights {
            layout,
            packed,
            rows,
        } = weights;
        assert_eq!(packed.len(), layout.packed_bytes(), "packed bytes");
        let prepared_bytes = activations.prepared_bytes();
        assert_eq!(prepared.len(), prepared_bytes, "prepared bytes");
        assert_eq!(activations.cols(), layout.cols(), "columns");
        let are_tiles = layout.bytes_of(&rows).is_some();
        assert!(are_tiles, "rows {rows:?} are not whole tiles");
        assert_eq!(out.rows(), rows.len(), "rows of the output");
        assert_eq!(out.batch(), activations.batch(), "tokens of the output");

        let out = &mut out;
        let steps =
            |part: &Part| -> &[Step] { &layout.tile(packed, part.tile)[part.fields.clone()] };
        match (self.0, activations.for_panel()) {
            (Instructions::Portable, None) => {
                let dot = portable::dot;
                lookup::multiply(layout, packed, &rows, activations, prepared, out, dot);
            }
            (Instructions::Portable, Some(activations)) => {
                let tokens = Tokens::new(activations, prepared);
                let fill = |part: &Part, panel: &mut [Field]| portable::unpack(steps(part), panel);
                panel::portable::multiply(tokens, &rows, STEP_FIELDS, out, fill);
            }
            #[cfg(target_arch = "aarch64")]
            (Instructions::Neon(_), None) => {
                // SAFETY: the value is proof of NEON.
                let dot = |steps: &[_], tables: &[_]| unsafe { neon::dot(steps, tables) };
                lookup::multiply(layout, packed, &rows, activations, prepared, out, dot);
            }
            #[cfg(target_arch = "aarch64")]
            (Instructions::Neon(neon), Some(activations)) => {
                let tokens = Tokens::new(activations, prepared);
                // SAFETY: the value is proof of NEON.
                let fill =
                    |part: &Part, panel: &mut [Field]| unsafe { neon::unpack(steps(part), panel) };
                neon.multiply(tokens, &rows, STEP_FIELDS, out, fill);
            }
        }
    }
}
