//! The logits that can matter, at a quarter of the bytes.
//!
//! A first pass over four bits a weight says of every logit what it is about
//! and what it is at most ([`bound`](super::bound)). The rows that look best
//! are computed exactly; the k-th best of these is a lower bound of the k-th
//! best of all. Whatever may reach it is computed exactly as well, with the
//! arithmetic of the whole head, to the bit. A row that may not can't be among
//! the k best, nor equal the last of them.
//!
//! What wins a draw is the largest sum of a logit over the temperature and a
//! number that is known before (see [`Race`]), and is found in the same way:
//! everything above is true of these sums as of logits, and both are called
//! merits here.
//!
//! Where `top_p` or `min_p` cut a draw, some of the largest logits are found,
//! then whatever may come in before those of them that are surely left, and
//! what all others weigh at most (see [`nucleus`](super::nucleus)). Where that
//! does not decide it, the position goes through the whole head after all.
//!
//! Where all logits are about alike, all rows are computed in the end, which
//! costs a quarter more than doing so at once; after a step like that the
//! screen rests for a few.

use std::ops::Range;

use ternion_engine::{Draw, Race, Sought, Standing, TokenLogit};
use ternion_kernels::head::{Activations, TILE_ROWS, Variant};
use ternion_kernels::team::Team;

use super::bound::TokenBounds;
use super::nucleus::{Nucleus, Others};
use super::rounded::Rounded;
use super::{CHUNK, DenseMatrix, Question, exact};

/// Best rows of a chunk that are remembered for each position.
const CHUNK_BEST: usize = 8;

/// Most steps that a screen rests.
const LONGEST_REST: u32 = 63;

/// The same for draws that are cut, which the next request may well decide.
const LONGEST_CUT_REST: u32 = 15;

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

    /// Codes of all rows, and how many rows with those that fill the last tile.
    pub(super) fn codes(&self) -> (&[u8], usize) {
        self.rounded.codes()
    }
}

/// How many of the largest logits are found for a draw that is cut: about as
/// many as are likely to be left.
const CUT_LARGEST: usize = 16;

/// Draws at a lower temperature are not screened: sums of logits over it and
/// luck would be more than is sure to be finite.
const LOWEST_TEMPERATURE: f32 = 1e-4;

/// Whether screening can cost less than the whole head: what is asked for must
/// be few rows in the first place.
pub(super) fn pays(sought: Sought, named: usize, rows: usize) -> bool {
    let count = match sought {
        Sought::Largest(count) => count,
        Sought::Winner(draw) if draw.temperature < LOWEST_TEMPERATURE => return false,
        Sought::Winner(_) => Merit::of(sought).count(),
    };
    count.saturating_add(named) <= rows / 16
}

/// What rows are compared by.
#[derive(Clone, Copy)]
enum Merit {
    /// How many are sought.
    Logit(usize),
    Standing(Race, f32),
}

impl Merit {
    fn of(sought: Sought) -> Merit {
        match sought {
            Sought::Largest(count) => Merit::Logit(count),
            Sought::Winner(draw) if draw.is_cut() => Merit::Logit(CUT_LARGEST),
            Sought::Winner(draw) => Merit::Standing(draw.race(), 1.0 / draw.temperature),
        }
    }

    /// How many rows are sought.
    fn count(self) -> usize {
        match self {
            Merit::Logit(count) => count,
            Merit::Standing(..) => 1,
        }
    }

    /// From what the logits of sixteen rows are about and at most the same of
    /// their merits.
    fn of_tile(self, first: usize, about: &mut [f32; TILE_ROWS], at_most: &mut [f32; TILE_ROWS]) {
        let Merit::Standing(race, per_temperature) = self else {
            return;
        };
        for row in 0..TILE_ROWS {
            let luck = race.luck_at_most((first + row) as u32);
            about[row] = about[row] * per_temperature + luck;
            at_most[row] = sum_at_most(at_most[row] * per_temperature, luck);
        }
    }

    /// No more than the merit of a row with this logit.
    fn at_least(self, row: usize, logit: f32) -> f32 {
        match self {
            Merit::Logit(_) => logit,
            Merit::Standing(race, _) => bar(&race.standing(row as u32, logit)),
        }
    }
}

/// No less than the sum of a standing whose parts are at most these.
fn sum_at_most(scaled: f32, luck: f32) -> f32 {
    scaled + (scaled.abs() * ROUNDING + luck)
}

