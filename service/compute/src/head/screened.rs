//! The logits that can matter, at a quarter of the bytes.
//!
//! A first pass over four bits a weight says of every logit what it is about
//! and what it is at most ([`bound`](super::bound)). The rows that look best
//! are computed exactly; the k-th best of these is a lower bound of the k-th
//! best of all. Whatever may reach it is computed exactly as well, with the
//! arithmetic of the whole head, to the bit. A row that may not can't be among
//! the k best, nor equal the last of them.
//!
//! Where all logits are about alike, all rows are computed in the end, which
//! costs a quarter more than doing so at once; after a step like that the
//! screen rests for a few.

use std::ops::Range;

use ternion_engine::TokenLogit;
use ternion_kernels::head::{Activations, TILE_ROWS, Variant};
use ternion_kernels::team::Team;

use super::bound::TokenBounds;
use super::rounded::Rounded;
use super::{CHUNK, DenseMatrix, Sought, exact};

/// Best rows of a chunk that are remembered for each position.
const CHUNK_BEST: usize = 8;

/// Most steps that a screen rests.
const LONGEST_REST: u32 = 63;

/// Codes to screen with.
pub(crate) struct Screen {
    rounded: Rounded,
    variant: Variant,
}

impl Screen {
    pub(super) fn of(rounded: Rounded) -> Screen {
        Screen {
            rounded,
            variant: Variant::best(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.rounded.bytes()
    }
}

/// Whether screening can cost less than the whole head: what is asked for must
/// be few rows in the first place.
pub(super) fn pays(count: usize, named: usize, rows: usize) -> bool {
    count.saturating_add(named) <= rows / 16
}

/// How many rows were computed exactly since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Candidates {
    /// Positions that were screened.
    pub positions: u64,
    /// Rows of all of them.
    pub rows: u64,
}

/// Memory of a step.
#[derive(Default)]
pub(super) struct Screening {
    activations: Activations,
    bounds: Vec<TokenBounds>,
    chunks: Vec<Chunk>,
    positions: Vec<Position>,
    candidates: Candidates,
    /// Steps that are still to be rested, and how many were the last time.
    rest: u32,
    last_rest: u32,
}

/// What is known of some rows.
#[derive(Default)]
struct Chunk {
    rows: Range<usize>,
    sums: Vec<i32>,
    /// By position and row: what the logit is at most.
    at_most: Vec<f32>,
    of: Vec<OfPosition>,
    row: exact::Row,
}

/// What is known of some rows for one position.
#[derive(Default)]
struct OfPosition {
    /// The largest of what logits are at most.
    largest: f32,
    /// Rows that look best.
    best: Vec<Seed>,
    /// Exact logits, by ascending row.
    found: Vec<TokenLogit>,
}

#[derive(Clone, Copy)]
struct Seed {
    about: f32,
    row: usize,
}

/// What is known of one position.
#[derive(Default)]
struct Position {
    seeds: Vec<Seed>,
    exact: Vec<f32>,
    named: Vec<u32>,
    row: exact::Row,
    /// No more than the last logit that is sought.
    least: f32,
}

impl Screening {
    pub(super) fn candidates(&self) -> Candidates {
        self.candidates
    }

    /// Whether this step is one to rest.
    pub(super) fn rests(&mut self) -> bool {
        let rests = self.rest > 0;
        self.rest = self.rest.saturating_sub(1);
        rests
    }

    /// Finds what is sought for each of `hidden`, `[n, cols]`.
    pub(super) fn run(
        &mut self,
        screen: &Screen,
        matrix: &DenseMatrix<'_>,
        hidden: &[f32],
        sought: &[Sought],
        named: &[u32],
        team: &Team,
    ) {
        let codes = &screen.rounded.codes;
        self.activations
            .prepare(hidden, &screen.rounded.dither, codes.bits());
        self.bounds.clear();
        let tokens = self.activations.tokens();
        self.bounds.extend(tokens.iter().map(TokenBounds::new));
        self.chunks
            .resize_with(matrix.rows().div_ceil(CHUNK), Chunk::default);
        let num_positions = self.positions.len().max(sought.len());
        self.positions.resize_with(num_positions, Position::default);

        let (activations, bounds) = (&self.activations, &self.bounds);
        team.rows(&mut self.chunks, 1, |_, index, chunk| {
            let first = index * CHUNK;
            chunk[0].rows = first..matrix.rows().min(first + CHUNK);
            chunk[0].estimate(screen, activations, bounds, sought);
        });
        let chunks = &self.chunks;
        let positions = &mut self.positions[..sought.len()];
        team.rows(positions, 1, |_, index, position| {
            let sought = &sought[index];
            position[0].name(&named[sought.named.clone()]);
            position[0].lower_bound(chunks, index, sought.count, |row, memory| {
                exact::logit(
                    matrix,
                    row,
                    &hidden[index * matrix.cols()..][..matrix.cols()],
                    memory,
                )
            });
        });
        self.add_named(sought);
        let positions = &self.positions[..sought.len()];
        team.rows(&mut self.chunks, 1, |_, _, chunk| {
            chunk[0].find(positions, matrix, hidden);
        });
        self.conclude(matrix.rows(), sought.len());
    }

