//! Where the rows of a packed matrix lie.
//!
//! Rows are packed by *strips* of 32, all of one size, one after the other.
//! What a strip's bytes mean is for the [`Packing`] to say. It may mix up the
//! strips of a *tile*, so that rows are asked for in whole tiles only.

use core::fmt;
use core::marker::PhantomData;
use core::ops::Range;

use crate::panel::MAX_COLS;
use crate::trits::{self, NotATrit};

/// Rows of a strip.
pub(crate) const STRIP_ROWS: usize = crate::panel::ROWS;

/// A way to put ternary weights into bytes.
pub trait Packing: Copy + Eq + fmt::Debug + 'static {
    /// Row ranges begin at multiples of this, and end at one or with the
    /// matrix.
    const ROW_TILE: usize;

    /// Bytes of 32 rows.
    fn strip_bytes(cols: usize) -> usize;

    /// Packs a tile's rows, or the last ones, row-major and at least one. The
    /// bytes are as many strips as they take; what rows there fill up have
    /// weight zero.
    fn pack_tile(cols: usize, trits: &[i8], packed: &mut [u8]);
}

/// Sizes and places of a packed matrix of one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout<P> {
    rows: usize,
    cols: usize,
    packing: PhantomData<P>,
}

impl<P: Packing> Layout<P> {
    /// None if the matrix is empty, has more than [`MAX_COLS`] columns, or
    /// would not fit into an address space.
    pub fn new(rows: usize, cols: usize) -> Option<Layout<P>> {
        if rows == 0 || cols == 0 || cols > MAX_COLS {
            return None;
        }
        let layout = Layout {
            rows,
            cols,
            packing: PhantomData,
        };
        layout
            .num_strips()
            .checked_mul(layout.strip_bytes())
            .filter(|&bytes| bytes <= isize::MAX as usize)
            .map(|_| layout)
    }

    /// Rows of the matrix.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Columns of the matrix.
    pub fn cols(self) -> usize {
        self.cols
    }

    /// Bytes of the packed matrix.
    pub fn packed_bytes(self) -> usize {
        self.num_strips() * self.strip_bytes()
    }

    /// Where in the packed matrix these rows lie; None if they are not whole
    /// tiles of it. Ranges that don't overlap lie in bytes that don't.
    pub fn bytes_of(self, rows: &Range<usize>) -> Option<Range<usize>> {
        let are_tiles = rows.start <= rows.end
            && rows.end <= self.rows
            && rows.start.is_multiple_of(P::ROW_TILE)
            && (rows.end.is_multiple_of(P::ROW_TILE) || rows.end == self.rows);
        let strips = rows.start / STRIP_ROWS..rows.end.div_ceil(STRIP_ROWS);
        are_tiles.then(|| strips.start * self.strip_bytes()..strips.end * self.strip_bytes())
    }

    /// Packs some rows: `trits` holds them row-major, `packed` is the part
    /// [`bytes_of`](Layout::bytes_of) those rows.
    ///
    /// # Panics
    ///
    /// If a length doesn't fit the rows, or the rows aren't whole tiles.
    pub fn pack(self, rows: Range<usize>, trits: &[i8], packed: &mut [u8]) -> Result<(), NotATrit> {
        let bytes = self.bytes_of(&rows).expect("whole tiles");
        assert_eq!(packed.len(), bytes.len(), "packed bytes");
        assert_eq!(trits.len(), rows.len() * self.cols, "weights");
        trits::validate(trits)?;
        let tiles = trits.chunks(P::ROW_TILE * self.cols);
        for (trits, packed) in tiles.zip(packed.chunks_mut(self.tile_bytes())) {
            P::pack_tile(self.cols, trits, packed);
        }
        Ok(())
    }

    /// The packed weights of some rows.
    ///
    /// # Panics
    ///
    /// If the rows aren't whole tiles.
    pub(crate) fn weights<'a>(self, rows: &Range<usize>, packed: &'a [u8]) -> &'a [u8] {
        &packed[self.bytes_of(rows).expect("whole tiles")]
    }

    /// The tiles of some rows.
    pub(crate) fn tiles<'a>(
        self,
        rows: &Range<usize>,
        packed: &'a [u8],
    ) -> impl Iterator<Item = Tile<'a>> + use<'a, P> {
        let rows = rows.clone();
        self.weights(&rows, packed)
            .chunks(self.tile_bytes())
            .zip((rows.start..).step_by(P::ROW_TILE))
            .map(move |(bytes, first_row)| Tile {
                bytes,
                first_row,
                num_rows: P::ROW_TILE.min(rows.end - first_row),
            })
    }

    pub(crate) fn num_strips(self) -> usize {
        self.rows.div_ceil(STRIP_ROWS)
    }

    pub(crate) fn strip_bytes(self) -> usize {
        P::strip_bytes(self.cols)
    }

    fn tile_bytes(self) -> usize {
        P::ROW_TILE / STRIP_ROWS * self.strip_bytes()
    }
}

