//! AVX2: `vpmaddubsw` multiplies unsigned codes with signed activations and
//! adds neighbours, into 16-bit lanes that are widened as seldom as is safe.
//!
//! **How seldom.** A code is 0, 1 or 2 and an activation -128..=127, so one
//! product is -256..=254 and a pair sum -512..=508. After `n` pair sums a lane
//! holds -512 n ..= 508 n, and at `n = 64` that is -32768..=32512: the 16-bit
//! range to its very end, whatever the activations are. 64 pair sums are 256
//! columns, a *chunk*, and after each chunk `vpmaddwd` with ones adds the two
//! halves of a row's word into 32 bits. Those may wrap on the way, as the
//! offset is removed by adding; the result fits, so it is right.
//!
//! One token and many want different loops. One token is bound by memory, and
//! must spend as few instructions on a weight as possible ([`dot`]). Many
//! tokens are bound by `vpmaddubsw`: weights are unpacked once for all of
//! them, and the loop keeps its sums in registers ([`dots`]). A few tokens
//! have registers to spare and unpack as they go ([`packed_dots`]), which is
//! half as fast again as writing first what is then read once.

use core::arch::x86_64::{
    __m256i, _MM_HINT_T0, _mm_prefetch, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256,
    _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_srai_epi16,
    _mm256_srli_epi16, _mm256_storeu_si256,
};

use super::activations::{GROUP_TOKENS, Group};
use super::layout::{ROW_TILE, STEP_BYTES, Step, Tile};
use super::{Output, Product, Rows};

/// Bytes of a vector: four columns of eight rows.
const VECTOR: usize = size_of::<__m256i>();
/// Rows of a vector.
const LANES: usize = VECTOR / 4;
/// Vectors of a step, each of its own eight rows.
const STEP_VECTORS: usize = STEP_BYTES / VECTOR;

/// Steps of a chunk, after which sums are widened: see the module's text.
const CHUNK_STEPS: usize = 16;
/// Column groups of four in a chunk.
const CHUNK_FIELDS: usize = 4 * CHUNK_STEPS;

/// Tokens that are few: with five, sums and shifted weights no longer fit the
/// registers together.
const FEW_TOKENS: usize = 4;

/// Four columns of 32 rows, one code a byte.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Field([[u8; VECTOR]; STEP_VECTORS]);

/// The CPU has AVX2: only then is there a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn new() -> Option<Avx2> {
        is_x86_feature_detected!("avx2").then_some(Avx2(()))
    }

    pub(super) fn multiply(self, product: &Product<'_>, out: Output<'_>) {
        // SAFETY: `self` is proof of AVX2.
        unsafe { multiply(product, out) }
    }
}

#[target_feature(enable = "avx2")]
fn multiply(product: &Product<'_>, mut out: Output<'_>) {
    match product.activations.batch() {
        1 => multiply_one(product, &mut out),
        2..=FEW_TOKENS => multiply_few(product, &mut out),
        _ => multiply_many(product, &mut out),
    }
}

#[target_feature(enable = "avx2")]
fn multiply_one(product: &Product<'_>, out: &mut Output<'_>) {
    for tile in product.tiles() {
        for group in product.groups() {
            let (words, _) = group.bytes.as_chunks();
            let sums = dot(&tile, words.as_chunks().0, product.offset(0));
            out.of_token(0, tile.first_row - product.rows.start, tile.num_rows)
                .copy_from_slice(&sums[..tile.num_rows]);
        }
    }
}

/// 32 rows times one token.
///
/// Two of a vector's four fields are used where they stand, as 1x and 4x the
/// code, and a shift by four bits brings the others there: 13 instructions for
/// 128 weights, of which four multiply. The 4x sums are four times as fast at
/// the end of their 16 bits, after 16 pair sums or 8 steps; they are multiples
/// of four, so shifting them back is exact, and what they add to the 1x sums
/// is what four pair sums a step would have: a chunk is the limit of those too.
#[target_feature(enable = "avx2")]
fn dot(tile: &Tile<'_>, token: &[[[u8; 4]; 4]], offset: i32) -> [i32; ROW_TILE] {
    let low = _mm256_set1_epi8(0x03);
    let high = _mm256_set1_epi8(0x0c);
    let mut wide = [_mm256_set1_epi32(offset); STEP_VECTORS];
    for (steps, token) in tile
        .steps
        .chunks(CHUNK_STEPS)
        .zip(token.chunks(CHUNK_STEPS))
    {
        let mut sums = [_mm256_setzero_si256(); STEP_VECTORS];
        let halves = steps.chunks(CHUNK_STEPS / 2);
        for (steps, token) in halves.zip(token.chunks(CHUNK_STEPS / 2)) {
            let mut fourfold = [_mm256_setzero_si256(); STEP_VECTORS];
            for (step, words) in steps.iter().zip(token) {
                prefetch_beyond(step);
                let x = words.map(|word| _mm256_set1_epi32(i32::from_ne_bytes(word)));
                let (vectors, _) = step.as_chunks();
                for v in 0..STEP_VECTORS {
                    let even = load(&vectors[v]);
                    let odd = _mm256_srli_epi16::<4>(even);
                    sums[v] = multiply_add(sums[v], _mm256_and_si256(even, low), x[0]);
                    fourfold[v] = multiply_add(fourfold[v], _mm256_and_si256(even, high), x[1]);
                    sums[v] = multiply_add(sums[v], _mm256_and_si256(odd, low), x[2]);
                    fourfold[v] = multiply_add(fourfold[v], _mm256_and_si256(odd, high), x[3]);
                }
            }
            for v in 0..STEP_VECTORS {
                sums[v] = _mm256_add_epi16(sums[v], _mm256_srai_epi16::<2>(fourfold[v]));
            }
        }
        for v in 0..STEP_VECTORS {
            wide[v] = _mm256_add_epi32(wide[v], widen(sums[v]));
        }
    }
    let mut out = [0; ROW_TILE];
    let (vectors, _) = out.as_chunks_mut();
    for v in 0..STEP_VECTORS {
        store(&mut vectors[v], wide[v]);
    }
    out
}

