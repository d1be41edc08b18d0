//! What is asked of the engine, and when it refuses.

use crate::{Limits, Share, Time};

/// One completion to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Token ids, with a begin-of-text token where the model wants one.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// When generation ends.
    pub stopping: Stopping,
    /// Whose it is.
    pub share: Share,
    /// Among the requests of its tenant, higher is served earlier; equals are
    /// served in order of arrival.
    pub priority: i32,
    /// Requests with the same salt use what is computed of each other's tokens,
    /// as far as they begin the same way, and can tell so from how long they
    /// take. Those with different salts, or without one, share nothing.
    pub salt: Option<u128>,
    /// Of the prompt's first so many tokens what is computed may be used
    /// whatever the salt, by and of all that have a salt: they are no secret.
    pub num_public: usize,
    /// From this moment on the request runs no further step.
    pub deadline: Option<Time>,
    /// Tokens the reader has room for, `usize::MAX` where that is no concern.
    /// See [`Engine::set_credit`].
    ///
    /// [`Engine::set_credit`]: crate::Engine::set_credit
    pub credit: usize,
}

/// How the next token is chosen from a row of logits.
///
/// The steps, in order:
///
/// 1. `min_tokens` forbids end and stop tokens (see [`Stopping`]).
/// 2. `repetition_penalty` divides a positive and multiplies a negative logit
///    of every token that occurs in the prompt or the generated text.
/// 3. `frequency_penalty` times the number of occurrences in the generated
///    text, and `presence_penalty` if there is any, are subtracted.
/// 4. `temperature` divides. At 0 the largest logit is taken, the lowest id of
///    equals, and the rest of the list does not apply.
/// 5. `top_k` keeps the k largest, lower ids first among equals.
/// 6. `top_p` keeps the fewest most likely tokens whose probabilities, as
///    they are after step 5, sum to at least p.
/// 7. `min_p` keeps tokens at least `min_p` times as likely as the likeliest.
/// 8. Of those left one is drawn in proportion to its probability: the winner
///    of a [race](crate::Race). That it is the winner of all tokens unless it
///    was cut means that settings which cut little change few tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy, 1 the model's own distribution.
    pub temperature: f32,
    /// 0 keeps all.
    pub top_k: u32,
    /// Above 0, at most 1, which keeps all.
    pub top_p: f32,
    /// From 0, which keeps all, to 1.
    pub min_p: f32,
    /// With the index of a token, the whole source of its randomness.
    pub seed: u64,
    /// Above 0; 1 changes nothing.
    pub repetition_penalty: f32,
    /// 0 changes nothing.
    pub presence_penalty: f32,
    /// 0 changes nothing.
    pub frequency_penalty: f32,
    /// `None`: no log-probabilities. `Some(n)`: that of the chosen token, and
    /// of the n likeliest.
    pub num_logprobs: Option<u32>,
}

impl Sampling {
    /// That of one of a request's samples, which are counted from 0: with the
    /// seed plus its number, modulo 2^64. So every sample is what a request of
    /// its own would be with that seed. Seeds are hashed before use: those of
    /// neighbours have nothing in common.
    pub fn of_sample(&self, index: usize) -> Sampling {
        Sampling {
            seed: self.seed.wrapping_add(index as u64),
            ..self.clone()
        }
    }
}

/// Greedy, with nothing else asked for.
impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            num_logprobs: None,
        }
    }
}

/// When generation ends.
///
/// A token that ends a sequence, be it the model's own end token or one of
/// `stop_tokens`, counts as a completion token and has its
/// [`Event::Token`](crate::Event::Token), but adds nothing to the text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stopping {
    /// At least 1. The caller has brought it into the model's context.
    pub max_tokens: usize,
    /// The first so many tokens do not end the sequence: end and stop tokens
    /// are not chosen among them, and a stop string that is complete within
    /// them is text like any other.
    pub min_tokens: usize,
    /// Byte strings that end the text, none of them empty. The one that is
    /// complete first wins, wherever token boundaries lie; of several complete
    /// at the same byte the longest does.
    pub stop: Vec<Vec<u8>>,
    /// Tokens that end the sequence besides the model's own.
    pub stop_tokens: Vec<u32>,
    /// Lets the model's end tokens pass as ordinary tokens.
    pub ignore_eos: bool,
    /// Shows the stop string that ended the text.
    pub include_stop: bool,
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SubmitError {
    /// There is nothing to continue.
    #[error("prompt has no tokens")]
    PromptEmpty,
    /// The prompt leaves no room for even one token.
    #[error("prompt has {len} tokens, and the context of {limit} must hold at least one more")]
    PromptTooLong {
        /// Tokens of the prompt.
        len: usize,
        /// Tokens of the context.
        limit: usize,
    },
    /// The prompt would fit, but not with all it may be continued by.
    #[error(
        "prompt of {prompt_tokens} tokens with max_tokens {max_tokens} exceeds the context of {limit} tokens"
    )]
    TooManyTokens {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// What was asked for.
        max_tokens: usize,
        /// Tokens of the context.
        limit: usize,
    },
    /// The KV cache could not hold the sequence even if it were alone.
    #[error("sequence may need {blocks} KV blocks, and there are {pool}")]
    NeverFits {
        /// Blocks of the sequence at its longest.
        blocks: usize,
        /// Blocks of the pool.
        pool: usize,
    },
    /// Too many sequences are alive. Later there may be room.
    #[error("queue is full: {queued} sequences are alive, {limit} may be")]
    QueueFull {
        /// Sequences alive: running, waiting or parked.
        queued: usize,
        /// How many may be.
        limit: usize,
    },
    /// The prompts of those that wait are too long for one more like it. Later
    /// there may be room.
    #[error(
        "queue is full: {queued} tokens of prompts are waiting, {limit} may be, and {asked} more \
         were asked for"
    )]
    TokensQueued {
        /// Tokens of the prompts of sequences that were not started.
        queued: usize,
        /// Tokens of the prompt.
        asked: usize,
        /// How many there may be.
        limit: usize,
    },
    /// It would wait until its deadline.
    #[error("deadline is in {left:?}, and the first token is expected in {expected:?}")]
    DeadlineUnreachable {
        /// When its first token can be expected.
        expected: Time,
        /// How long it has until its deadline.
        left: Time,
    },
    /// The prompt or the stop tokens hold an id that is no token.
    #[error("{field} holds token {token}, and the vocabulary has {size} tokens")]
    TokenOutOfRange {
        /// Field of the request.
        field: &'static str,
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        size: usize,
    },
    /// A parameter is outside its range.
    #[error("{field} is {value}, but must be {expected}")]
    BadParameter {
        /// Field of the request.
        field: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
}

