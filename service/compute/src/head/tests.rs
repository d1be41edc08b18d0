//! Against the whole head, computed one dot product at a time.

use half::{bf16, f16};
use ternion_engine::{BlockId, Draw, Row, Span, TokenLogit};
use ternion_kernels::float::dot;
use ternion_kernels::head::rounding::{Dither, round};
use ternion_kernels::head::{Activations, Bits};

use super::bound::{TileBounds, TokenBounds, norm};
use super::*;

/// Numbers that look like those of a normal distribution.
struct Normal(u64);

impl Normal {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) as f64 / 2.0_f64.powi(64)
    }

    fn next(&mut self) -> f32 {
        let twelve: f64 = (0..12).map(|_| self.uniform()).sum();
        (twelve - 6.0) as f32
    }

    fn below(&mut self, n: usize) -> usize {
        (self.uniform() * n as f64) as usize
    }

    fn vector(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| scale * self.next()).collect()
    }
}

/// A head with its numbers as they are stored.
struct Stored {
    rows: usize,
    cols: usize,
    format: DenseFormat,
    bytes: Vec<u8>,
}

impl Stored {
    fn new(weights: &[f32], cols: usize, format: DenseFormat) -> Stored {
        let bytes = match format {
            DenseFormat::F32 => weights.iter().flat_map(|x| x.to_le_bytes()).collect(),
            DenseFormat::F16 => weights
                .iter()
                .flat_map(|x| f16::from_f32(*x).to_le_bytes())
                .collect(),
            DenseFormat::BF16 => weights
                .iter()
                .flat_map(|x| bf16::from_f32(*x).to_le_bytes())
                .collect(),
            DenseFormat::Q8_0 => weights.chunks_exact(32).flat_map(q8_0).collect(),
            DenseFormat::Q6K => unreachable!("no test has one"),
        };
        Stored {
            rows: weights.len() / cols,
            cols,
            format,
            bytes,
        }
    }

    fn matrix(&self) -> DenseMatrix<'_> {
        DenseMatrix::new(self.rows, self.cols, self.format, &self.bytes).expect("whole rows")
    }

    fn row(&self, row: usize) -> Vec<f32> {
        let mut out = vec![0.0; self.cols];
        self.matrix().row_into(row, &mut out);
        out
    }

    fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        (0..self.rows)
            .map(|row| dot(hidden, &self.row(row)))
            .collect()
    }
}

fn q8_0(block: &[f32]) -> Vec<u8> {
    let largest = block.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let d = f16::from_f32(largest / 127.0);
    let per_d = if largest > 0.0 { 1.0 / d.to_f32() } else { 0.0 };
    let codes = block.iter().map(|x| (x * per_d).round() as i8 as u8);
    d.to_le_bytes().into_iter().chain(codes).collect()
}

/// What one position asks for.
#[derive(Clone)]
struct Question {
    sought: Sought,
    among: usize,
    named: Vec<u32>,
}

/// A batch of one sequence a question, and one more that needs nothing.
fn batch_of(questions: &[Option<Question>]) -> Batch {
    let mut batch = Batch::default();
    let mut add = |num_logits, wanted| {
        batch.spans.push(Span {
            token_begin: batch.tokens.len(),
            len: 1,
            position: 0,
            table_begin: batch.block_tables.len(),
            table_len: 1,
            num_logits,
            wanted,
        });
        batch.tokens.push(0);
        batch.block_tables.push(BlockId(0));
    };
    let mut named_tokens = Vec::new();
    for question in questions {
        let wanted = match question {
            None => Wanted::All,
            Some(question) => {
                let named_begin = named_tokens.len();
                named_tokens.extend_from_slice(&question.named);
                Wanted::Some {
                    sought: question.sought,
                    among: question.among,
                    named_begin,
                    named_len: question.named.len(),
                }
            }
        };
        add(1, wanted);
        add(0, Wanted::All);
    }
    batch.named_tokens = named_tokens;
    batch
}

