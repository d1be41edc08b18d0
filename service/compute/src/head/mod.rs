//! The output head: logits from the last hidden state.
//!
//! Three ways to have them. [`exact`] multiplies the head as the file stores
//! it. [`screened`] gives the same logits of those tokens that can matter, and
//! finds out which these are at a quarter of the bytes; it is what `auto`
//! chooses for a head that does not fit into caches. [`int8`] rounds the head:
//! its answers are its own.

mod bound;
mod exact;
mod int8;
mod nucleus;
mod rounded;
mod screened;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Mutex;

use ternion_engine::{Batch, Logits, Sought, Wanted};
use ternion_kernels::head::{Bits, Variant};
use ternion_kernels::team::{Columns, Team};
use ternion_model::{DenseFormat, DenseMatrix};

pub(crate) use exact::{Row, read};
use int8::Int8;
use rounded::Rounded;
pub(crate) use rounded::{Rounding, RowSize};
pub use screened::Candidates;
use screened::{Screen, Screening};

/// Rows of the vocabulary that a worker takes at a time.
const CHUNK: usize = 512;

/// Larger heads are screened unless told otherwise: what is smaller comes from
/// a cache, and reading less of it gains nothing.
const SCREENED_BYTES: usize = 16 << 20;

/// Without vectors made for it screening is bound by arithmetic, and has more
/// of it than the head itself.
fn screening_is_faster(matrix: &DenseMatrix<'_>) -> bool {
    matrix.bytes().len() >= SCREENED_BYTES && !Variant::best().is_portable()
}

/// How the output head is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadChoice {
    /// Whichever of the next two is faster; the answers are the same.
    #[default]
    Auto,
    /// As the file stores it, all of it for every token.
    F16,
    /// The same answers from fewer bytes, where a request looks at the largest
    /// logits only, or at the winner of a draw.
    Screened,
    /// Rounded to eight bits a weight: half the memory traffic of f16, and
    /// answers that differ from its.
    Int8,
}

impl HeadChoice {
    /// Their names.
    pub const NAMES: [&str; 4] = ["auto", "f16", "screened", "int8"];

    /// How a head is rounded for it, if it is.
    pub(crate) fn bits(self, matrix: &DenseMatrix<'_>) -> Option<Bits> {
        match self {
            HeadChoice::F16 => None,
            HeadChoice::Int8 => Some(Bits::Eight),
            HeadChoice::Screened => Some(Bits::Four),
            HeadChoice::Auto => screening_is_faster(matrix).then_some(Bits::Four),
        }
    }

    fn name(self) -> &'static str {
        match self {
            HeadChoice::Auto => "auto",
            HeadChoice::F16 => "f16",
            HeadChoice::Screened => "screened",
            HeadChoice::Int8 => "int8",
        }
    }
}

impl fmt::Display for HeadChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for HeadChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<HeadChoice, String> {
        use HeadChoice::{Auto, F16, Int8, Screened};
        [Auto, F16, Screened, Int8]
            .into_iter()
            .find(|choice| choice.name() == name)
            .ok_or_else(|| format!("{name:?} is not one of {}", HeadChoice::NAMES.join(", ")))
    }
}

/// A head that has been made ready.
pub(crate) enum Head {
    Exact,
    Screened(Screen),
    Int8(Int8),
}

impl Head {
    /// # Errors
    ///
    /// If a head that must be rounded can't be: the reason.
    pub(crate) fn new(
        choice: HeadChoice,
        matrix: &DenseMatrix<'_>,
        team: &Team,
    ) -> Result<Head, String> {
        let Some(bits) = choice.bits(matrix) else {
            return Ok(Head::Exact);
        };
        match Rounding::new(matrix, bits, team) {
            Ok(rounding) => Ok(Head::of(rounding)),
            // A head that can't be screened, since it holds what is no number,
            // is computed as it is.
            Err(_) if choice == HeadChoice::Auto => Ok(Head::Exact),
            Err(reason) => Err(reason),
        }
    }

