use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::Directory;
use crate::{
    ChatTemplate, GenerationDefaults, ModelError, Tokenizer, TokenizerError,
    generation::END_OF_TURN, json_object::JsonObject, token_text::Spelling, tokenizer::Conventions,
};

const TOKENIZER: &str = "tokenizer.json";
const MAX_TOKENIZER: u64 = 64 << 20;
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const MAX_TOKENIZER_CONFIG: u64 = 8 << 20;
const GENERATION: &str = "generation_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const MAX_SMALL: u64 = 1 << 20;

/// The files of a directory that are about text.
pub(crate) struct Text {
    pub tokenizer: Tokenizer,
    pub tokenizer_bytes: Cow<'static, [u8]>,
    pub chat: Option<ChatTemplate>,
    pub generation: GenerationDefaults,
}

impl Text {
    pub(crate) fn read(
        directory: &Directory,
        config: &JsonObject,
        vocab: usize,
    ) -> Result<Text, ModelError> {
        let optional = |name, limit| match directory.read(name, limit)? {
            Some(bytes) => JsonObject::parse(name, &bytes),
            None => JsonObject::parse(name, b"{}"),
        };
        let tokenizer_config = optional(TOKENIZER_CONFIG, MAX_TOKENIZER_CONFIG)?;
        let generation_config = optional(GENERATION, MAX_SMALL)?;
        let tokenizer_bytes = directory.require(TOKENIZER, MAX_TOKENIZER)?;
        let tokenizer = tokenizer(&tokenizer_bytes, &tokenizer_config, config)?;
        if tokenizer.vocab_size() > vocab {
            let reason = format!(
                "is {vocab}, but {TOKENIZER} has ids up to {}",
                tokenizer.vocab_size() - 1
            );
            return Err(config.refuse("vocab_size", reason));
        }
        let eos = special_text(&tokenizer_config, "eos_token");
        let chat = template(directory, &tokenizer_config)?
            .map(|source| {
                let bos = special_text(&tokenizer_config, "bos_token")
                    .or_else(|| tokenizer.bos().and_then(|id| tokenizer.token_text(id)));
                ChatTemplate::new(
                    source,
                    bos.unwrap_or_default(),
                    eos.clone().unwrap_or_default(),
                )
            })
            .transpose()?;
        let generation = generation(
            &generation_config,
            config,
            &tokenizer,
            eos.as_deref(),
            vocab,
        )?;
        Ok(Text {
            tokenizer,
            tokenizer_bytes,
            chat,
            generation,
        })
    }
}

fn tokenizer(
    bytes: &[u8],
    tokenizer_config: &JsonObject,
    config: &JsonObject,
) -> Result<Tokenizer, ModelError> {
    let unusable = |reason: String| TokenizerError::Unusable {
        file: TOKENIZER.to_owned(),
        reason,
    };
    // The parser of this format and its post-processor have a few `expect`s that a contrived file
    // can reach. The post-processor runs only here, to see what it puts before an empty text.
    let parsed = catch_unwind(AssertUnwindSafe(|| {
        let inner = tokenizers::Tokenizer::from_bytes(bytes)?;
        let around_nothing = inner.encode("", true)?;
        Ok((inner, around_nothing.get_ids().first().copied()))
    }));
    let (inner, put_first) = parsed
        .map_err(|_| unusable("is damaged beyond what its parser can tell".to_owned()))?
        .map_err(|e: tokenizers::Error| unusable(e.to_string()))?;
    if let Some(reason) = renumbered(bytes, &inner) {
        return Err(unusable(reason).into());
    }
    let spelling = spelling(&inner)
        .ok_or_else(|| unusable("is neither byte-level nor SentencePiece-like BPE".to_owned()))?;
    let bos = match special_text(tokenizer_config, "bos_token") {
        Some(text) => inner.token_to_id(&text),
        None => config.token_ids("bos_token_id")?.first().copied(),
    };
    let adds_bos = match tokenizer_config.flag("add_bos_token")? {
        Some(adds) => adds,
        None => bos.is_some() && put_first == bos,
    };
    let conventions = Conventions {
        spelling,
        bos,
        adds_bos,
    };
    Ok(Tokenizer::new(TOKENIZER, inner, conventions)?)
}