/// No more than the sum of a standing.
fn bar(standing: &Standing) -> f32 {
    let sum = standing.sum();
    (sum - sum.abs() * f64::from(ROUNDING)) as f32
}

/// More than a few operations in f32 lose, relative.
const ROUNDING: f32 = 1e-6;

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
    merits: Vec<Merit>,
    chunks: Vec<Chunk>,
    positions: Vec<Position>,
    candidates: Candidates,
    rest: Rest,
    /// Of draws that are cut.
    cut_rest: Rest,
}

/// Steps to leave out, the more the longer screening has not paid.
#[derive(Default)]
struct Rest {
    left: u32,
    /// Steps in a row after which it was to be regretted.
    regrets: u32,
}

impl Rest {
    /// Whether this step is one to rest.
    fn takes_step(&mut self) -> bool {
        let rests = self.left > 0;
        self.left = self.left.saturating_sub(1);
        rests
    }

    /// Rests for `longest` steps at most; so many regrets are let pass.
    fn learn(&mut self, is_regret: bool, patience: u32, longest: u32) {
        self.regrets = if is_regret { self.regrets + 1 } else { 0 };
        let too_many = self.regrets.saturating_sub(patience);
        self.left = ((1 << too_many.min(16)) - 1).min(longest);
    }
}

/// What is known of some rows.
#[derive(Default)]
struct Chunk {
    rows: Range<usize>,
    sums: Vec<i32>,
    /// By position and row: what the merit is at most.
    at_most: Vec<f32>,
    of: Vec<OfPosition>,
    row: exact::Row,
}

/// What is known of some rows for one position.
#[derive(Default)]
struct OfPosition {
    /// The largest of what merits are at most.
    largest: f32,
    /// Rows that look best.
    best: Vec<Seed>,
    /// Exact logits, by ascending row.
    found: Vec<TokenLogit>,
    /// Of a draw that is cut: the rows that were not found, and how many of
    /// them were computed all the same.
    others: Others,
    num_others: usize,
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
    /// No more than the last merit that is sought.
    least: f32,
    /// Of a draw that is cut.
    nucleus: Option<Nucleus>,
    outcome: Outcome,
}

/// How a position ends.
#[derive(Clone, Copy, Default)]
enum Outcome {
    /// With all that was found.
    #[default]
    Found,
    Winner(TokenLogit),
    Undecided,
}

impl Screening {
    pub(super) fn candidates(&self) -> Candidates {
        self.candidates
    }

    /// Whether this step is one to rest, for all positions and for those whose
    /// draws are cut.
    pub(super) fn rests(&mut self) -> (bool, bool) {
        (self.rest.takes_step(), self.cut_rest.takes_step())
    }

    /// Finds what is sought for each of `hidden`, `[n, cols]`.
    pub(super) fn run(
        &mut self,
        screen: &Screen,
        matrix: &DenseMatrix<'_>,
        hidden: &[f32],
        questions: &[Question],
        named: &[u32],
        team: &Team,
    ) {
        let codes = &screen.rounded.codes;
        self.activations
            .prepare(hidden, &screen.rounded.dither, codes.bits());
        self.bounds.clear();
        let tokens = self.activations.tokens();
        self.bounds.extend(tokens.iter().map(TokenBounds::new));
        self.merits.clear();
        let merits = questions.iter().map(|question| Merit::of(question.sought));
        self.merits.extend(merits);
        self.chunks
            .resize_with(matrix.rows().div_ceil(CHUNK), Chunk::default);
        let num_positions = self.positions.len().max(questions.len());
        self.positions.resize_with(num_positions, Position::default);

        let (activations, bounds, merits) = (&self.activations, &self.bounds, &self.merits);
        team.rows(&mut self.chunks, 1, |_, index, chunk| {
            let first = index * CHUNK;
            chunk[0].rows = first..matrix.rows().min(first + CHUNK);
            chunk[0].estimate(screen, activations, bounds, merits, questions);
        });
        let chunks = &self.chunks;
        let positions = &mut self.positions[..questions.len()];
        team.rows(positions, 1, |_, index, position| {
            position[0].name(&named[questions[index].named.clone()]);
            position[0].lower_bound(chunks, index, merits[index], |row, memory| {
                exact::logit(
                    matrix,
                    row,
                    &hidden[index * matrix.cols()..][..matrix.cols()],
                    memory,
                )
            });
        });
        self.add_named(questions);
        let positions = &self.positions[..questions.len()];
        team.rows(&mut self.chunks, 1, |_, _, chunk| {
            chunk[0].find(positions, matrix, hidden);
        });
        self.decide(matrix, hidden, questions, team);
        self.conclude(matrix.rows(), questions);
    }

