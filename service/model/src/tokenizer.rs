use std::collections::HashSet;

use tokenizers::{Model as _, OffsetReferential, OffsetType, PreTokenizer as _};

use crate::token_text::{Spelling, TokenBytes};

/// Text to token ids and back.
///
/// One tokenizer serves text that may contain special tokens and text that must not. The second
/// kind is *guarded*: a private character that occurs nowhere else is put into the spelling of
/// every special token, which hides it from the search for special tokens, and is taken out again
/// before the text is cut into words. So guarded and unguarded text can stand in one string, as in
/// a rendered chat, and still be encoded as one text, with words merging across the seams.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    specials: Vec<Special>,
    special_ids: HashSet<u32>,
    unknown: Option<u32>,
    bytes: TokenBytes,
    vocab_size: usize,
    bos: Option<u32>,
    adds_bos: bool,
}

#[derive(Debug)]
struct Special {
    id: u32,
    text: String,
    caseless: Vec<char>,
}

/// Whether text that spells a special token *is* that token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// It is. For templates and prompts that the operator vouches for.
    Parse,
    /// It is ordinary text. For everything a user wrote.
    Text,
}

#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error("{file}: {reason}")]
    Unusable { file: String, reason: String },

    #[error("the text cannot be encoded: {0}")]
    Encode(String),

    /// The vocabulary would turn plain text into a token that only the template may write.
    #[error("the text would be encoded as the special token {text}")]
    SpecialFromText { text: String },

    #[error("the text uses all 65534 private characters that could guard it")]
    NoGuard,
}

/// What a tokenizer needs to be told beyond its vocabulary.
pub(crate) struct Conventions {
    pub spelling: Spelling,
    pub bos: Option<u32>,
    pub adds_bos: bool,
}

impl Tokenizer {
    pub(crate) fn new(
        file: &str,
        mut inner: tokenizers::Tokenizer,
        conventions: Conventions,
    ) -> Result<Tokenizer, TokenizerError> {
        let unusable = |reason: String| TokenizerError::Unusable {
            file: file.to_owned(),
            reason,
        };
        seek_specials_before_normalising(&mut inner)
            .map_err(|e| unusable(format!("special tokens: {e}")))?;
        let added = inner.get_added_tokens_decoder();
        let mut specials: Vec<Special> = added
            .iter()
            .filter(|(_, token)| token.special)
            .map(|(&id, token)| Special {
                id,
                text: token.content.clone(),
                caseless: caseless(&token.content).collect(),
            })
            .collect();
        specials.sort_by_key(|special| special.id);
        if let Some(short) = specials.iter().find(|s| s.text.chars().nth(1).is_none()) {
            let reason = format!(
                "special token {} is {:?}, too short to be told from text",
                short.id, short.text
            );
            return Err(unusable(reason));
        }
        let vocab = inner.get_vocab(true);
        let vocab_size = vocab.values().max().map_or(0, |&id| id as usize + 1);
        // Ids are dense in every vocabulary there is; a single huge one would otherwise ask for
        // a table of its size.
        if vocab_size > 2 * vocab.len() + 1024 {
            let reason = format!("{} tokens have ids up to {}", vocab.len(), vocab_size - 1);
            return Err(unusable(reason));
        }
        let bytes = TokenBytes::new((0..vocab_size as u32).map(|id| {
            match added.get(&id) {
                Some(token) if token.special => Vec::new(),
                Some(token) => token.content.clone().into_bytes(),
                None => inner
                    .get_model()
                    .id_to_token(id)
                    .map_or_else(Vec::new, |piece| conventions.spelling.bytes(&piece)),
            }
        }));
        let unknown = match inner.get_model() {
            tokenizers::ModelWrapper::BPE(bpe) => bpe.unk_token.as_deref(),
            _ => None,
        };
        Ok(Tokenizer {
            unknown: unknown.and_then(|piece| inner.token_to_id(piece)),
            special_ids: specials.iter().map(|special| special.id).collect(),
            specials,
            bytes,
            vocab_size,
            bos: conventions.bos,
            adds_bos: conventions.adds_bos && conventions.bos.is_some(),
            inner,
        })
    }

    /// The ids of `text` alone: nothing is put before or after it.
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>, TokenizerError> {
        match specials {
            Specials::Parse => self.encode_guarded(text, None),
            Specials::Text => {
                let guard = self.guard_for([text])?;
                self.encode_guarded(&self.guarded(text, guard), Some(guard))
            }
        }
    }

