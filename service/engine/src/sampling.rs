//! From a row of logits to a token.
//!
//! [`Sampling`] documents what is done in which order. Everything here is
//! arithmetic on one row in an order of its own, with ties broken by token id,
//! so the choice is a function of the row, the request and the tokens so far.

use std::array;
use std::cell::OnceCell;
use std::cmp::Ordering;

use crate::exp::exp;
use crate::race::{Draw, Race, Standing};
use crate::{Row, Sampling, Sought, TokenLogprob};

/// Scores that are looked at at once, and sums of weights that are kept apart
/// until the end: as many as make good use of vectors.
const LANES: usize = 16;

/// Lanes of tokens this far below the likeliest, over temperature, are left out
/// of sums: they weigh less than 2^-92, which no vocabulary makes count.
const WEIGHTLESS: f64 = -64.0;

/// Chooses tokens. One serves all sequences: what it holds is scratch memory.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    scores: Scores,
    candidates: Vec<Candidate>,
    /// How often the token of each score occurs; all 0 between calls.
    counts: Vec<u32>,
}

/// The scores of all tokens, or of those that can matter.
#[derive(Debug, Default)]
struct Scores {
    values: Vec<f32>,
    /// Whose they are, ascending; empty where they are those of all.
    tokens: Vec<u32>,
}

impl Scores {
    fn read(&mut self, row: Row<'_>) {
        self.values.clear();
        self.tokens.clear();
        match row {
            Row::Whole(logits) => self.values.extend_from_slice(logits),
            Row::Some(logits) => {
                self.values.extend(logits.iter().map(|entry| entry.logit));
                self.tokens.extend(logits.iter().map(|entry| entry.token));
            }
        }
    }

    fn place_of(&self, token: u32) -> Option<usize> {
        if self.tokens.is_empty() {
            return Some(token as usize).filter(|place| *place < self.values.len());
        }
        self.tokens.binary_search(&token).ok()
    }

    #[inline]
    fn token_at(&self, place: usize) -> u32 {
        match self.tokens.is_empty() {
            true => place as u32,
            false => self.tokens[place],
        }
    }

    fn at(&self, place: usize) -> Candidate {
        Candidate {
            score: self.values[place],
            token: self.token_at(place),
        }
    }

    fn candidates(&self) -> impl Iterator<Item = Candidate> {
        (0..self.values.len()).map(|place| self.at(place))
    }

    /// Places and scores, `LANES` at a time; the last are filled up with what
    /// is never chosen.
    fn chunks(&self) -> impl Iterator<Item = (usize, [f32; LANES])> {
        let (whole, rest) = self.values.as_chunks::<LANES>();
        let mut last = [f32::NEG_INFINITY; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let last = (!rest.is_empty()).then_some(last);
        let begins = (0..).step_by(LANES);
        begins.zip(whole.iter().copied().chain(last))
    }

    /// Whose the scores of a chunk are.
    #[inline]
    fn tokens_from(&self, begin: usize) -> [u32; LANES] {
        match self.tokens.get(begin..) {
            Some(tokens) if !tokens.is_empty() => {
                let mut some = [0; LANES];
                let len = tokens.len().min(LANES);
                some[..len].copy_from_slice(&tokens[..len]);
                some
            }
            _ => array::from_fn(|lane| (begin + lane) as u32),
        }
    }

    /// The first score that is a fault: -inf is a way of saying never, NaN and
    /// the other infinity are not.
    fn first_bad(&self) -> Option<Candidate> {
        let is_bad = |score: f32| score.is_nan() | (score == f32::INFINITY);
        let any_bad = |scores: &[f32; LANES]| scores.iter().fold(false, |any, x| any | is_bad(*x));
        let (begin, _) = self.chunks().find(|(_, scores)| any_bad(scores))?;
        let places = begin..self.values.len();
        let mut candidates = places.map(|place| self.at(place));
        candidates.find(|candidate| is_bad(candidate.score))
    }

    /// The largest score, and of equal ones the one with the lowest id.
    fn likeliest(&self) -> Result<Candidate, Unsampleable> {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for (_, scores) in self.chunks() {
            for (lane, score) in lanes.iter_mut().zip(scores) {
                *lane = if score > *lane { score } else { *lane };
            }
        }
        let largest = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
        if largest == f32::NEG_INFINITY {
            return Err(Unsampleable::NothingLeft);
        }
        let place = self.values.iter().position(|score| *score == largest);
        let best = self.at(place.expect("it is one of them"));
        match best.score {
            f32::INFINITY => Err(Unsampleable::PenaltyOverflow { token: best.token }),
            _ => Ok(best),
        }
    }
}

/// What a choice depends on besides the logits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice<'a> {
    pub(crate) sampling: &'a Sampling,
    pub(crate) prompt: &'a [u32],
    pub(crate) generated: &'a [u32],
    /// Tokens that must not be chosen this time.
    pub(crate) forbidden: [&'a [u32]; 2],
}

impl<'a> Choice<'a> {
    /// What can matter besides the logits of the [named](Choice::named) tokens;
    /// `None`: all logits.
    ///
    /// The one place that says what a way of sampling looks at. Of the tokens
    /// that are not named none is forbidden or penalised, so that those among
    /// the first k after all penalties are among the first k before, and where
    /// one of them wins a race it wins that of the logits. What `top_p` and
    /// `min_p` leave depends on what all tokens weigh, so that no token may be
    /// named then, and a log-probability does too.
    pub(crate) fn sought(&self, num_tokens: usize) -> Option<Sought> {
        let sampling = self.sampling;
        if sampling.num_logprobs.is_some() {
            return None;
        }
        let top_k = sampling.top_k as usize;
        match (sampling.temperature, top_k) {
            (0.0, _) => Some(Sought::Largest(1)),
            (_, 1..) if top_k < num_tokens => Some(Sought::Largest(top_k)),
            _ => {
                // Penalties count even where nothing was generated yet: for a
                // draw behind a guess.
                let names_some = self.named().iter().any(|tokens| !tokens.is_empty());
                let some_change = names_some || self.penalises();
                let draw = Some(self.draw()).filter(|draw| !(draw.is_cut() && some_change));
                draw.map(Sought::Winner)
            }
        }
    }

