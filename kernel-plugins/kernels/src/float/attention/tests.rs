//! Against plain loops in f64, and against the order that the module promises.

use super::lanes::Lanes;
use super::segment::exp_of_negative;
use super::*;
use crate::float::exp;
use crate::float::tests::noise;

/// Keys and values of a sequence, `[position][dim]`, as they are kept.
struct Kept {
    dim: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    key_scales: Vec<f32>,
    value_scales: Vec<f32>,
}

impl Kept {
    fn new(dim: usize, positions: usize, cells: Cells) -> Kept {
        let positions = positions.next_multiple_of(TILE);
        let scale = |seed| match cells {
            Cells::I8 => noise(positions, seed)
                .iter()
                .map(|x| 0.02 + 0.01 * x)
                .collect(),
            Cells::F32 | Cells::F16 => vec![1.0; positions],
        };
        let vectors = |seed| {
            let noise = noise(positions * dim, seed).into_iter();
            noise
                .map(|x| match cells {
                    Cells::F32 => x,
                    Cells::F16 => f16::from_f32(x).to_f32(),
                    Cells::I8 => (127.0 * x).round(),
                })
                .collect()
        };
        Kept {
            dim,
            keys: vectors(1),
            values: vectors(2),
            key_scales: scale(3),
            value_scales: scale(4),
        }
    }

    fn positions(&self) -> usize {
        self.key_scales.len()
    }

    /// In tiles, of which `together` elements are neighbours.
    fn keys<T>(&self, together: usize, cell: impl Fn(f32) -> T) -> Vec<T> {
        let mut keys = Vec::new();
        for tile in self.keys.chunks(TILE * self.dim) {
            for first in (0..self.dim).step_by(together) {
                for slot in 0..TILE {
                    let elements = &tile[slot * self.dim + first..][..together];
                    keys.extend(elements.iter().map(|x| cell(*x)));
                }
            }
        }
        keys
    }

    /// Rows of whole vectors, the rest of which is never read. The same elements
    /// of `together` positions are neighbours.
    fn values<T>(&self, together: usize, cell: impl Fn(f32) -> T) -> Vec<T> {
        let mut values = Vec::new();
        for some in self.values.chunks(together * self.dim) {
            for element in 0..value_len(self.dim) {
                let elements = some.chunks(self.dim).map(|value| value.get(element));
                values.extend(elements.map(|x| cell(*x.unwrap_or(&1.0))));
            }
        }
        values
    }
}

#[derive(Clone, Copy, Debug)]
enum Cells {
    F32,
    F16,
    I8,
}

impl Cells {
    fn arithmetic(self) -> Arithmetic {
        match self {
            Cells::F32 | Cells::F16 => Arithmetic::Float,
            Cells::I8 => Arithmetic::Integer,
        }
    }
}

