//! From what a client sent to the token ids of a prompt.

use std::sync::Arc;

use ternion_model::{ChatMessage, Model, ModelError, Specials, TemplateError};
use tokio::sync::Semaphore;

use crate::{refusal::Refusal, request::Input};

/// Up to this size, tokenising takes less than handing it to another thread
/// is worth.
const MAX_INLINE_BYTES: usize = 2048;

/// Longest part of a message that a template or tokenizer may put into a
/// status: statuses travel in headers, and may quote the client's text.
const MAX_REASON_CHARS: usize = 200;

/// Turns inputs into token ids, a few long ones at a time.
#[derive(Debug, Clone)]
pub(crate) struct Prompts {
    model: Arc<Model>,
    /// Tokenising competes with the compute threads for processors, so that
    /// many long texts at once must not get a thread each.
    permits: Arc<Semaphore>,
    longest_token: usize,
}

impl Prompts {
    pub(crate) fn new(model: Arc<Model>, at_once: usize) -> Prompts {
        let tokenizer = &model.tokenizer;
        let longest_token = (0..tokenizer.vocab_size())
            .filter_map(|id| u32::try_from(id).ok())
            .map(|id| tokenizer.token_bytes(id).len())
            .max();
        Prompts {
            permits: Arc::new(Semaphore::new(at_once)),
            longest_token: longest_token.unwrap_or(0).max(1),
            model,
        }
    }

    /// Refuses a text that would be too long even if every token of it were
    /// the vocabulary's longest, before any work goes into it.
    pub(crate) fn check_size(&self, input: &Input, context_limit: usize) -> Result<(), Refusal> {
        let bytes = text_bytes(input);
        let got = bytes.div_ceil(self.longest_token);
        match got > context_limit {
            true => Err(Refusal::TooManyBytes {
                bytes,
                got,
                limit: context_limit,
            }),
            false => Ok(()),
        }
    }

    /// The text of tokens. Special ones are spelled out or left out.
    pub(crate) fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let tokenizer = &self.model.tokenizer;
        let mut bytes = Vec::new();
        for &id in ids {
            match tokenizer.special_text(id) {
                Some(_) if skip_special => {}
                Some(text) => bytes.extend_from_slice(text.as_bytes()),
                None => bytes.extend_from_slice(tokenizer.token_bytes(id)),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) async fn encode(&self, input: Input) -> Result<Vec<u32>, Refusal> {
        if text_bytes(&input) <= MAX_INLINE_BYTES {
            return encode(&self.model, input);
        }
        let permit = self.permits.clone().acquire_owned().await;
        let model = self.model.clone();
        let encoded = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            encode(&model, input)
        });
        encoded.await.unwrap_or(Err(Refusal::TokenizerPanicked))
    }
}

fn text_bytes(input: &Input) -> usize {
    match input {
        Input::Text { text, .. } => text.len(),
        Input::Chat(messages) => messages
            .iter()
            .map(|m| m.role.len() + m.content.len())
            .sum(),
        Input::TokenIds(_) => 0,
    }
}

pub(crate) fn encode(model: &Model, input: Input) -> Result<Vec<u32>, Refusal> {
    match input {
        Input::TokenIds(ids) => Ok(ids),
        Input::Text {
            text,
            parse_special,
            add_bos,
        } => {
            let specials = match parse_special {
                true => Specials::Parse,
                false => Specials::Text,
            };
            let ids = model.tokenizer.encode(&text, specials);
            let mut ids = ids.map_err(|error| Refusal::Tokenizer {
                reason: shortened(&error.to_string()),
            })?;
            if let Some(bos) = model
                .tokenizer
                .bos()
                .filter(|bos| add_bos && model.tokenizer.adds_bos() && ids.first() != Some(bos))
            {
                ids.insert(0, bos);
            }
            Ok(ids)
        }
        Input::Chat(messages) => {
            let messages: Vec<ChatMessage> = messages
                .into_iter()
                .map(|message| ChatMessage {
                    role: message.role,
                    content: message.content,
                })
                .collect();
            model
                .encode_chat(&messages)
                .map_err(|error| chat_refusal(model, &error))
        }
    }
}

fn chat_refusal(model: &Model, error: &ModelError) -> Refusal {
    match error {
        ModelError::Template(TemplateError::NoTemplate) => Refusal::NoChatTemplate {
            model: model.name.clone(),
        },
        // What the template says of the messages itself; all else it would say of any.
        ModelError::Template(TemplateError::Refused(said)) => Refusal::Template {
            reason: shortened(said),
        },
        ModelError::Template(broken) => Refusal::BrokenTemplate {
            model: model.name.clone(),
            reason: shortened(&broken.to_string()),
        },
        other => Refusal::Template {
            reason: shortened(&other.to_string()),
        },
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_REASON_CHARS).collect()
}
