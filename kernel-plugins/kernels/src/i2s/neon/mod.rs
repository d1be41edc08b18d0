//! NEON. A few tokens unpack as they go; many run over a panel that was
//! unpacked once.

mod dotprod;
mod mlal;

use core::arch::aarch64::{uint8x16_t, vandq_u8, vshrq_n_u8};

use super::layout::{STEP_BYTES, STEP_FIELDS, Step};
use super::{Output, Product};
use crate::panel::activations::GROUP_TOKENS;
use crate::panel::neon::{Neon, VECTOR, load, splat, store_bytes};
use crate::panel::{Field, Part};

/// Vectors of a step, each of its own four rows.
const STEP_VECTORS: usize = STEP_BYTES / VECTOR;

/// Tokens that are few: one group. By llvm-mca's models, unpacking in registers
/// for one group costs from half of what writing a panel and reading it back
/// do, with two tokens, to as much, with six.
const FEW_TOKENS: usize = GROUP_TOKENS;

pub(super) fn multiply(neon: Neon, product: &Product<'_>, mut out: Output<'_>) {
    let batch = product.activations.batch();
    if batch > FEW_TOKENS {
        let fill = |part: &Part, panel: &mut [Field]| {
            // SAFETY: `neon` is proof of NEON.
            unsafe { unpack(product.steps(part), panel) }
        };
        return neon.multiply(product.tokens(), &product.rows, STEP_FIELDS, &mut out, fill);
    }
    match (neon.has_dotprod(), batch) {
        // SAFETY: `neon` is proof of NEON.
        (false, _) => unsafe { mlal::multiply_few(product, &mut out) },
        // SAFETY: `neon` is proof of `dotprod`.
        (true, 1) => unsafe { dotprod::multiply_one(product, &mut out) },
        // SAFETY: as above.
        (true, _) => unsafe { dotprod::multiply_few(product, &mut out) },
    }
}

#[target_feature(enable = "neon")]
fn unpack(steps: &[Step], panel: &mut [Field]) {
    for (step, fields) in steps.iter().zip(panel.as_chunks_mut::<STEP_FIELDS>().0) {
        for (v, vector) in step.as_chunks().0.iter().enumerate() {
            for (field, codes) in fields.iter_mut().zip(codes_of(load(vector))) {
                store_bytes(&mut field.0.as_chunks_mut().0[v], codes);
            }
        }
    }
}

/// The four fields of a vector, each as its codes.
#[inline]
#[target_feature(enable = "neon")]
fn codes_of(packed: uint8x16_t) -> [uint8x16_t; 4] {
    let low = splat(0x03);
    [
        vandq_u8(packed, low),
        vandq_u8(vshrq_n_u8::<2>(packed), low),
        vandq_u8(vshrq_n_u8::<4>(packed), low),
        vshrq_n_u8::<6>(packed),
    ]
}
