//! Plain Rust: a look-up is a load. Weights are unpacked to a panel however few
//! the tokens are.

use super::Product;
use super::code::PANEL_CODES;
use super::layout::{BLOCK_FIELDS, BLOCK_RUNS, Block, MAGNITUDES};
use crate::output::Output;
use crate::panel::{self, Field, Part};

pub(super) fn multiply(product: &Product<'_>, mut out: Output<'_>) {
    let fill = |part: &Part, fields: &mut [Field]| product.unpack(part, fields, unpack_block);
    panel::portable::multiply(
        product.tokens(),
        &product.rows,
        BLOCK_FIELDS,
        &mut out,
        fill,
    );
}

fn unpack_block(block: &Block, fields: &mut [Field; BLOCK_FIELDS]) {
    for (h, half) in block.iter().enumerate() {
        let signs = &half[MAGNITUDES];
        for run in 0..BLOCK_RUNS {
            let codes = super::layout::codes_of(&half[run / 2], signs, run);
            for (nth, panel_codes) in PANEL_CODES.iter().enumerate() {
                let field = &mut fields[PANEL_CODES.len() * run + nth].0;
                let field = &mut field.as_chunks_mut().0[h];
                *field = codes.map(|code| panel_codes[usize::from(code)]);
            }
        }
    }
}
