//! The algorithm for keys and values that are kept as int8.
//!
//! Queries, and then the weights of the values, are rounded to 16 bits relative
//! to the largest of their row, a hundred times finer than what they are
//! multiplied with. Products are summed up as integers, which is exact: their
//! order doesn't matter, and one multiplication does two of them.

use super::aligned::Aligned;
use super::lanes::Lanes;
use super::segment::{
    FEW_ROWS, SMALL_BLOCK, exponentials, fetch, fetch_all, fetch_in_order, rows_of_block,
    vectors_of_line, with_rows,
};
use super::{Partial, SEGMENT, SEGMENT_TILES, Segment, TILE, Tile, value_len};

/// Two elements of a key at sixteen positions, or sixteen elements of the values
/// of two.
type Pairs = [[i8; 2]; TILE];

/// What weights are rounded to, at most: the products of a segment's with values
/// of -128 fit an i32.
const WEIGHT_LEVELS: f32 = i16::MAX as f32;
const _: () = assert!(SEGMENT as i64 * i16::MAX as i64 * 128 <= i32::MAX as i64);

/// What queries are rounded to, at most: likewise.
fn query_levels(dim: usize) -> f32 {
    let most = i32::MAX as usize / (128 * dim);
    most.min(i16::MAX as usize) as f32
}

/// Where all are less, they are nothing: levels divided by it are finite.
const NOTHING: f32 = 1e-30;

/// As for floats, about 8 KiB ahead.
pub(super) const TILES_AHEAD: usize = 4;

/// Queries, weights and sums of some rows.
#[derive(Debug)]
pub(super) struct Rounded {
    /// Packed: of each block `[dim / 2][rows]`, two in a word.
    queries: Vec<i32>,
    /// What a query's integers are to be multiplied with.
    steps: Vec<f32>,
    /// `[rows][SEGMENT / 2]`, two in a word.
    weights: Vec<i32>,
    /// What the sums of a row's weighted values are to be multiplied with.
    units: Vec<f32>,
    /// `[rows][value_len]`.
    sums: Vec<i32>,
    /// One query in whole vectors, and its integers.
    query: Aligned,
    integers: Vec<i16>,
}

impl Rounded {
    pub(super) fn new(dim: usize, max_rows: usize) -> Rounded {
        let len = value_len(dim);
        Rounded {
            queries: vec![0; max_rows * dim / 2],
            steps: vec![0.0; max_rows],
            weights: vec![0; max_rows * SEGMENT / 2],
            units: vec![0.0; max_rows],
            sums: vec![0; max_rows * len],
            query: Aligned::new(len),
            integers: vec![0; len],
        }
    }
}

/// Rounds queries, `[rows][dim]`, and lays them out as [`attend`] reads them.
#[inline(always)]
pub(super) fn pack<L: Lanes>(l: L, dim: usize, queries: &[f32], rounded: &mut Rounded) {
    let rows = queries.len() / dim;
    let levels = query_levels(dim);
    let mut row = 0;
    while row < rows {
        let block = rows_of_block::<L>(rows, row);
        let packed = &mut rounded.queries[row * dim / 2..(row + block) * dim / 2];
        with_rows!(L, block, R => {
            for r in 0..R {
                rounded.query[..dim].copy_from_slice(&queries[(row + r) * dim..][..dim]);
                let (query, integers) = (&rounded.query, &mut rounded.integers);
                rounded.steps[row + r] = round(l, query.as_chunks().0, levels, integers);
                let pairs = integers.as_chunks::<2>().0;
                for (pair, packed) in pairs.iter().zip(packed.as_chunks_mut::<R>().0) {
                    packed[r] = word(*pair);
                }
            }
        });
        row += block;
    }
}

/// Two in a word, as vectors have them.
#[inline(always)]
fn word(pair: [i16; 2]) -> i32 {
    bytemuck::cast(pair)
}

/// Rounds so that the largest becomes `levels`, and returns what the integers
/// are to be multiplied with.
#[inline(always)]
fn round<L: Lanes>(l: L, floats: &[[f32; TILE]], levels: f32, integers: &mut [i16]) -> f32 {
    let zero = l.splat(0.0);
    let mut largest = zero;
    for x in floats {
        let x = l.load(x);
        let magnitude = l.max(x, l.sub(zero, x));
        // In this order, so that what is no number never gets there.
        largest = l.max(magnitude, largest);
    }
    let largest = l.largest(largest);
    let factor = l.splat(factor(levels, largest));
    for (x, integers) in floats.iter().zip(integers.as_chunks_mut().0) {
        // The lower bound is for what is no number.
        let x = l.max(l.mul(l.load(x), factor), l.splat(-levels));
        l.round_to_i16(x, integers);
    }
    largest / levels
}

