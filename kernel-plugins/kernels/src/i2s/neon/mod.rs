//! NEON. One token unpacks as it goes. More run over a panel of unpacked bytes:
//! a loop that unpacked for each of a few tokens would keep the same units as
//! busy as the panel's loads and stores keep others.

mod dotprod;
mod mlal;

use core::arch::aarch64::{uint8x16_t, vandq_u8, vshrq_n_u8};

use super::layout::{STEP_BYTES, STEP_FIELDS, Step};
use super::{Output, Product};
use crate::panel::neon::{Neon, VECTOR, load, splat, store_bytes};
use crate::panel::{Field, Part};

/// Vectors of a step, each of its own four rows.
const STEP_VECTORS: usize = STEP_BYTES / VECTOR;

pub(super) fn multiply(neon: Neon, product: &Product<'_>, mut out: Output<'_>) {
    match product.activations.batch() {
        // SAFETY: `neon` is proof of the features.
        1 if neon.has_dotprod() => unsafe { dotprod::multiply_one(product, &mut out) },
        // SAFETY: as above.
        1 => unsafe { mlal::multiply_one(product, &mut out) },
        _ => {
            let fill = |part: &Part, panel: &mut [Field]| {
                // SAFETY: as above.
                unsafe { unpack(product.steps(part), panel) }
            };
            neon.multiply(product.tokens(), &product.rows, STEP_FIELDS, &mut out, fill);
        }
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