    fn draw(&self) -> Draw {
        Draw {
            seed: self.sampling.seed,
            index: self.generated.len() as u64,
            temperature: self.sampling.temperature,
            top_p: self.sampling.top_p,
            min_p: self.sampling.min_p,
        }
    }

    /// Whether what was generated changes scores.
    pub(crate) fn penalises(&self) -> bool {
        let sampling = self.sampling;
        sampling.repetition_penalty != 1.0
            || sampling.presence_penalty != 0.0
            || sampling.frequency_penalty != 0.0
    }

    /// Tokens whose scores are not their logits.
    pub(crate) fn named(&self) -> [&'a [u32]; 4] {
        let sampling = self.sampling;
        let repetition = sampling.repetition_penalty != 1.0;
        let [end, stop] = self.forbidden;
        [
            end,
            stop,
            if repetition { self.prompt } else { &[] },
            if self.penalises() {
                self.generated
            } else {
                &[]
            },
        ]
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sampled {
    pub(crate) token: u32,
    pub(crate) logprob: Option<f32>,
    pub(crate) top: Vec<TokenLogprob>,
}

/// Why no token can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub(crate) enum Unsampleable {
    #[error("logit of token {token} is {logit}")]
    BadLogit { token: u32, logit: f32 },
    #[error("penalties make the score of token {token} infinite")]
    PenaltyOverflow { token: u32 },
    #[error("no token may be chosen: all are forbidden or have a logit of -inf")]
    NothingLeft,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    score: f32,
    token: u32,
}

impl Candidate {
    fn by_likelihood(&self, other: &Candidate) -> Ordering {
        let by_score = other.score.total_cmp(&self.score);
        by_score.then(self.token.cmp(&other.token))
    }
}

impl Sampler {
    /// Chooses from a row that holds at least what [`Choice::sought`] and
    /// [`Choice::named`] say: whatever more it holds does not matter.
    pub(crate) fn sample(
        &mut self,
        row: Row<'_>,
        choice: &Choice<'_>,
    ) -> Result<Sampled, Unsampleable> {
        self.scores.read(row);
        if let Some(Candidate { token, score }) = self.scores.first_bad() {
            let logit = score;
            return Err(Unsampleable::BadLogit { token, logit });
        }
        self.forbid(&choice.forbidden);
        self.penalise(choice);
        let token = self.choose(choice)?;
        Ok(match (choice.sampling.num_logprobs, row) {
            (Some(num_top), Row::Whole(logits)) => {
                self.with_logprobs(token, logits, num_top as usize)
            }
            (Some(_), Row::Some(_)) => unreachable!("log-probabilities need a whole row"),
            (None, _) => Sampled {
                token,
                logprob: None,
                top: Vec::new(),
            },
        })
    }

