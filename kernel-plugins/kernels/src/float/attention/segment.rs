//! The algorithm for floats, for any instruction set and any kind of cell.
//!
//! Few rows, as in generation, are bound by memory: keys and values are
//! converted as they are read, for up to four rows at once. Many rows, as in a
//! prompt, are bound by multiplying: two tiles are converted to floats once and
//! stay in the first-level cache while all rows pass over them. Both do the same
//! operations for a row in the same order. While the first rows pass over a tile,
//! a later one is fetched from memory, for all rows.

use super::cell::Cell;
use super::lanes::Lanes;
use super::{Partial, Row, SEGMENT_TILES, Scratch, Segment, TILE, Tile};
use crate::float::exp;

/// Sixteen positions of one element, or sixteen elements of one position.
type Vector<T = f32> = [T; TILE];

/// Up to so many rows are few.
pub(super) const FEW_ROWS: usize = 8;

/// Rows of a register tile where there are few, or few are left.
pub(super) const SMALL_BLOCK: usize = 4;

/// Additions that depend on those before and are done side by side, so that
/// none has to wait for the last: half of a key's elements is one.
pub(super) const CHAINS: usize = 8;

/// Tiles that are converted at a time: with keys of 128 elements 16 KiB, half
/// of the smallest first-level cache.
pub(super) const CONVERTED_TILES: usize = 2;

/// Tiles between what is worked on and what is fetched from memory meanwhile,
/// which the CPU can't foresee: its own prefetching ends with each page of
/// addresses, and pages of the cache may lie anywhere. About 8 KiB, but never
/// less than the next two tiles, which are worked on together.
pub(super) const TILES_AHEAD: usize = 3;

/// Vectors of a cache line.
pub(super) const fn vectors_of_line<V>() -> usize {
    let vectors = 64 / size_of::<V>();
    if vectors == 0 { 1 } else { vectors }
}

/// Compiles `$body` for each number of rows that a block may have.
macro_rules! with_rows {
    ($lanes:ident, $rows:expr, $R:ident => $body:expr) => {
        match $rows {
            // `ROWS` is a constant, so only one of these two is compiled.
            12 if $lanes::ROWS == 12 => {
                const $R: usize = 12;
                $body
            }
            6 if $lanes::ROWS == 6 => {
                const $R: usize = 6;
                $body
            }
            4 => {
                const $R: usize = 4;
                $body
            }
            3 => {
                const $R: usize = 3;
                $body
            }
            2 => {
                const $R: usize = 2;
                $body
            }
            1 => {
                const $R: usize = 1;
                $body
            }
            rows => unreachable!("a block of {rows} rows"),
        }
    };
}
pub(super) use with_rows;

/// Rows of the block that begins at `row`.
#[inline(always)]
pub(super) fn rows_of_block<L: Lanes>(rows: usize, row: usize) -> usize {
    let rest = rows - row;
    if rows > FEW_ROWS && rest >= L::ROWS {
        L::ROWS
    } else {
        rest.min(SMALL_BLOCK)
    }
}

/// Lays out queries, `[rows][dim]`, as [`attend`] reads them: the elements of a
/// block's rows are neighbours.
#[inline(always)]
pub(super) fn pack<L: Lanes>(_: L, dim: usize, queries: &[f32], packed: &mut [f32]) {
    let rows = queries.len() / dim;
    let mut row = 0;
    while row < rows {
        let block = rows_of_block::<L>(rows, row);
        let range = row * dim..(row + block) * dim;
        let (queries, packed) = (&queries[range.clone()], &mut packed[range]);
        with_rows!(L, block, R => {
            for (r, query) in queries.chunks_exact(dim).enumerate() {
                for (x, packed) in query.iter().zip(packed.as_chunks_mut::<R>().0) {
                    packed[r] = *x;
                }
            }
        });
        row += block;
    }
}

/// Attention of the packed queries to one segment.
#[inline(always)]
pub(super) fn attend<L: Lanes, T: Cell>(
    l: L,
    segment: &Segment<'_, T>,
    scratch: &mut Scratch,
    out: &mut Partial<'_>,
) {
    let few = segment.counts.len() <= FEW_ROWS;
    if few {
        scores_of_few(l, segment, scratch);
    } else {
        scores_of_many(l, segment, scratch);
    }
    let rows = scratch.scores.as_chunks_mut::<TILE>().0;
    let rows = rows.chunks_exact_mut(SEGMENT_TILES);
    for (row, (scores, count)) in rows.zip(segment.counts).enumerate() {
        (out.largest[row], out.sum[row]) = exponentials(l, scores, *count);
    }
    out.values.fill(0.0);
    if few {
        values_of_few(l, segment, scratch, out);
    } else {
        values_of_many(l, segment, scratch, out);
    }
}

