//! RMSNorm.

use super::two_widths;

/// Partial sums of the squares: f64, hence fewer than for f32 reductions.
const LANES: usize = 16;

two_widths! {
    /// `out[i] = x[i] / sqrt(mean(x²) + eps) * weight[i]`, the weight
    /// multiplied last.
    pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len());
        let root = (mean_square(x) + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x / root * weight;
        }
    }
}

two_widths! {
    /// `out[i] = x[i] * (1 / sqrt(mean(x²) + eps)) * weight[i]` as ggml rounds
    /// it: squares are summed in f64.
    pub fn rms_norm_ggml(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        normalise(x, mean_square(x), weight, eps, out);
    }
}

two_widths! {
    /// The same to the bit as torch computes it on a CPU: squares are summed
    /// in f32, in torch's order.
    pub fn rms_norm_torch(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        normalise(x, mean_square_torch(x), weight, eps, out);
    }
}

#[inline(always)]
fn normalise(x: &[f32], mean_square: f32, weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len());
    let scale = 1.0 / (mean_square + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

/// The squares are f32 and summed in f64 as in ggml, in sixteen lanes that are
/// then added pairwise.
#[inline(always)]
fn mean_square(x: &[f32]) -> f32 {
    let mut lanes = [0.0_f64; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] += f64::from(chunk[l] * chunk[l]);
        }
    }
    for (l, x) in rest.iter().enumerate() {
        lanes[l] += f64::from(x * x);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    (lanes[0] / x.len() as f64) as f32
}

/// Elements of a vector of torch's reduction, whatever the CPU has.
const VECTOR: usize = 8;
/// Vectors that it adds up side by side.
const VECTORS: usize = 4;
/// Rows of so many vectors after which a level's sums go up to the next.
const LEVEL_ROWS: usize = 16;
const LEVELS: usize = 4;

/// The order of torch's `sum` over a contiguous row of f32: four vectors side
/// by side, in four levels against rounding; then the vectors one after
/// another, what is left of the row, and the lanes one after another
/// (`aten/src/ATen/native/cpu/SumKernel.cpp`). Rows beyond 2^25 elements have
/// larger levels there.
#[inline(always)]
fn mean_square_torch(x: &[f32]) -> f32 {
    const ROW: usize = VECTOR * VECTORS;
    let mut levels = [[0.0_f32; ROW]; LEVELS];
    let (rows, rest) = x.as_chunks::<ROW>();
    for (i, row) in rows.iter().enumerate() {
        for l in 0..ROW {
            levels[0][l] += row[l] * row[l];
        }
        let mut done = i + 1;
        let mut level = 0;
        while level + 1 < LEVELS && done.is_multiple_of(LEVEL_ROWS) {
            let full = core::mem::replace(&mut levels[level], [0.0; ROW]);
            level += 1;
            add(&mut levels[level], &full);
            done /= LEVEL_ROWS;
        }
    }
    let [mut sums, higher @ ..] = levels;
    for level in &higher {
        add(&mut sums, level);
    }
    let (vectors, rest) = rest.as_chunks::<VECTOR>();
    let (sums, _) = sums.as_chunks_mut::<VECTOR>();
    let [first, others @ ..] = sums else {
        unreachable!("a row has vectors")
    };
    for vector in vectors {
        add(first, &vector.map(|x| x * x));
    }
    for other in others {
        add(first, other);
    }
    let sum = rest
        .iter()
        .map(|x| x * x)
        .chain(*first)
        .fold(0.0, |sum, x| sum + x);
    sum / x.len() as f32
}

#[inline(always)]
fn add<const N: usize>(sums: &mut [f32; N], x: &[f32; N]) {
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum += x;
    }
}