/// A tile of a packed matrix, or what there is of the last.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) first_row: usize,
    pub(crate) num_rows: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{i2s, tl1, tl2};

    fn parts_have_the_bytes_of_the_whole<P: Packing>() {
        let (rows, cols) = (300, 33);
        let layout = Layout::<P>::new(rows, cols).unwrap();
        let trits: Vec<i8> = (0..rows * cols).map(|i| (i * i % 3) as i8 - 1).collect();
        let mut whole = vec![0; layout.packed_bytes()];
        layout.pack(0..rows, &trits, &mut whole).unwrap();
        let mut parts = vec![0; layout.packed_bytes()];
        for rows in [256..300, 0..128, 128..256] {
            let bytes = layout.bytes_of(&rows).unwrap();
            let trits = &trits[rows.start * cols..rows.end * cols];
            layout.pack(rows, trits, &mut parts[bytes]).unwrap();
        }
        assert_eq!(whole, parts);
    }

    #[test]
    fn packing_by_parts_gives_the_same_bytes() {
        parts_have_the_bytes_of_the_whole::<i2s::TwoBits>();
        parts_have_the_bytes_of_the_whole::<tl1::Pairs>();
        parts_have_the_bytes_of_the_whole::<tl2::Triples>();
    }

    #[test]
    fn what_is_not_a_trit_is_refused() {
        let layout = Layout::<tl2::Triples>::new(2, 3).unwrap();
        let mut packed = vec![0; layout.packed_bytes()];
        let error = layout.pack(0..2, &[0, 1, -1, 0, 2, 0], &mut packed);
        assert_eq!(error, Err(NotATrit { index: 4, value: 2 }));
    }

    fn shapes_fit<P: Packing>() {
        assert_eq!(Layout::<P>::new(0, 16), None);
        assert_eq!(Layout::<P>::new(16, 0), None);
        assert_eq!(Layout::<P>::new(1, MAX_COLS + 1), None);
        assert_eq!(Layout::<P>::new(usize::MAX, MAX_COLS), None);
        assert_eq!(Layout::<P>::new(usize::MAX, 1), None);
        assert!(Layout::<P>::new(1, MAX_COLS).is_some());
    }

    #[test]
    fn shapes_beyond_memory_are_refused() {
        shapes_fit::<i2s::TwoBits>();
        shapes_fit::<tl1::Pairs>();
        shapes_fit::<tl2::Triples>();
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct FourStrips;

    impl Packing for FourStrips {
        const ROW_TILE: usize = 128;

        fn strip_bytes(cols: usize) -> usize {
            STRIP_ROWS * cols
        }

        fn pack_tile(_: usize, _: &[i8], _: &mut [u8]) {
            unreachable!("only sizes are asked for");
        }
    }

    #[test]
    fn ranges_are_whole_tiles() {
        let small = Layout::<i2s::TwoBits>::new(70, 1).unwrap();
        for rows in [0..70, 32..64, 64..70, 64..64, 0..0] {
            assert!(small.bytes_of(&rows).is_some(), "{rows:?}");
        }
        #[allow(clippy::reversed_empty_ranges, reason = "refused, as it should be")]
        for rows in [1..32, 0..31, 64..71, 64..32, 96..96] {
            assert!(small.bytes_of(&rows).is_none(), "{rows:?}");
        }
        let large = Layout::<FourStrips>::new(300, 1).unwrap();
        for rows in [0..300, 128..256, 256..300, 256..256, 0..0] {
            assert!(large.bytes_of(&rows).is_some(), "{rows:?}");
        }
        #[allow(clippy::reversed_empty_ranges, reason = "refused, as it should be")]
        for rows in [1..128, 0..127, 0..32, 256..301, 256..128, 384..384] {
            assert!(large.bytes_of(&rows).is_none(), "{rows:?}");
        }
    }
}
