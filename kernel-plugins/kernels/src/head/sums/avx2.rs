//! AVX2: `vpmaddwd` multiplies pairs of 16 bits and adds them to 32, so that
//! activations stay whole and nothing has to be widened. The even bytes of a
//! row's four are one pair, the odd ones another.

use core::arch::x86_64::*;

use super::super::Line;
use super::{Activations, Bits, Sums, Tile};

/// Tokens that share unpacked codes: their sums of one half of the rows, the
/// codes and a broadcast are registers.
const MOST_TOKENS: usize = 8;

/// The CPU has AVX2: only then is there a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn new() -> Option<Avx2> {
        is_x86_feature_detected!("avx2").then_some(Avx2(()))
    }

    pub(super) fn tile(self, tile: &Tile<'_>, activations: &Activations, sums: &mut Sums<'_>) {
        // SAFETY: `self` is proof of the feature.
        unsafe { all_tokens(tile, activations, sums) }
    }
}

#[target_feature(enable = "avx2")]
fn all_tokens(tile: &Tile<'_>, activations: &Activations, sums: &mut Sums<'_>) {
    let batch = activations.tokens().len();
    let mut token = 0;
    while token < batch {
        token += match batch - token {
            MOST_TOKENS.. => some::<MOST_TOKENS>(token, tile, activations, sums),
            4.. => some::<4>(token, tile, activations, sums),
            2.. => some::<2>(token, tile, activations, sums),
            _ => some::<1>(token, tile, activations, sums),
        };
    }
}

#[target_feature(enable = "avx2")]
fn some<const T: usize>(
    first: usize,
    tile: &Tile<'_>,
    activations: &Activations,
    sums: &mut Sums<'_>,
) -> usize {
    let pairs: [&[[i32; 2]]; T] = std::array::from_fn(|i| activations.pairs(first + i));
    for half in 0..2 {
        let lanes = match tile.bits {
            Bits::Four => four_bits(tile.lines, half, pairs),
            Bits::Eight => eight_bits(tile.lines, half, pairs),
        };
        for (token, lanes) in lanes.into_iter().enumerate() {
            let rows = &mut sums.of(first + token, tile)[8 * half..][..8];
            // SAFETY: these are the eight elements that are stored.
            unsafe { _mm256_storeu_si256(rows.as_mut_ptr().cast(), lanes) };
        }
    }
    T
}

/// Half of a tile's rows times `T` tokens.
#[target_feature(enable = "avx2")]
fn four_bits<const T: usize>(lines: &[Line], half: usize, pairs: [&[[i32; 2]]; T]) -> [__m256i; T] {
    let pairs = pairs.map(|pairs| &pairs[..2 * lines.len()]);
    let mask = _mm256_set1_epi16(15);
    let mut sums = [_mm256_setzero_si256(); T];
    for (i, line) in lines.iter().enumerate() {
        let codes = load(line, half);
        // The nibbles of each pair of bytes: even low, even high, odd low, odd
        // high; columns 0 and 2, 4 and 6, 1 and 3, 5 and 7.
        let fields = [
            _mm256_and_si256(codes, mask),
            _mm256_and_si256(_mm256_srli_epi16::<4>(codes), mask),
            _mm256_and_si256(_mm256_srli_epi16::<8>(codes), mask),
            _mm256_srli_epi16::<12>(codes),
        ];
        for (sum, pairs) in sums.iter_mut().zip(pairs) {
            let ([even_low, odd_low], [even_high, odd_high]) =
                (in_all_lanes(&pairs[2 * i]), in_all_lanes(&pairs[2 * i + 1]));
            let even = _mm256_add_epi32(
                _mm256_madd_epi16(fields[0], even_low),
                _mm256_madd_epi16(fields[1], even_high),
            );
            let odd = _mm256_add_epi32(
                _mm256_madd_epi16(fields[2], odd_low),
                _mm256_madd_epi16(fields[3], odd_high),
            );
            *sum = _mm256_add_epi32(*sum, _mm256_add_epi32(even, odd));
        }
    }
    sums
}

#[target_feature(enable = "avx2")]
fn eight_bits<const T: usize>(
    lines: &[Line],
    half: usize,
    pairs: [&[[i32; 2]]; T],
) -> [__m256i; T] {
    let pairs = pairs.map(|pairs| &pairs[..lines.len()]);
    let mask = _mm256_set1_epi16(255);
    let mut sums = [_mm256_setzero_si256(); T];
    for (i, line) in lines.iter().enumerate() {
        let codes = load(line, half);
        let even = _mm256_and_si256(codes, mask);
        let odd = _mm256_srli_epi16::<8>(codes);
        for (sum, pairs) in sums.iter_mut().zip(pairs) {
            let [x, y] = in_all_lanes(&pairs[i]);
            let both = _mm256_add_epi32(_mm256_madd_epi16(even, x), _mm256_madd_epi16(odd, y));
            *sum = _mm256_add_epi32(*sum, both);
        }
    }
    sums
}

/// Two pairs, each in all lanes: by a broadcast from memory, which the compiler
/// does not make of two numbers that stand side by side.
#[target_feature(enable = "avx2")]
fn in_all_lanes(pairs: &[i32; 2]) -> [__m256i; 2] {
    // SAFETY: each reference is to the four bytes that are loaded.
    let load = |pair: &i32| unsafe { _mm_loadu_si32(std::ptr::from_ref(pair).cast()) };
    [
        _mm256_broadcastd_epi32(load(&pairs[0])),
        _mm256_broadcastd_epi32(load(&pairs[1])),
    ]
}

#[target_feature(enable = "avx2")]
fn load(line: &Line, half: usize) -> __m256i {
    let (halves, _) = line.0.as_chunks::<32>();
    // SAFETY: the reference is to as many bytes as are loaded, and the load
    // needs no alignment.
    unsafe { _mm256_loadu_si256(halves[half].as_ptr().cast()) }
}
