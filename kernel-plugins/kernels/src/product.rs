//! What a kernel that multiplies is asked for.

use core::ops::Range;

use crate::layout::{Layout, Packing, Tile};
use crate::output::{Output, Rows};
use crate::panel::{Activations, Group, Tokens};

/// Some rows of a packed matrix times prepared activations.
#[derive(Clone, Debug)]
pub struct Product<'a, P> {
    pub(crate) layout: Layout<P>,
    pub(crate) packed: &'a [u8],
    pub(crate) activations: Activations,
    pub(crate) prepared: &'a [u8],
    pub(crate) rows: Range<usize>,
}

impl<'a, P: Packing> Product<'a, P> {
    /// # Panics
    ///
    /// If a buffer is not of its layout's size, if matrix and activations have
    /// different columns, or if the rows aren't whole tiles of the matrix.
    pub fn new(
        layout: Layout<P>,
        packed: &'a [u8],
        activations: Activations,
        prepared: &'a [u8],
        rows: Range<usize>,
    ) -> Product<'a, P> {
        assert_eq!(packed.len(), layout.packed_bytes(), "packed bytes");
        let prepared_bytes = activations.prepared_bytes();
        assert_eq!(prepared.len(), prepared_bytes, "prepared bytes");
        assert_eq!(activations.cols(), layout.cols(), "columns");
        let are_tiles = layout.bytes_of(&rows).is_some();
        assert!(are_tiles, "rows {rows:?} are not whole tiles");
        Product {
            layout,
            packed,
            activations,
            prepared,
            rows,
        }
    }

    /// # Panics
    ///
    /// If the output's rows or tokens aren't the product's.
    pub(crate) fn check(&self, out: &Output<'_>) {
        assert_eq!(out.rows(), self.rows.len(), "rows of the output");
        let batch = self.activations.batch();
        assert_eq!(out.batch(), batch, "tokens of the output");
    }

    pub(crate) fn tiles(&self) -> impl Iterator<Item = Tile<'a>> + use<'a, P> {
        self.layout.tiles(&self.rows, self.packed)
    }

    /// The packed weights of the rows.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn weights(&self) -> &'a [u8] {
        self.layout.weights(&self.rows, self.packed)
    }

    pub(crate) fn tokens(&self) -> Tokens<'a> {
        Tokens::new(self.activations, self.prepared)
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = Group<'a>> + use<'a, P> {
        self.tokens().groups()
    }

    /// Sets the results of a tile to what sums are added to.
    pub(crate) fn begin(&self, tile: &Tile<'_>, out: &mut Output<'_>) -> Rows {
        let rows = Rows {
            first: tile.first_row - self.rows.start,
            num: tile.num_rows,
        };
        self.tokens().begin(rows, out);
        rows
    }
}