#[inline(always)]
fn factor(levels: f32, largest: f32) -> f32 {
    if largest > NOTHING {
        levels / largest
    } else {
        0.0
    }
}

/// Attention of the packed queries to one segment.
#[inline(always)]
pub(super) fn attend<L: Lanes>(
    l: L,
    segment: &Segment<'_, i8>,
    scores: &mut [f32],
    rounded: &mut Rounded,
    out: &mut Partial<'_>,
) {
    let rows = segment.counts.len();
    let few = rows <= FEW_ROWS;
    let scores = scores.as_chunks_mut::<TILE>().0;
    // Each is a line of its own, that nobody would foresee, and a wait.
    for tile in segment.tiles {
        l.prefetch(scales(tile).keys);
        l.prefetch(scales(tile).values);
    }
    for tile in segment.tiles.iter().take(TILES_AHEAD) {
        fetch_all(l, vectors(tile.keys));
    }
    for index in (0..segment.tiles.len()).step_by(2) {
        let mut row = 0;
        while row < rows {
            let block = rows_of_block::<L>(rows, row);
            let scores = &mut scores[row * SEGMENT_TILES..];
            if row == 0 {
                with_rows!(L, block, R => {
                    score_pair::<L, R, true>(l, segment, index, row, rounded, scores);
                });
            } else {
                with_rows!(L, block, R => {
                    score_pair::<L, R, false>(l, segment, index, row, rounded, scores);
                });
            }
            row += block;
        }
    }
    let scores = scores.chunks_exact_mut(SEGMENT_TILES);
    let weights = rounded.weights.chunks_exact_mut(SEGMENT / 2);
    for (row, ((scores, weights), count)) in scores.zip(weights).zip(segment.counts).enumerate() {
        (out.largest[row], out.sum[row]) = exponentials(l, scores, *count);
        rounded.units[row] = round_weights(l, segment.tiles, scores, *count, weights);
    }
    values(l, segment, few, rounded);
    for row in 0..rows {
        let unit = l.splat(rounded.units[row]);
        let len = value_len(segment.dim);
        let sums = rounded.sums[row * len..][..len].as_chunks().0;
        let values = out.values[row * len..][..len].as_chunks_mut().0;
        for (sums, values) in sums.iter().zip(values) {
            l.store(l.mul(l.to_floats(l.load_sums(sums)), unit), values);
        }
    }
}

/// Cells in vectors.
#[inline(always)]
fn vectors(cells: &[i8]) -> &[Pairs] {
    cells.as_chunks().0.as_chunks().0
}

/// Nothing behind the last tile.
#[inline(always)]
fn keys_of<'a>(tiles: &[Tile<'a, i8>], index: usize) -> &'a [Pairs] {
    tiles.get(index).map_or(&[], |tile| vectors(tile.keys))
}

/// Scores of `R` rows over the tile `index` and, if there is one, the next. With
/// `FETCH` later tiles are fetched, for all rows.
#[inline(always)]
fn score_pair<L: Lanes, const R: usize, const FETCH: bool>(
    l: L,
    segment: &Segment<'_, i8>,
    index: usize,
    row: usize,
    rounded: &Rounded,
    scores: &mut [[f32; TILE]],
) {
    let (tiles, dim) = (segment.tiles, segment.dim);
    let queries = &rounded.queries[row * dim / 2..(row + R) * dim / 2];
    let queries = queries.as_chunks::<R>().0;
    let ahead = |index| match FETCH {
        true => vectors(segment.ahead_of_keys(index, TILES_AHEAD)),
        false => &[],
    };
    let steps = &rounded.steps[row..row + R];
    if L::WIDE && index + 1 < tiles.len() {
        let keys = [keys_of(tiles, index), keys_of(tiles, index + 1)];
        let dots = dots(l, keys, [ahead(index), ahead(index + 1)], queries);
        put_scores(l, dots, segment, index, steps, scores);
        return;
    }
    for index in index..tiles.len().min(index + 2) {
        let dots = dots(l, [keys_of(tiles, index)], [ahead(index)], queries);
        put_scores(l, dots, segment, index, steps, scores);
    }
}

