//! Attention of queries to the keys and values of one head.
//!
//! **The order.** A sequence is cut at every [`SEGMENT`] positions, wherever
//! pages end and whoever computes. In a segment the score of a position is
//! `(low + high) * factor`, where `low` and `high` are chains of fused
//! multiply-adds over the first and second half of the elements. Exponentials
//! are relative to the segment's largest score; position `p` adds to lane
//! `p % 16` of their sum, and the lanes are added pairwise. Values are added by
//! fused multiply-adds in order of position. Segments are then joined one by one in order ([`Attention::merge`]): the larger of the
//! largest scores is kept, and sums and values are scaled to it. So what a query
//! gets depends on what it sees and on nothing else, and segments of one query
//! may go to different workers.
//!
//! **Integers.** Where keys and values are int8, a query is rounded to 16 bits
//! relative to its largest element, and the score is `dot * key scale * (step *
//! factor)` with an exact `dot`. The exponentials of a segment times the values'
//! scales are rounded to 16 bits relative to the largest, and values are added
//! exactly. Everything else is as for floats.
//!
//! **The layout.** Keys lie in tiles of [`TILE`] positions, `[dim][TILE]`, so
//! that a vector holds the same element of sixteen keys and scores need no
//! horizontal sums; values lie `[position][dim]`, so that neither do they. Of
//! int8 two products are added at once: keys lie `[dim / 2][TILE][2]`, values
//! `[TILE / 2][dim][2]`, so that what is added are neighbours.

mod aligned;
mod cell;
mod integer;
mod lanes;
mod portable;
mod segment;

#[cfg(target_arch = "aarch64")]
mod neon;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(test)]
mod tests;

use half::f16;

pub use aligned::Aligned;
use cell::Cell;
use portable::Portable;

/// Positions of a tile.
pub const TILE: usize = 16;

/// Tiles of a segment.
pub const SEGMENT_TILES: usize = 16;

/// Tiles of what comes next that are fetched before their turn, at most.
pub const TILES_AHEAD: usize = 4;
const _: () = assert!(segment::TILES_AHEAD <= TILES_AHEAD && integer::TILES_AHEAD <= TILES_AHEAD);

/// Positions of a segment.
pub const SEGMENT: usize = SEGMENT_TILES * TILE;

/// Elements that a value takes: whole vectors.
pub const fn value_len(dim: usize) -> usize {
    dim.next_multiple_of(TILE)
}

/// Keys and values of sixteen positions. What lies at positions that no query
/// sees may be anything.
#[derive(Debug, Clone, Copy)]
pub struct Tile<'a, T> {
    /// `[dim][TILE]`; of int8 `[dim / 2][TILE][2]`.
    pub keys: &'a [T],
    /// `[TILE][value_len(dim)]`; of int8 `[TILE / 2][value_len(dim)][2]`.
    pub values: &'a [T],
    /// Those of int8.
    pub scales: Option<Scales<'a>>,
}

/// What the elements of each position are to be multiplied with.
#[derive(Debug, Clone, Copy)]
pub struct Scales<'a> {
    /// Of the keys.
    pub keys: &'a [f32; TILE],
    /// Of the values.
    pub values: &'a [f32; TILE],
}

/// Tiles of one segment in order of position: up to [`SEGMENT_TILES`].
#[derive(Debug, Clone, Copy)]
pub enum Tiles<'a> {
    /// Exactly as computed.
    F32(&'a [Tile<'a, f32>]),
    /// Rounded to f16.
    F16(&'a [Tile<'a, f16>]),
    /// Integers with scales.
    I8(&'a [Tile<'a, i8>]),
}

/// How scores and values are summed up. Whoever has set queries for the one
/// can't attend to tiles of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// As floats: where keys and values are such.
    Float,
    /// As integers: where they are int8.
    Integer,
}

/// A way to compute attention. All give the same results.
#[derive(Debug, Clone, Copy)]
pub struct Variant(Isa);

/// Instruction sets. A value other than `Portable` exists only where the CPU
/// has it.
#[derive(Debug, Clone, Copy)]
enum Isa {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512<false>),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(avx512::Avx512<true>),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
}

impl Variant {
    /// All that this CPU has, the fastest last.
    pub fn available() -> impl Iterator<Item = Variant> {
        #[cfg(target_arch = "x86_64")]
        let wider = [
            avx2::Avx2::new().map(Isa::Avx2),
            avx512::Avx512::new().map(Isa::Avx512),
            avx512::Avx512::new().map(Isa::Avx512Vnni),
        ];
        #[cfg(target_arch = "aarch64")]
        let wider = [neon::Neon::new().map(Isa::Neon)];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let wider: [Option<Isa>; 0] = [];
        std::iter::once(Isa::Portable(Portable))
            .chain(wider.into_iter().flatten())
            .map(Variant)
    }