/// What each row gets: whole segments on the way, in order.
fn attention(
    variant: Variant,
    kept: &Kept,
    cells: Cells,
    queries: &[f32],
    seen: &[usize],
) -> Vec<f32> {
    let dim = kept.dim;
    let rows = seen.len();
    let mut attention = Attention::with(variant, cells.arithmetic(), dim, rows);
    attention.set_queries(queries);
    let mut all = vec![f32::NAN; partial_len(rows, dim)];
    let mut later = all.clone();
    let (f32_keys, f32_values) = (kept.keys(1, |x| x), kept.values(1, |x| x));
    let (f16_keys, f16_values) = (kept.keys(1, f16::from_f32), kept.values(1, f16::from_f32));
    let (i8_keys, i8_values) = (kept.keys(2, |x| x as i8), kept.values(2, |x| x as i8));
    for segment in 0..kept.positions().div_ceil(SEGMENT) {
        let counts: Vec<_> = seen
            .iter()
            .map(|seen| seen.saturating_sub(segment * SEGMENT).min(SEGMENT))
            .collect();
        let longest = *counts.iter().max().expect("rows");
        let tiles = segment * SEGMENT_TILES..segment * SEGMENT_TILES + longest.div_ceil(TILE);
        let out = if segment == 0 { &mut all } else { &mut later };
        let factor = 1.0 / (dim as f32).sqrt();
        // What is fetched never shows.
        let fetching = segment.is_multiple_of(2);
        match cells {
            Cells::F32 => {
                let tiles = slices(&f32_keys, &f32_values, None, dim, tiles);
                let next = fetching.then_some(Tiles::F32(&tiles));
                attention.attend(Tiles::F32(&tiles), next, &counts, factor, out);
            }
            Cells::F16 => {
                let tiles = slices(&f16_keys, &f16_values, None, dim, tiles);
                let next = fetching.then_some(Tiles::F16(&tiles));
                attention.attend(Tiles::F16(&tiles), next, &counts, factor, out);
            }
            Cells::I8 => {
                let tiles = slices(&i8_keys, &i8_values, Some(kept), dim, tiles);
                let next = fetching.then_some(Tiles::I8(&tiles));
                attention.attend(Tiles::I8(&tiles), next, &counts, factor, out);
            }
        }
        if segment > 0 {
            attention.merge(rows, &mut all, &later);
        }
    }
    let mut result = vec![0.0; rows * dim];
    for (row, result) in result.chunks_exact_mut(dim).enumerate() {
        attention.finish(rows, &all, all.len(), row, result);
    }
    result
}

fn slices<'a, T>(
    keys: &'a [T],
    values: &'a [T],
    scaled: Option<&'a Kept>,
    dim: usize,
    tiles: std::ops::Range<usize>,
) -> Vec<Tile<'a, T>> {
    tiles
        .map(|tile| Tile {
            keys: &keys[tile * dim * TILE..][..dim * TILE],
            values: &values[tile * value_len(dim) * TILE..][..value_len(dim) * TILE],
            scales: scaled.map(|kept| Scales {
                keys: kept.key_scales[tile * TILE..].first_chunk().expect("16"),
                values: kept.value_scales[tile * TILE..].first_chunk().expect("16"),
            }),
        })
        .collect()
}

/// One row in the promised order, written as slowly as possible.
fn in_order(kept: &Kept, cells: Cells, query: &[f32], seen: usize) -> Vec<f32> {
    let dim = kept.dim;
    let factor = 1.0 / (dim as f32).sqrt();
    let chain = |key: &[f32], elements: std::ops::Range<usize>| {
        elements.fold(0.0_f32, |sum, i| query[i].mul_add(key[i], sum))
    };
    let (integers, step) = rounded(query, 32767.0);
    let score = |p: usize| {
        let key = &kept.keys[p * dim..][..dim];
        match cells.arithmetic() {
            Arithmetic::Float => (chain(key, 0..dim / 2) + chain(key, dim / 2..dim)) * factor,
            Arithmetic::Integer => {
                sum_of_products(&integers, key) * kept.key_scales[p] * (step * factor)
            }
        }
    };
    let mut all: Option<(f32, f32, Vec<f32>)> = None;
    for begin in (0..seen).step_by(SEGMENT) {
        let positions = begin..seen.min(begin + SEGMENT);
        let scores: Vec<f32> = positions.clone().map(score).collect();
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = scores.iter().map(|score| exp(score - largest)).collect();
        let mut lanes = vec![0.0_f32; TILE];
        for (p, weight) in positions.clone().zip(&weights) {
            lanes[p % TILE] += weight;
        }
        let values: Vec<f32> = match cells.arithmetic() {
            Arithmetic::Float => (0..dim)
                .map(|i| {
                    let values = positions.clone().map(|p| kept.values[p * dim + i]);
                    let weighted = weights.iter().zip(values);
                    weighted.fold(0.0, |sum, (w, v)| w.mul_add(v, sum))
                })
                .collect(),
            Arithmetic::Integer => {
                let scales = &kept.value_scales[positions.clone()];
                let weights: Vec<_> = weights.iter().zip(scales).map(|(w, s)| w * s).collect();
                let (weights, unit) = rounded(&weights, 32767.0);
                (0..dim)
                    .map(|i| {
                        let values = positions.clone().map(|p| kept.values[p * dim + i]);
                        sum_of_products(&weights, &values.collect::<Vec<_>>()) * unit
                    })
                    .collect()
            }
        };
        while lanes.len() > 1 {
            let upper = lanes.split_off(lanes.len() / 2);
            for (low, high) in lanes.iter_mut().zip(upper) {
                *low += high;
            }
        }
        all = Some(match all {
            None => (largest, lanes[0], values),
            Some((before, sum, before_values)) => {
                let new = before.max(largest);
                let (keep, add) = (exp(before - new), exp(largest - new));
                let joined = before_values.iter().zip(values);
                let values = joined.map(|(b, v)| add.mul_add(v, keep * b)).collect();
                (new, add.mul_add(lanes[0], keep * sum), values)
            }
        });
    }
    let (_, sum, values) = all.expect("something is seen");
    values.into_iter().map(|value| value / sum).collect()
}