#[inline(always)]
fn put_scores<L: Lanes, const C: usize, const R: usize>(
    l: L,
    dots: [[L::Sums; C]; R],
    segment: &Segment<'_, i8>,
    index: usize,
    steps: &[f32],
    scores: &mut [[f32; TILE]],
) {
    for r in 0..R {
        let factor = l.splat(steps[r] * segment.factor);
        for c in 0..C {
            let scale = l.load(scales(&segment.tiles[index + c]).keys);
            let score = l.mul(l.to_floats(dots[r][c]), scale);
            l.store(
                l.mul(score, factor),
                &mut scores[r * SEGMENT_TILES + index + c],
            );
        }
    }
}

#[inline(always)]
fn scales<'a>(tile: &Tile<'a, i8>) -> super::Scales<'a> {
    tile.scales.expect("checked where tiles come from")
}

/// Products of `R` queries and the keys of `C` tiles.
#[inline(always)]
fn dots<L: Lanes, const C: usize, const R: usize>(
    l: L,
    keys: [&[Pairs]; C],
    ahead: [&[Pairs]; C],
    queries: &[[i32; R]],
) -> [[L::Sums; C]; R] {
    let keys = keys.map(|keys| &keys[..queries.len()]);
    let mut sums = [[l.no_sums(); C]; R];
    if L::WIDE && R <= SMALL_BLOCK {
        // Two chains at once: one alone waits for its own additions.
        let mut others = sums;
        let (pairs, rest) = queries.as_chunks::<2>();
        for (i, [first, second]) in pairs.iter().enumerate() {
            fetch_in_order(l, &ahead, 2 * C * i, 2 * C);
            step(l, 2 * i, &keys, first, &mut sums);
            step(l, 2 * i + 1, &keys, second, &mut others);
        }
        for last in rest {
            step(l, queries.len() - 1, &keys, last, &mut sums);
        }
        for r in 0..R {
            for c in 0..C {
                sums[r][c] = l.add_sums(sums[r][c], others[r][c]);
            }
        }
    } else {
        for (i, queries) in queries.iter().enumerate() {
            fetch_in_order(l, &ahead, C * i, C);
            step(l, i, &keys, queries, &mut sums);
        }
    }
    sums
}

/// Two elements of all keys and queries.
#[inline(always)]
fn step<L: Lanes, const C: usize, const R: usize>(
    l: L,
    pair: usize,
    keys: &[&[Pairs]; C],
    queries: &[i32; R],
    sums: &mut [[L::Sums; C]; R],
) {
    let keys: [_; C] = core::array::from_fn(|c| l.widen_pairs(&keys[c][pair]));
    for r in 0..R {
        let query = l.splat_pair(queries[r]);
        for c in 0..C {
            sums[r][c] = l.add_products(sums[r][c], query, keys[c]);
        }
    }
}