    fn forbid(&mut self, forbidden: &[&[u32]]) {
        for &token in forbidden.iter().copied().flatten() {
            if let Some(place) = self.scores.place_of(token) {
                self.scores.values[place] = f32::NEG_INFINITY;
            }
        }
    }

    /// Repetition penalty as in CTRL (Keskar et al., 2019), over prompt and
    /// generated tokens; frequency and presence penalties as in OpenAI's API,
    /// over generated tokens.
    ///
    /// Counts are made anew for each token and then undone: that costs a pass
    /// over the sequence, where counts kept with each sequence would cost a
    /// vocabulary of memory.
    fn penalise(&mut self, choice: &Choice<'_>) {
        let sampling = choice.sampling;
        let (repetition, presence, frequency) = (
            sampling.repetition_penalty,
            sampling.presence_penalty,
            sampling.frequency_penalty,
        );
        if repetition != 1.0 {
            self.for_each_distinct([choice.prompt, choice.generated], |score, _| {
                *score = match *score > 0.0 {
                    true => *score / repetition,
                    false => *score * repetition,
                }
            });
        }
        if presence != 0.0 || frequency != 0.0 {
            self.for_each_distinct([&[], choice.generated], |score, count| {
                *score -= frequency * count as f32 + presence;
            });
        }
    }

    /// Visits the score of each token that occurs, once, with how often.
    fn for_each_distinct(&mut self, tokens: [&[u32]; 2], visit: impl Fn(&mut f32, u32)) {
        let Sampler { scores, counts, .. } = self;
        if counts.len() < scores.values.len() {
            counts.resize(scores.values.len(), 0);
        }
        let occurring = || tokens.iter().copied().flatten();
        for &token in occurring() {
            if let Some(place) = scores.place_of(token) {
                counts[place] += 1;
            }
        }
        for &token in occurring() {
            if let Some(place) = scores.place_of(token)
                && counts[place] > 0
            {
                visit(&mut scores.values[place], counts[place]);
                counts[place] = 0;
            }
        }
    }

    fn choose(&mut self, choice: &Choice<'_>) -> Result<u32, Unsampleable> {
        let best = self.scores.likeliest()?;
        let sampling = choice.sampling;
        if sampling.temperature == 0.0 {
            return Ok(best.token);
        }
        self.keep_top_k(sampling.top_k as usize);
        let field = Field {
            scores: &self.scores,
            best,
            temperature: f64::from(sampling.temperature),
        };
        Ok(field.draw(choice.draw()))
    }

    /// Leaves the k likeliest, by ascending id.
    fn keep_top_k(&mut self, k: usize) {
        if k == 0 || k >= self.scores.values.len() {
            return;
        }
        self.list_likeliest(k);
        self.candidates
            .sort_unstable_by_key(|candidate| candidate.token);
        let Sampler {
            scores, candidates, ..
        } = self;
        scores.values.clear();
        scores.tokens.clear();
        scores
            .values
            .extend(candidates.iter().map(|candidate| candidate.score));
        scores
            .tokens
            .extend(candidates.iter().map(|candidate| candidate.token));
    }

    /// Makes the k likeliest of all scores the candidates, in any order.
    fn list_likeliest(&mut self, k: usize) {
        self.candidates.clear();
        self.candidates.extend(self.scores.candidates());
        if k < self.candidates.len() {
            self.candidates
                .select_nth_unstable_by(k - 1, Candidate::by_likelihood);
            self.candidates.truncate(k);
        }
    }

    /// Log-probabilities under the row as the model gave it.
    fn with_logprobs(&mut self, token: u32, logits: &[f32], num_top: usize) -> Sampled {
        self.scores.read(Row::Whole(logits));
        let max = self.scores.likeliest().expect("a token was chosen").score;
        let sum = sum_of_weights(&self.scores, max, 1.0);
        // That of the C library differs between machines.
        let log_sum = libm::log(sum);
        let logprob = |logit: f32| (f64::from(logit) - f64::from(max) - log_sum) as f32;

        self.candidates.clear();
        if num_top > 0 {
            self.list_likeliest(num_top);
            self.candidates.sort_unstable_by(Candidate::by_likelihood);
        }
        let top = self.candidates.iter().map(|candidate| TokenLogprob {
            token: candidate.token,
            logprob: logprob(candidate.score),
        });
        Sampled {
            token,
            logprob: Some(logprob(logits[token as usize])),
            top: top.collect(),
        }
    }
}

/// What is drawn from.
struct Field<'a> {
    scores: &'a Scores,
    best: Candidate,
    temperature: f64,
}

impl Field<'_> {
    /// The winner of the race among those that `top_p` and `min_p` leave.
    ///
    /// They leave the likeliest, down to some place. So where the winner of all
    /// is not among them, those that are no likelier aren't either, and the
    /// race is run again among the rest.
    fn draw(&self, draw: Draw) -> u32 {
        let Draw { top_p, min_p, .. } = draw;
        let race = draw.race();
        let (largest, temperature) = (self.best.score, self.temperature);
        let enough = OnceCell::new();
        let enough = || {
            let sum = || sum_of_weights(self.scores, largest, temperature);
            *enough.get_or_init(|| sum() * f64::from(top_p))
        };
        let is_left = |candidate: &Candidate| {
            // The likeliest is: that nothing has to be summed for it is what
            // most draws from a model that knows what to say are about.
            candidate.token == self.best.token
                || weight(candidate.score, largest, temperature) >= f64::from(min_p)
                    && (top_p >= 1.0 || self.weight_before(candidate) < enough())
        };
        let mut winner = self.winner(&race, None);
        while !is_left(&winner) {
            winner = self.winner(&race, Some(winner));
        }
        winner.token
    }