/// Tiles of keys that nobody may have fetched yet.
#[inline(always)]
fn fetch_first<L: Lanes, T: Cell>(l: L, segment: &Segment<'_, T>) {
    for tile in segment.tiles.iter().take(TILES_AHEAD) {
        fetch_all(l, tile.keys.as_chunks::<TILE>().0);
    }
}

/// What the rows from `row` on fetch while they read the keys of two tiles.
#[inline(always)]
fn ahead_of_keys<'a, T>(
    segment: &Segment<'a, T>,
    row: usize,
    index: usize,
) -> [&'a [Vector<T>]; 2] {
    [index, index + 1].map(|index| match row {
        0 => segment.ahead_of_keys(index, TILES_AHEAD).as_chunks().0,
        _ => &[],
    })
}

/// Likewise of values.
#[inline(always)]
fn ahead_of_values<'a, T>(
    segment: &Segment<'a, T>,
    row: usize,
    index: usize,
) -> [&'a [Vector<T>]; 2] {
    [index, index + 1].map(|index| match row {
        0 => segment.ahead_of_values(index, TILES_AHEAD).as_chunks().0,
        _ => &[],
    })
}

#[inline(always)]
fn scores_of_few<L: Lanes, T: Cell>(l: L, segment: &Segment<'_, T>, scratch: &mut Scratch) {
    let (rows, dim, tiles) = (segment.counts.len(), segment.dim, segment.tiles);
    fetch_first(l, segment);
    for index in (0..tiles.len()).step_by(2) {
        let keys = [index, index + 1].map(|index| keys_of(tiles, index));
        let mut row = 0;
        while row < rows {
            let block = rows_of_block::<L>(rows, row);
            let queries = &scratch.queries[row * dim..(row + block) * dim];
            let scores = &mut scratch.scores.as_chunks_mut().0[row * SEGMENT_TILES..];
            let ahead = ahead_of_keys(segment, row, index);
            with_rows!(L, block, R => {
                score_pair::<L, T, T, R>(l, keys, ahead, queries, segment, index, scores);
            });
            row += block;
        }
    }
}

/// Nothing behind the last tile.
#[inline(always)]
fn keys_of<'a, T>(tiles: &[Tile<'a, T>], index: usize) -> &'a [Vector<T>] {
    match tiles.get(index) {
        Some(tile) => tile.keys.as_chunks().0,
        None => &[],
    }
}

#[inline(always)]
fn scores_of_many<L: Lanes, T: Cell>(l: L, segment: &Segment<'_, T>, scratch: &mut Scratch) {
    let (rows, dim) = (segment.counts.len(), segment.dim);
    fetch_first(l, segment);
    for (index, tiles) in segment.tiles.chunks(CONVERTED_TILES).enumerate() {
        let index = CONVERTED_TILES * index;
        let converted = scratch.converted.as_chunks_mut().0;
        for (tile, converted) in tiles.iter().zip(converted.chunks_exact_mut(dim)) {
            convert(l, tile.keys.as_chunks().0, converted);
        }
        let (first, second) = converted.split_at(dim);
        let second = if tiles.len() == 2 {
            &second[..dim]
        } else {
            &[]
        };
        let mut row = 0;
        while row < rows {
            let block = rows_of_block::<L>(rows, row);
            let queries = &scratch.queries[row * dim..(row + block) * dim];
            let scores = &mut scratch.scores.as_chunks_mut().0[row * SEGMENT_TILES..];
            let ahead = ahead_of_keys(segment, row, index);
            with_rows!(L, block, R => score_pair::<L, f32, T, R>(
                l, [first, second], ahead, queries, segment, index, scores,
            ));
            row += block;
        }
    }
}

/// Scores of `R` rows over the tile `index` of the segment and, if there is
/// one, the next. What is `ahead` is fetched.
#[inline(always)]
fn score_pair<L: Lanes, K: Cell, T: Cell, const R: usize>(
    l: L,
    keys: [&[Vector<K>]; 2],
    ahead: [&[Vector<T>]; 2],
    queries: &[f32],
    segment: &Segment<'_, T>,
    index: usize,
    scores: &mut [Vector],
) {
    let queries = queries.as_chunks::<R>().0;
    let (first, second) = (keys[0], keys[1]);
    if L::WIDE && !second.is_empty() {
        let dots = dots(l, keys, ahead, queries);
        put_scores(l, dots, segment.factor, index, scores);
        return;
    }
    let dots_of_first = dots(l, [first], [ahead[0]], queries);
    put_scores(l, dots_of_first, segment.factor, index, scores);
    if !L::WIDE && !second.is_empty() {
        let dots_of_second = dots(l, [second], [ahead[1]], queries);
        put_scores(l, dots_of_second, segment.factor, index + 1, scores);
    }
}