/// Asks for what the loop reads soon. The hardware's own prefetcher stops at
/// every page; this one knows neither pages nor the end of the matrix, where
/// it asks in vain. Half a kilobyte ahead costs a Zen 5 nothing, which
/// manages alone; a whole one costs it a fifth of its speed.
#[target_feature(enable = "avx2")]
fn prefetch_beyond(step: &Step) {
    const AHEAD: usize = 512;
    for line in [AHEAD, AHEAD + 64] {
        _mm_prefetch::<_MM_HINT_T0>(step.as_ptr().wrapping_add(line).cast());
    }
}

#[target_feature(enable = "avx2")]
fn multiply_few(product: &Product<'_>, out: &mut Output<'_>) {
    for tile in product.tiles() {
        let rows = product.begin(&tile, out);
        for (chunk, steps) in tile.steps.chunks(CHUNK_STEPS).enumerate() {
            for group in product.groups() {
                let first_field = chunk * CHUNK_FIELDS;
                match group.num_tokens {
                    2 => add_packed::<2>(steps, &group, first_field, rows, out),
                    3 => add_packed::<3>(steps, &group, first_field, rows, out),
                    _ => add_packed::<FEW_TOKENS>(steps, &group, first_field, rows, out),
                }
            }
        }
    }
}

#[target_feature(enable = "avx2")]
fn multiply_many(product: &Product<'_>, out: &mut Output<'_>) {
    let mut panel = [Field([[0; VECTOR]; STEP_VECTORS]); CHUNK_FIELDS];
    for tile in product.tiles() {
        let rows = product.begin(&tile, out);
        for (chunk, steps) in tile.steps.chunks(CHUNK_STEPS).enumerate() {
            let panel = &mut panel[..4 * steps.len()];
            unpack(steps, panel);
            for group in product.groups() {
                let first_field = chunk * CHUNK_FIELDS;
                match group.num_tokens {
                    1 => add_unpacked::<1>(panel, &group, first_field, rows, out),
                    2 => add_unpacked::<2>(panel, &group, first_field, rows, out),
                    3 => add_unpacked::<3>(panel, &group, first_field, rows, out),
                    4 => add_unpacked::<4>(panel, &group, first_field, rows, out),
                    5 => add_unpacked::<5>(panel, &group, first_field, rows, out),
                    _ => add_unpacked::<GROUP_TOKENS>(panel, &group, first_field, rows, out),
                }
            }
        }
    }
}

#[target_feature(enable = "avx2")]
fn unpack(steps: &[Step], panel: &mut [Field]) {
    let low = _mm256_set1_epi8(0x03);
    for (step, fields) in steps.iter().zip(panel.as_chunks_mut::<4>().0) {
        for (v, vector) in step.as_chunks().0.iter().enumerate() {
            let f0 = load(vector);
            let f1 = _mm256_srli_epi16::<2>(f0);
            let f2 = _mm256_srli_epi16::<4>(f0);
            let f3 = _mm256_srli_epi16::<6>(f0);
            for (field, x) in fields.iter_mut().zip([f0, f1, f2, f3]) {
                store_bytes(&mut field.0[v], _mm256_and_si256(x, low));
            }
        }
    }
}

/// Adds a packed chunk's sums of `N` tokens to the output.
#[target_feature(enable = "avx2")]
fn add_packed<const N: usize>(
    steps: &[Step],
    group: &Group<'_>,
    first_field: usize,
    rows: Rows,
    out: &mut Output<'_>,
) {
    let (words, _) = group.bytes.as_chunks::<4>();
    let words = &words.as_chunks::<N>().0[first_field..][..4 * steps.len()];
    for half in 0..STEP_VECTORS / 2 {
        let sums = packed_dots(steps, words, half);
        add_sums(sums, half, group.first_token, rows, out);
    }
}