/// Panics unless a row holds what [`Row::Some`] promises.
fn check_row(row: Row<'_>, whole: &[f32], question: &Question, how: &str) {
    let found = match row {
        Row::Whole(row) => {
            let same = row
                .iter()
                .zip(whole)
                .all(|(a, b)| a.to_bits() == b.to_bits());
            return assert!(same && row.len() == whole.len(), "{how}: a whole row");
        }
        Row::Some(found) => found,
    };
    assert!(
        found.windows(2).all(|two| two[0].token < two[1].token),
        "{how}: ascending, each once"
    );
    for TokenLogit { token, logit } in found {
        let want = whole[*token as usize];
        assert_eq!(
            logit.to_bits(),
            want.to_bits(),
            "{how}: {token}: {logit} {want}"
        );
    }
    let among = question.among.min(whole.len()) as u32;
    let pads = found.iter().filter(|entry| entry.token >= among);
    assert_eq!(pads.count(), 0, "{how}: nothing that pads the matrix");
    let is_named = |token: &u32| question.named.contains(token);
    let others = (0..among).filter(|token| !is_named(token));
    let is_sought: Box<dyn Fn(u32) -> bool> = match question.sought {
        Sought::Largest(count) => {
            let mut sorted: Vec<f32> = others.map(|token| whole[token as usize]).collect();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let last = sorted.get(count - 1).copied().unwrap_or(f32::NEG_INFINITY);
            Box::new(move |token| whole[token as usize] >= last)
        }
        Sought::Winner(draw) if draw.is_cut() => {
            let winner = cut_winner(&whole[..among as usize], draw);
            assert_eq!(found.len(), 1, "{how}: the winner alone");
            Box::new(move |token| token == winner)
        }
        Sought::Winner(draw) => {
            let race = draw.race();
            let winner = others.max_by_key(|token| race.standing(*token, whole[*token as usize]));
            Box::new(move |token| Some(token) == winner)
        }
    };
    for token in 0..among {
        if is_named(&token) || is_sought(token) {
            let place = found.binary_search_by_key(&token, |entry| entry.token);
            assert!(
                place.is_ok(),
                "{how}: {token} is missing: {}",
                whole[token as usize]
            );
        }
    }
}

fn winner(seed: u64, temperature: f32) -> Sought {
    Sought::Winner(Draw {
        seed,
        index: 5,
        temperature,
        top_p: 1.0,
        min_p: 0.0,
    })
}

/// The token of a draw that is cut, by sorting all.
fn cut_winner(whole: &[f32], draw: Draw) -> u32 {
    let mut left: Vec<u32> = (0..whole.len() as u32).collect();
    let logit = |token: u32| f64::from(whole[token as usize]);
    left.sort_by(|a, b| logit(*b).total_cmp(&logit(*a)).then(a.cmp(b)));
    let largest = logit(left[0]);
    let weight = |token: u32| ((logit(token) - largest) / f64::from(draw.temperature)).exp();
    let enough = left.iter().map(|token| weight(*token)).sum::<f64>() * f64::from(draw.top_p);
    let mut before = 0.0;
    left.retain(|token| {
        let is_left = draw.top_p >= 1.0 || before < enough;
        before += weight(*token);
        is_left && weight(*token) >= f64::from(draw.min_p)
    });
    let race = draw.race();
    let standing = |token: &u32| race.standing(*token, whole[*token as usize]);
    left.into_iter()
        .max_by_key(standing)
        .expect("the likeliest")
}

/// Screens the hidden states all at once and each alone. Returns the
/// candidates of them all at once.
fn check(stored: &Stored, hidden: &[Vec<f32>], questions: &[Question], how: &str) -> Candidates {
    let team = Team::new(2);
    let matrix = stored.matrix();
    let head = Head::new(HeadChoice::Screened, &matrix, &team).expect("it can be screened");
    let whole: Vec<Vec<f32>> = hidden.iter().map(|hidden| stored.logits(hidden)).collect();

    let mut together = Scratch::new(stored.rows, 3);
    let batch = batch_of(&questions.iter().cloned().map(Some).collect::<Vec<_>>());
    together.fill(&head, &matrix, &batch, &hidden.concat(), &team);
    assert_eq!(together.logits.len(), hidden.len());
    for (place, row) in together.logits.rows().enumerate() {
        check_row(
            row,
            &whole[place],
            &questions[place],
            &format!("{how}, {place} of many"),
        );
    }
    let mut alone = Scratch::new(stored.rows, 3);
    for (place, hidden) in hidden.iter().enumerate() {
        let batch = batch_of(&[Some(questions[place].clone())]);
        alone.fill(&head, &matrix, &batch, hidden, &team);
        let row = alone.logits.row(0);
        check_row(
            row,
            &whole[place],
            &questions[place],
            &format!("{how}, {place} alone"),
        );
    }
    together.candidates()
}