#[inline(always)]
fn put_scores<L: Lanes, const C: usize, const R: usize>(
    l: L,
    dots: [[L::V; C]; R],
    factor: f32,
    index: usize,
    scores: &mut [Vector],
) {
    let factor = l.splat(factor);
    for r in 0..R {
        for c in 0..C {
            let to = &mut scores[r * SEGMENT_TILES + index + c];
            l.store(l.mul(dots[r][c], factor), to);
        }
    }
}

/// Products of `R` queries and the keys of `C` tiles: each half of the elements
/// is a chain, then the halves are added.
#[inline(always)]
fn dots<L: Lanes, K: Cell, T: Cell, const C: usize, const R: usize>(
    l: L,
    keys: [&[Vector<K>]; C],
    ahead: [&[Vector<T>]; C],
    queries: &[[f32; R]],
) -> [[L::V; C]; R] {
    let half = queries.len() / 2;
    let (low_queries, high_queries) = queries.split_at(half);
    let low_keys = keys.map(|keys| &keys[..half]);
    let high_keys = keys.map(|keys| &keys[half..][..half]);
    let mut low = [[l.splat(0.0); C]; R];
    let mut high = low;
    if L::WIDE && R * C < CHAINS {
        for i in 0..half {
            fetch_in_order(l, &ahead, 2 * C * i, 2 * C);
            step(l, i, &low_keys, &low_queries[i], &mut low);
            step(l, i, &high_keys, &high_queries[i], &mut high);
        }
    } else {
        for (i, queries) in low_queries.iter().enumerate() {
            fetch_in_order(l, &ahead, 2 * C * i, 2 * C);
            step(l, i, &low_keys, queries, &mut low);
        }
        for (i, queries) in high_queries.iter().enumerate() {
            step(l, i, &high_keys, queries, &mut high);
        }
    }
    for r in 0..R {
        for c in 0..C {
            low[r][c] = l.add(low[r][c], high[r][c]);
        }
    }
    low
}

/// Fetches the lines where some vectors are, of some tiles one after the other.
///
/// The order is the point: lines of two tiles by turns, or of a tile's halves,
/// come a tenth slower from memory where it is all that two cores can take.
#[inline(always)]
pub(super) fn fetch_in_order<L: Lanes, V, const C: usize>(
    l: L,
    ahead: &[&[V]; C],
    first: usize,
    count: usize,
) {
    let len = ahead[0].len();
    for n in (0..count).step_by(vectors_of_line::<V>()) {
        let vector = first + n;
        if C == 1 || vector < len {
            fetch(l, ahead[0], vector);
        } else {
            fetch(l, ahead[1], vector - len);
        }
    }
}

/// Fetches all there is.
#[inline(always)]
pub(super) fn fetch_all<L: Lanes, V>(l: L, ahead: &[V]) {
    for vector in ahead.iter().step_by(vectors_of_line::<V>()) {
        l.prefetch(vector);
    }
}

/// Fetches the line where a vector is, if there is one.
#[inline(always)]
pub(super) fn fetch<L: Lanes, V>(l: L, ahead: &[V], vector: usize) {
    if let Some(vector) = ahead.get(vector) {
        l.prefetch(vector);
    }
}

/// One element of all keys and queries.
#[inline(always)]
fn step<L: Lanes, T: Cell, const C: usize, const R: usize>(
    l: L,
    element: usize,
    keys: &[&[Vector<T>]; C],
    queries: &[f32; R],
    sums: &mut [[L::V; C]; R],
) {
    let mut key = [l.splat(0.0); C];
    for c in 0..C {
        key[c] = T::load(l, &keys[c][element]);
    }
    for r in 0..R {
        let query = l.splat(queries[r]);
        for c in 0..C {
            sums[r][c] = l.fma(query, key[c], sums[r][c]);
        }
    }
}