/// Integers of which the largest is `levels`, and what they are multiplied with.
fn rounded(floats: &[f32], levels: f32) -> (Vec<i64>, f32) {
    let largest = floats.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
    let integer = |x: &f32| (x * (levels / largest)).round_ties_even() as i64;
    (floats.iter().map(integer).collect(), largest / levels)
}

fn sum_of_products(a: &[i64], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * *b as i64).sum::<i64>() as f32
}

/// One row in f64.
fn exact(kept: &Kept, query: &[f32], seen: usize) -> Vec<f64> {
    let dim = kept.dim;
    let weights: Vec<f64> = (0..seen)
        .map(|p| {
            let key = query.iter().zip(&kept.keys[p * dim..]);
            let dot: f64 = key.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
            (dot * f64::from(kept.key_scales[p]) / (dim as f64).sqrt()).exp()
        })
        .collect();
    let sum: f64 = weights.iter().sum();
    (0..dim)
        .map(|i| {
            let value = |p: usize| f64::from(kept.values[p * dim + i] * kept.value_scales[p]);
            (0..seen).map(|p| weights[p] * value(p)).sum::<f64>() / sum
        })
        .collect()
}

/// Dimension, and what each row sees.
fn cases() -> Vec<(usize, Vec<usize>)> {
    vec![
        (2, vec![1]),
        (32, vec![16, 16]),
        (128, vec![255, 256, 257, 258]),
        (96, vec![17; 3]),
        (128, vec![700; 4]),
        // More rows than few, blocks of all sizes, in the diagonal.
        (128, (0..23).map(|r| 500 + r / 4).collect()),
        (100, (0..13).map(|r| 250 + r).collect()),
        (256, (0..64).map(|r| 1 + r).collect()),
    ]
}

