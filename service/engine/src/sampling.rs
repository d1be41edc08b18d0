//! From a row of logits to a token.
//!
//! [`Sampling`] documents what is done in which order. Everything here is
//! sequential arithmetic on one row, with ties broken by token id, so the
//! choice is a function of the row, the request and the tokens so far.

use std::cmp::Ordering;

use crate::exp::exp;
use crate::random;
use crate::{Row, Sampling, TokenLogprob};

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

    fn iter(&self) -> impl Iterator<Item = (u32, f32)> {
        let token = |place: usize| match self.tokens.is_empty() {
            true => place as u32,
            false => self.tokens[place],
        };
        let values = self.values.iter().enumerate();
        values.map(move |(place, value)| (token(place), *value))
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
    /// How many of the largest logits can matter, besides those of the
    /// [named](Choice::named) tokens; `None`: all do.
    ///
    /// The one place that says what a way of sampling looks at. Of the tokens
    /// that are not named none is forbidden or penalised, so that those among
    /// the first k after all penalties are among the first k before. A draw
    /// without `top_k` depends on what all tokens weigh, and a log-probability
    /// does too.
    pub(crate) fn num_largest(&self, num_tokens: usize) -> Option<usize> {
        let sampling = self.sampling;
        let count = match sampling.temperature {
            0.0 => 1,
            _ => sampling.top_k as usize,
        };
        let some = sampling.num_logprobs.is_none() && count > 0 && count < num_tokens;
        some.then_some(count)
    }

    /// Tokens whose scores are not their logits.
    pub(crate) fn named(&self) -> [&'a [u32]; 4] {
        let sampling = self.sampling;
        let repetition = sampling.repetition_penalty != 1.0;
        let others = sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0;
        let [end, stop] = self.forbidden;
        [
            end,
            stop,
            if repetition { self.prompt } else { &[] },
            if repetition || others {
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
    /// In proportion to its probability; 1 for the likeliest.
    weight: f64,
}

impl Candidate {
    fn by_likelihood(&self, other: &Candidate) -> Ordering {
        let by_score = other.score.total_cmp(&self.score);
        by_score.then(self.token.cmp(&other.token))
    }
}

impl Sampler {
    /// Chooses from a row that holds at least what [`Choice::num_largest`] and
    /// [`Choice::named`] say: whatever more it holds does not matter.
    pub(crate) fn sample(
        &mut self,
        row: Row<'_>,
        choice: &Choice<'_>,
    ) -> Result<Sampled, Unsampleable> {
        self.scores.read(row);
        // -inf is a way of saying never, the other two are faults.
        let is_bad = |(_, logit): &(u32, f32)| logit.is_nan() || *logit == f32::INFINITY;
        if let Some((token, logit)) = self.scores.iter().find(is_bad) {
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
        let best = likeliest(&self.scores)?;
        let sampling = choice.sampling;
        if sampling.temperature == 0.0 {
            return Ok(best.token);
        }
        self.candidates.clear();
        let possible = self
            .scores
            .iter()
            .filter(|(_, score)| *score > f32::NEG_INFINITY);
        self.candidates
            .extend(possible.map(|(token, score)| Candidate {
                score,
                token,
                weight: 0.0,
            }));
        self.keep_top_k(sampling.top_k as usize);
        self.weigh(best.score, sampling.temperature);
        self.keep_top_p(sampling.top_p);
        self.keep_min_p(sampling.min_p);
        let index = choice.generated.len() as u64;
        Ok(self.draw(random::uniform(sampling.seed, index)))
    }

    /// Leaves them in order, from the likeliest down, however many there were:
    /// a row may hold exactly k.
    fn keep_top_k(&mut self, k: usize) {
        if k == 0 {
            return;
        }
        if k < self.candidates.len() {
            self.candidates
                .select_nth_unstable_by(k - 1, Candidate::by_likelihood);
            self.candidates.truncate(k);
        }
        self.candidates.sort_unstable_by(Candidate::by_likelihood);
    }

    /// Softmax without its division. Differences are taken before dividing by
    /// the temperature, and in f64, so that no temperature overflows.
    fn weigh(&mut self, best: f32, temperature: f32) {
        for candidate in &mut self.candidates {
            let below_best = f64::from(candidate.score) - f64::from(best);
            candidate.weight = exp(below_best / f64::from(temperature));
        }
    }

    /// Sorts no more of the candidates than it keeps, give or take a chunk:
    /// usually few tokens of a large vocabulary hold nearly all probability.
    fn keep_top_p(&mut self, p: f32) {
        if p >= 1.0 {
            return;
        }
        let enough = self.total_weight() * f64::from(p);
        let mut sum = 0.0;
        let (mut begin, mut chunk) = (0, 64);
        while begin < self.candidates.len() {
            let rest = &mut self.candidates[begin..];
            let len = chunk.min(rest.len());
            rest.select_nth_unstable_by(len - 1, Candidate::by_likelihood);
            rest[..len].sort_unstable_by(Candidate::by_likelihood);
            let enough_at = rest[..len].iter().position(|candidate| {
                sum += candidate.weight;
                sum >= enough
            });
            if let Some(place) = enough_at {
                return self.candidates.truncate(begin + place + 1);
            }
            begin += len;
            chunk *= 4;
        }
    }

    fn keep_min_p(&mut self, min_p: f32) {
        if min_p > 0.0 {
            // The likeliest weighs 1.
            self.candidates
                .retain(|candidate| candidate.weight >= f64::from(min_p));
        }
    }

    fn draw(&self, uniform: f64) -> u32 {
        let target = uniform * self.total_weight();
        let mut sum = 0.0;
        let drawn = self.candidates.iter().find(|candidate| {
            sum += candidate.weight;
            sum > target
        });
        // The target is below the same sum in the same order, unless rounding
        // in the product made them equal.
        let drawn = drawn.or(self.candidates.last());
        drawn.expect("the likeliest candidate is always kept").token
    }

    fn total_weight(&self) -> f64 {
        self.candidates
            .iter()
            .map(|candidate| candidate.weight)
            .sum()
    }

    /// Log-probabilities under the row as the model gave it.
    fn with_logprobs(&mut self, token: u32, logits: &[f32], num_top: usize) -> Sampled {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let below_max = |logit: f32| f64::from(logit) - f64::from(max);
        let sum: f64 = logits.iter().map(|&logit| exp(below_max(logit))).sum();
        let log_sum = sum.ln();
        let logprob = |logit: f32| (below_max(logit) - log_sum) as f32;

        self.candidates.clear();
        if num_top > 0 {
            let all = (0..).zip(logits).map(|(token, &score)| Candidate {
                score,
                token,
                weight: 0.0,
            });
            self.candidates.extend(all);
            self.keep_top_k(num_top);
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

/// The largest score, and of equal ones the one with the lowest id.
fn likeliest(scores: &Scores) -> Result<Candidate, Unsampleable> {
    let mut best = Candidate {
        score: f32::NEG_INFINITY,
        token: 0,
        weight: 1.0,
    };
    for (token, score) in scores.iter() {
        if score > best.score {
            best = Candidate {
                score,
                token,
                ..best
            };
        }
    }
    match best.score {
        f32::NEG_INFINITY => Err(Unsampleable::NothingLeft),
        f32::INFINITY => Err(Unsampleable::PenaltyOverflow { token: best.token }),
        _ => Ok(best),
    }
}

#[cfg(test)]
mod tests;
