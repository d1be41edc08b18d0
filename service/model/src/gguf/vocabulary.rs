use std::collections::HashSet;

use tokenizers::{
    AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
    models::bpe::{BPE, Vocab},
    normalizers::{self, Prepend, Replace},
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

use super::metadata::{Metadata, refuse};
use crate::{
    GenerationDefaults, ModelError, Tokenizer, TokenizerError, generation::END_OF_TURN,
    token_text::Spelling, tokenizer::Conventions,
};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";

const LLAMA_3_VOCAB: usize = 128_256;
/// The splits of a piece are tried one by one, each at the cost of the piece's length.
const MAX_PIECE: usize = 1024;

const UNKNOWN: u8 = 2;
const CONTROL: u8 = 3;
const USER_DEFINED: u8 = 4;
const UNUSED: u8 = 5;
const BYTE: u8 = 6;

pub(crate) fn read(metadata: &Metadata<'_>) -> Result<(Tokenizer, GenerationDefaults), ModelError> {
    let vocabulary = Vocabulary::read(metadata)?;
    let (mut inner, spelling, adds_bos) = match metadata.text(MODEL)? {
        Some("gpt2") => vocabulary.byte_level(metadata)?,
        Some("llama") => vocabulary.sentence_piece(metadata)?,
        Some(other) => {
            return Err(refuse(MODEL, format!("is {other}, expected gpt2 or llama")));
        }
        None => return Err(refuse(MODEL, "is missing")),
    };
    // Both kinds stay in the vocabulary as well, which is what gives them their own ids.
    inner
        .add_special_tokens(vocabulary.added(true))
        .map_err(unusable)?;
    inner
        .add_tokens(vocabulary.added(false))
        .map_err(unusable)?;
    let conventions = Conventions {
        spelling,
        bos: vocabulary.bos,
        adds_bos: metadata
            .flag("tokenizer.ggml.add_bos_token")?
            .unwrap_or(adds_bos),
    };
    let tokenizer = Tokenizer::new("gguf", inner, conventions)?;
    let generation = GenerationDefaults {
        end_tokens: vocabulary.end_tokens(),
        ..GenerationDefaults::default()
    };
    Ok((tokenizer, generation))
}

struct Vocabulary<'a> {
    tokens: &'a [&'a str],
    types: Vec<u8>,
    bos: Option<u32>,
    ends: Vec<u32>,
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &Metadata<'a>) -> Result<Vocabulary<'a>, ModelError> {
        let tokens = metadata.tokens()?;
        let mut seen = HashSet::with_capacity(tokens.len());
        if let Some(id) = tokens.iter().position(|token| !seen.insert(token)) {
            return Err(refuse(
                TOKENS,
                format!("holds {:?} twice, again at {id}", tokens[id]),
            ));
        }
        if let Some(id) = tokens.iter().position(|token| token.is_empty()) {
            return Err(refuse(TOKENS, format!("is empty at {id}")));
        }
        let types = match metadata.numbers(TYPES)? {
            None => vec![1; tokens.len()],
            Some(types) => {
                expect_len(TYPES, types.len(), tokens.len())?;
                types.into_iter().map(|t| t as u8).collect()
            }
        };
        let sentence_piece = metadata.text(MODEL)? == Some("llama");
        // Absent ids have the values SentencePiece gives them.
        let id = |name: &str, absent: u32| -> Result<Option<u32>, ModelError> {
            let given = metadata.token_id(name)?;
            let absent = (sentence_piece && (absent as usize) < tokens.len()).then_some(absent);
            Ok(given.or(absent))
        };
        let bos = id("bos", 1)?;
        let mut ends: Vec<u32> = id("eos", 2)?.into_iter().collect();
        for name in ["eot", "eom"] {
            ends.extend(metadata.token_id(name)?);
        }
        Ok(Vocabulary {
            tokens,
            types,
            bos,
            ends,
        })
    }

    /// Whether a token is only ever written by a template. Not every file marks the token that
    /// ends a turn, so it is known by its name too.
    fn is_special(&self, id: usize) -> bool {
        matches!(self.types[id], UNKNOWN | CONTROL)
            || END_OF_TURN.contains(&self.tokens[id])
            || self
                .bos
                .iter()
                .chain(&self.ends)
                .any(|&end| end as usize == id)
    }

    fn added(&self, special: bool) -> Vec<AddedToken> {
        (0..self.tokens.len())
            .filter(|&id| match special {
                true => self.is_special(id),
                false => self.types[id] == USER_DEFINED && !self.is_special(id),
            })
            .map(|id| AddedToken::from(self.tokens[id], special).normalized(false))
            .collect()
    }

    fn end_tokens(&self) -> Vec<u32> {
        let named = (0..self.tokens.len()).filter(|&id| END_OF_TURN.contains(&self.tokens[id]));
        let mut ends = self.ends.clone();
        ends.extend(named.map(|id| id as u32));
        ends.sort_unstable();
        ends.dedup();
        ends
    }

    fn ids(&self) -> Vocab {
        (0..)
            .zip(self.tokens)
            .map(|(id, token)| ((*token).to_owned(), id))
            .collect()
    }

    fn byte_level(
        &self,
        metadata: &Metadata<'_>,
    ) -> Result<(tokenizers::Tokenizer, Spelling, bool), ModelError> {
        // The official 2B-4T file does not say which rules it was trained with.
        let pre = match metadata.text(PRE)? {
            Some(pre) => pre,
            None if self.tokens.len() == LLAMA_3_VOCAB => "llama-bpe",
            None => "default",
        };
        let words = Words::named(pre)
            .ok_or_else(|| refuse(PRE, format!("is {pre}, which is not supported")))?;
        let merges = metadata
            .strings(MERGES)?
            .ok_or_else(|| refuse(MERGES, "is missing"))?;
        let vocab = self.ids();
        let known = |piece: &str| vocab.contains_key(piece);
        let mut union = String::new();
        let mut pairs = Vec::with_capacity(merges.len());
        for (i, merge) in merges.iter().enumerate() {
            let (left, right) = pair(i, merge)?;
            // llama.cpp carries on with merges that make no token and falls back to bytes in the
            // end. No trained vocabulary has any; the cut-down ones of test files do.
            union.clear();
            union.push_str(left);
            union.push_str(right);
            if known(left) && known(right) && known(&union) {
                pairs.push((left.to_owned(), right.to_owned()));
            }
        }
        let bpe = BPE::builder()
            .vocab_and_merges(vocab, pairs)
            .ignore_merges(words.whole_words_first)
            .build()
            .map_err(unusable)?;
        let mut inner = tokenizers::Tokenizer::new(bpe);
        inner.with_pre_tokenizer(Some(words.pre_tokenizer()?));
        Ok((inner, Spelling::ByteLevel, words.whole_words_first))
    }

    /// SentencePiece merges the pair whose union has the highest score. As a list of merges that is
    /// every way to split a piece into two pieces, ordered by the piece's score.
    fn sentence_piece(
        &self,
        metadata: &Metadata<'_>,
    ) -> Result<(tokenizers::Tokenizer, Spelling, bool), ModelError> {
        let scores = metadata
            .numbers(SCORES)?
            .ok_or_else(|| refuse(SCORES, "is missing"))?;
        expect_len(SCORES, scores.len(), self.tokens.len())?;
        let merges = self.scored_merges(&scores)?;
        let mut bpe = BPE::builder()
            .vocab_and_merges(self.ids(), merges)
            .fuse_unk(true)
            .byte_fallback(self.types.contains(&BYTE));
        if let Some(unknown) = self.types.iter().position(|&kind| kind == UNKNOWN) {
            bpe = bpe.unk_token(self.tokens[unknown].to_owned());
        }
        let mut inner = tokenizers::Tokenizer::new(bpe.build().map_err(unusable)?);
        let mut steps = Vec::new();
        if metadata
            .flag("tokenizer.ggml.add_space_prefix")?
            .unwrap_or(true)
        {
            steps.push(NormalizerWrapper::Prepend(Prepend::new("▁".to_owned())));
        }
        let spaces = Replace::new(" ", "▁").map_err(unusable)?;
        steps.push(NormalizerWrapper::Replace(spaces));
        inner
            .with_normalizer(Some(normalizers::Sequence::new(steps)))
            .map_err(unusable)?;
        Ok((inner, Spelling::SentencePiece, true))
    }

    fn scored_merges(&self, scores: &[f64]) -> Result<Vec<(String, String)>, ModelError> {
        let mergeable = |id: usize| !matches!(self.types[id], UNKNOWN | CONTROL | UNUSED | BYTE);
        let pieces: HashSet<&str> = (0..self.tokens.len())
            .filter(|&id| mergeable(id))
            .map(|id| self.tokens[id])
            .collect();
        let mut merges = Vec::new();
        for id in (0..self.tokens.len()).filter(|&id| mergeable(id)) {
            let piece = self.tokens[id];
            if piece.len() > MAX_PIECE {
                let reason = format!(
                    "has {} bytes at {id}, the limit is {MAX_PIECE}",
                    piece.len()
                );
                return Err(refuse(TOKENS, reason));
            }
            for (at, _) in piece.char_indices().skip(1) {
                let (left, right) = piece.split_at(at);
                if pieces.contains(left) && pieces.contains(right) {
                    merges.push((scores[id], left, right));
                }
            }
        }
        // SentencePiece breaks ties leftmost first, which leaves the longer piece on the left.
        merges.sort_by(|(a, left_a, _), (b, left_b, _)| {
            b.total_cmp(a).then(left_b.len().cmp(&left_a.len()))
        });
        Ok(merges
            .into_iter()
            .map(|(_, left, right)| (left.to_owned(), right.to_owned()))
            .collect())
    }
}