    /// The first in the race, of all or of those that are likelier than one of
    /// them.
    fn winner(&self, race: &Race, worse: Option<Candidate>) -> Candidate {
        let runs = |candidate: &Candidate| {
            candidate.score > f32::NEG_INFINITY
                && worse.is_none_or(|worse| candidate.by_likelihood(&worse).is_lt())
        };
        let mut first = (self.best, race.standing(self.best.token, self.best.score));
        let mut bar = self.bar(&first.1);
        // Less than infinity, so that the best is not NaN. That makes bounds
        // higher, if anything.
        let per_temperature = (1.0 / self.temperature).min(1e30) as f32;
        for (begin, scores) in self.scores.chunks() {
            let tokens = self.scores.tokens_from(begin);
            let at_most: [f32; LANES] = array::from_fn(|lane| {
                let luck = race.luck_at_most(tokens[lane]);
                (scores[lane] - self.best.score) * per_temperature + luck
            });
            if at_most.iter().fold(true, |all, x| all & (*x < bar)) {
                continue;
            }
            for (place, at_most) in (begin..self.scores.values.len()).zip(at_most) {
                let candidate = self.scores.at(place);
                if at_most >= bar && runs(&candidate) {
                    let standing = race.standing(candidate.token, candidate.score);
                    if standing > first.1 {
                        first = (candidate, standing);
                        bar = self.bar(&standing);
                    }
                }
            }
        }
        first.0
    }

    /// What a token's luck and what its score is above the best, over
    /// temperature, sum to at least if it comes in before another: with room
    /// for what that sum loses in f32, and for what standings lose where they
    /// are large.
    fn bar(&self, standing: &Standing) -> f32 {
        let best = f64::from(self.best.score) / self.temperature;
        let lost = 1e-4 + 1e-15 * best.abs();
        (standing.sum() - best - lost) as f32
    }

    /// Of those that are likelier than one of them.
    fn weight_before(&self, candidate: &Candidate) -> f64 {
        let mut sum = 0.0;
        for (begin, scores) in self.scores.chunks() {
            if scores
                .iter()
                .fold(true, |all, score| all & (*score < candidate.score))
            {
                continue;
            }
            let end = self.scores.values.len().min(begin + LANES);
            let others = (begin..end).map(|place| self.scores.at(place));
            for other in others.filter(|other| other.by_likelihood(candidate).is_lt()) {
                sum += weight(other.score, self.best.score, self.temperature);
            }
        }
        sum
    }
}

/// In proportion to a probability; 1 for the likeliest. Differences are taken
/// before dividing by the temperature, and in f64, so that no temperature
/// overflows.
#[inline]
fn weight(score: f32, largest: f32, temperature: f64) -> f64 {
    exp((f64::from(score) - f64::from(largest)) / temperature)
}

/// By lanes, which are joined in order: the same sum however it is computed.
fn sum_of_weights(scores: &Scores, largest: f32, temperature: f64) -> f64 {
    let mut lanes = [0.0; LANES];
    // Most of a large vocabulary is too unlikely to change the sum.
    let lowest = largest + (WEIGHTLESS * temperature) as f32;
    for (_, scores) in scores.chunks() {
        if scores
            .iter()
            .fold(true, |all, score| all & (*score < lowest))
        {
            continue;
        }
        for (lane, score) in lanes.iter_mut().zip(scores) {
            *lane += weight(score, largest, temperature);
        }
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests;
