//! A head of eight bits a weight, one scale a row.

use ternion_kernels::head::{Activations, TILE_ROWS, Variant};

use super::Workers;
use super::bound::TokenBounds;
use super::rounded::Rounded;

pub(crate) struct Int8 {
    rounded: Rounded,
    variant: Variant,
}

/// Memory of a step.
#[derive(Default)]
pub(super) struct Scratch {
    activations: Activations,
    bounds: Vec<TokenBounds>,
}

impl Int8 {
    pub(super) fn of(rounded: Rounded) -> Int8 {
        Int8 {
            rounded,
            variant: Variant::best(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.rounded.bytes()
    }

    /// Codes of all rows, and how many rows with those that fill the last tile.
    pub(super) fn codes(&self) -> (&[u8], usize) {
        self.rounded.codes()
    }

    /// Logits of `hidden`, `[n, cols]`, to `logits`, `[n, rows]`.
    pub(super) fn logits(
        &self,
        hidden: &[f32],
        workers: &Workers<'_>,
        scratch: &mut Scratch,
        logits: &mut [f32],
    ) {
        let codes = &self.rounded.codes;
        let dither = &self.rounded.dither;
        scratch.activations.prepare(hidden, dither, codes.bits());
        scratch.bounds.clear();
        let tokens = scratch.activations.tokens();
        scratch.bounds.extend(tokens.iter().map(TokenBounds::new));
        let Scratch {
            activations,
            bounds,
        } = &*scratch;
        workers.columns(logits, codes.rows(), |worker, mut columns| {
            let rows = columns.range();
            let tiles = rows.start / TILE_ROWS..rows.end.div_ceil(TILE_ROWS);
            let sums = &mut worker.sums;
            sums.resize(bounds.len() * tiles.len() * TILE_ROWS, 0);
            self.variant.sums(codes, tiles.clone(), activations, sums);
            let (sums, _) = sums.as_chunks::<TILE_ROWS>();
            for (position, sums) in sums.chunks_exact(tiles.len()).enumerate() {
                let out = columns.row(position).chunks_mut(TILE_ROWS);
                for ((tile, sums), out) in tiles.clone().zip(sums).zip(out) {
                    let tile = &self.rounded.bounds[tile];
                    let (about, _) = tile.estimate(sums, &bounds[position], codes.bits().max());
                    out.copy_from_slice(&about[..out.len()]);
                }
            }
        });
    }
}