/// Replaces the first `count` scores by their exponentials, relative to the
/// largest of them. Returns that largest score and the sum of the exponentials,
/// each lane of which is added in order of position.
#[inline(always)]
pub(super) fn exponentials<L: Lanes>(l: L, scores: &mut [Vector], count: usize) -> (f32, f32) {
    let lowest = l.splat(f32::NEG_INFINITY);
    let scores = &mut scores[..count.div_ceil(TILE)];
    if let Some(last) = scores.last_mut() {
        let positions = count - (count - 1) / TILE * TILE;
        l.store(l.first(positions, l.load(last), lowest), last);
    }
    let mut largest = lowest;
    for scores in &*scores {
        largest = l.max(largest, l.load(scores));
    }
    let largest = l.largest(largest);
    let mut sum = l.splat(0.0);
    for scores in scores {
        let weights = exp_of_negative(l, l.sub(l.load(scores), l.splat(largest)));
        sum = l.add(sum, weights);
        l.store(weights, scores);
    }
    (largest, l.sum(sum))
}

/// [`exp`] where nothing is greater than 0.
#[inline(always)]
pub(super) fn exp_of_negative<L: Lanes>(l: L, x: L::V) -> L::V {
    use crate::float::exp::{COEFFICIENTS, LN2_HIGH, LN2_LOW, LOWEST};

    let clamped = l.max(x, l.splat(LOWEST));
    let n = l.round(l.mul(clamped, l.splat(std::f32::consts::LOG2_E)));
    let r = l.fma(n, l.splat(-LN2_HIGH), clamped);
    let r = l.fma(n, l.splat(-LN2_LOW), r);
    let mut p = l.splat(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        p = l.fma(p, r, l.splat(*coefficient));
    }
    let e_r = l.add(l.fma(l.mul(r, r), p, r), l.splat(1.0));
    l.zero_below(l.mul(e_r, l.power_of_two(n)), x, LOWEST)
}

#[inline(always)]
fn values_of_few<L: Lanes, T: Cell>(
    l: L,
    segment: &Segment<'_, T>,
    scratch: &Scratch,
    out: &mut Partial<'_>,
) {
    let rows = segment.counts.len();
    for (index, tile) in segment.tiles.iter().enumerate() {
        let values = tile.values.as_chunks().0;
        let mut row = 0;
        while row < rows {
            let block = rows_of_block::<L>(rows, row);
            let [ahead, _] = ahead_of_values(segment, row, index);
            let scores = scratch.scores();
            with_rows!(L, block, R => add_values::<L, T, T, R>(
                l, values, [ahead, &[]], segment, scores, row, index, 1, out,
            ));
            row += block;
        }
    }
}

#[inline(always)]
fn values_of_many<L: Lanes, T: Cell>(
    l: L,
    segment: &Segment<'_, T>,
    scratch: &mut Scratch,
    out: &mut Partial<'_>,
) {
    let rows = segment.counts.len();
    for (index, tiles) in segment.tiles.chunks(CONVERTED_TILES).enumerate() {
        let index = CONVERTED_TILES * index;
        let converted = scratch.converted.as_chunks_mut().0;
        let len = tiles[0].values.len() / TILE;
        for (tile, converted) in tiles.iter().zip(converted.chunks_exact_mut(len)) {
            convert(l, tile.values.as_chunks().0, converted);
        }
        let values = &scratch.converted.as_chunks().0[..tiles.len() * len];
        let mut row = 0;
        while row < rows {
            let block = rows_of_block::<L>(rows, row);
            let ahead = ahead_of_values(segment, row, index);
            let scores = scratch.scores();
            with_rows!(L, block, R => add_values::<L, f32, T, R>(
                l, values, ahead, segment, scores, row, index, tiles.len(), out,
            ));
            row += block;
        }
    }
}

/// Adds the weighted values of `num_tiles` tiles from the `index`-th of the
/// segment on to `R` rows from `row` on. `values` is `[positions][vectors]`.
/// What is `ahead` of each tile is fetched.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "an inner loop, inlined")]
fn add_values<L: Lanes, V: Cell, T: Cell, const R: usize>(
    l: L,
    values: &[Vector<V>],
    ahead: [&[Vector<T>]; CONVERTED_TILES],
    segment: &Segment<'_, T>,
    scores: &[f32],
    row: usize,
    index: usize,
    num_tiles: usize,
    out: &mut Partial<'_>,
) {
    let vectors = values.len() / (num_tiles * TILE);
    let first = index * TILE;
    let counts = &segment.counts[row..row + R];
    let mut weights = [&scores[..0]; R];
    for (r, weights) in weights.iter_mut().enumerate() {
        *weights = &scores[(row + r) * SEGMENT_TILES * TILE + first..][..num_tiles * TILE];
    }
    let seen = |count: usize| count.saturating_sub(first).min(num_tiles * TILE);
    // What all rows see, then what some see beyond.
    let common = counts.iter().fold(usize::MAX, |a, b| a.min(seen(*b)));
    let sums = out.values.as_chunks_mut().0;
    let sums = &mut sums[row * vectors..(row + R) * vectors];
    let seen_by_all = &values[..common * vectors];
    weigh::<L, V, T, R>(l, seen_by_all, ahead, vectors, weights, sums);
    for (r, count) in counts.iter().enumerate() {
        let rest = common..seen(*count);
        if !rest.is_empty() {
            let values = &values[rest.start * vectors..rest.end * vectors];
            let sums = &mut sums[r * vectors..][..vectors];
            weigh::<L, V, T, 1>(
                l,
                values,
                [&[]; CONVERTED_TILES],
                vectors,
                [&weights[r][rest]],
                sums,
            );
        }
    }
}