/// How text is cut into words before merging: patterns applied one after the other, each to the
/// pieces that the one before left.
struct Words {
    patterns: &'static [&'static str],
    /// A word that is a token is taken whole, even where merging would not get there.
    whole_words_first: bool,
}

const LLAMA_3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// The same without its last branch: what matches nothing is a piece of its own anyway.
const GPT_2_OPEN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

impl Words {
    fn named(pre: &str) -> Option<Words> {
        let patterns: &[&str] = match pre {
            "llama-bpe" | "llama3" | "llama-v3" => &[LLAMA_3],
            "falcon3" | "falcon_e" => &[r"[\p{P}\$\+<=>\^~\|`]+", GPT_2_OPEN, "[0-9]"],
            "gpt-2" | "gpt2" => &[GPT_2],
            "default" => &[
                r"[\p{P}\$\+<=>\^~\|]+",
                GPT_2_OPEN,
                r"\p{N}+",
                "[0-9][0-9][0-9]",
            ],
            _ => return None,
        };
        Some(Words {
            patterns,
            whole_words_first: patterns == [LLAMA_3],
        })
    }

    fn pre_tokenizer(&self) -> Result<PreTokenizerWrapper, ModelError> {
        let mut steps = Vec::new();
        for pattern in self.patterns {
            let pattern = SplitPattern::Regex((*pattern).to_owned());
            let split =
                Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(unusable)?;
            steps.push(PreTokenizerWrapper::Split(split));
        }
        steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(
            false, true, false,
        )));
        Ok(PreTokenizerWrapper::Sequence(Sequence::new(steps)))
    }
}

/// A merge is two pieces with a space between. The left one may begin with a space.
fn pair(i: usize, merge: &str) -> Result<(&str, &str), ModelError> {
    let halves = merge
        .char_indices()
        .skip(1)
        .find(|(_, c)| *c == ' ')
        .map(|(at, _)| (&merge[..at], &merge[at + 1..]));
    match halves {
        Some((left, right)) if !right.is_empty() => Ok((left, right)),
        _ => Err(refuse(
            MERGES,
            format!("is {merge:?} at {i}, expected two pieces"),
        )),
    }
}

fn expect_len(key: &str, got: usize, want: usize) -> Result<(), ModelError> {
    if got == want {
        Ok(())
    } else {
        Err(refuse(key, format!("has {got} entries for {want} tokens")))
    }
}

fn unusable(error: impl std::fmt::Display) -> ModelError {
    ModelError::Tokenizer(TokenizerError::Unusable {
        file: "gguf".to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests;
