//! Exact sums of products of codes and 16-bit activations.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::ops::Range;

use super::{Activations, Bits, Codes, TILE_ROWS};

/// A way to multiply that this CPU has. All give the same integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512(vnni::avx512::Vnni),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(vnni::avx::Vnni),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "aarch64")]
    Dotprod(neon::Dotprod),
    Portable,
}

impl Variant {
    /// All that this CPU can run, the fastest first.
    pub fn available() -> impl Iterator<Item = Variant> {
        #[cfg(target_arch = "x86_64")]
        let fast = [
            vnni::avx512::Vnni::new().map(Kind::Avx512),
            vnni::avx::Vnni::new().map(Kind::AvxVnni),
            avx2::Avx2::new().map(Kind::Avx2),
        ];
        #[cfg(target_arch = "aarch64")]
        let fast = [neon::Dotprod::new().map(Kind::Dotprod)];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let fast: [Option<Kind>; 0] = [];
        fast.into_iter()
            .flatten()
            .chain([Kind::Portable])
            .map(Variant)
    }

    /// The fastest.
    pub fn best() -> Variant {
        Variant::available()
            .next()
            .expect("the portable one is always there")
    }

    /// Whether it leaves vectors to the compiler.
    pub fn is_portable(self) -> bool {
        self.0 == Kind::Portable
    }

    /// Its instruction set.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni(_) => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            #[cfg(target_arch = "aarch64")]
            Kind::Dotprod(_) => "neon-dotprod",
            Kind::Portable => "portable",
        }
    }

    /// Sets `out`, for each token the rows of `tiles`, to the sums of code
    /// times activation. They are exact, see [`Activations::prepare`].
    ///
    /// # Panics
    ///
    /// If the activations are for codes of other columns, there are no such
    /// tiles or `out` has another length.
    pub fn sums(
        self,
        codes: &Codes,
        tiles: Range<usize>,
        activations: &Activations,
        out: &mut [i32],
    ) {
        activations.check(codes);
        let token_rows = tiles.len() * TILE_ROWS;
        assert_eq!(out.len(), activations.tokens().len() * token_rows);
        let mut sums = Sums { out, token_rows };
        for (place, tile) in tiles.enumerate() {
            let tile = Tile {
                bits: codes.bits(),
                lines: codes.tile(tile),
                place,
            };
            match self.0 {
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512(vnni) => vnni.tile(&tile, activations, &mut sums),
                #[cfg(target_arch = "x86_64")]
                Kind::AvxVnni(vnni) => vnni.tile(&tile, activations, &mut sums),
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2(avx2) => avx2.tile(&tile, activations, &mut sums),
                #[cfg(target_arch = "aarch64")]
                Kind::Dotprod(dotprod) => dotprod.tile(&tile, activations, &mut sums),
                Kind::Portable => portable::tile(&tile, activations, &mut sums),
            }
        }
    }
}

/// A tile's codes.
struct Tile<'a> {
    bits: Bits,
    lines: &'a [super::Line],
    /// Which of the tiles asked for.
    place: usize,
}

/// Where sums go.
struct Sums<'a> {
    out: &'a mut [i32],
    token_rows: usize,
}

