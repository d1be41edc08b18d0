//! How activations lie in memory.
//!
//! Few tokens are tables, one for every two columns, those of a token after
//! those of the one before it. More lie as [`panel`](crate::panel) wants them.
//!
//! Columns beyond the last, up to whole fields of a panel, are zero.

use super::table::{TABLE_BYTES, Table};
use crate::panel;
use crate::panel::COLS_MULTIPLE;

/// Columns of a table.
const TABLE_COLS: usize = 2;

/// Sizes and places of prepared activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activations {
    tokens: panel::Activations,
    are_tables: bool,
}

impl Activations {
    /// Tables for up to `few_tokens`. None if there are no activations, if
    /// there are more than [`MAX_COLS`](crate::i2s::MAX_COLS) columns, or if
    /// they would not fit into an address space.
    pub(super) fn new(cols: usize, batch: usize, few_tokens: usize) -> Option<Activations> {
        let tokens = panel::Activations::new(cols, batch)?;
        Some(Activations {
            tokens,
            are_tables: batch <= few_tokens,
        })
    }

    /// Number of tokens.
    pub fn batch(self) -> usize {
        self.tokens.batch()
    }

    /// Columns of a token.
    pub fn cols(self) -> usize {
        self.tokens.cols()
    }

    /// Bytes of the prepared activations.
    pub fn prepared_bytes(self) -> usize {
        match self.for_panel() {
            Some(activations) => activations.prepared_bytes(),
            None => self.batch() * self.token_bytes(),
        }
    }

    /// Prepares row-major activations, one row a token.
    ///
    /// # Panics
    ///
    /// If a slice is not of the size that the columns and the batch give it.
    pub fn prepare(self, activations: &[i8], prepared: &mut [u8]) {
        if let Some(layout) = self.for_panel() {
            return layout.prepare(activations, prepared);
        }
        assert_eq!(activations.len(), self.batch() * self.cols(), "activations");
        assert_eq!(prepared.len(), self.prepared_bytes(), "prepared bytes");
        let tokens = activations.chunks_exact(self.cols());
        for (token, tables) in tokens.zip(prepared.chunks_exact_mut(self.token_bytes())) {
            let (tables, _) = tables.as_chunks_mut();
            let columns = token.chunks(TABLE_COLS).chain(core::iter::repeat(&[][..]));
            for (table, columns) in tables.iter_mut().zip(columns) {
                let x = |i: usize| columns.get(i).copied().unwrap_or(0);
                Table::new(x(0), x(1)).write(table);
            }
        }
    }

    /// What a panel is multiplied with, if it is one.
    pub(super) fn for_panel(self) -> Option<panel::Activations> {
        (!self.are_tables).then_some(self.tokens)
    }

    /// A token's tables.
    pub(super) fn tables(self, prepared: &[u8], token: usize) -> &[[u8; TABLE_BYTES]] {
        prepared[token * self.token_bytes()..][..self.token_bytes()]
            .as_chunks()
            .0
    }

    fn token_bytes(self) -> usize {
        self.cols().next_multiple_of(COLS_MULTIPLE) / TABLE_COLS * TABLE_BYTES
    }
}