#[test]
fn every_variant_has_the_promised_order() {
    for (dim, seen) in cases() {
        for cells in [Cells::F32, Cells::F16, Cells::I8] {
            let kept = Kept::new(dim, *seen.iter().max().expect("rows"), cells);
            let queries: Vec<f32> = noise(seen.len() * dim, 9).iter().map(|x| 4.0 * x).collect();
            for variant in Variant::available() {
                let got = attention(variant, &kept, cells, &queries, &seen);
                for (row, seen) in seen.iter().enumerate() {
                    let want = in_order(&kept, cells, &queries[row * dim..][..dim], *seen);
                    let got = &got[row * dim..][..dim];
                    let same = got
                        .iter()
                        .zip(&want)
                        .all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(
                        same,
                        "{variant:?}, {cells:?}, {dim}, row {row} of {seen}: {got:?} is not {want:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn attention_is_close_to_the_real_one() {
    for (dim, seen) in cases() {
        for cells in [Cells::F32, Cells::F16, Cells::I8] {
            let kept = Kept::new(dim, *seen.iter().max().expect("rows"), cells);
            let queries: Vec<f32> = noise(seen.len() * dim, 9).iter().map(|x| 4.0 * x).collect();
            let variant = Variant::available().last().expect("one at least");
            let got = attention(variant, &kept, cells, &queries, &seen);
            for (row, seen) in seen.iter().enumerate() {
                let want = exact(&kept, &queries[row * dim..][..dim], *seen);
                // Of int8 elements are up to 4, and queries and weights are
                // rounded.
                let bound = match cells.arithmetic() {
                    Arithmetic::Float => 5e-6,
                    Arithmetic::Integer => 1e-3,
                };
                for (got, want) in got[row * dim..].iter().zip(want) {
                    let error = (f64::from(*got) - want).abs();
                    assert!(
                        error < bound * (1.0 + want.abs()),
                        "{cells:?}, {dim}, row {row}: {got} is not {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_nobody_sees_may_be_anything() {
    let seen = [3, 3, 4, 4];
    let queries = noise(seen.len() * 32, 9);
    for variant in Variant::available() {
        for cells in [Cells::F32, Cells::I8] {
            let mut kept = Kept::new(32, 16, cells);
            let want = attention(variant, &kept, cells, &queries, &seen);
            kept.keys[4 * 32..].fill(f32::NAN);
            kept.values[4 * 32..].fill(f32::INFINITY);
            kept.key_scales[4..].fill(f32::INFINITY);
            kept.value_scales[4..].fill(f32::NAN);
            let got = attention(variant, &kept, cells, &queries, &seen);
            assert_eq!(got, want, "{variant:?}, {cells:?}");
        }
    }
}

#[test]
fn nothing_at_all_is_zero() {
    for variant in Variant::available() {
        let mut kept = Kept::new(32, 20, Cells::I8);
        kept.key_scales.fill(0.0);
        kept.value_scales.fill(0.0);
        let got = attention(variant, &kept, Cells::I8, &[0.0; 32], &[20]);
        assert_eq!(got, [0.0; 32], "{variant:?}");
    }
}

#[test]
fn sums_of_the_largest_integers_fit() {
    // All products of a score and of a value have the same sign. Beyond 512
    // elements queries have fewer levels.
    for dim in [256, 512, 1024] {
        let mut kept = Kept::new(dim, SEGMENT, Cells::I8);
        kept.keys.fill(-128.0);
        kept.values.fill(-128.0);
        kept.key_scales.fill(1e-3);
        kept.value_scales.fill(0.5);
        for variant in Variant::available() {
            let got = attention(variant, &kept, Cells::I8, &vec![-1.0; dim], &[SEGMENT]);
            assert_eq!(got, vec![-64.0; dim], "{variant:?}");
        }
    }
}

#[test]
fn exponentials_of_all_variants_are_the_same() {
    // Every exponent and many fractions, from -0 to -infinity.
    for bits in (0x8000_0000_u32..=0xff80_0000).step_by(4099 * TILE) {
        let x: [f32; TILE] =
            std::array::from_fn(|l| f32::from_bits((bits + 4099 * l as u32).min(0xff80_0000)));
        let want = x.map(|x| exp(x).to_bits());
        for variant in Variant::available() {
            let mut got = [0.0; TILE];
            match variant.0 {
                Isa::Portable(l) => l.store(exp_of_negative(l, l.load(&x)), &mut got),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2(l) => l.store(exp_of_negative(l, l.load(&x)), &mut got),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512(l) => l.store(exp_of_negative(l, l.load(&x)), &mut got),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512Vnni(l) => l.store(exp_of_negative(l, l.load(&x)), &mut got),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon(l) => l.store(exp_of_negative(l, l.load(&x)), &mut got),
            }
            assert_eq!(got.map(f32::to_bits), want, "{variant:?}, {x:?}");
        }
    }
}