impl Sums<'_> {
    fn of(&mut self, token: usize, tile: &Tile<'_>) -> &mut [i32; TILE_ROWS] {
        let at = token * self.token_rows + tile.place * TILE_ROWS;
        let rows = &mut self.out[at..][..TILE_ROWS];
        rows.try_into().expect("a tile's rows")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::rounding::Dither;

    /// The integers that `Activations` stores, in order.
    fn integers(activations: &Activations, token: usize, cols: usize) -> Vec<i64> {
        let mut integers: Vec<i64> = activations
            .pairs(token)
            .iter()
            .flat_map(|[ac, bd]| [*ac as i16, *bd as i16, (ac >> 16) as i16, (bd >> 16) as i16])
            .map(i64::from)
            .collect();
        let halves = activations.halves(token).iter().flat_map(|[upper, lower]| {
            std::array::from_fn::<i64, 4, _>(|b| 256 * i64::from(upper[b]) + i64::from(lower[b]))
        });
        assert!(halves.eq(integers.iter().copied()), "halves make the whole");
        assert!(integers[cols..].iter().all(|p| *p == 0));
        integers.truncate(cols);
        integers
    }

    fn check(bits: Bits, rows: usize, cols: usize, codes: &[u8], hidden: &[f32]) {
        let mut packed = Codes::new(bits, rows, cols);
        let tile_lines = packed.tile_lines();
        for (row, codes) in codes.chunks_exact(cols).enumerate() {
            let tile = &mut packed.lines_mut()[row / TILE_ROWS * tile_lines..][..tile_lines];
            Codes::pack(bits, row % TILE_ROWS, codes, tile);
        }
        let mut activations = Activations::default();
        activations.prepare(hidden, &Dither::none(cols), bits);
        let num_tiles = rows.div_ceil(TILE_ROWS);
        for variant in Variant::available() {
            for tiles in [0..num_tiles, num_tiles - 1..num_tiles] {
                let token_rows = tiles.len() * TILE_ROWS;
                let mut out = vec![-1; activations.tokens().len() * token_rows];
                variant.sums(&packed, tiles.clone(), &activations, &mut out);
                for (token, out) in out.chunks_exact(token_rows).enumerate() {
                    let p = integers(&activations, token, cols);
                    let sum: i64 = p.iter().sum();
                    assert_eq!(i64::from(activations.tokens()[token].sum), sum);
                    for (row, got) in (tiles.start * TILE_ROWS..rows).zip(out) {
                        let codes = &codes[row * cols..][..cols];
                        let want: i64 = codes.iter().zip(&p).map(|(c, p)| i64::from(*c) * p).sum();
                        assert!(want.abs() < 1 << 30, "twice a sum is an i32 too");
                        assert_eq!(
                            i64::from(*got),
                            want,
                            "{}: {bits:?}, {rows}x{cols}, token {token}, row {row}",
                            variant.name(),
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn every_variant_is_exact_for_every_shape() {
        let mut state = 1_u32;
        let mut random = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        for bits in [Bits::Four, Bits::Eight] {
            for (rows, cols) in [(1, 1), (16, 8), (17, 9), (40, 64), (33, 100), (16, 2560)] {
                for batch in [1, 2, 3, 4, 5, 6, 7, 8, 9, 17] {
                    let codes: Vec<u8> = (0..rows * cols)
                        .map(|_| random() as u8 & bits.max())
                        .collect();
                    let hidden: Vec<f32> = (0..batch * cols)
                        .map(|_| random() as f32 / 8_388_608.0 - 1.0)
                        .collect();
                    check(bits, rows, cols, &codes, &hidden);
                }
            }
        }
    }

    #[test]
    fn sums_are_exact_at_their_largest() {
        for bits in [Bits::Four, Bits::Eight] {
            for cols in [8, 2560, 20_000] {
                for sign in [1.0, -1.0] {
                    let codes = vec![bits.max(); 16 * cols];
                    check(bits, 16, cols, &codes, &vec![3e-3 * sign; cols]);
                    // One activation far above the rest.
                    let mut hidden = vec![1e-4 * sign; cols];
                    hidden[cols - 1] = 900.0 * sign;
                    check(bits, 16, cols, &codes, &hidden);
                }
            }
        }
    }

    #[test]
    fn activations_know_their_norm_and_error() {
        let hidden = [3.0, -4.0, 0.0, 0.0, 0.0];
        let mut activations = Activations::default();
        let dither = Dither::random(3, 5);
        activations.prepare(&hidden, &dither, Bits::Four);
        let token = activations.tokens()[0];
        assert_eq!(token.norm, 5.0);
        let p = integers(&activations, 0, 5);
        assert_eq!(p[1], -32639);
        let [first, second, ..] = dither.shifts() else {
            unreachable!()
        };
        let shifted = p[0] as f64 * f64::from(*first) + p[1] as f64 * f64::from(*second);
        assert_eq!(token.shifted, shifted);
        let off = |x: f64, p: i64| x - f64::from(token.scale) * p as f64;
        let error = off(3.0, p[0]).hypot(off(-4.0, p[1]));
        assert!((token.error - error).abs() < 1e-12);

        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            activations.prepare(&[1.0, broken], &Dither::none(2), Bits::Four);
            assert!(!activations.tokens()[0].norm.is_finite());
        }
        activations.prepare(&[0.0; 8], &Dither::none(8), Bits::Eight);
        assert_eq!(
            (activations.tokens()[0].norm, activations.tokens()[0].error),
            (0.0, 0.0)
        );
    }
}
