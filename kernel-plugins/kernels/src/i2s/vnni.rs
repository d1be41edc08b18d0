//! VNNI: four products and their sum in one instruction, as [`panel::vnni`]
//! says.
//!
//! [`panel::vnni`]: crate::panel::vnni
//!
//! One token is bound by memory, and many by `vpdpbusd`. Up to some dozens of
//! tokens weights are unpacked in registers, again for each group of tokens:
//! shifts and masks go to other ports than products, or where they don't are
//! one in ten. Beyond, weights are unpacked once to a panel.
//!
//! The instruction comes with AVX-512 in vectors of 512 bits, and as AVX-VNNI
//! in vectors of 256 bits on CPUs that have no AVX-512. One body is both.

/// Steps between two joinings of a row's sums. The largest code
/// of the field that is used at its place in the byte is 128, so that a step
/// adds at most four products of 128 and 128 in magnitude, 2^16, and so many
/// steps 2^30.
const JOINED_STEPS: usize = 1 << 14;

macro_rules! vnni {
    (
        $module:ident, $features:literal, detected by $detected:expr,
        $vector:ident {
            $zero:ident, $broadcast8:ident,
            $and:ident, $add:ident, $shift_codes:ident, $shift_sums:ident, $multiply_add:ident
        },
        few up to $few:literal,
        $($tokens:literal: $vectors:literal vectors $shares:literal sums),*
    ) => {
        pub(super) mod $module {
            use core::array;
            use core::arch::x86_64::{
                $add, $and, $broadcast8, $multiply_add, $shift_codes, $shift_sums, $vector, $zero,
            };

            use crate::panel::activations::{GROUP_TOKENS, Group};
            use super::super::layout::{STEP_BYTES, STEP_FIELDS, Step, steps};
            use super::super::{Output, Product};
            use crate::output::Rows;
            use super::JOINED_STEPS;
            use crate::ahead;
            use crate::panel::vnni::$module::{LANES, VECTOR, add_sums, broadcast, load, store_bytes};
            use crate::panel::{self, Field};

            /// Vectors of a step, each of its own rows.
            const STEP_VECTORS: usize = STEP_BYTES / VECTOR;

            /// Tokens that are few: unpacking again for each group of tokens
            /// costs less than writing and reading what was unpacked.
            const FEW_TOKENS: usize = $few;

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
                ahead::first(product.weights());
                match product.activations.batch() {
                    ..=FEW_TOKENS => multiply_few(product, &mut out),
                    _ => multiply_many(product, &mut out),
                }
            }

            /// All columns at once: the sums stay in registers from the first to
            /// the last.
            #[target_feature(enable = $features)]
            fn multiply_few(product: &Product<'_>, out: &mut Output<'_>) {
                for tile in product.tiles() {
                    let rows = product.begin(&tile, out);
                    for group in product.groups() {
                        match group.num_tokens {
                            $($tokens => add_packed::<$tokens, $vectors, $shares>(
                                steps(tile.bytes), &group, rows, out,
                            ),)*
                            _ => unreachable!("a group has at most {GROUP_TOKENS} tokens"),
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
                    ahead::again(step, ahead::AGAIN);
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
            fn add_packed<const N: usize, const V: usize, const S: usize>(
                steps: &[Step],
                group: &Group<'_>,
                rows: Rows,
                out: &mut Output<'_>,
            ) {
                let (words, _) = group.bytes.as_chunks::<4>();
                let words = words.as_chunks::<N>().0.as_chunks::<4>().0;
                for block in 0..STEP_VECTORS / V {
                    let mut total = [[$zero(); V]; N];
                    let chunks = steps.chunks(JOINED_STEPS).zip(words.chunks(JOINED_STEPS));
                    for (steps, words) in chunks {
                        let sums = packed_dots::<N, V, S>(steps, words, block);
                        for (total, sums) in total.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
                            *total = $add(*total, join(*sums));
                        }
                    }
                    add_sums(total, block * V * LANES, group.first_token, rows, out);
                }
            }

            /// `V` vectors' rows times `N` tokens, with `S` sums of each.
            ///
            /// Fields are used where they stand in the byte, as far as there
            /// are sums for it: with four, as 1, 4, 16 and 64 times the code.
            /// With two, a shift by four bits brings the upper fields to the
            /// place of the lower; with one, all come to the lowest. More sums
            /// are fewer shifts, and more work at a time for an instruction
            /// that takes long to end.
            #[inline]
            #[target_feature(enable = $features)]
            fn packed_dots<const N: usize, const V: usize, const S: usize>(
                steps: &[Step],
                words: &[[[[u8; 4]; N]; 4]],
                block: usize,
            ) -> [[[$vector; S]; V]; N] {
                let masks: [$vector; S] =
                    array::from_fn(|place| $broadcast8((0x03_u8 << (2 * place)).cast_signed()));
                let mut sums = [[[$zero(); S]; V]; N];
                for (step, words) in steps.iter().zip(words) {
                    match N {
                        1 => ahead::once(step, ahead::ONCE),
                        _ => ahead::again(step, ahead::AGAIN),
                    }
                    let (vectors, _) = step.as_chunks();
                    let mut codes: [$vector; V] = array::from_fn(|v| load(&vectors[block * V + v]));
                    for words in words.as_chunks::<S>().0 {
                        for place in 0..S {
                            let field = codes.map(|codes| $and(codes, masks[place]));
                            for (sums, word) in sums.iter_mut().zip(&words[place]) {
                                let x = broadcast(*word);
                                for v in 0..V {
                                    sums[v][place] = $multiply_add(sums[v][place], field[v], x);
                                }
                            }
                        }
                        codes = codes.map(|codes| match S {
                            1 => $shift_codes::<2>(codes),
                            2 => $shift_codes::<4>(codes),
                            _ => codes,
                        });
                    }
                }
                sums
            }

            /// The sum of all places. Each is a multiple of its place's factor,
            /// so that shifting it back is exact.
            #[inline]
            #[target_feature(enable = $features)]
            fn join<const S: usize>(sums: [$vector; S]) -> $vector {
                let mut total = $zero();
                for (place, sum) in sums.into_iter().enumerate() {
                    total = $add(total, match place {
                        0 => sum,
                        1 => $shift_sums::<2>(sum),
                        2 => $shift_sums::<4>(sum),
                        _ => $shift_sums::<6>(sum),
                    });
                }
                total
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
    },
    few up to 64,
    1: 2 vectors 4 sums, 2: 2 vectors 4 sums, 3: 2 vectors 2 sums,
    4: 2 vectors 2 sums, 5: 2 vectors 2 sums, 6: 2 vectors 2 sums
}

vnni! {
    avx, "avx2,avxvnni",
    detected by is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni"),
    __m256i {
        _mm256_setzero_si256, _mm256_set1_epi8, _mm256_and_si256, _mm256_add_epi32, _mm256_srli_epi16,
        _mm256_srai_epi32, _mm256_dpbusd_avx_epi32
    },
    few up to 12,
    1: 4 vectors 2 sums, 2: 4 vectors 1 sums, 3: 2 vectors 1 sums,
    4: 2 vectors 1 sums, 5: 2 vectors 1 sums, 6: 2 vectors 1 sums
}