    /// Looks for the winners of draws that are cut.
    fn decide(
        &mut self,
        matrix: &DenseMatrix<'_>,
        hidden: &[f32],
        questions: &[Question],
        team: &Team,
    ) {
        let positions = &mut self.positions[..questions.len()];
        positions
            .iter_mut()
            .for_each(|position| position.outcome = Outcome::Found);
        let cut = |index: usize| questions[index].sought.cut_draw();
        if (0..questions.len()).all(|index| cut(index).is_none()) {
            return;
        }
        let chunks = &self.chunks;
        team.rows(positions, 1, |_, index, position| {
            if let Some(draw) = cut(index) {
                let found = chunks.iter().flat_map(|chunk| &chunk.of[index].found);
                let Position { nucleus, least, .. } = &mut position[0];
                let nucleus = nucleus.get_or_insert_with(|| Nucleus::new(draw));
                nucleus.begin(draw, found.copied(), *least);
            }
        });
        let positions = &self.positions[..questions.len()];
        team.rows(&mut self.chunks, 1, |_, _, chunk| {
            for (index, position) in positions.iter().enumerate() {
                if let Some(draw) = cut(index) {
                    chunk[0].look_at_others(index, position, draw, matrix, hidden);
                }
            }
        });
        for (index, position) in self.positions[..questions.len()].iter_mut().enumerate() {
            if let (Some(_), Some(nucleus)) = (cut(index), &position.nucleus) {
                let others = self.chunks.iter().map(|chunk| chunk.of[index].others);
                let others = others.fold(Others::default(), Others::and);
                position.outcome = match nucleus.winner(&others) {
                    Some(winner) => Outcome::Winner(winner),
                    None => Outcome::Undecided,
                };
            }
        }
    }

    /// Whether a position takes the whole head after all.
    pub(super) fn is_undecided(&self, position: usize) -> bool {
        matches!(self.positions[position].outcome, Outcome::Undecided)
    }

    /// Named rows are computed whatever is known of them.
    fn add_named(&mut self, questions: &[Question]) {
        for (index, (position, question)) in self.positions.iter().zip(questions).enumerate() {
            let named = position.named.iter().map(|token| *token as usize);
            for row in named.filter(|row| *row < question.among) {
                let chunk = &mut self.chunks[row / CHUNK];
                chunk.at_most[index * CHUNK + row % CHUNK] = f32::INFINITY;
                chunk.of[index].largest = f32::INFINITY;
            }
        }
    }

    fn conclude(&mut self, rows: usize, questions: &[Question]) {
        let positions = questions.len();
        let of = self.chunks.iter().flat_map(|chunk| &chunk.of[..positions]);
        let found: usize = of.map(|of| of.found.len() + of.num_others).sum();
        self.rest
            .learn(found > positions * rows / 2, 0, LONGEST_REST);
        let cut = questions
            .iter()
            .filter(|question| question.sought.cut_draw().is_some());
        let (cut, undecided) = (cut.count(), self.num_undecided(positions));
        if cut > 0 {
            // One that was hard to tell says little of the next.
            self.cut_rest
                .learn(undecided > cut / 2, 1, LONGEST_CUT_REST);
        }
        self.candidates.positions += positions as u64;
        self.candidates.rows += (found + undecided * rows) as u64;
    }

    fn num_undecided(&self, positions: usize) -> usize {
        (0..positions)
            .filter(|position| self.is_undecided(*position))
            .count()
    }

    /// What was found for a position, by ascending row.
    pub(super) fn found(&self, position: usize) -> impl Iterator<Item = TokenLogit> {
        let (winner, chunks) = match self.positions[position].outcome {
            Outcome::Winner(winner) => (Some(winner), &self.chunks[..0]),
            Outcome::Found | Outcome::Undecided => (None, &self.chunks[..]),
        };
        let found = chunks
            .iter()
            .flat_map(move |chunk| &chunk.of[position].found);
        winner.into_iter().chain(found.copied())
    }
}

