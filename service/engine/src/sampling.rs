//! From a row of logits to a token.
//!
//! [`Sampling`] documents what is done in which order. Everything here is
//! sequential arithmetic on one row, with ties broken by token id, so the
//! choice is a function of the row, the request and the tokens so far.

use std::cmp::Ordering;

use crate::exp::exp;
use crate::random;
use crate::{Sampling, TokenLogprob};

/// Chooses tokens. One serves all sequences: what it holds is scratch memory.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    scores: Vec<f32>,
    candidates: Vec<Candidate>,
    /// How often each token occurs; all 0 between calls.
    counts: Vec<u32>,
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
    BadLogit { token: usize, logit: f32 },
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
    pub(crate) fn sample(
        &mut self,
        logits: &[f32],
        choice: &Choice<'_>,
    ) -> Result<Sampled, Unsampleable> {
        // -inf is a way of saying never, the other two are faults.
        let is_bad = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
        if let Some(token) = logits.iter().position(is_bad) {
            let logit = logits[token];
            return Err(Unsampleable::BadLogit { token, logit });
        }
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        self.forbid(&choice.forbidden);
        self.penalise(choice);
        let token = self.choose(choice)?;
        Ok(match choice.sampling.num_logprobs {
            None => Sampled {
                token,
                logprob: None,
                top: Vec::new(),
            },
            Some(num_top) => self.with_logprobs(token, logits, num_top as usize),
        })
    }

    fn forbid(&mut self, forbidden: &[&[u32]]) {
        for &token in forbidden.iter().copied().flatten() {
            if let Some(score) = self.scores.get_mut(token as usize) {
                *score = f32::NEG_INFINITY;
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
        if self.counts.len() < self.scores.len() {
            self.counts.resize(self.scores.len(), 0);
        }
        let occurring = || {
            tokens
                .iter()
                .copied()
                .flatten()
                .map(|&token| token as usize)
        };
        for token in occurring() {
            if let Some(count) = self.counts.get_mut(token) {
                *count += 1;
            }
        }
        for token in occurring() {
            if let (Some(score), Some(count)) =
                (self.scores.get_mut(token), self.counts.get_mut(token))
                && *count > 0
            {
                visit(score, *count);
                *count = 0;
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
        let possible = (0..)
            .zip(&self.scores)
            .filter(|(_, score)| **score > f32::NEG_INFINITY);
        self.candidates
            .extend(possible.map(|(token, &score)| Candidate {
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

    fn keep_top_k(&mut self, k: usize) {
        if k > 0 && k < self.candidates.len() {
            self.candidates
                .select_nth_unstable_by(k - 1, Candidate::by_likelihood);
            self.candidates.truncate(k);
            // The selection leaves them in an order of its own.
            self.candidates.sort_unstable_by(Candidate::by_likelihood);
        }
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
        // That of the C library differs between machines.
        let log_sum = libm::log(sum);
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

/// The largest score, and of equal ones the one with the lowest id.
fn likeliest(scores: &[f32]) -> Result<Candidate, Unsampleable> {
    let mut best = Candidate {
        score: f32::NEG_INFINITY,
        token: 0,
        weight: 1.0,
    };
    for (token, &score) in (0..).zip(scores) {
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