/// Heads with something about them.
fn heads(cols: usize) -> Vec<(&'static str, Vec<f32>)> {
    const ROWS: usize = 1300;
    let mut normal = Normal(cols as u64);
    let plain = normal.vector(ROWS * cols, 0.03);
    let with = |change: &mut dyn FnMut(usize, &mut [f32])| {
        let mut weights = plain.clone();
        for (row, weights) in weights.chunks_exact_mut(cols).enumerate() {
            change(row, weights);
        }
        weights
    };
    vec![
        ("normal", plain.clone()),
        ("every row twice", {
            let half = &plain[..ROWS / 2 * cols];
            [half, half].concat()
        }),
        (
            "all rows alike",
            with(&mut |_, row| row.copy_from_slice(&plain[..cols])),
        ),
        (
            "alike but for the last bit of one weight",
            with(&mut |n, row| {
                row.copy_from_slice(&plain[..cols]);
                let bits = f16::from_f32(row[n % cols]).to_bits();
                row[n % cols] = f16::from_bits(bits ^ 1).to_f32();
            }),
        ),
        (
            "large and small rows",
            with(&mut |n, row| {
                let scale = [1e-4, 1.0, 30.0, 1000.0][n % 4];
                row.iter_mut().for_each(|x| *x *= scale);
            }),
        ),
        (
            "zero rows, and zeros but for one weight",
            with(&mut |n, row| match n % 3 {
                0 => row.fill(0.0),
                1 => row[1..].fill(0.0),
                _ => {}
            }),
        ),
        (
            "one weight far above the rest",
            with(&mut |n, row| row[n * 7 % cols] = if n % 2 == 0 { 4.0 } else { -4.0 }),
        ),
        ("all zero", vec![0.0; ROWS * cols]),
    ]
}

#[test]
fn screening_finds_all_that_can_matter_with_the_heads_own_logits() {
    for cols in [64, 256, 100] {
        for (name, weights) in heads(cols) {
            let mut normal = Normal(7);
            let formats = [
                DenseFormat::F16,
                DenseFormat::BF16,
                DenseFormat::F32,
                DenseFormat::Q8_0,
            ];
            let formats = formats.into_iter().filter(|f| f.row_bytes(cols).is_some());
            for format in formats {
                let stored = Stored::new(&weights, cols, format);
                let mut hidden: Vec<Vec<f32>> = [1.0, 1e-3, 300.0, 1.0, 1.0]
                    .map(|scale| normal.vector(cols, scale))
                    .into();
                // Peaks at one row; an outlier.
                hidden.push(
                    stored
                        .row(normal.below(stored.rows))
                        .iter()
                        .map(|x| 40.0 * x + 1e-6)
                        .collect(),
                );
                hidden[0][3] = 80.0;
                let largest = [1, 40, 5, 1, 2, 1].map(Sought::Largest);
                let drawn = [1.0, 0.01, 0.6, 5.0, 1e-3, 2.0].map(|temperature| {
                    let seed = normal.below(1 << 30) as u64;
                    winner(seed, temperature)
                });
                let cut = drawn.map(|sought| match sought {
                    Sought::Winner(draw) => Sought::Winner(Draw {
                        top_p: [1.0, 0.95, 0.5][normal.below(3)],
                        min_p: [0.0, 0.1][normal.below(2)],
                        ..draw
                    }),
                    Sought::Largest(_) => sought,
                });
                for (how, sought) in [("largest", largest), ("drawn", drawn), ("cut", cut)] {
                    let questions: Vec<Question> = (0..hidden.len())
                        .map(|i| Question {
                            sought: sought[i],
                            among: [usize::MAX, stored.rows, 999, 700, 17, usize::MAX][i],
                            named: match i % 2 {
                                _ if sought[i].cut_draw().is_some() => vec![],
                                0 => vec![],
                                _ => (0..20).map(|_| normal.below(stored.rows) as u32).collect(),
                            },
                        })
                        .collect();
                    check(
                        &stored,
                        &hidden,
                        &questions,
                        &format!("{how}, {name}, {format:?}, {cols} columns"),
                    );
                }
            }
        }
    }
}

