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
        $module:ident, $features:literal, $tiles:literal tiles, $vectors:literal vectors,
        $vector:ident {
            $load:ident, $store:ident, $zero:ident, $broadcast32:ident, $add:ident,
            $multiply_add:ident
        }
    ) => {
        pub(crate) mod $module {
            use core::arch::x86_64::{
                $add, $broadcast32, $load, $multiply_add, $store, $vector, $zero,
            };
            use core::array;
            use core::ops::Range;

            use super::super::activations::GROUP_TOKENS;
            use super::super::{FIELD_BYTES, Field, Group, Part, ROWS, Tokens};
            use super::CHUNK_FIELDS;
            use crate::output::{Output, Rows};
            use crate::panel;

            /// Bytes of a vector: four columns of a quarter as many rows.
            pub(crate) const VECTOR: usize = size_of::<$vector>();
            /// Rows of a vector.
            pub(crate) const LANES: usize = VECTOR / 4;
            /// Vectors of a field, each of its own rows.
            const FIELD_VECTORS: usize = FIELD_BYTES / VECTOR;
            /// Tiles that are multiplied side by side.
            const TILES: usize = $tiles;
            /// Vectors of weights whose sums of six tokens fit the registers.
            const VECTORS: usize = $vectors;

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
                let mut panels = [[Field::ZERO; CHUNK_FIELDS]; TILES];
                for (first_tile, rows) in panel::blocks(rows, TILES) {
                    tokens.begin(rows, out);
                    let num_tiles = rows.num.div_ceil(ROWS);
                    for fields in tokens.chunks(unit, CHUNK_FIELDS) {
                        for (tile, panel) in (first_tile..).zip(&mut panels[..num_tiles]) {
                            let fields = fields.clone();
                            let panel = &mut panel[..fields.len()];
                            fill(&Part { tile, fields }, panel);
                        }
                        let panels = panels.each_ref().map(|panel| &panel[..fields.len()]);
                        for group in tokens.groups() {
                            let at = fields.start;
                            match group.num_tokens {
                                1 => add::<1>(&panels, &group, at, rows, out),
                                2 => add::<2>(&panels, &group, at, rows, out),
                                3 => add::<3>(&panels, &group, at, rows, out),
                                4 => add::<4>(&panels, &group, at, rows, out),
                                5 => add::<5>(&panels, &group, at, rows, out),
                                _ => add::<GROUP_TOKENS>(&panels, &group, at, rows, out),
                            }
                        }
                    }
                }
            }

            /// Adds some panels' sums of `N` tokens to the output.
            #[target_feature(enable = $features)]
            fn add<const N: usize>(
                panels: &[&[Field]; TILES],
                group: &Group<'_>,
                first_field: usize,
                rows: Rows,
                out: &mut Output<'_>,
            ) {
                let (words, _) = group.bytes.as_chunks::<4>();
                let words = &words.as_chunks::<N>().0[first_field..];
                let num_vectors = rows.num.div_ceil(ROWS) * FIELD_VECTORS;
                for first in (0..num_vectors / VECTORS * VECTORS).step_by(VECTORS) {
                    let sums = dots::<VECTORS, N>(panels, words, first);
                    add_sums(sums, first * LANES, group.first_token, rows, out);
                }
                for first in (num_vectors / VECTORS * VECTORS..num_vectors).step_by(2) {
                    let sums = dots::<2, N>(panels, words, first);
                    add_sums(sums, first * LANES, group.first_token, rows, out);
                }
            }

            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn add_sums<const V: usize, const N: usize>(
                sums: [[$vector; V]; N],
                first_row: usize,
                first_token: usize,
                rows: Rows,
                out: &mut Output<'_>,
            ) {
                for (lane, sums) in sums.into_iter().enumerate() {
                    let num_rows = rows.num.saturating_sub(first_row).min(V * LANES);
                    let first = rows.first + first_row.min(rows.num);
                    let out = out.of_token(first_token + lane, first, num_rows);
                    if num_rows == V * LANES {
                        let (vectors, _) = out.as_chunks_mut();
                        for v in 0..V {
                            add_to(&mut vectors[v], sums[v]);
                        }
                    } else {
                        let mut all = [[0; LANES]; V];
                        for v in 0..V {
                            store(&mut all[v], sums[v]);
                        }
                        for (out, sum) in out.iter_mut().zip(all.as_flattened()) {
                            *out = out.wrapping_add(*sum);
                        }
                    }
                }
            }

            /// The rows of `V` vectors times `N` tokens over one chunk: the
            /// weights, `V N` sums and a broadcast stay in registers.
            #[inline]
            #[target_feature(enable = $features)]
            fn dots<const V: usize, const N: usize>(
                panels: &[&[Field]; TILES],
                words: &[[[u8; 4]; N]],
                first: usize,
            ) -> [[$vector; V]; N] {
                let mut sums = [[$zero(); V]; N];
                let num_fields = panels[0].len();
                let panels = panels.map(|panel| &panel[..num_fields]);
                for (f, words) in words[..num_fields].iter().enumerate() {
                    let weights: [$vector; V] = array::from_fn(|v| {
                        let at = first + v;
                        let (vectors, _) = panels[at / FIELD_VECTORS][f].0.as_chunks();
                        load(&vectors[at % FIELD_VECTORS])
                    });
                    for (sums, word) in sums.iter_mut().zip(words) {
                        let x = broadcast(*word);
                        for v in 0..V {
                            sums[v] = $multiply_add(sums[v], weights[v], x);
                        }
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
    avx512, "avx512f,avx512bw,avx512vnni", 2 tiles, 4 vectors,
    __m512i {
        _mm512_loadu_si512, _mm512_storeu_si512, _mm512_setzero_si512, _mm512_set1_epi32,
        _mm512_add_epi32, _mm512_dpbusd_epi32
    }
}

vnni! {
    avx, "avx2,avxvnni", 1 tiles, 2 vectors,
    __m256i {
        _mm256_loadu_si256, _mm256_storeu_si256, _mm256_setzero_si256, _mm256_set1_epi32,
        _mm256_add_epi32, _mm256_dpbusd_avx_epi32
    }
}