    pub(crate) fn of(rounding: Rounding) -> Head {
        let bits = rounding.codes.bits();
        let rounded = Rounded::of(rounding);
        match bits {
            Bits::Four => Head::Screened(Screen::of(rounded)),
            Bits::Eight => Head::Int8(Int8::of(rounded)),
        }
    }

    /// What is read of all rows from `row` on.
    fn rows_from<'a>(&'a self, matrix: &DenseMatrix<'a>, row: usize) -> &'a [u8] {
        let (bytes, rows) = match self {
            Head::Exact => (matrix.bytes(), matrix.rows()),
            Head::Screened(screen) => screen.codes(),
            Head::Int8(int8) => int8.codes(),
        };
        &bytes[bytes.len() / rows * row..]
    }

    pub(crate) fn choice(&self) -> HeadChoice {
        match self {
            Head::Exact => HeadChoice::F16,
            Head::Screened(_) => HeadChoice::Screened,
            Head::Int8(_) => HeadChoice::Int8,
        }
    }

    /// Bytes in memory besides the matrix itself.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Head::Exact => 0,
            Head::Screened(screen) => screen.bytes(),
            Head::Int8(int8) => int8.bytes(),
        }
    }

    /// What multiplies, for the curious.
    pub(crate) fn variant(&self) -> Option<&'static str> {
        match self {
            Head::Exact => None,
            Head::Screened(_) | Head::Int8(_) => Some(Variant::best().name()),
        }
    }
}

/// The team, the vocabulary in chunks, and memory for each worker.
pub(crate) struct Workers<'a> {
    team: &'a Team,
    chunks: &'a [Range<usize>],
    scratch: &'a [Mutex<Worker>],
}

/// A worker's own memory.
#[derive(Default)]
struct Worker {
    wide: Vec<f32>,
    sums: Vec<i32>,
}

impl Workers<'_> {
    /// Gives chunks of `logits`, rows of `rows`, to workers.
    fn columns(
        &self,
        logits: &mut [f32],
        rows: usize,
        f: impl Fn(&mut Worker, Columns<'_, f32>) + Sync,
    ) {
        self.team
            .columns(logits, rows, self.chunks, |worker, _, columns| {
                let mut worker = self.scratch[worker].lock().expect("a worker's own");
                f(&mut worker, columns);
            });
    }
}

/// Memory of a step.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) logits: Logits,
    screening: Screening,
    int8: int8::Scratch,
    /// Positions that look at few only, and what they look at.
    some: Vec<Question>,
    /// Hidden states of the others, and of these.
    hidden: [Vec<f32>; 2],
    /// Whether each position is one of the others.
    is_whole: Vec<Whole>,
    chunks: Vec<Range<usize>>,
    workers: Vec<Mutex<Worker>>,
}

/// What one position looks at.
struct Question {
    sought: Sought,
    among: usize,
    named: Range<usize>,
}

/// Whether all logits of a position are computed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    /// Not unless it turns out that they matter.
    No,
    /// From the outset.
    Asked,
    /// As it turned out.
    Undecided,
}

impl Scratch {
    /// For a vocabulary of `rows` and a team of so many threads.
    pub(crate) fn new(rows: usize, threads: usize) -> Scratch {
        let chunk = |first| first..rows.min(first + CHUNK);
        Scratch {
            chunks: (0..rows).step_by(CHUNK).map(chunk).collect(),
            workers: (0..threads).map(|_| Mutex::default()).collect(),
            ..Scratch::default()
        }
    }

    pub(crate) fn candidates(&self) -> Candidates {
        self.screening.candidates()
    }

    /// Says that the head will be computed soon: the team may fetch the first of
    /// it while it waits.
    pub(crate) fn expect(&self, head: &Head, matrix: &DenseMatrix<'_>, team: &Team) {
        team.expect(&self.chunks, |chunk| {
            head.rows_from(matrix, self.chunks[chunk].start)
        });
    }

