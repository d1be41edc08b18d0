//! Where keys and values are in the memory of one head.

use std::ops::Range;

use ternion_engine::BlockId;
use ternion_kernels::float::attention::{SEGMENT, TILE, value_len};

use crate::kv_cache::KvConfig;
use crate::kv_precision::KvPrecision;

/// Pages of one head, in groups of as many as a segment of attention has: keys
/// of all of them, then the values, then scales where there are some. A
/// sequence's pages mostly follow each other, and memory is read fastest in the
/// order in which it lies: where keys and values took turns every 4 KiB, two
/// cores got four fifths of it.
///
/// Keys of up to sixteen positions form a tile, `[head_dim][positions]`, values
/// are `[position][head_dim]`, but of int8 `[head_dim / 2][positions][2]` and
/// `[positions / 2][head_dim][2]`: see [`ternion_kernels::float::attention`].
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) num_blocks: usize,
    /// Positions of a page.
    pub(crate) block_size: usize,
    pub(crate) precision: KvPrecision,
    pub(crate) dim: usize,
    /// Pages of a group that is not the last: a power of two.
    group_len: usize,
    /// Of a page.
    key_bytes: usize,
    value_bytes: usize,
    scale_bytes: usize,
}

/// Elements of a cell's type that one position takes, keys and values: whole
/// words, so that scales are aligned.
fn position_cells(dim: usize) -> usize {
    (dim + value_len(dim)).next_multiple_of(4)
}

/// Bytes that one position of one head takes.
pub(crate) fn position_bytes(precision: KvPrecision, dim: usize) -> usize {
    position_cells(dim) * precision.cell_bytes() + precision.scale_bytes()
}

/// Where the parts of a page are, in bytes.
pub(crate) struct Page {
    pub(crate) keys: Range<usize>,
    pub(crate) values: Range<usize>,
    /// Those of the keys, then of the values.
    pub(crate) scales: Range<usize>,
}

/// Where the elements of a key or value are.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) begin: usize,
    /// Neighbours.
    pub(crate) together: usize,
    /// From one group of neighbours to the next.
    pub(crate) stride: usize,
}

impl Layout {
    pub(crate) fn new(config: KvConfig, dim: usize) -> Layout {
        let KvConfig {
            num_blocks,
            block_size,
            precision,
        } = config;
        let pages = (SEGMENT / block_size).max(1);
        let cells = position_cells(dim) - dim;
        Layout {
            num_blocks,
            block_size,
            precision,
            dim,
            group_len: 1 << pages.ilog2(),
            key_bytes: block_size * dim * precision.cell_bytes(),
            value_bytes: block_size * cells * precision.cell_bytes(),
            scale_bytes: block_size * precision.scale_bytes(),
        }
    }

    /// One page that holds a segment.
    pub(crate) fn of_segment(self) -> Layout {
        let config = KvConfig {
            num_blocks: 1,
            block_size: SEGMENT,
            precision: self.precision,
        };
        Layout::new(config, self.dim)
    }

    fn page_bytes(self) -> usize {
        self.key_bytes + self.value_bytes + self.scale_bytes
    }

    /// Bytes of all pages.
    pub(crate) fn bytes(self) -> usize {
        self.num_blocks * self.page_bytes()
    }

    /// Where a page is.
    #[inline]
    pub(crate) fn page(self, block: BlockId) -> Page {
        let block = block.0 as usize;
        let index = block & (self.group_len - 1);
        let first = block - index;
        let len = self.group_len.min(self.num_blocks - first);
        let keys = first * self.page_bytes();
        let values = keys + len * self.key_bytes;
        let scales = values + len * self.value_bytes;
        let part = |begin, bytes| begin + index * bytes..begin + (index + 1) * bytes;
        Page {
            keys: part(keys, self.key_bytes),
            values: part(values, self.value_bytes),
            scales: part(scales, self.scale_bytes),
        }
    }

    /// The page that holds a position of a sequence, and the slot there.
    pub(crate) fn page_of(self, table: &[BlockId], position: usize) -> (Page, usize) {
        let page = self.page(table[position / self.block_size]);
        (page, position % self.block_size)
    }

    /// Positions of a tile of keys. Pages that are not whole tiles of the
    /// kernel are one tile of their own size, and gathered before use.
    pub(crate) fn tile(self) -> usize {
        if self.block_size.is_multiple_of(TILE) {
            TILE
        } else {
            self.block_size
        }
    }

    /// Where the key of a slot is, among the keys of its page. `together`
    /// elements of a key are neighbours.
    pub(crate) fn key(self, slot: usize, together: usize) -> Spread {
        let tile = self.tile();
        Spread {
            begin: slot / tile * tile * self.dim + slot % tile * together,
            together,
            stride: together * tile,
        }
    }

    /// Where the value of a slot is, among the values of its page. As many
    /// positions are neighbours, but not in pages that are gathered before use,
    /// as their positions may be odd.
    pub(crate) fn value(self, slot: usize, together: usize) -> Spread {
        let positions = if self.tile() == TILE { together } else { 1 };
        Spread {
            begin: slot / positions * positions * value_len(self.dim) + slot % positions,
            together: 1,
            stride: positions,
        }
    }
}