#[test]
fn the_best_token_may_be_named() {
    let mut weights = Normal(3).vector(600 * 64, 0.1);
    let hidden = Normal(4).vector(64, 1.0);
    // Far above all others.
    for row in weights.chunks_exact_mut(64).take(20) {
        row.copy_from_slice(&hidden);
    }
    let stored = Stored::new(&weights, 64, DenseFormat::F16);
    let question = Question {
        sought: Sought::Largest(3),
        among: 600,
        named: (0..20).collect(),
    };
    check(&stored, &[hidden], &[question], "the twenty best are named");
}

#[test]
fn few_rows_of_a_normal_head_are_computed() {
    const ROWS: usize = 8192;
    let stored = Stored::new(&Normal(1).vector(ROWS * 512, 0.03), 512, DenseFormat::F16);
    let hidden: Vec<Vec<f32>> = (0..4)
        .map(|seed| Normal(90 + seed).vector(512, 1.0))
        .collect();
    for sought in [
        Sought::Largest(1),
        winner(1, 0.2),
        winner(2, 1.0),
        winner(3, 5.0),
    ] {
        let question = Question {
            sought,
            among: ROWS,
            named: vec![],
        };
        let candidates = check(&stored, &hidden, &vec![question; 4], "normal");
        let mean = candidates.rows as f64 / candidates.positions as f64;
        assert!(
            (1.0..0.1 * ROWS as f64).contains(&mean),
            "{sought:?}: {mean} rows"
        );
    }
}

/// Hidden states that are near some rows, as a model's are that knows what to
/// say, and one that is near none.
#[test]
fn most_draws_that_are_cut_are_decided_without_the_whole_head() {
    const ROWS: usize = 8192;
    const COLS: usize = 512;
    let stored = Stored::new(&Normal(1).vector(ROWS * COLS, 0.03), COLS, DenseFormat::F16);
    let team = Team::new(2);
    let matrix = stored.matrix();
    let head = Head::new(HeadChoice::Screened, &matrix, &team).expect("it can be screened");
    let mut normal = Normal(8);
    let (mut decided, mut cut, mut others) = ([0; 2], 0, 0);
    for seed in 0..150 {
        let mut hidden = normal.vector(COLS, 1.0);
        let is_peaked = seed % 3 > 0;
        if is_peaked {
            for n in 0..4 {
                let like = stored.row(normal.below(ROWS));
                let scale = 30.0 - 1.5 * n as f32;
                hidden
                    .iter_mut()
                    .zip(like)
                    .for_each(|(x, like)| *x += scale * like);
            }
        }
        let draw = Draw {
            seed,
            index: 0,
            temperature: 0.6,
            top_p: 0.9,
            min_p: [0.0, 0.02][seed as usize % 2],
        };
        let question = Question {
            sought: Sought::Winner(draw),
            among: ROWS,
            named: vec![],
        };
        let mut scratch = Scratch::new(ROWS, 3);
        let batch = batch_of(&[Some(question.clone())]);
        scratch.fill(&head, &matrix, &batch, &hidden, &team);
        let whole = stored.logits(&hidden);
        let row = scratch.logits.row(0);
        check_row(row, &whole, &question, &format!("seed {seed}"));
        if let Row::Some(_) = row {
            decided[usize::from(is_peaked)] += 1;
            let winner = cut_winner(&whole, draw);
            let likeliest = whole.iter().copied().fold(f32::MIN, f32::max);
            others += u32::from(whole[winner as usize] < likeliest);
            let open = Draw {
                top_p: 1.0,
                min_p: 0.0,
                ..draw
            };
            cut += u32::from(winner != cut_winner(&whole, open));
        }
    }
    assert!(decided[1] > 80, "{decided:?} of 50 and 100");
    assert!(
        decided[0] < 50,
        "{decided:?}: some had to be looked at whole"
    );
    assert!(
        others > 5 && cut > 0,
        "{others} not the likeliest, {cut} were cut"
    );
}