/// The library numbers added tokens on from the vocabulary, whatever the file says; a file with gaps or with two tokens
/// of one id would be read as another tokenizer, and only warned about.
fn renumbered(bytes: &[u8], inner: &tokenizers::Tokenizer) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(default)]
        added_tokens: Vec<Added>,
    }
    #[derive(serde::Deserialize)]
    struct Added {
        id: u32,
        content: String,
    }
    let file: File = serde_json::from_slice(bytes).ok()?;
    let moved = |token: &&Added| inner.token_to_id(&token.content) != Some(token.id);
    let Added { id, content } = file.added_tokens.iter().find(moved)?;
    Some(match inner.token_to_id(content) {
        Some(got) => format!("gives the added token {content:?} the id {id}, where {got} is next"),
        None => format!("has an added token {content:?} that can't be added"),
    })
}

fn spelling(inner: &tokenizers::Tokenizer) -> Option<Spelling> {
    if !matches!(inner.get_model(), tokenizers::ModelWrapper::BPE(_)) {
        return None;
    }
    let decoder = serde_json::to_string(&inner.get_decoder()?).ok()?;
    if decoder.contains("\"ByteLevel\"") {
        Some(Spelling::ByteLevel)
    } else if decoder.contains("\"ByteFallback\"") || decoder.contains("\"Metaspace\"") {
        Some(Spelling::SentencePiece)
    } else {
        None
    }
}

/// A special token is written as its text or as an object that contains it.
fn special_text(config: &JsonObject, key: &str) -> Option<String> {
    let value = config.value(key)?;
    let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
    Some(text.to_owned())
}

fn template(directory: &Directory, config: &JsonObject) -> Result<Option<String>, ModelError> {
    if let Some(bytes) = directory.read(TEMPLATE, MAX_SMALL)? {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        return Ok(Some(text));
    }
    // Several named templates may be listed; one is called default.
    let listed = config.value("chat_template").and_then(|value| {
        value
            .as_array()?
            .iter()
            .find(|entry| entry["name"] == "default")?["template"]
            .as_str()
    });
    match listed {
        Some(template) => Ok(Some(template.to_owned())),
        None => Ok(config.text("chat_template")?.map(str::to_owned)),
    }
}

fn generation(
    file: &JsonObject,
    config: &JsonObject,
    tokenizer: &Tokenizer,
    eos: Option<&str>,
    vocab: usize,
) -> Result<GenerationDefaults, ModelError> {
    let mut end_tokens = config.token_ids("eos_token_id")?;
    for id in file.token_ids("eos_token_id")? {
        end_tokens.push(id);
    }
    let named = END_OF_TURN.iter().copied().chain(eos);
    end_tokens.extend(
        named
            .filter_map(|text| tokenizer.token_id(text))
            .filter(|&id| tokenizer.is_special(id)),
    );
    end_tokens.sort_unstable();
    end_tokens.dedup();
    if let Some(beyond) = end_tokens.iter().find(|&&id| id as usize >= vocab) {
        let reason = format!("{beyond} is not below vocab_size {vocab}");
        return Err(config.refuse("eos_token_id", reason));
    }
    let number =
        |key| -> Result<Option<f32>, ModelError> { Ok(file.number(key)?.map(|n| n as f32)) };
    Ok(GenerationDefaults {
        end_tokens,
        do_sample: file.flag("do_sample")?,
        temperature: number("temperature")?,
        top_k: file.count("top_k")?.map(|k| u32::try_from(k).unwrap_or(0)),
        top_p: number("top_p")?,
        repetition_penalty: number("repetition_penalty")?,
    })
}