    /// Named rows are computed whatever is known of them.
    fn add_named(&mut self, sought: &[Sought]) {
        for (index, (position, sought)) in self.positions.iter().zip(sought).enumerate() {
            let named = position.named.iter().map(|token| *token as usize);
            for row in named.filter(|row| *row < sought.among) {
                let chunk = &mut self.chunks[row / CHUNK];
                chunk.at_most[index * CHUNK + row % CHUNK] = f32::INFINITY;
                chunk.of[index].largest = f32::INFINITY;
            }
        }
    }

    fn conclude(&mut self, rows: usize, positions: usize) {
        let of = self.chunks.iter().flat_map(|chunk| &chunk.of[..positions]);
        let found: usize = of.map(|of| of.found.len()).sum();
        self.candidates.positions += positions as u64;
        self.candidates.rows += found as u64;
        if found > positions * rows / 2 {
            self.rest = (2 * self.last_rest + 1).min(LONGEST_REST);
            self.last_rest = self.rest;
        } else {
            self.last_rest = 0;
        }
    }

    /// What was found for a position, by ascending row.
    pub(super) fn found(&self, position: usize) -> impl Iterator<Item = TokenLogit> {
        self.chunks
            .iter()
            .flat_map(move |chunk| chunk.of[position].found.iter().copied())
    }
}

impl Chunk {
    /// Bounds of all its logits.
    fn estimate(
        &mut self,
        screen: &Screen,
        activations: &Activations,
        bounds: &[TokenBounds],
        sought: &[Sought],
    ) {
        let codes = &screen.rounded.codes;
        let tiles = self.rows.start / TILE_ROWS..self.rows.end.div_ceil(TILE_ROWS);
        self.sums.resize(bounds.len() * tiles.len() * TILE_ROWS, 0);
        screen
            .variant
            .sums(codes, tiles.clone(), activations, &mut self.sums);
        self.at_most.resize(bounds.len() * CHUNK, 0.0);
        self.of
            .resize_with(bounds.len().max(self.of.len()), OfPosition::default);

        let (sums, _) = self.sums.as_chunks::<TILE_ROWS>();
        for (position, sums) in sums.chunks_exact(tiles.len()).enumerate() {
            let of = &mut self.of[position];
            of.best.clear();
            of.found.clear();
            of.largest = f32::NEG_INFINITY;
            let keep = (sought[position].count + 3).min(CHUNK_BEST);
            let end = self.rows.end.min(sought[position].among);
            let out = self.at_most[position * CHUNK..][..CHUNK].chunks_exact_mut(TILE_ROWS);
            for ((tile, sums), out) in tiles.clone().zip(sums).zip(out) {
                let (about, mut at_most) = screen.rounded.bounds[tile].estimate(
                    sums,
                    &bounds[position],
                    codes.bits().max(),
                );
                let first = tile * TILE_ROWS;
                let num_rows = end.saturating_sub(first).min(TILE_ROWS);
                at_most[num_rows..].fill(f32::NEG_INFINITY);
                out.copy_from_slice(&at_most);
                of.largest = at_most.iter().copied().fold(of.largest, f32::max);
                for (row, about) in (first..).zip(&about[..num_rows]) {
                    of.remember(Seed { about: *about, row }, keep);
                }
            }
        }
    }

    /// Computes all that may be sought.
    fn find(&mut self, positions: &[Position], matrix: &DenseMatrix<'_>, hidden: &[f32]) {
        let cols = matrix.cols();
        for (index, position) in positions.iter().enumerate() {
            let of = &mut self.of[index];
            if of.largest < position.least {
                continue;
            }
            let hidden = &hidden[index * cols..][..cols];
            for (row, at_most) in self.rows.clone().zip(&self.at_most[index * CHUNK..]) {
                if *at_most >= position.least {
                    of.found.push(TokenLogit {
                        token: row as u32,
                        logit: exact::logit(matrix, row, hidden, &mut self.row),
                    });
                }
            }
        }
    }
}

impl OfPosition {
    /// Keeps the best few, best first.
    fn remember(&mut self, seed: Seed, keep: usize) {
        let worst = self
            .best
            .last()
            .map_or(f32::NEG_INFINITY, |last| last.about);
        if self.best.len() == keep {
            if seed.about <= worst {
                return;
            }
            self.best.pop();
        }
        let place = self.best.partition_point(|kept| kept.about >= seed.about);
        self.best.insert(place, seed);
    }
}

impl Position {
    fn name(&mut self, tokens: &[u32]) {
        self.named.clear();
        self.named.extend_from_slice(tokens);
        self.named.sort_unstable();
        self.named.dedup();
    }

    /// Computes the rows that look best: the least of `count` of them is no
    /// more than the `count`-th best of all.
    fn lower_bound(
        &mut self,
        chunks: &[Chunk],
        index: usize,
        count: usize,
        logit: impl Fn(usize, &mut exact::Row) -> f32,
    ) {
        self.seeds.clear();
        let best = chunks.iter().flat_map(|chunk| &chunk.of[index].best);
        let named = &self.named;
        self.seeds
            .extend(best.filter(|seed| named.binary_search(&(seed.row as u32)).is_err()));
        self.least = f32::NEG_INFINITY;
        if self.seeds.len() < count {
            return;
        }
        self.seeds
            .select_nth_unstable_by(count - 1, |a, b| b.about.total_cmp(&a.about));
        self.exact.clear();
        for seed in &self.seeds[..count] {
            self.exact.push(logit(seed.row, &mut self.row));
        }
        self.least = self.exact.iter().copied().fold(f32::INFINITY, f32::min);
    }
}