#[test]
fn bounds_hold_and_are_not_far_off() {
    const COLS: usize = 640;
    let mut normal = Normal(11);
    let mut activations = Activations::default();
    let hidden = normal.vector(COLS, 2.0);
    let variant = Variant::best();
    let mut furthest = 0.0_f32;
    for seed in 0..400 {
        let dither = Dither::random(seed, COLS);
        activations.prepare(&hidden, &dither, Bits::Four);
        let token = TokenBounds::new(&activations.tokens()[0]);
        let mut codes = ternion_kernels::head::Codes::new(Bits::Four, 16, COLS);
        let mut bounds = TileBounds::ZERO;
        let mut exact = [0.0; 16];
        let mut steps = [0.0; 16];
        for row in 0..16 {
            let weights = normal.vector(COLS, 0.05);
            let largest = weights.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
            steps[row] = 2.0 * largest / 15.0 * 1.000_001;
            let mut row_codes = vec![0; COLS];
            round(&weights, 15, steps[row], &dither, &mut row_codes);
            ternion_kernels::head::Codes::pack(Bits::Four, row, &row_codes, codes.lines_mut());
            bounds.set(row, COLS, norm(&weights), steps[row]);
            exact[row] = dot(&hidden, &weights);
        }
        let mut sums = [0; 16];
        variant.sums(&codes, 0..1, &activations, &mut sums);
        let (about, at_most) = bounds.estimate(&sums, &token, 15);
        for row in 0..16 {
            assert!(
                at_most[row] >= exact[row],
                "{} < {}",
                at_most[row],
                exact[row]
            );
            let unit = steps[row] * norm(&hidden) as f32;
            assert!(
                at_most[row] - about[row] < 2.8 * unit,
                "the bound is no looser than it says"
            );
            furthest = furthest.max((exact[row] - about[row]) / unit);
        }
    }
    // A deviation is 1 / sqrt(12) of a step, and these are four of them in
    // 6400 rows: errors are what the bound is made for.
    assert!((0.8..1.6).contains(&furthest), "{furthest} steps");
}

#[test]
fn what_cannot_be_bounded_goes_through_the_whole_head() {
    let weights = Normal(5).vector(640 * 64, 0.1);
    let stored = Stored::new(&weights, 64, DenseFormat::F16);
    let team = Team::new(1);
    let matrix = stored.matrix();
    let head = Head::new(HeadChoice::Screened, &matrix, &team).unwrap();
    let question = |count, named: usize| Question {
        sought: Sought::Largest(count),
        among: 640,
        named: vec![1; named],
    };
    let ordinary = Normal(6).vector(64, 1.0);
    let mut nan = ordinary.clone();
    nan[9] = f32::NAN;
    let cases = [
        (nan, Some(question(1, 0))),
        (vec![f32::INFINITY; 64], Some(question(1, 0))),
        (vec![0.0; 64], Some(question(1, 0))),
        (vec![1e30; 64], Some(question(1, 0))),
        (ordinary.clone(), Some(question(41, 0))),
        (ordinary.clone(), Some(question(1, 40))),
        (
            ordinary.clone(),
            Some(Question {
                sought: winner(1, 1e-5),
                ..question(1, 0)
            }),
        ),
        (ordinary.clone(), None),
        (ordinary.clone(), Some(question(1, 39))),
    ];
    let hidden: Vec<f32> = cases.iter().flat_map(|case| case.0.clone()).collect();
    let questions: Vec<_> = cases.iter().map(|case| case.1.clone()).collect();
    let mut scratch = Scratch::new(stored.rows, 3);
    scratch.fill(&head, &matrix, &batch_of(&questions), &hidden, &team);
    let is_whole: Vec<bool> = scratch
        .logits
        .rows()
        .map(|row| matches!(row, Row::Whole(_)))
        .collect();
    assert_eq!(
        is_whole,
        [true, true, true, true, true, true, true, true, false]
    );
    for (row, (hidden, _)) in scratch.logits.rows().zip(&cases) {
        if let Row::Whole(row) = row {
            let want = stored.logits(hidden);
            assert!(
                row.iter()
                    .zip(&want)
                    .all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
            );
        }
    }
}