/// The same of a chunk that was unpacked. These are two functions and not one
/// with a choice inside: merging the two loops' sums costs the compiler the
/// registers, and the loop a quarter of its speed.
#[target_feature(enable = "avx2")]
fn add_unpacked<const N: usize>(
    panel: &[Field],
    group: &Group<'_>,
    first_field: usize,
    rows: Rows,
    out: &mut Output<'_>,
) {
    let (words, _) = group.bytes.as_chunks::<4>();
    let words = &words.as_chunks::<N>().0[first_field..][..panel.len()];
    for half in 0..STEP_VECTORS / 2 {
        let sums = dots(panel, words, half);
        add_sums(sums, half, group.first_token, rows, out);
    }
}

/// Adds a chunk's sums of 16 rows to the output.
#[target_feature(enable = "avx2")]
fn add_sums<const N: usize>(
    sums: [[__m256i; 2]; N],
    half: usize,
    first_token: usize,
    rows: Rows,
    out: &mut Output<'_>,
) {
    let first_row = half * 2 * LANES;
    for (lane, [low, high]) in sums.into_iter().enumerate() {
        let token = first_token + lane;
        if rows.num >= first_row + 2 * LANES {
            let out = out.of_token(token, rows.first + first_row, 2 * LANES);
            let (vectors, _) = out.as_chunks_mut();
            add_to(&mut vectors[0], widen(low));
            add_to(&mut vectors[1], widen(high));
        } else if rows.num > first_row {
            let mut sums = [0; 2 * LANES];
            let (vectors, _) = sums.as_chunks_mut();
            store(&mut vectors[0], widen(low));
            store(&mut vectors[1], widen(high));
            let num_rows = rows.num - first_row;
            let out = out.of_token(token, rows.first + first_row, num_rows);
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = out.wrapping_add(sum);
            }
        }
    }
}

/// 16 rows times `N` tokens over one chunk: two vectors of weights, `2 N`
/// sums and a broadcast stay in registers. A broadcast from memory takes a
/// load port and no vector port, so it is made anew for each use.
#[target_feature(enable = "avx2")]
fn dots<const N: usize>(panel: &[Field], words: &[[[u8; 4]; N]], half: usize) -> [[__m256i; 2]; N] {
    let mut sums = [[_mm256_setzero_si256(); 2]; N];
    for (field, words) in panel.iter().zip(words) {
        let low = load(&field.0[2 * half]);
        let high = load(&field.0[2 * half + 1]);
        for (sums, word) in sums.iter_mut().zip(words) {
            let x = _mm256_set1_epi32(i32::from_ne_bytes(*word));
            sums[0] = multiply_add(sums[0], low, x);
            sums[1] = multiply_add(sums[1], high, x);
        }
    }
    sums
}

/// The same, unpacking in registers.
#[target_feature(enable = "avx2")]
fn packed_dots<const N: usize>(
    steps: &[Step],
    words: &[[[u8; 4]; N]],
    half: usize,
) -> [[__m256i; 2]; N] {
    let mask = _mm256_set1_epi8(0x03);
    let mut sums = [[_mm256_setzero_si256(); 2]; N];
    for (step, words) in steps.iter().zip(words.as_chunks::<4>().0) {
        let (vectors, _) = step.as_chunks();
        let mut low = load(&vectors[2 * half]);
        let mut high = load(&vectors[2 * half + 1]);
        for words in words {
            let codes = [_mm256_and_si256(low, mask), _mm256_and_si256(high, mask)];
            for (sums, word) in sums.iter_mut().zip(words) {
                let x = _mm256_set1_epi32(i32::from_ne_bytes(*word));
                sums[0] = multiply_add(sums[0], codes[0], x);
                sums[1] = multiply_add(sums[1], codes[1], x);
            }
            low = _mm256_srli_epi16::<2>(low);
            high = _mm256_srli_epi16::<2>(high);
        }
    }
    sums
}

#[target_feature(enable = "avx2")]
fn multiply_add(sums: __m256i, codes: __m256i, activations: __m256i) -> __m256i {
    _mm256_add_epi16(sums, _mm256_maddubs_epi16(codes, activations))
}

/// Adds the two 16-bit halves of every 32-bit lane.
#[target_feature(enable = "avx2")]
fn widen(sums: __m256i) -> __m256i {
    _mm256_madd_epi16(sums, _mm256_set1_epi16(1))
}

#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; VECTOR]) -> __m256i {
    // SAFETY: the reference is to as many bytes as a vector has, and this load
    // needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn store_bytes(bytes: &mut [u8; VECTOR], vector: __m256i) {
    // SAFETY: as for `load`, and the reference is exclusive.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), vector) }
}

#[target_feature(enable = "avx2")]
fn store(lanes: &mut [i32; LANES], vector: __m256i) {
    // SAFETY: as for `load`, and the reference is exclusive.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), vector) }
}

#[target_feature(enable = "avx2")]
fn add_to(lanes: &mut [i32; LANES], vector: __m256i) {
    // SAFETY: as for `load`.
    let old = unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) };
    store(lanes, _mm256_add_epi32(old, vector));
}