    /// The ids of a raw prompt, special tokens parsed, with exactly one BOS if the model wants one.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let ids = self.encode(text, Specials::Parse)?;
        Ok(self.with_bos(ids))
    }

    /// Puts BOS in front if the model wants one and it is not there.
    pub(crate) fn with_bos(&self, mut ids: Vec<u32>) -> Vec<u32> {
        if let Some(bos) = self.bos
            && self.adds_bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        ids
    }

    /// The text of tokens, without special ones; what is no UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids
            .iter()
            .flat_map(|&id| self.token_bytes(id))
            .copied()
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes a token adds to the text; none for special tokens and for ids that have no token.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.of(id)
    }

    /// The highest id of a token, and one.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Whether a prompt starts with [`Tokenizer::bos`].
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.special_ids.contains(&id)
    }

    /// How a special token is written.
    pub fn special_text(&self, id: u32) -> Option<&str> {
        let special = self.specials.iter().find(|special| special.id == id)?;
        Some(&special.text)
    }

    /// The id of a token by its spelling in the vocabulary.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    pub(crate) fn token_text(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// A private character that none of the texts contains.
    pub(crate) fn guard_for<'a>(
        &self,
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<char, TokenizerError> {
        let private =
            |text: &str| -> Vec<char> { text.chars().filter(|c| PRIVATE.contains(c)).collect() };
        let mut used: HashSet<char> = texts.into_iter().flat_map(private).collect();
        used.extend(self.specials.iter().flat_map(|s| private(&s.text)));
        PRIVATE
            .clone()
            .find(|c| !used.contains(c))
            .ok_or(TokenizerError::NoGuard)
    }

    /// `text` with `guard` after the first character of everything that spells a special token, in whatever case:
    /// templates write roles with a capital, and what that does to the rest of a role is to make it small.
    pub(crate) fn guarded(&self, text: &str, guard: char) -> String {
        let firsts: HashSet<char> = self.specials.iter().map(|s| s.caseless[0]).collect();
        let mut guarded = String::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            guarded.push(c);
            let rest = &text[at..];
            let first = caseless(rest).next();
            let spelled = first.is_some_and(|first| firsts.contains(&first))
                && self.specials.iter().any(|s| begins(rest, &s.caseless));
            if spelled {
                guarded.push(guard);
            }
        }
        guarded
    }

    /// Encodes text in which `guard` hides what must not become special.
    pub(crate) fn encode_guarded(
        &self,
        text: &str,
        guard: Option<char>,
    ) -> Result<Vec<u32>, TokenizerError> {
        let failed = |e: tokenizers::Error| TokenizerError::Encode(e.to_string());
        let inner = &self.inner;
        let mut pieces = inner
            .get_added_vocabulary()
            .extract_and_normalize(inner.get_normalizer(), text);
        if let Some(guard) = guard {
            pieces
                .normalize(|piece| {
                    piece.filter(|c| c != guard);
                    Ok(())
                })
                .map_err(failed)?;
        }
        if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(failed)?;
        }
        // The guard keeps special tokens from being *found* in text. A vocabulary that also
        // *builds* them from pieces is odd enough to give up over.
        pieces
            .tokenize(|piece| {
                let tokens = inner.get_model().tokenize(piece.get())?;
                let special = |id| self.special_ids.contains(&id) && Some(id) != self.unknown;
                match tokens.iter().find(|token| special(token.id)) {
                    None => Ok(tokens),
                    Some(token) => Err(TokenizerError::SpecialFromText {
                        text: token.value.clone(),
                    }
                    .into()),
                }
            })
            .map_err(|error| match error.downcast::<TokenizerError>() {
                Ok(own) => *own,
                Err(foreign) => failed(foreign),
            })?;
        Ok(pieces
            .get_splits(OffsetReferential::Original, OffsetType::None)
            .into_iter()
            .filter_map(|(_, _, tokens)| tokens.as_ref())
            .flatten()
            .map(|token| token.id)
            .collect())
    }
}

/// Whether a text begins with this, but for case.
fn begins(text: &str, wanted: &[char]) -> bool {
    let mut text = caseless(text);
    wanted.iter().all(|&c| text.next() == Some(c))
}

/// The same for all texts that can be made of each other by writing letters small or large.
fn caseless(text: &str) -> impl Iterator<Item = char> {
    text.chars()
        .flat_map(char::to_lowercase)
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
}

/// A special token that is looked for in normalised text could be written in characters that only
/// become it by normalisation, past the guard.
fn seek_specials_before_normalising(
    inner: &mut tokenizers::Tokenizer,
) -> Result<(), tokenizers::Error> {
    if inner.get_normalizer().is_none() {
        return Ok(());
    }
    let added = inner.get_added_tokens_decoder();
    let late = added.into_values().filter(|t| t.special && t.normalized);
    inner.add_special_tokens(late.map(|token| token.normalized(false)))?;
    Ok(())
}

const PRIVATE: std::ops::RangeInclusive<char> = '\u{F0000}'..='\u{FFFFD}';

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .field("specials", &self.specials.len())
            .field("bos", &self.bos)
            .field("adds_bos", &self.adds_bos)
            .finish_non_exhaustive()
    }
}
