//! VNNI: four products and their sum in one instruction, as [`panel::vnni`]
//! says.
//!
//! [`panel::vnni`]: crate::panel::vnni
//!
//! As for AVX2, one token is bound by memory and spends as little as possible
//! on a weight (`dot`); many tokens are bound by `vpdpbusd`, and share weights
//! that were unpacked once to a panel; a few unpack as they go (`packed_dots`).
//!
//! The instruction comes with AVX-512 in vectors of 512 bits, and as AVX-VNNI
//! in vectors of 256 bits on CPUs that have no AVX-512. One body is both: all
//! work is done in pairs of vectors, of which a step has one or two.

use super::activations::GROUP_TOKENS;

/// Steps of one token between two joinings of its four sums. The largest code
/// of the field that is used at its place in the byte is 128, so that a step
/// adds at most four products of 128 and 128 in magnitude, 2^16, and so many
/// steps 2^30.
const JOINED_STEPS: usize = 1 << 14;

/// Tokens that are few: unpacking again for each group of tokens costs less
/// than writing and reading what was unpacked, as long as there are two groups.
const FEW_TOKENS: usize = 2 * GROUP_TOKENS;

macro_rules! vnni {
    (
        $module:ident, $features:literal, detected by $detected:expr,
        $vector:ident {
            $zero:ident, $broadcast8:ident,
            $and:ident, $add:ident, $shift_codes:ident, $shift_sums:ident, $multiply_add:ident
        }
    ) => {
        pub(super) mod $module {
            use core::arch::x86_64::{
                $add, $and, $broadcast8, $multiply_add, $shift_codes, $shift_sums, $vector, $zero,
            };

            use super::super::activations::{GROUP_TOKENS, Group};
            use super::super::layout::{STEP_BYTES, STEP_FIELDS, Step, Tile};
            use super::super::{Output, Product, Rows};
            use super::{FEW_TOKENS, JOINED_STEPS};
            use crate::panel::vnni::$module::{VECTOR, add_sums, broadcast, load, store_bytes};
            use crate::panel::{self, Field};

            /// Vectors of a step, each of its own rows.
            const STEP_VECTORS: usize = STEP_BYTES / VECTOR;

            /// The CPU has what is needed here: only then is there a value.
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub(in super::super) struct Vnni(());

            impl Vnni {
                pub(in super::super) fn new() -> Option<Vnni> {
                    $detected.then_some(Vnni(()))
                }

                pub(in super::super) fn multiply(self, product: &Product<'_>, out: Output<'_>) {
                    // SAFETY: `self` is proof of the features.
                    unsafe { multiply(product, out) }
                }
            }

            #[target_feature(enable = $features)]
            fn multiply(product: &Product<'_>, mut out: Output<'_>) {
                match product.activations.batch() {
                    1 => multiply_one(product, &mut out),
                    2..=FEW_TOKENS => multiply_few(product, &mut out),
                    _ => multiply_many(product, &mut out),
                }
            }

            #[target_feature(enable = $features)]
            fn multiply_one(product: &Product<'_>, out: &mut Output<'_>) {
                for tile in product.tiles() {
                    for group in product.groups() {
                        let (words, _) = group.bytes.as_chunks();
                        let token = words.as_chunks().0;
                        let rows = product.begin(&tile, out);
                        for pair in 0..STEP_VECTORS / 2 {
                            let sums = dot(&tile, token, pair);
                            add_sums([sums], pair, 0, rows, out);
                        }
                    }
                }
            }

            /// A pair of vectors' rows times one token.
            ///
            /// The four fields of a vector are used where they stand in the
            /// byte, as 1, 4, 16 and 64 times the code, with a sum for each:
            /// two instructions for a vector's worth of weights. The sums are
            /// multiples of those factors, so shifting them back is exact.
            #[target_feature(enable = $features)]
            fn dot(tile: &Tile<'_>, token: &[[[u8; 4]; 4]], pair: usize) -> [$vector; 2] {
                let masks = [0x03, 0x0c, 0x30, 0xc0_u8].map(|mask| $broadcast8(mask.cast_signed()));
                let mut total = [$zero(); 2];
                let chunks = tile.steps.chunks(JOINED_STEPS);
                for (steps, token) in chunks.zip(token.chunks(JOINED_STEPS)) {
                    let mut sums = [[$zero(); 4]; 2];
                    for (step, words) in steps.iter().zip(token) {
                        let (vectors, _) = step.as_chunks();
                        for v in 0..2 {
                            let codes = load(&vectors[2 * pair + v]);
                            for f in 0..4 {
                                let field = $and(codes, masks[f]);
                                sums[v][f] = $multiply_add(sums[v][f], field, broadcast(words[f]));
                            }
                        }
                    }
                    for (total, [ones, fours, sixteens, sixty_fours]) in total.iter_mut().zip(sums)
                    {
                        let low = $add(ones, $shift_sums::<2>(fours));
                        let high = $add($shift_sums::<4>(sixteens), $shift_sums::<6>(sixty_fours));
                        *total = $add(*total, $add(low, high));
                    }
                }
                total
            }

            /// All columns at once: the sums of a pair's rows and six tokens
            /// stay in registers from the first to the last.
            #[target_feature(enable = $features)]
            fn multiply_few(product: &Product<'_>, out: &mut Output<'_>) {
                for tile in product.tiles() {
                    let rows = product.begin(&tile, out);
                    for group in product.groups() {
                        match group.num_tokens {
                            1 => add_packed::<1>(tile.steps, &group, rows, out),
                            2 => add_packed::<2>(tile.steps, &group, rows, out),
                            3 => add_packed::<3>(tile.steps, &group, rows, out),
                            4 => add_packed::<4>(tile.steps, &group, rows, out),
                            5 => add_packed::<5>(tile.steps, &group, rows, out),
                            _ => add_packed::<GROUP_TOKENS>(tile.steps, &group, rows, out),
                        }
                    }
                }
            }

            #[target_feature(enable = $features)]
            fn multiply_many(product: &Product<'_>, out: &mut Output<'_>) {
                let fill = |part: &panel::Part, panel: &mut [Field]| {
                    unpack(product.steps(part), panel);
                };
                panel::vnni::$module::multiply(
                    product.tokens(),
                    &product.rows,
                    STEP_FIELDS,
                    out,
                    fill,
                );
            }

            #[target_feature(enable = $features)]
            fn unpack(steps: &[Step], panel: &mut [Field]) {
                let low = $broadcast8(0x03);
                for (step, fields) in steps.iter().zip(panel.as_chunks_mut::<4>().0) {
                    for (v, vector) in step.as_chunks().0.iter().enumerate() {
                        let f0 = load(vector);
                        let f1 = $shift_codes::<2>(f0);
                        let f2 = $shift_codes::<4>(f0);
                        let f3 = $shift_codes::<6>(f0);
                        for (field, x) in fields.iter_mut().zip([f0, f1, f2, f3]) {
                            store_bytes(&mut field.0.as_chunks_mut().0[v], $and(x, low));
                        }
                    }
                }
            }

            /// Adds a tile's sums of `N` tokens to the output.
            #[target_feature(enable = $features)]
            fn add_packed<const N: usize>(
                steps: &[Step],
                group: &Group<'_>,
                rows: Rows,
                out: &mut Output<'_>,
            ) {
                let (words, _) = group.bytes.as_chunks::<4>();
                let words = &words.as_chunks::<N>().0[..4 * steps.len()];
                for pair in 0..STEP_VECTORS / 2 {
                    add_sums(
                        packed_dots(steps, words, pair),
                        pair,
                        group.first_token,
                        rows,
                        out,
                    );
                }
            }

            /// A pair's rows times `N` tokens over a whole tile, unpacking in
            /// registers: `2 N` sums stay there.
            #[target_feature(enable = $features)]
            fn packed_dots<const N: usize>(
                steps: &[Step],
                words: &[[[u8; 4]; N]],
                pair: usize,
            ) -> [[$vector; 2]; N] {
                let mask = $broadcast8(0x03);
                let mut sums = [[$zero(); 2]; N];
                for (step, words) in steps.iter().zip(words.as_chunks::<4>().0) {
                    let (vectors, _) = step.as_chunks();
                    let mut low = load(&vectors[2 * pair]);
                    let mut high = load(&vectors[2 * pair + 1]);
                    for words in words {
                        let codes = [$and(low, mask), $and(high, mask)];
                        for (sums, word) in sums.iter_mut().zip(words) {
                            let x = broadcast(*word);
                            sums[0] = $multiply_add(sums[0], codes[0], x);
                            sums[1] = $multiply_add(sums[1], codes[1], x);
                        }
                        low = $shift_codes::<2>(low);
                        high = $shift_codes::<2>(high);
                    }
                }
                sums
            }
        }
    };
}

vnni! {
    avx512, "avx512f,avx512bw,avx512vnni",
    detected by is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni"),
    __m512i {
        _mm512_setzero_si512, _mm512_set1_epi8, _mm512_and_si512, _mm512_add_epi32, _mm512_srli_epi16,
        _mm512_srai_epi32, _mm512_dpbusd_epi32
    }
}

vnni! {
    avx, "avx2,avxvnni",
    detected by is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni"),
    __m256i {
        _mm256_setzero_si256, _mm256_set1_epi8, _mm256_and_si256, _mm256_add_epi32, _mm256_srli_epi16,
        _mm256_srai_epi32, _mm256_dpbusd_avx_epi32
    }
}