#[test]
fn a_head_that_holds_what_is_no_number_is_not_screened() {
    let team = Team::new(2);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, 1e-30] {
        let mut weights = vec![0.5; 100 * 64];
        weights[33 * 64..34 * 64].fill(bad);
        let stored = Stored::new(&weights, 64, DenseFormat::F32);
        for choice in [HeadChoice::Screened, HeadChoice::Int8] {
            let refusal = Head::new(choice, &stored.matrix(), &team).err();
            assert_eq!(
                refusal.as_deref(),
                Some("row 33 of the output head has no usable norm")
            );
        }
    }
    // Large enough to be screened, if it could be.
    let mut weights = vec![0.5; SCREENED_BYTES / 4];
    let choice = |weights: &[f32]| {
        let stored = Stored::new(weights, 256, DenseFormat::F32);
        Head::new(HeadChoice::Auto, &stored.matrix(), &team)
            .unwrap()
            .choice()
    };
    let best = match Variant::best().is_portable() {
        true => HeadChoice::F16,
        false => HeadChoice::Screened,
    };
    assert_eq!(choice(&weights), best);
    assert_eq!(choice(&weights[256..]), HeadChoice::F16);
    weights[77] = f32::NAN;
    assert_eq!(choice(&weights), HeadChoice::F16);
}

#[test]
fn a_screen_rests_where_it_does_not_help() {
    let row = Normal(5).vector(64, 0.1);
    let stored = Stored::new(&row.repeat(640), 64, DenseFormat::F16);
    let team = Team::new(1);
    let matrix = stored.matrix();
    let head = Head::new(HeadChoice::Screened, &matrix, &team).unwrap();
    let batch = batch_of(&[Some(Question {
        sought: Sought::Largest(1),
        among: 640,
        named: vec![],
    })]);
    let mut scratch = Scratch::new(stored.rows, 3);
    let hidden = Normal(6).vector(64, 1.0);
    let screened: Vec<usize> = (0..20)
        .filter(|_| {
            scratch.fill(&head, &matrix, &batch, &hidden, &team);
            matches!(scratch.logits.row(0), Row::Some(_))
        })
        .collect();
    // Rests of 1, 3, 7 and more steps.
    assert_eq!(screened, [0, 2, 6, 14]);
}

#[test]
fn rounded_to_eight_bits_logits_are_close_and_do_not_depend_on_their_batch() {
    let mut normal = Normal(8);
    let stored = Stored::new(&normal.vector(1000 * 256, 0.05), 256, DenseFormat::F16);
    let matrix = stored.matrix();
    let hidden = normal.vector(7 * 256, 1.0);
    let whole = |hidden: &[f32], threads| {
        let team = Team::new(threads);
        let head = Head::new(HeadChoice::Int8, &matrix, &team).unwrap();
        let mut scratch = Scratch::new(stored.rows, 3);
        let batch = batch_of(&vec![None; hidden.len() / 256]);
        scratch.fill(&head, &matrix, &batch, hidden, &team);
        scratch.logits.whole_rows().to_vec()
    };
    let together = whole(&hidden, 3);
    for (hidden, together) in hidden.chunks_exact(256).zip(together.chunks_exact(1000)) {
        assert_eq!(whole(hidden, 1), together);
        for (row, (got, want)) in together.iter().zip(stored.logits(hidden)).enumerate() {
            let weights = stored.row(row);
            let largest = weights.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
            // Half a step a weight, at its worst; 1e-4 for the activations.
            let half_step = largest / 255.0;
            let allowed = half_step * hidden.iter().map(|x| x.abs()).sum::<f32>() + 1e-4;
            assert!((got - want).abs() <= allowed, "{got} {want}");
        }
        let differs = together
            .iter()
            .zip(stored.logits(hidden))
            .filter(|(a, b)| *a != b);
        assert!(differs.count() > 900, "rounded means not equal");
    }
}