    /// Name for logs and tables.
    pub fn name(self) -> &'static str {
        match self.0 {
            Isa::Portable(_) => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni(_) => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(_) => "neon",
        }
    }
}

/// One worker's attention: its instruction set, queries, and memory.
#[derive(Debug)]
pub struct Attention {
    isa: Isa,
    dim: usize,
    scratch: Scratch,
    /// For [`Arithmetic::Integer`].
    rounded: Option<integer::Rounded>,
}

#[derive(Debug)]
struct Scratch {
    /// Packed, for [`Arithmetic::Float`].
    queries: Vec<f32>,
    /// `[rows][SEGMENT]`.
    scores: Aligned,
    /// Keys or values of some tiles.
    converted: Aligned,
    /// Values of one row while its parts are joined.
    joined: Aligned,
}

impl Scratch {
    fn scores(&self) -> &[f32] {
        &self.scores
    }
}

/// Work on one segment.
struct Segment<'a, T> {
    dim: usize,
    tiles: &'a [Tile<'a, T>],
    /// What is likely to be read after them.
    next: &'a [Tile<'a, T>],
    /// Positions of the segment that each row sees.
    counts: &'a [usize],
    factor: f32,
}

impl<'a, T> Segment<'a, T> {
    fn new(
        dim: usize,
        [tiles, next]: [&'a [Tile<'a, T>]; 2],
        counts: &'a [usize],
        factor: f32,
    ) -> Self {
        for tile in tiles {
            assert_eq!(tile.keys.len(), dim * TILE, "keys of a tile");
            assert_eq!(tile.values.len(), value_len(dim) * TILE, "values of a tile");
        }
        assert!(tiles.len() <= SEGMENT_TILES, "{} tiles", tiles.len());
        assert!(
            counts.iter().all(|count| *count <= tiles.len() * TILE),
            "{} tiles for {counts:?}",
            tiles.len(),
        );
        Segment {
            dim,
            tiles,
            next,
            counts,
            factor,
        }
    }

    /// What to fetch while the keys of a tile are read: the keys of one that is
    /// `by` later, and after the last keys the first values.
    #[inline(always)]
    fn ahead_of_keys(&self, index: usize, by: usize) -> &'a [T] {
        let ahead = index + by;
        match self.tiles.get(ahead) {
            Some(tile) => tile.keys,
            None => self.tiles[ahead % self.tiles.len()].values,
        }
    }

    /// What to fetch while the values of a tile are read: those of one that is
    /// `by` later, and after the last values the next keys.
    #[inline(always)]
    fn ahead_of_values(&self, index: usize, by: usize) -> &'a [T] {
        let ahead = index + by;
        match self.tiles.get(ahead) {
            Some(tile) => tile.values,
            None => {
                let next = self.next.get(ahead - self.tiles.len());
                next.map_or(&[], |tile| tile.keys)
            }
        }
    }
}

/// What rows have from one or more segments.
struct Partial<'a> {
    /// `[rows][value_len(dim)]`: values weighted by exponentials.
    values: &'a mut [f32],
    /// Largest score of each row.
    largest: &'a mut [f32],
    /// Sum of the exponentials of each row.
    sum: &'a mut [f32],
}

/// What one row has: the largest score, the sum of exponentials, and values
/// weighted by them.
#[derive(Clone, Copy)]
struct Row<'a> {
    largest: f32,
    sum: f32,
    values: &'a [f32],
}

/// Floats that results for `rows` rows take.
pub const fn partial_len(rows: usize, dim: usize) -> usize {
    (rows * (value_len(dim) + 2)).next_multiple_of(TILE)
}

impl Partial<'_> {
    fn of(memory: &mut [f32], rows: usize, dim: usize) -> Partial<'_> {
        assert!(memory.len() >= partial_len(rows, dim), "too short");
        let (values, rest) = memory.split_at_mut(rows * value_len(dim));
        let (largest, rest) = rest.split_at_mut(rows);
        Partial {
            values,
            largest,
            sum: &mut rest[..rows],
        }
    }
}

impl Row<'_> {
    /// Of memory that a [`Partial`] was written to.
    fn of(memory: &[f32], rows: usize, dim: usize, row: usize) -> Row<'_> {
        let (values, rest) = memory.split_at(rows * value_len(dim));
        Row {
            largest: rest[row],
            sum: rest[rows + row],
            values: &values[row * value_len(dim)..][..value_len(dim)],
        }
    }
}

