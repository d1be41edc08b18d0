//! Plain Rust: a look-up is a load.

use super::code::PANEL_CODES;
#[cfg(target_arch = "x86_64")]
use super::kernel::MADE_FOR;
use super::layout::{
    BLOCK_FIELDS, Block, FIRST_COLUMNS, STRIP_ROWS, blocks, codes_of, row_of, words_at,
};
use super::tables::{BlockTables, Tables, number};
use super::{Activations, Product};
use crate::layout::Tile;
use crate::output::Output;
use crate::panel::{self, Field, Part};

/// Tokens that look their sums up. For more, unpacking weights once for all of
/// them is faster.
pub(super) const MAX_TABLES: usize = 2;

pub(super) fn multiply(product: &Product<'_>, mut out: Output<'_>) {
    match product.activations {
        Activations::Tables(tables) => multiply_few(product, tables, &mut out),
        #[cfg(target_arch = "x86_64")]
        Activations::Factors(_) => unreachable!("{MADE_FOR}"),
        Activations::Panel(activations) => {
            let tokens = panel::Tokens::new(activations, product.prepared);
            let fill = |part: &Part, fields: &mut [Field]| unpack(product, part, fields);
            panel::portable::multiply(tokens, &product.rows, BLOCK_FIELDS, &mut out, fill);
        }
    }
}

fn multiply_few(product: &Product<'_>, tables: Tables, out: &mut Output<'_>) {
    let of_tokens = tables.of(product.prepared);
    for tile in product.tiles() {
        for token in 0..tables.batch() {
            let tables = of_tokens[token..].iter().step_by(tables.batch());
            for strip in 0..tile.num_strips() {
                let sums = dot(&tile, strip, tables.clone());
                let rows = product.rows_of(&tile, strip);
                let out = out.of_token(token, rows.first, rows.num);
                out.copy_from_slice(&sums[..rows.num]);
            }
        }
    }
}

/// 32 rows times one token.
fn dot<'a>(
    tile: &Tile<'_>,
    strip: usize,
    tables: impl Iterator<Item = &'a BlockTables>,
) -> [i32; STRIP_ROWS] {
    let mut sums = [0; STRIP_ROWS];
    let blocks = blocks(tile.bytes)[strip..]
        .iter()
        .step_by(tile.num_strips());
    for (block, tables) in blocks.zip(tables) {
        for lane in 0..STRIP_ROWS {
            let codes = codes_of(words_at(block, lane));
            let of_block: i16 = codes
                .into_iter()
                .zip(tables)
                .map(|(code, table)| number(table, code))
                .sum();
            sums[row_of(lane)] += i32::from(of_block);
        }
    }
    sums
}

/// Unpacks a part of the weights to a panel.
fn unpack(product: &Product<'_>, part: &Part, fields: &mut [Field]) {
    let blocks = product.layout.blocks(product.packed, part);
    for (block, fields) in blocks.zip(fields.chunks_mut(BLOCK_FIELDS)) {
        if let Ok(fields) = fields.try_into() {
            unpack_block(block, fields);
        } else {
            let mut all = [Field::ZERO; BLOCK_FIELDS];
            unpack_block(block, &mut all);
            fields.copy_from_slice(&all[..fields.len()]);
        }
    }
}

fn unpack_block(block: &Block, fields: &mut [Field; BLOCK_FIELDS]) {
    for lane in 0..STRIP_ROWS {
        let row = row_of(lane);
        let codes = codes_of(words_at(block, lane));
        for (code, first) in codes.into_iter().zip(FIRST_COLUMNS) {
            for (nth, panel_codes) in PANEL_CODES.iter().enumerate() {
                let field = &mut fields[first / 4 + nth].0;
                field[4 * row + first % 4] = panel_codes[usize::from(code)];
            }
        }
    }
}