    /// Logits of the positions that need some: `hidden` is their hidden
    /// states after the last norm, `[n, cols]`.
    pub(crate) fn fill(
        &mut self,
        head: &Head,
        matrix: &DenseMatrix<'_>,
        batch: &Batch,
        hidden: &[f32],
        team: &Team,
    ) {
        let cols = matrix.cols();
        if hidden.is_empty() {
            self.logits.begin(matrix.rows(), 0);
            return;
        }
        let workers = Workers {
            team,
            chunks: &self.chunks,
            scratch: &self.workers,
        };
        match head {
            Head::Exact => {
                let whole = self.logits.begin(matrix.rows(), hidden.len() / cols);
                exact::logits(matrix, hidden, &workers, whole);
            }
            Head::Int8(int8) => {
                let whole = self.logits.begin(matrix.rows(), hidden.len() / cols);
                int8.logits(hidden, &workers, &mut self.int8, whole);
            }
            Head::Screened(screen) => return self.screen(screen, matrix, batch, hidden, team),
        }
        (0..hidden.len() / cols).for_each(|_| self.logits.push_whole());
    }

    fn screen(
        &mut self,
        screen: &Screen,
        matrix: &DenseMatrix<'_>,
        batch: &Batch,
        hidden: &[f32],
        team: &Team,
    ) {
        self.separate(batch, hidden, matrix);
        if !self.some.is_empty() {
            let (some, named) = (&self.hidden[1], &batch.named_tokens);
            self.screening
                .run(screen, matrix, some, &self.some, named, team);
            self.add_undecided(hidden, matrix.cols());
        }
        let whole = &self.hidden[0];
        let out = self
            .logits
            .begin(matrix.rows(), whole.len() / matrix.cols());
        let workers = Workers {
            team,
            chunks: &self.chunks,
            scratch: &self.workers,
        };
        exact::logits(matrix, whole, &workers, out);
        let mut place = 0;
        for is_whole in &self.is_whole {
            match is_whole {
                Whole::Asked => self.logits.push_whole(),
                Whole::Undecided => {
                    self.logits.push_whole();
                    place += 1;
                }
                Whole::No => {
                    self.logits.push_some(self.screening.found(place));
                    place += 1;
                }
            }
        }
    }

    /// What screening did not decide goes through the whole head with the
    /// others, in the order of positions.
    fn add_undecided(&mut self, hidden: &[f32], cols: usize) {
        let whole = &mut self.hidden[0];
        whole.clear();
        let mut place = 0;
        for (is_whole, hidden) in self.is_whole.iter_mut().zip(hidden.chunks_exact(cols)) {
            if *is_whole == Whole::No {
                if self.screening.is_undecided(place) {
                    *is_whole = Whole::Undecided;
                }
                place += 1;
            }
            if *is_whole != Whole::No {
                whole.extend_from_slice(hidden);
            }
        }
    }

    /// Which positions are screened. A hidden state that is no number, or far
    /// from all that a model has, goes through the whole head.
    fn separate(&mut self, batch: &Batch, hidden: &[f32], matrix: &DenseMatrix<'_>) {
        self.some.clear();
        self.is_whole.clear();
        self.hidden.iter_mut().for_each(Vec::clear);
        let (resting, cut_resting) = self.screening.rests();
        let positions = batch
            .spans
            .iter()
            .flat_map(|span| (0..span.num_logits).map(move |place| (span, place)));
        for ((span, place), hidden) in positions.zip(hidden.chunks_exact(matrix.cols())) {
            let question = match span.wanted {
                Wanted::Some {
                    sought,
                    among,
                    named_begin,
                    named_len,
                } if !(resting || cut_resting && sought.cut_draw().is_some())
                    && screened::pays(sought, named_len, matrix.rows())
                    && bound::holds_for(hidden) =>
                {
                    Some(Question {
                        sought: match sought {
                            Sought::Largest(_) => sought,
                            Sought::Winner(draw) => Sought::Winner(draw.later(place)),
                        },
                        among: among.min(matrix.rows()),
                        named: named_begin..named_begin + named_len,
                    })
                }
                _ => None,
            };
            self.is_whole.push(match question {
                None => Whole::Asked,
                Some(_) => Whole::No,
            });
            self.hidden[usize::from(question.is_some())].extend_from_slice(hidden);
            self.some.extend(question);
        }
    }
}

#[cfg(test)]
mod tests;