/// Runs a generic function where its instructions are available.
macro_rules! on {
    ($isa:expr, $function:ident, $($argument:expr),*) => {
        match $isa {
            Isa::Portable(l) => compiled::portable::$function(l, $($argument),*),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the value is proof of the instructions.
            Isa::Avx2(l) => unsafe { compiled::avx2::$function(l, $($argument),*) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the value is proof of the instructions.
            Isa::Avx512(l) => unsafe { compiled::avx512::$function(l, $($argument),*) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the value is proof of the instructions.
            Isa::Avx512Vnni(l) => unsafe { compiled::avx512_vnni::$function(l, $($argument),*) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: the value is proof of the instructions.
            Isa::Neon(l) => unsafe { compiled::neon::$function(l, $($argument),*) },
        }
    };
}

/// The generic functions, compiled for instruction sets.
mod compiled {
    macro_rules! compiled_for {
        ($module:ident $(, $features:literal)?) => {
            pub(super) mod $module {
                use super::super::cell::Cell;
                use super::super::integer::{self, Rounded};
                use super::super::lanes::Lanes;
                use super::super::{Partial, Row, Scratch, Segment, segment};

                $(#[target_feature(enable = $features)])?
                pub(in super::super) fn attend<L: Lanes, T: Cell>(
                    l: L,
                    segment: &Segment<'_, T>,
                    scratch: &mut Scratch,
                    out: &mut Partial<'_>,
                ) {
                    segment::attend(l, segment, scratch, out);
                }

                $(#[target_feature(enable = $features)])?
                pub(in super::super) fn attend_to_integers<L: Lanes>(
                    l: L,
                    segment: &Segment<'_, i8>,
                    scores: &mut [f32],
                    rounded: &mut Rounded,
                    out: &mut Partial<'_>,
                ) {
                    integer::attend(l, segment, scores, rounded, out);
                }

                $(#[target_feature(enable = $features)])?
                pub(in super::super) fn pack<L: Lanes>(
                    l: L,
                    dim: usize,
                    queries: &[f32],
                    packed: &mut [f32],
                ) {
                    segment::pack(l, dim, queries, packed);
                }

                $(#[target_feature(enable = $features)])?
                pub(in super::super) fn round<L: Lanes>(
                    l: L,
                    dim: usize,
                    queries: &[f32],
                    rounded: &mut Rounded,
                ) {
                    integer::pack(l, dim, queries, rounded);
                }

                $(#[target_feature(enable = $features)])?
                pub(in super::super) fn merge<L: Lanes>(
                    l: L,
                    into: (&mut f32, &mut f32, &mut [f32]),
                    later: Row<'_>,
                ) {
                    segment::merge(l, into, later);
                }
            }
        };
    }
    compiled_for!(portable);
    #[cfg(target_arch = "x86_64")]
    compiled_for!(avx2, "avx2,fma,f16c");
    #[cfg(target_arch = "x86_64")]
    compiled_for!(avx512, "avx512f,avx512bw,avx2,fma,f16c");
    #[cfg(target_arch = "x86_64")]
    compiled_for!(avx512_vnni, "avx512f,avx512bw,avx512vnni,avx2,fma,f16c");
    #[cfg(target_arch = "aarch64")]
    compiled_for!(neon, "neon");
}

impl Attention {
    /// For heads of `dim` elements and up to `max_rows` queries at a time.
    ///
    /// # Panics
    ///
    /// If `dim` is odd: rotary embeddings pair elements.
    pub fn new(arithmetic: Arithmetic, dim: usize, max_rows: usize) -> Attention {
        let variants = Variant::available();
        let fastest = variants.last().expect("the portable one at least");
        Attention::with(fastest, arithmetic, dim, max_rows)
    }

    /// [`new`](Attention::new) in a certain way.
    ///
    /// # Panics
    ///
    /// If `dim` is odd.
    pub fn with(
        Variant(isa): Variant,
        arithmetic: Arithmetic,
        dim: usize,
        max_rows: usize,
    ) -> Attention {
        assert!(dim.is_multiple_of(2), "heads of {dim} elements");
        let integer = arithmetic == Arithmetic::Integer;
        let floats = if integer { 0 } else { max_rows * dim };
        let converted = segment::CONVERTED_TILES * TILE * value_len(dim);
        Attention {
            isa,
            dim,
            scratch: Scratch {
                queries: vec![0.0; floats],
                scores: Aligned::new(max_rows * SEGMENT),
                converted: Aligned::new(if integer { 0 } else { converted }),
                joined: Aligned::new(value_len(dim)),
            },
            rounded: integer.then(|| integer::Rounded::new(dim, max_rows)),
        }
    }

    /// Sets the queries, `[rows][dim]`.
    ///
    /// # Panics
    ///
    /// If there are more rows than this was made for, or they are not whole.
    pub fn set_queries(&mut self, queries: &[f32]) {
        assert!(queries.len().is_multiple_of(self.dim), "not whole rows");
        if let Some(rounded) = &mut self.rounded {
            on!(self.isa, round, self.dim, queries, rounded);
        } else {
            let packed = &mut self.scratch.queries[..queries.len()];
            on!(self.isa, pack, self.dim, queries, packed);
        }
    }

    /// What the queries get from one segment, of which row `r` sees the first
    /// `counts[r]` positions; scores are multiplied by `factor`. `out` is of
    /// [`partial_len`]. If `next` is what comes after, its first
    /// [`TILES_AHEAD`] keys are fetched from memory meanwhile.
    ///
    /// # Panics
    ///
    /// If tiles are for another arithmetic, don't have their sizes or scales, or
    /// are too few for a count, or `out` is too short.
    pub fn attend(
        &mut self,
        tiles: Tiles<'_>,
        next: Option<Tiles<'_>>,
        counts: &[usize],
        factor: f32,
        out: &mut [f32],
    ) {
        let mut out = Partial::of(out, counts.len(), self.dim);
        match tiles {
            Tiles::F32(tiles) => {
                let next = match next {
                    Some(Tiles::F32(next)) => next,
                    _ => &[],
                };
                self.attend_to_floats([tiles, next], counts, factor, &mut out);
            }
            Tiles::F16(tiles) => {
                let next = match next {
                    Some(Tiles::F16(next)) => next,
                    _ => &[],
                };
                self.attend_to_floats([tiles, next], counts, factor, &mut out);
            }
            Tiles::I8(tiles) => {
                let next = match next {
                    Some(Tiles::I8(next)) => next,
                    _ => &[],
                };
                self.attend_to_integers([tiles, next], counts, factor, &mut out);
            }
        }
    }

    fn attend_to_floats<T: Cell>(
        &mut self,
        tiles: [&[Tile<'_, T>]; 2],
        counts: &[usize],
        factor: f32,
        out: &mut Partial<'_>,
    ) {
        assert!(self.rounded.is_none(), "queries are integers");
        let segment = Segment::new(self.dim, tiles, counts, factor);
        let scratch = &mut self.scratch;
        on!(self.isa, attend, &segment, scratch, out);
    }

    fn attend_to_integers(
        &mut self,
        tiles: [&[Tile<'_, i8>]; 2],
        counts: &[usize],
        factor: f32,
        out: &mut Partial<'_>,
    ) {
        let rounded = self.rounded.as_mut().expect("queries are floats");
        let of_tiles = tiles[0];
        assert!(
            of_tiles.iter().all(|tile| tile.scales.is_some()),
            "no scales"
        );
        let segment = Segment::new(self.dim, tiles, counts, factor);
        let scores = &mut self.scratch.scores;
        on!(self.isa, attend_to_integers, &segment, scores, rounded, out);
    }

    /// Adds what `rows` rows have from a later segment to what they have from
    /// those before. Both are of [`partial_len`].
    ///
    /// # Panics
    ///
    /// If one is too short.
    pub fn merge(&self, rows: usize, into: &mut [f32], later: &[f32]) {
        let len = value_len(self.dim);
        let into = Partial::of(into, rows, self.dim);
        let values = into.values.chunks_exact_mut(len);
        for (row, values) in values.enumerate() {
            let later = Row::of(later, rows, self.dim, row);
            let into = (&mut into.largest[row], &mut into.sum[row], values);
            on!(self.isa, merge, into, later);
        }
    }

    /// The result of one of `rows` rows, `out` of `dim` elements, from what
    /// stands in `parts`, one for each segment or group of segments, each
    /// `part_len` long.
    ///
    /// # Panics
    ///
    /// If there is no part, or one is too short.
    pub fn finish(
        &mut self,
        rows: usize,
        parts: &[f32],
        part_len: usize,
        row: usize,
        out: &mut [f32],
    ) {
        let mut parts = parts
            .chunks_exact(part_len)
            .map(|part| Row::of(part, rows, self.dim, row));
        let first = parts.next().expect("a row sees something");
        let (mut largest, mut sum) = (first.largest, first.sum);
        let values = &mut *self.scratch.joined;
        values.copy_from_slice(first.values);
        for later in parts {
            let into = (&mut largest, &mut sum, &mut *values);
            on!(self.isa, merge, into, later);
        }
        for (out, value) in out.iter_mut().zip(values) {
            *out = *value / sum;
        }
    }
}