/// `sums[r] += weights[r][p] * values[p]` in order of position. `sums` is
/// `[R][vectors]`.
#[inline(always)]
fn weigh<L: Lanes, V: Cell, T: Cell, const R: usize>(
    l: L,
    values: &[Vector<V>],
    ahead: [&[Vector<T>]; CONVERTED_TILES],
    vectors: usize,
    weights: [&[f32]; R],
    sums: &mut [Vector],
) {
    let mut column = 0;
    if L::WIDE && R <= SMALL_BLOCK {
        while column + 4 <= vectors {
            weigh_columns::<L, V, T, R, 4>(l, values, ahead, vectors, weights, column, sums);
            column += 4;
        }
    }
    if L::WIDE {
        while column + 2 <= vectors {
            weigh_columns::<L, V, T, R, 2>(l, values, ahead, vectors, weights, column, sums);
            column += 2;
        }
    }
    while column < vectors {
        weigh_columns::<L, V, T, R, 1>(l, values, ahead, vectors, weights, column, sums);
        column += 1;
    }
}

/// [`weigh`] for `C` vectors of a value, which with their sums fit registers.
#[inline(always)]
fn weigh_columns<L: Lanes, V: Cell, T: Cell, const R: usize, const C: usize>(
    l: L,
    values: &[Vector<V>],
    ahead: [&[Vector<T>]; CONVERTED_TILES],
    vectors: usize,
    weights: [&[f32]; R],
    column: usize,
    all_sums: &mut [Vector],
) {
    let mut sums = [[l.splat(0.0); C]; R];
    for r in 0..R {
        for c in 0..C {
            sums[r][c] = l.load(&all_sums[r * vectors + column + c]);
        }
    }
    for (position, value) in values.chunks_exact(vectors).enumerate() {
        let value: &[Vector<V>; C] = value[column..].first_chunk().expect("C vectors are left");
        for c in (0..C).step_by(vectors_of_line::<Vector<T>>()) {
            let ahead = ahead[position / TILE % CONVERTED_TILES];
            // Where there are many rows the other order costs a third of the speed:
            // there are no registers left for it.
            let vector = if R > SMALL_BLOCK {
                position % TILE * vectors + column + c
            } else {
                column * TILE + position % TILE * C + c
            };
            fetch(l, ahead, vector);
        }
        let mut v = [l.splat(0.0); C];
        for c in 0..C {
            v[c] = V::load(l, &value[c]);
        }
        for r in 0..R {
            let weight = l.splat(weights[r][position]);
            for c in 0..C {
                sums[r][c] = l.fma(weight, v[c], sums[r][c]);
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            l.store(sums[r][c], &mut all_sums[r * vectors + column + c]);
        }
    }
}

#[inline(always)]
fn convert<L: Lanes, T: Cell>(l: L, from: &[Vector<T>], to: &mut [Vector]) {
    for (from, to) in from.iter().zip(to) {
        l.store(T::load(l, from), to);
    }
}

/// Adds what a row has from a later segment to what it has from those before:
/// its largest score, sum and values.
#[inline(always)]
pub(super) fn merge<L: Lanes>(
    l: L,
    (largest, sum, values): (&mut f32, &mut f32, &mut [f32]),
    later: Row<'_>,
) {
    // Sees nothing of the segment: what sees anything sums to 1 at least.
    if later.sum == 0.0 {
        return;
    }
    let before = *largest;
    // The exponential of 0 is 1.
    let (keep, add) = if before > later.largest {
        (1.0, exp(later.largest - before))
    } else {
        *largest = later.largest;
        (exp(before - later.largest), 1.0)
    };
    *sum = add.mul_add(later.sum, keep * *sum);
    let (keep, add) = (l.splat(keep), l.splat(add));
    let values = values.as_chunks_mut().0;
    for (value, later) in values.iter_mut().zip(later.values.as_chunks().0) {
        let kept = l.mul(keep, l.load(value));
        l.store(l.fma(add, l.load(later), kept), value);
    }
}
