//! Stored rows times several tokens, in the order of [`crate::float`].
//!
//! A result has 32 lanes, so a register tile of rows and tokens with all lanes
//! of each would be a few results large. The lanes don't meet before the end:
//! a tile goes over its columns once for each register's worth of lanes
//! instead, and is then as large as that of any matrix product.

use std::cell::RefCell;

use crate::float::{dot, dot_bf16, dot_f16, dot_f32_bytes, widen_bf16, widen_f16};

/// How the numbers of a row are stored, little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Four bytes.
    F32,
    /// Two bytes, IEEE half precision.
    F16,
    /// Two bytes, the upper half of an f32.
    Bf16,
}

impl Stored {
    /// Bytes of a number.
    pub const fn bytes(self) -> usize {
        match self {
            Stored::F32 => 4,
            Stored::F16 | Stored::Bf16 => 2,
        }
    }

    /// Dot product of activations and a stored row.
    pub fn dot(self, hidden: &[f32], row: &[u8]) -> f32 {
        match self {
            Stored::F32 => dot_f32_bytes(hidden, row),
            Stored::F16 => dot_f16(hidden, row),
            Stored::Bf16 => dot_bf16(hidden, row),
        }
    }

    /// Converts a stored row to f32, exactly.
    pub fn widen(self, row: &[u8], out: &mut [f32]) {
        match self {
            Stored::F32 => {
                let (row, rest) = row.as_chunks::<4>();
                assert!(row.len() == out.len() && rest.is_empty());
                for (out, value) in out.iter_mut().zip(row) {
                    *out = f32::from_le_bytes(*value);
                }
            }
            Stored::F16 => widen_f16(row, out),
            Stored::Bf16 => widen_bf16(row, out),
        }
    }
}

/// Calls `out(row, token, sum)` with the dot product of each stored row and
/// each token's `cols` activations, every one equal to [`dot`] to the bit.
///
/// # Panics
///
/// If `rows` or `hidden` are not whole rows of `cols` numbers.
pub fn dense_product(
    stored: Stored,
    rows: &[u8],
    hidden: &[f32],
    cols: usize,
    out: &mut dyn FnMut(usize, usize, f32),
) {
    assert!(
        cols > 0
            && rows.len().is_multiple_of(stored.bytes() * cols)
            && hidden.len().is_multiple_of(cols),
        "{} bytes or {} activations are not whole rows of {cols}",
        rows.len(),
        hidden.len(),
    );
    #[cfg(target_arch = "x86_64")]
    if cols.is_multiple_of(tiles::LANES) {
        if let Some(tiles) = tiles::avx512::Tiles::new() {
            return tiles.product(stored, rows, hidden, cols, out);
        }
        if let Some(tiles) = tiles::avx2::Tiles::new() {
            return tiles.product(stored, rows, hidden, cols, out);
        }
    }
    row_by_row(stored, rows, hidden, cols, out);
}

fn row_by_row(
    stored: Stored,
    rows: &[u8],
    hidden: &[f32],
    cols: usize,
    out: &mut dyn FnMut(usize, usize, f32),
) {
    let rows = rows.chunks_exact(stored.bytes() * cols).enumerate();
    if hidden.len() == cols {
        // One token: no need to convert a row before it is used once.
        rows.for_each(|(i, row)| out(i, 0, stored.dot(hidden, row)));
        return;
    }
    WIDE.with_borrow_mut(|wide| {
        wide.resize(cols, 0.0);
        for (i, row) in rows {
            stored.widen(row, wide);
            for (token, hidden) in hidden.chunks_exact(cols).enumerate() {
                out(i, token, dot(hidden, wide));
            }
        }
    });
}