/// Rounds what the values are to be multiplied with: exponentials times the
/// values' scales. Positions that the row doesn't see get 0, whatever is there.
/// Returns what sums are to be multiplied with.
#[inline(always)]
fn round_weights<L: Lanes>(
    l: L,
    tiles: &[Tile<'_, i8>],
    exponentials: &mut [[f32; TILE]],
    count: usize,
    weights: &mut [i32],
) -> f32 {
    let zero = l.splat(0.0);
    let mut largest = zero;
    let mut seen = count;
    for (weight, tile) in exponentials.iter_mut().zip(tiles) {
        let scaled = l.mul(l.load(weight), l.load(scales(tile).values));
        let scaled = l.first(seen.min(TILE), scaled, zero);
        largest = l.max(scaled, largest);
        l.store(scaled, weight);
        seen = seen.saturating_sub(TILE);
    }
    let largest = l.largest(largest);
    let factor = l.splat(factor(WEIGHT_LEVELS, largest));
    let weights: &mut [i16] = bytemuck::cast_slice_mut(weights);
    let weights = weights.as_chunks_mut().0;
    for (weight, rounded) in exponentials.iter().zip(weights).take(tiles.len()) {
        let scaled = l.mul(l.load(weight), factor);
        l.round_to_i16(l.max(scaled, zero), rounded);
    }
    largest / WEIGHT_LEVELS
}

/// Sums of the weighted values. Where there are few rows, a tile is read from
/// memory for all of them; where there are many, sums stay in registers for some
/// tiles, while as many are fetched.
#[inline(always)]
fn values<L: Lanes>(l: L, segment: &Segment<'_, i8>, few: bool, rounded: &mut Rounded) {
    let (rows, tiles) = (segment.counts.len(), segment.tiles);
    rounded.sums[..rows * value_len(segment.dim)].fill(0);
    let at_once = if few { 1 } else { TILES_AHEAD };
    for first in (0..tiles.len()).step_by(at_once) {
        let some = &tiles[first..tiles.len().min(first + at_once)];
        let mut row = 0;
        while row < rows {
            let block = rows_of_block::<L>(rows, row);
            let weights = &rounded.weights[row * SEGMENT / 2..(row + block) * SEGMENT / 2];
            let weights = &weights[first * TILE / 2..];
            let len = value_len(segment.dim);
            let sums = &mut rounded.sums[row * len..(row + block) * len];
            let sums = sums.as_chunks_mut().0;
            if row == 0 {
                let ahead = |index| vectors(segment.ahead_of_values(first + index, TILES_AHEAD));
                with_rows!(L, block, R => weigh::<L, R>(l, some, ahead, len / TILE, weights, sums));
            } else {
                with_rows!(L, block, R => weigh::<L, R>(l, some, |_| &[], len / TILE, weights, sums));
            }
            row += block;
        }
    }
}

/// `sums[r] += weights[r][p] * values[p]`. `sums` is `[R][vectors]`.
#[inline(always)]
fn weigh<'a, L: Lanes, const R: usize>(
    l: L,
    tiles: &[Tile<'_, i8>],
    ahead: impl Fn(usize) -> &'a [Pairs] + Copy,
    vectors: usize,
    weights: &[i32],
    sums: &mut [[i32; TILE]],
) {
    let mut column = 0;
    if L::WIDE && R <= SMALL_BLOCK {
        while column + 4 <= vectors {
            weigh_columns::<L, R, 4>(l, tiles, ahead, vectors, weights, column, sums);
            column += 4;
        }
    }
    if L::WIDE {
        while column + 2 <= vectors {
            weigh_columns::<L, R, 2>(l, tiles, ahead, vectors, weights, column, sums);
            column += 2;
        }
    }
    while column < vectors {
        weigh_columns::<L, R, 1>(l, tiles, ahead, vectors, weights, column, sums);
        column += 1;
    }
}

/// [`weigh`] for `C` vectors of a value, which with their sums fit registers.
#[inline(always)]
fn weigh_columns<'a, L: Lanes, const R: usize, const C: usize>(
    l: L,
    tiles: &[Tile<'_, i8>],
    ahead: impl Fn(usize) -> &'a [Pairs],
    num_vectors: usize,
    weights: &[i32],
    column: usize,
    all_sums: &mut [[i32; TILE]],
) {
    let mut sums = [[l.no_sums(); C]; R];
    for r in 0..R {
        for c in 0..C {
            sums[r][c] = l.load_sums(&all_sums[r * num_vectors + column + c]);
        }
    }
    for (index, tile) in tiles.iter().enumerate() {
        let of_rows: [&[i32; TILE / 2]; R] = core::array::from_fn(|r| {
            let of_row = &weights[r * SEGMENT / 2 + index * TILE / 2..];
            of_row.first_chunk().expect("a tile's")
        });
        let values = vectors(tile.values);
        let ahead = ahead(index);
        for pair in 0..TILE / 2 {
            for c in (0..C).step_by(vectors_of_line::<Pairs>()) {
                fetch(l, ahead, column * TILE / 2 + pair * C + c);
            }
            let values = &values[pair * num_vectors + column..];
            let values: &[Pairs; C] = values.first_chunk().expect("C vectors are left");
            let values: [_; C] = core::array::from_fn(|c| l.widen_pairs(&values[c]));
            for r in 0..R {
                let weight = l.splat_pair(of_rows[r][pair]);
                for c in 0..C {
                    sums[r][c] = l.add_products(sums[r][c], weight, values[c]);
                }
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            l.store_sums(sums[r][c], &mut all_sums[r * num_vectors + column + c]);
        }
    }
}
