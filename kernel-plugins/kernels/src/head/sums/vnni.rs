//! VNNI: `vpdpbusd` multiplies unsigned codes with signed bytes and adds the
//! four products of a row's word to 32 bits. An activation of 16 bits is two
//! such bytes, so codes are multiplied twice while they are in a register: no
//! byte of memory more.
//!
//! Codes are asked for before they are read ([`ahead`](crate::ahead)): a line is
//! so much work, of several tokens above all, that the loads a CPU keeps in
//! flight by itself don't reach far. Without it eight tokens waited for memory
//! for half of their time.
//!
//! One token leaves the two halves of a byte where they are, the upper one as
//! sixteen times its code with sums of its own. Several tokens share codes
//! that were shifted into place.
//!
//! Partial sums wrap at most where the whole does not: upper halves times 256
//! plus lower halves is an exact sum, see `Activations::prepare`.

macro_rules! vnni {
    (
        $module:ident, $features:literal, detected by $detected:expr,
        up to $most:literal tokens, fewer: $($fewer:literal)*,
        $vector:ident {
            $load:ident, $store:ident, $zero:ident, $broadcast8:ident, $broadcast32:ident,
            $and:ident, $add:ident, $shift_codes:ident, $shift_left:ident, $shift_right:ident,
            $multiply_add:ident
        }
    ) => {
        pub(super) mod $module {
            use core::arch::x86_64::{
                $add, $and, $broadcast8, $broadcast32, $load, $multiply_add, $shift_codes,
                $shift_left, $shift_right, $store, $vector, $zero,
            };

            use super::super::super::Line;
            use super::super::{Activations, Bits, Sums, Tile};
            use crate::ahead;

            const VECTOR: usize = size_of::<$vector>();
            /// Rows of a vector.
            const LANES: usize = VECTOR / 4;
            /// Vectors of a line, each of its own rows.
            const PARTS: usize = 64 / VECTOR;

            /// Upper and lower halves of four columns.
            type Group = [[i8; 4]; 2];

            /// The CPU has what is needed here: only then is there a value.
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub(in super::super) struct Vnni(());

            impl Vnni {
                pub(in super::super) fn new() -> Option<Vnni> {
                    $detected.then_some(Vnni(()))
                }

                pub(in super::super) fn tile(
                    self,
                    tile: &Tile<'_>,
                    activations: &Activations,
                    sums: &mut Sums<'_>,
                ) {
                    // SAFETY: `self` is proof of the features.
                    unsafe { all_tokens(tile, activations, sums) }
                }
            }

            #[target_feature(enable = $features)]
            fn all_tokens(tile: &Tile<'_>, activations: &Activations, sums: &mut Sums<'_>) {
                let batch = activations.tokens().len();
                if batch == 1 {
                    return one(tile, activations, sums);
                }
                let mut token = 0;
                while token < batch {
                    token += match batch - token {
                        $($fewer => some::<$fewer>(token, tile, activations, sums),)*
                        _ => some::<$most>(token, tile, activations, sums),
                    };
                }
            }

            #[target_feature(enable = $features)]
            fn one(tile: &Tile<'_>, activations: &Activations, sums: &mut Sums<'_>) {
                let groups = activations.halves(0);
                let parts = match tile.bits {
                    Bits::Four => one_of_four_bits(tile.lines, groups.as_chunks().0),
                    Bits::Eight => one_of_eight_bits(tile.lines, groups),
                };
                let (rows, _) = sums.of(0, tile).as_chunks_mut::<LANES>();
                for (rows, part) in rows.iter_mut().zip(parts) {
                    store(rows, part);
                }
            }

            #[target_feature(enable = $features)]
            fn one_of_four_bits(lines: &[Line], groups: &[[Group; 2]]) -> [$vector; PARTS] {
                let masks = [0x0f, 0xf0_u8].map(|mask| $broadcast8(mask.cast_signed()));
                // By part, half of the byte, half of the activation.
                let mut sums = [[[$zero(); 2]; 2]; PARTS];
                for (line, groups) in lines.iter().zip(groups) {
                    ahead::once(&line.0, ahead::ONCE);
                    for part in 0..PARTS {
                        let codes = load(line, part);
                        for nibble in 0..2 {
                            let codes = $and(codes, masks[nibble]);
                            for half in 0..2 {
                                let sum = &mut sums[part][nibble][half];
                                *sum = $multiply_add(*sum, codes, broadcast(groups[nibble][half]));
                            }
                        }
                    }
                }
                // The upper halves' sums are multiples of 16.
                sums.map(|[[upper, lower], [upper16, lower16]]| {
                    whole([
                        $add(upper, $shift_right::<4>(upper16)),
                        $add(lower, $shift_right::<4>(lower16)),
                    ])
                })
            }

            #[target_feature(enable = $features)]
            fn one_of_eight_bits(lines: &[Line], groups: &[Group]) -> [$vector; PARTS] {
                let mut sums = [[$zero(); 2]; PARTS];
                for (line, group) in lines.iter().zip(groups) {
                    ahead::once(&line.0, ahead::ONCE);
                    for part in 0..PARTS {
                        let codes = load(line, part);
                        for half in 0..2 {
                            let sum = &mut sums[part][half];
                            *sum = $multiply_add(*sum, codes, broadcast(group[half]));
                        }
                    }
                }
                sums.map(|sums| whole(sums))
            }

            #[target_feature(enable = $features)]
            fn some<const T: usize>(
                first: usize,
                tile: &Tile<'_>,
                activations: &Activations,
                sums: &mut Sums<'_>,
            ) -> usize {
                let groups: [&[Group]; T] = std::array::from_fn(|i| activations.halves(first + i));
                for part in 0..PARTS {
                    let vectors = match tile.bits {
                        Bits::Four => some_of_four_bits(tile.lines, part, groups),
                        Bits::Eight => some_of_eight_bits(tile.lines, part, groups),
                    };
                    for (token, vector) in vectors.into_iter().enumerate() {
                        let (rows, _) = sums.of(first + token, tile).as_chunks_mut::<LANES>();
                        store(&mut rows[part], whole(vector));
                    }
                }
                T
            }

            #[target_feature(enable = $features)]
            fn some_of_four_bits<const T: usize>(
                lines: &[Line],
                part: usize,
                groups: [&[Group]; T],
            ) -> [[$vector; 2]; T] {
                let groups = groups.map(|groups| &groups.as_chunks::<2>().0[..lines.len()]);
                let mask = $broadcast8(0x0f);
                let mut sums = [[$zero(); 2]; T];
                for (i, line) in lines.iter().enumerate() {
                    ahead::again(&line.0, ahead::AGAIN);
                    let codes = load(line, part);
                    let codes = [$and(codes, mask), $and($shift_codes::<4>(codes), mask)];
                    for token in 0..T {
                        for nibble in 0..2 {
                            for half in 0..2 {
                                let x = broadcast(groups[token][i][nibble][half]);
                                let sum = &mut sums[token][half];
                                *sum = $multiply_add(*sum, codes[nibble], x);
                            }
                        }
                    }
                }
                sums
            }

            #[target_feature(enable = $features)]
            fn some_of_eight_bits<const T: usize>(
                lines: &[Line],
                part: usize,
                groups: [&[Group]; T],
            ) -> [[$vector; 2]; T] {
                let groups = groups.map(|groups| &groups[..lines.len()]);
                let mut sums = [[$zero(); 2]; T];
                for (i, line) in lines.iter().enumerate() {
                    ahead::again(&line.0, ahead::AGAIN);
                    let codes = load(line, part);
                    for token in 0..T {
                        for half in 0..2 {
                            let sum = &mut sums[token][half];
                            *sum = $multiply_add(*sum, codes, broadcast(groups[token][i][half]));
                        }
                    }
                }
                sums
            }

            /// Upper halves' sums and lower halves' together.
            #[target_feature(enable = $features)]
            fn whole([upper, lower]: [$vector; 2]) -> $vector {
                $add($shift_left::<8>(upper), lower)
            }

            #[target_feature(enable = $features)]
            fn broadcast(four: [i8; 4]) -> $vector {
                $broadcast32(i32::from_ne_bytes(four.map(i8::cast_unsigned)))
            }

            #[target_feature(enable = $features)]
            fn load(line: &Line, part: usize) -> $vector {
                let (parts, _) = line.0.as_chunks::<VECTOR>();
                // SAFETY: the reference is to as many bytes as a vector has,
                // and this load needs no alignment.
                unsafe { $load(parts[part].as_ptr().cast()) }
            }

            #[target_feature(enable = $features)]
            fn store(lanes: &mut [i32; LANES], vector: $vector) {
                // SAFETY: as for `load`, and the reference is exclusive.
                unsafe { $store(lanes.as_mut_ptr().cast(), vector) }
            }
        }
    };
}

vnni! {
    avx512, "avx512f,avx512bw,avx512vnni",
    detected by is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni"),
    up to 8 tokens, fewer: 1 2 3 4 5 6 7,
    __m512i {
        _mm512_loadu_si512, _mm512_storeu_si512, _mm512_setzero_si512, _mm512_set1_epi8,
        _mm512_set1_epi32, _mm512_and_si512, _mm512_add_epi32, _mm512_srli_epi16,
        _mm512_slli_epi32, _mm512_srai_epi32, _mm512_dpbusd_epi32
    }
}

vnni! {
    avx, "avx2,avxvnni",
    detected by is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni"),
    up to 6 tokens, fewer: 1 2 3 4 5,
    __m256i {
        _mm256_loadu_si256, _mm256_storeu_si256, _mm256_setzero_si256, _mm256_set1_epi8,
        _mm256_set1_epi32, _mm256_and_si256, _mm256_add_epi32, _mm256_srli_epi16,
        _mm256_slli_epi32, _mm256_srai_epi32, _mm256_dpbusd_avx_epi32
    }
}
