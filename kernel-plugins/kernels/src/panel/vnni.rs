//! VNNI: `vpdpbusd` multiplies unsigned codes with signed activations and adds
//! the four products of a row's word to 32 bits, in one instruction and
//! without a step in 16 bits. So nothing has to be widened, and sums wrap only
//! as 32-bit sums do: the offset is removed by adding, and the result fits.
//!
//! The instruction comes with AVX-512 in vectors of 512 bits, and as AVX-VNNI
//! in vectors of 256 bits on CPUs that have no AVX-512. One body is both: all
//! work is done in pairs of vectors, of which a field has one or two.

/// Fields unpacked at a time: 16 KiB, half of the smallest first-level cache.
pub(crate) const CHUNK_FIELDS: usize = 128;

macro_rules! vnni {
    (
        $module:ident, $features:literal,
        $vector:ident {
            $load:ident, $store:ident, $zero:ident, $broadcast32:ident, $add:ident,
            $multiply_add:ident
        }
    ) => {
        pub(crate) mod $module {
            use core::arch::x86_64::{
                $add, $broadcast32, $load, $multiply_add, $store, $vector, $zero,
            };
            use core::ops::Range;

            use super::super::activations::GROUP_TOKENS;
            use super::super::{FIELD_BYTES, Field, Group, Part, Tokens};
            use super::CHUNK_FIELDS;
            use crate::output::{Output, Rows};
            use crate::panel;

            /// Bytes of a vector: four columns of a quarter as many rows.
            pub(crate) const VECTOR: usize = size_of::<$vector>();
            /// Rows of a vector.
            pub(crate) const LANES: usize = VECTOR / 4;
            /// Vectors of a field, each of its own rows.
            const FIELD_VECTORS: usize = FIELD_BYTES / VECTOR;

            /// Multiplies some rows, which begin with a tile, with all tokens.
            /// `fill` gets panels to fill, of at most [`CHUNK_FIELDS`] fields
            /// that begin at a multiple of `unit`.
            #[target_feature(enable = $features)]
            pub(crate) fn multiply(
                tokens: Tokens<'_>,
                rows: &Range<usize>,
                unit: usize,
                out: &mut Output<'_>,
                mut fill: impl FnMut(&Part, &mut [Field]),
            ) {
                let mut panel = [Field::ZERO; CHUNK_FIELDS];
                for (tile, rows) in panel::tiles(rows) {
                    tokens.begin(rows, out);
                    for fields in tokens.chunks(unit, CHUNK_FIELDS) {
                        let at = fields.start;
                        let panel = &mut panel[..fields.len()];
                        fill(&Part { tile, fields }, panel);
                        for group in tokens.groups() {
                            match group.num_tokens {
                                1 => add_unpacked::<1>(panel, &group, at, rows, out),
                                2 => add_unpacked::<2>(panel, &group, at, rows, out),
                                3 => add_unpacked::<3>(panel, &group, at, rows, out),
                                4 => add_unpacked::<4>(panel, &group, at, rows, out),
                                5 => add_unpacked::<5>(panel, &group, at, rows, out),
                                _ => add_unpacked::<GROUP_TOKENS>(panel, &group, at, rows, out),
                            }
                        }
                    }
                }
            }

            /// Adds a panel's sums of `N` tokens to the output.
            #[target_feature(enable = $features)]
            fn add_unpacked<const N: usize>(
                panel: &[Field],
                group: &Group<'_>,
                first_field: usize,
                rows: Rows,
                out: &mut Output<'_>,
            ) {
                let (words, _) = group.bytes.as_chunks::<4>();
                let words = &words.as_chunks::<N>().0[first_field..][..panel.len()];
                for pair in 0..FIELD_VECTORS / 2 {
                    add_sums(dots(panel, words, pair), pair, group.first_token, rows, out);
                }
            }

            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn add_sums<const N: usize>(
                sums: [[$vector; 2]; N],
                pair: usize,
                first_token: usize,
                rows: Rows,
                out: &mut Output<'_>,
            ) {
                let first_row = pair * 2 * LANES;
                for (lane, sums) in sums.into_iter().enumerate() {
                    let num_rows = rows.num.saturating_sub(first_row).min(2 * LANES);
                    let first = rows.first + first_row.min(rows.num);
                    let out = out.of_token(first_token + lane, first, num_rows);
                    if let Ok(out) = <&mut [i32; 2 * LANES]>::try_from(&mut *out) {
                        let (vectors, _) = out.as_chunks_mut();
                        for v in 0..2 {
                            add_to(&mut vectors[v], sums[v]);
                        }
                    } else {
                        let mut all = [0; 2 * LANES];
                        let (vectors, _) = all.as_chunks_mut();
                        for v in 0..2 {
                            store(&mut vectors[v], sums[v]);
                        }
                        for (out, sum) in out.iter_mut().zip(all) {
                            *out = out.wrapping_add(sum);
                        }
                    }
                }
            }

            /// A pair's rows times `N` tokens over one chunk: two vectors of
            /// weights, `2 N` sums and a broadcast stay in registers.
            #[target_feature(enable = $features)]
            fn dots<const N: usize>(
                panel: &[Field],
                words: &[[[u8; 4]; N]],
                pair: usize,
            ) -> [[$vector; 2]; N] {
                let mut sums = [[$zero(); 2]; N];
                for (field, words) in panel.iter().zip(words) {
                    let (vectors, _) = field.0.as_chunks();
                    let low = load(&vectors[2 * pair]);
                    let high = load(&vectors[2 * pair + 1]);
                    for (sums, word) in sums.iter_mut().zip(words) {
                        let x = broadcast(*word);
                        sums[0] = $multiply_add(sums[0], low, x);
                        sums[1] = $multiply_add(sums[1], high, x);
                    }
                }
                sums
            }

            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn broadcast(word: [u8; 4]) -> $vector {
                $broadcast32(i32::from_ne_bytes(word))
            }

            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn load(bytes: &[u8; VECTOR]) -> $vector {
                // SAFETY: the reference is to as many bytes as a vector has,
                // and this load needs no alignment.
                unsafe { $load(bytes.as_ptr().cast()) }
            }

            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn store_bytes(bytes: &mut [u8; VECTOR], vector: $vector) {
                // SAFETY: as for `load`, and the reference is exclusive.
                unsafe { $store(bytes.as_mut_ptr().cast(), vector) }
            }

            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn store(lanes: &mut [i32; LANES], vector: $vector) {
                // SAFETY: as for `load`, and the reference is exclusive.
                unsafe { $store(lanes.as_mut_ptr().cast(), vector) }
            }

            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn add_to(lanes: &mut [i32; LANES], vector: $vector) {
                // SAFETY: as for `load`.
                let old = unsafe { $load(lanes.as_ptr().cast()) };
                store(lanes, $add(old, vector));
            }
        }
    };
}

vnni! {
    avx512, "avx512f,avx512bw,avx512vnni",
    __m512i {
        _mm512_loadu_si512, _mm512_storeu_si512, _mm512_setzero_si512, _mm512_set1_epi32,
        _mm512_add_epi32, _mm512_dpbusd_epi32
    }
}

vnni! {
    avx, "avx2,avxvnni",
    __m256i {
        _mm256_loadu_si256, _mm256_storeu_si256, _mm256_setzero_si256, _mm256_set1_epi32,
        _mm256_add_epi32, _mm256_dpbusd_avx_epi32
    }
}