impl Request {
    /// Whether the request can be served by an otherwise idle engine: what
    /// [`Engine::submit`](crate::Engine::submit) asks first, and anyone may ask
    /// before.
    pub fn check(&self, limits: &Limits, vocab_size: usize) -> Result<(), SubmitError> {
        self.sampling.check()?;
        self.stopping.check()?;
        self.share.check()?;
        check_tokens("prompt", &self.prompt, vocab_size)?;
        check_tokens("stop_tokens", &self.stopping.stop_tokens, vocab_size)?;
        self.check_length(limits)
    }

    fn check_length(&self, limits: &Limits) -> Result<(), SubmitError> {
        let len = self.prompt.len();
        let max_tokens = self.stopping.max_tokens;
        let limit = limits.max_model_len;
        if len == 0 {
            return Err(SubmitError::PromptEmpty);
        }
        if len >= limit {
            return Err(SubmitError::PromptTooLong { len, limit });
        }
        if max_tokens > limit - len {
            return Err(SubmitError::TooManyTokens {
                prompt_tokens: len,
                max_tokens,
                limit,
            });
        }
        // The last token is sampled but never computed, so it needs no slot.
        let blocks = limits.blocks_for(len + max_tokens - 1);
        let pool = limits.num_blocks;
        if blocks > pool {
            return Err(SubmitError::NeverFits { blocks, pool });
        }
        Ok(())
    }
}

impl Share {
    fn check(self) -> Result<(), SubmitError> {
        let bad = |field, value: u32, expected| {
            let value = value.to_string();
            Err(SubmitError::BadParameter {
                field,
                value,
                expected,
            })
        };
        if self.weight == 0 {
            return bad("share.weight", self.weight, "at least 1");
        }
        if self.tenant > Share::MAX_TENANT {
            return bad("share.tenant", self.tenant, "at most 65535");
        }
        Ok(())
    }
}

impl Sampling {
    fn check(&self) -> Result<(), SubmitError> {
        let number = |field, value: f32, ok: bool, expected| match ok && value.is_finite() {
            true => Ok(()),
            false => Err(SubmitError::BadParameter {
                field,
                value: value.to_string(),
                expected,
            }),
        };
        let t = self.temperature;
        number("temperature", t, t >= 0.0, "a finite number, 0 or more")?;
        let p = self.top_p;
        number("top_p", p, p > 0.0 && p <= 1.0, "above 0 and at most 1")?;
        let p = self.min_p;
        number("min_p", p, (0.0..=1.0).contains(&p), "between 0 and 1")?;
        let r = self.repetition_penalty;
        number("repetition_penalty", r, r > 0.0, "a finite number above 0")?;
        for (field, value) in [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ] {
            number(field, value, true, "a finite number")?;
        }
        Ok(())
    }
}

impl Stopping {
    fn check(&self) -> Result<(), SubmitError> {
        let bad = |field, value: String, expected| {
            Err(SubmitError::BadParameter {
                field,
                value,
                expected,
            })
        };
        if self.max_tokens == 0 {
            return bad("max_tokens", "0".to_owned(), "at least 1");
        }
        if self.min_tokens > self.max_tokens {
            return bad(
                "min_tokens",
                self.min_tokens.to_string(),
                "at most max_tokens",
            );
        }
        if self.stop.iter().any(Vec::is_empty) {
            return bad(
                "stop",
                "an empty string".to_owned(),
                "at least one byte long",
            );
        }
        Ok(())
    }
}

fn check_tokens(field: &'static str, tokens: &[u32], size: usize) -> Result<(), SubmitError> {
    match tokens.iter().find(|&&token| token as usize >= size) {
        Some(&token) => Err(SubmitError::TokenOutOfRange { field, token, size }),
        None => Ok(()),
    }
}