thread_local! {
    /// A row as numbers. Kept, as a step must not allocate.
    static WIDE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

#[cfg(target_arch = "x86_64")]
mod tiles {
    pub(super) const LANES: usize = crate::float::LANES;

    /// Tiles that meet a block of columns one after the other.
    const TILES: usize = 4;
    /// Chunks of lanes in a block: 12 KiB of six tokens.
    const BLOCK_CHUNKS: usize = 16;

    /// Values of the const parameter that says how rows are stored.
    const F32: u8 = 0;
    const F16: u8 = 1;
    const BF16: u8 = 2;

    macro_rules! tiles {
        (
            $module:ident, $features:literal, detected by $detected:expr,
            $vector:ident of $width:literal, $tile_rows:literal rows,
            $one_rows:literal rows of one token, up to $most:literal tokens,
            { $load:ident, $zero:ident, $fmadd:ident, $from_f16:ident, $from_bf16:ident, $sum:ident }
        ) => {
            pub(super) mod $module {
                use core::arch::x86_64::*;

                use super::super::Stored;
                use super::{
                    BF16, BLOCK_CHUNKS, F16, F32, LANES, TILES, $from_bf16, $from_f16, $sum,
                };

                const WIDTH: usize = $width;
                /// Registers that hold the lanes of a result.
                const PARTS: usize = LANES / WIDTH;

                /// The CPU has what is needed here: only then is there a value.
                #[derive(Clone, Copy)]
                pub(in super::super) struct Tiles(());

                impl Tiles {
                    pub(in super::super) fn new() -> Option<Tiles> {
                        $detected.then_some(Tiles(()))
                    }

                    pub(in super::super) fn product(
                        self,
                        stored: Stored,
                        rows: &[u8],
                        hidden: &[f32],
                        cols: usize,
                        out: &mut dyn FnMut(usize, usize, f32),
                    ) {
                        // SAFETY: `self` is proof of the features.
                        unsafe {
                            match stored {
                                Stored::F32 => product::<F32>(rows, hidden, cols, out),
                                Stored::F16 => product::<F16>(rows, hidden, cols, out),
                                Stored::Bf16 => product::<BF16>(rows, hidden, cols, out),
                            }
                        }
                    }
                }

                const fn bytes<const S: u8>() -> usize {
                    if S == F32 { 4 } else { 2 }
                }

                /// Lanes of a tile's results between two blocks of columns.
                type Sums<const R: usize, const T: usize> = [[[$vector; T]; R]; PARTS];

                #[target_feature(enable = $features)]
                fn product<const S: u8>(
                    rows: &[u8],
                    hidden: &[f32],
                    cols: usize,
                    out: &mut dyn FnMut(usize, usize, f32),
                ) {
                    let row_bytes = bytes::<S>() * cols;
                    let num_rows = rows.len() / row_bytes;
                    let one = hidden.len() == cols;
                    let tile_rows = if one { $one_rows } else { $tile_rows };
                    let whole = num_rows - num_rows % tile_rows;
                    let (tiles, rest) = rows.split_at(whole * row_bytes);
                    if one {
                        for (tile, rows) in tiles.chunks_exact(tile_rows * row_bytes).enumerate() {
                            let sums = one_token::<S, $one_rows>(rows, hidden, cols);
                            for (row, sum) in sums.into_iter().enumerate() {
                                out(tile * tile_rows + row, 0, sum);
                            }
                        }
                    } else {
                        for (some, rows) in tiles.chunks(TILES * tile_rows * row_bytes).enumerate()
                        {
                            all_tokens::<S, $tile_rows>(
                                some * TILES * tile_rows,
                                rows,
                                hidden,
                                cols,
                                out,
                            );
                        }
                    }
                    for (row, bytes) in rest.chunks_exact(row_bytes).enumerate() {
                        all_tokens::<S, 1>(whole + row, bytes, hidden, cols, out);
                    }
                }

                /// Some tiles times all tokens, a few at a time.
                #[target_feature(enable = $features)]
                fn all_tokens<const S: u8, const R: usize>(
                    first_row: usize,
                    rows: &[u8],
                    hidden: &[f32],
                    cols: usize,
                    out: &mut dyn FnMut(usize, usize, f32),
                ) {
                    let batch = hidden.len() / cols;
                    let mut token = 0;
                    while token < batch {
                        // Five are three and two rather than four and one.
                        let num = match batch - token {
                            5 => 3,
                            left => left.min($most),
                        };
                        let hidden = &hidden[token * cols..][..num * cols];
                        let mut out = |row, i, sum| out(first_row + row, token + i, sum);
                        match num {
                            1 => some_tokens::<S, R, 1>(rows, hidden, cols, &mut out),
                            2 => some_tokens::<S, R, 2>(rows, hidden, cols, &mut out),
                            3 => some_tokens::<S, R, 3>(rows, hidden, cols, &mut out),
                            4 => some_tokens::<S, R, 4>(rows, hidden, cols, &mut out),
                            _ => some_tokens::<S, R, $most>(rows, hidden, cols, &mut out),
                        }
                        token += num;
                    }
                }

                /// One token: all lanes of `R` rows at once.
                #[target_feature(enable = $features)]
                fn one_token<const S: u8, const R: usize>(
                    rows: &[u8],
                    hidden: &[f32],
                    cols: usize,
                ) -> [f32; R] {
                    assert!(rows.len() == R * bytes::<S>() * cols && hidden.len() == cols);
                    let mut sums = [[$zero(); PARTS]; R];
                    for chunk in 0..cols / LANES {
                        for row in 0..R {
                            // Rows are short for the hardware's prefetching:
                            // the same place of the next tile, which need not
                            // exist.
                            let at = (row * cols + chunk * LANES) * bytes::<S>();
                            let next = rows.as_ptr().wrapping_add(rows.len() + at);
                            _mm_prefetch::<_MM_HINT_T0>(next.cast());
                        }
                        for part in 0..PARTS {
                            let at = chunk * LANES + part * WIDTH;
                            // SAFETY: `at + WIDTH <= cols`, the number of
                            // activations.
                            let x = unsafe { $load(hidden.as_ptr().add(at)) };
                            for row in 0..R {
                                // SAFETY: likewise in each row.
                                let w = unsafe { load::<S>(rows, row * cols + at) };
                                sums[row][part] = $fmadd(x, w, sums[row][part]);
                            }
                        }
                    }
                    sums.map(|parts| $sum(parts))
                }

                /// Tiles of `R` rows times `T` tokens. Of more than two tokens
                /// a block of columns stays in the first-level cache while all
                /// tiles meet it.
                #[target_feature(enable = $features)]
                fn some_tokens<const S: u8, const R: usize, const T: usize>(
                    rows: &[u8],
                    hidden: &[f32],
                    cols: usize,
                    out: &mut dyn FnMut(usize, usize, f32),
                ) {
                    let chunks = cols / LANES;
                    let block = if T > 2 { BLOCK_CHUNKS } else { chunks };
                    let tile_bytes = R * bytes::<S>() * cols;
                    // The next tiles, which need not exist.
                    let ahead = rows.len();
                    let mut sums: [Sums<R, T>; TILES] = [[[[$zero(); T]; R]; PARTS]; TILES];
                    for first in (0..chunks).step_by(block) {
                        let block = first..chunks.min(first + block);
                        for (rows, sums) in rows.chunks_exact(tile_bytes).zip(&mut sums) {
                            add::<S, R, T>(rows, ahead, hidden, cols, block.clone(), sums);
                        }
                    }
                    for (tile, sums) in sums[..rows.len() / tile_bytes].iter().enumerate() {
                        for row in 0..R {
                            for token in 0..T {
                                let parts = core::array::from_fn(|part| sums[part][row][token]);
                                out(tile * R + row, token, $sum(parts));
                            }
                        }
                    }
                }

                /// Adds a block of columns, a register of lanes at a time.
                #[target_feature(enable = $features)]
                fn add<const S: u8, const R: usize, const T: usize>(
                    rows: &[u8],
                    ahead: usize,
                    hidden: &[f32],
                    cols: usize,
                    chunks: core::ops::Range<usize>,
                    sums: &mut Sums<R, T>,
                ) {
                    assert!(rows.len() == R * bytes::<S>() * cols && hidden.len() == T * cols);
                    assert!(chunks.end * LANES <= cols);
                    for part in 0..PARTS {
                        let mut tile = sums[part];
                        for chunk in chunks.clone() {
                            let at = chunk * LANES + part * WIDTH;
                            let mut w = [$zero(); R];
                            if part == 0 {
                                // The hardware's prefetching does not see
                                // through blocks of columns.
                                for row in 0..R {
                                    let at = (row * cols + at) * bytes::<S>() + ahead;
                                    let next = rows.as_ptr().wrapping_add(at);
                                    _mm_prefetch::<_MM_HINT_T0>(next.cast());
                                }
                            }
                            for row in 0..R {
                                // SAFETY: `at + WIDTH <= cols`, so this stays
                                // inside the row.
                                w[row] = unsafe { load::<S>(rows, row * cols + at) };
                            }
                            for token in 0..T {
                                // SAFETY: likewise inside the token's.
                                let x = unsafe { $load(hidden.as_ptr().add(token * cols + at)) };
                                for row in 0..R {
                                    tile[row][token] = $fmadd(x, w[row], tile[row][token]);
                                }
                            }
                        }
                        sums[part] = tile;
                    }
                }

                /// # Safety
                ///
                /// `rows` holds `WIDTH` numbers from number `at` on.
                #[target_feature(enable = $features)]
                unsafe fn load<const S: u8>(rows: &[u8], at: usize) -> $vector {
                    // SAFETY: the caller's promise; none of the loads needs
                    // alignment.
                    unsafe {
                        let bytes = rows.as_ptr().add(at * bytes::<S>());
                        match S {
                            F32 => $load(bytes.cast()),
                            F16 => $from_f16(bytes),
                            _ => $from_bf16(bytes),
                        }
                    }
                }
            }
        };
    }

    tiles! {
        avx512, "avx512f,avx2,fma,f16c",
        detected by is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"),
        __m512 of 16, 4 rows, 4 rows of one token, up to 6 tokens,
        { _mm512_loadu_ps, _mm512_setzero_ps, _mm512_fmadd_ps, f16_512, bf16_512, sum_512 }
    }

    tiles! {
        avx2, "avx2,fma,f16c",
        detected by is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"),
        __m256 of 8, 3 rows, 2 rows of one token, up to 4 tokens,
        { _mm256_loadu_ps, _mm256_setzero_ps, _mm256_fmadd_ps, f16_256, bf16_256, sum_256 }
    }

    use core::arch::x86_64::*;

    /// # Safety
    ///
    /// There are 32 bytes.
    #[target_feature(enable = "avx512f")]
    unsafe fn f16_512(bytes: *const u8) -> __m512 {
        // SAFETY: the caller's promise; the load needs no alignment.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bytes.cast()) })
    }

    /// # Safety
    ///
    /// There are 32 bytes.
    #[target_feature(enable = "avx512f")]
    unsafe fn bf16_512(bytes: *const u8) -> __m512 {
        // SAFETY: the caller's promise; the load needs no alignment.
        let halves = unsafe { _mm256_loadu_si256(bytes.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }

    /// # Safety
    ///
    /// There are 16 bytes.
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn f16_256(bytes: *const u8) -> __m256 {
        // SAFETY: the caller's promise; the load needs no alignment.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bytes.cast()) })
    }

    /// # Safety
    ///
    /// There are 16 bytes.
    #[target_feature(enable = "avx2")]
    unsafe fn bf16_256(bytes: *const u8) -> __m256 {
        // SAFETY: the caller's promise; the load needs no alignment.
        let halves = unsafe { _mm_loadu_si128(bytes.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
    }

    /// Adds lanes pairwise as `float::add_lanes` does: `l` and `l + 16` first.
    #[target_feature(enable = "avx512f,avx2")]
    fn sum_512([low, high]: [__m512; 2]) -> f32 {
        let lanes = _mm512_add_ps(low, high);
        let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(lanes)));
        sum_8(_mm256_add_ps(_mm512_castps512_ps256(lanes), high))
    }

    /// Likewise.
    #[target_feature(enable = "avx2")]
    fn sum_256([a, b, c, d]: [__m256; 4]) -> f32 {
        sum_8(_mm256_add_ps(_mm256_add_ps(a, c), _mm256_add_ps(b, d)))
    }

    #[target_feature(enable = "avx2")]
    fn sum_8(lanes: __m256) -> f32 {
        let low = _mm256_castps256_ps128(lanes);
        let four = _mm_add_ps(low, _mm256_extractf128_ps::<1>(lanes));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fixed, patternless sequence in -1..1.
    fn noise(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    }

    fn store(stored: Stored, x: f32) -> Vec<u8> {
        match stored {
            Stored::F32 => x.to_le_bytes().to_vec(),
            Stored::F16 => half::f16::from_f32(x).to_le_bytes().to_vec(),
            Stored::Bf16 => half::bf16::from_f32(x).to_le_bytes().to_vec(),
        }
    }

    type Product = fn(Stored, &[u8], &[f32], usize, &mut dyn FnMut(usize, usize, f32));

    /// All ways to multiply that this CPU has.
    fn variants() -> Vec<(&'static str, Product)> {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut))]
        let mut variants: Vec<(&'static str, Product)> =
            vec![("dispatched", dense_product), ("row by row", row_by_row)];
        #[cfg(target_arch = "x86_64")]
        {
            if tiles::avx2::Tiles::new().is_some() {
                variants.push(("avx2", |stored, rows, hidden, cols, out| {
                    tiles::avx2::Tiles::new()
                        .unwrap()
                        .product(stored, rows, hidden, cols, out);
                }));
            }
            if tiles::avx512::Tiles::new().is_some() {
                variants.push(("avx512", |stored, rows, hidden, cols, out| {
                    tiles::avx512::Tiles::new()
                        .unwrap()
                        .product(stored, rows, hidden, cols, out);
                }));
            }
        }
        variants
    }

    #[test]
    fn every_result_is_the_dot_product_to_the_bit() {
        for stored in [Stored::F32, Stored::F16, Stored::Bf16] {
            for (cols, num_rows) in [(32, 1), (64, 9), (256, 13), (2560, 5)] {
                for batch in (1..=13).chain([16, 17]) {
                    let rows: Vec<u8> = noise(cols * num_rows, 1)
                        .into_iter()
                        .flat_map(|x| store(stored, x))
                        .collect();
                    let hidden = noise(cols * batch, 2);
                    let mut want = vec![0.0; num_rows * batch];
                    for (row, bytes) in rows.chunks_exact(stored.bytes() * cols).enumerate() {
                        for (token, hidden) in hidden.chunks_exact(cols).enumerate() {
                            want[row * batch + token] = stored.dot(hidden, bytes);
                        }
                    }
                    for (name, product) in variants() {
                        let mut got = vec![f32::NAN; num_rows * batch];
                        product(stored, &rows, &hidden, cols, &mut |row, token, sum| {
                            assert!(got[row * batch + token].is_nan(), "told twice");
                            got[row * batch + token] = sum;
                        });
                        let same = got
                            .iter()
                            .zip(&want)
                            .all(|(a, b)| a.to_bits() == b.to_bits());
                        assert!(same, "{name}: {stored:?}, {num_rows}x{cols}, batch {batch}");
                    }
                }
            }
        }
    }

    #[test]
    fn rows_that_are_no_whole_number_of_lanes_are_multiplied_too() {
        let (rows, hidden) = (noise(3 * 37, 3), noise(2 * 37, 4));
        let bytes: Vec<u8> = rows.iter().flat_map(|x| x.to_le_bytes()).collect();
        dense_product(Stored::F32, &bytes, &hidden, 37, &mut |row, token, sum| {
            let want = dot(&hidden[37 * token..][..37], &rows[37 * row..][..37]);
            assert_eq!(sum.to_bits(), want.to_bits());
        });
    }
}
