//! A chat template, then pairs of role and content, with zero bytes between all of them.

use std::borrow::Cow;

use ternion_model::{ChatMessage, ChatTemplate};

pub fn run(data: &[u8]) -> bool {
    let mut parts = data.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    let source = parts.next().unwrap_or_default().into_owned();
    let texts: Vec<Cow<'_, str>> = parts.collect();
    let messages: Vec<ChatMessage> = texts
        .chunks_exact(2)
        .map(|pair| ChatMessage {
            role: pair[0].to_string(),
            content: pair[1].to_string(),
        })
        .collect();
    let template = ChatTemplate::new(source, "<s>".to_owned(), "</s>".to_owned());
    template.is_ok_and(|template| template.render(&messages, true).is_ok())
}