impl Chunk {
    /// Bounds of all its merits.
    fn estimate(
        &mut self,
        screen: &Screen,
        activations: &Activations,
        bounds: &[TokenBounds],
        merits: &[Merit],
        questions: &[Question],
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
            of.num_others = 0;
            of.largest = f32::NEG_INFINITY;
            let merit = merits[position];
            let keep = (merit.count() + 3).min(CHUNK_BEST);
            let end = self.rows.end.min(questions[position].among);
            let out = self.at_most[position * CHUNK..][..CHUNK].chunks_exact_mut(TILE_ROWS);
            for ((tile, sums), out) in tiles.clone().zip(sums).zip(out) {
                let (mut about, mut at_most) = screen.rounded.bounds[tile].estimate(
                    sums,
                    &bounds[position],
                    codes.bits().max(),
                );
                let first = tile * TILE_ROWS;
                merit.of_tile(first, &mut about, &mut at_most);
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
                // What pads the matrix is nobody's, however little is known.
                if *at_most >= position.least && *at_most > f32::NEG_INFINITY {
                    of.found.push(TokenLogit {
                        token: row as u32,
                        logit: exact::logit(matrix, row, hidden, &mut self.row),
                    });
                }
            }
        }
    }

    /// What rows that were not found weigh at most, and the first of them in
    /// the race if it may come in before what is surely left.
    fn look_at_others(
        &mut self,
        index: usize,
        position: &Position,
        draw: Draw,
        matrix: &DenseMatrix<'_>,
        hidden: &[f32],
    ) {
        let of = &mut self.of[index];
        of.others = Others::default();
        let nucleus = position.nucleus.as_ref();
        let Some((largest, first)) = nucleus.and_then(|n| n.largest().zip(n.surely_first())) else {
            return;
        };
        let (race, bar, per_temperature) = (draw.race(), bar(&first), 1.0 / draw.temperature);
        let hidden = &hidden[index * matrix.cols()..][..matrix.cols()];
        let at_most = &self.at_most[index * CHUNK..][..CHUNK];
        let num_tiles = self.rows.len().div_ceil(TILE_ROWS);
        for (tile, at_most) in at_most.as_chunks::<TILE_ROWS>().0[..num_tiles]
            .iter()
            .enumerate()
        {
            let first_row = self.rows.start + tile * TILE_ROWS;
            let mut weights = [0.0; TILE_ROWS];
            let mut sums = [f32::NEG_INFINITY; TILE_ROWS];
            for row in 0..TILE_ROWS {
                let luck = race.luck_at_most((first_row + row) as u32);
                let sum = sum_at_most(at_most[row] * per_temperature, luck);
                let weight = exp_at_most((at_most[row] - largest) * per_temperature);
                let is_other = at_most[row] < position.least;
                weights[row] = if is_other { weight } else { 0.0 };
                sums[row] = if is_other { sum } else { f32::NEG_INFINITY };
            }
            of.others.weight += f64::from(weights.iter().sum::<f32>());
            if sums.iter().fold(false, |any, sum| any | (*sum >= bar)) {
                for (row, _) in sums.iter().enumerate().filter(|(_, sum)| **sum >= bar) {
                    let row = first_row + row;
                    let logit = exact::logit(matrix, row, hidden, &mut self.row);
                    let standing = race.standing(row as u32, logit);
                    of.others.first = of.others.first.max(Some(standing));
                    of.num_others += 1;
                }
            }
        }
    }
}

/// No less than e^x, for x of no more than 80, and at most a sixteenth more: on
/// a power of two and its double a line is above the exponential, and the bits
/// of a float are on such lines.
fn exp_at_most(x: f32) -> f32 {
    /// More than rounding loses in x, in the line and in sums of a tile.
    const ROUNDED_UP: f32 = 1.001;
    let power = (x * std::f32::consts::LOG2_E).clamp(-126.0, 126.0) + 127.0;
    f32::from_bits((power * (1 << 23) as f32) as u32) * ROUNDED_UP
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

    /// Computes the rows that look best: the least of as many as are sought is
    /// no more than the last of those that are.
    fn lower_bound(
        &mut self,
        chunks: &[Chunk],
        index: usize,
        merit: Merit,
        logit: impl Fn(usize, &mut exact::Row) -> f32,
    ) {
        let count = merit.count();
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
            let logit = logit(seed.row, &mut self.row);
            self.exact.push(merit.at_least(seed.row, logit));
        }
        self.least = self.exact.iter().copied().fold(f32::INFINITY, f32::min);
    }
}
