//! Plain Rust: weights are unpacked to a panel however few the tokens are.

use super::layout::{STEP_FIELDS, Step};
use super::{Output, Product};
use crate::panel::{self, Field};

pub(super) fn multiply(product: &Product<'_>, mut out: Output<'_>) {
    let fill = |part: &panel::Part, panel: &mut [Field]| unpack(product.steps(part), panel);
    panel::portable::multiply(product.tokens(), &product.rows, STEP_FIELDS, &mut out, fill);
}

fn unpack(steps: &[Step], panel: &mut [Field]) {
    for (step, fields) in steps.iter().zip(panel.as_chunks_mut::<STEP_FIELDS>().0) {
        for (f, field) in fields.iter_mut().enumerate() {
            for (code, byte) in field.0.iter_mut().zip(step) {
                *code = (byte >> (2 * f)) & 3;
            }
        }
    }
}
