//! A chat template, then pairs of role and content, with zero bytes between all of them.

use std::borrow::Cow;

use ternion_model::{ChatMessage, Model};

use crate::tiny_model;

pub fn run(data: &[u8]) -> bool {
    let desk = tiny_model::directory("chat_template");
    let mut parts = data.split(|&byte| byte == 0);
    desk.put("chat_template.jinja", parts.next().unwrap_or_default());
    let Ok(model) = Model::open(desk.path()) else {
        return false;
    };
    let texts: Vec<Cow<'_, str>> = parts.map(String::from_utf8_lossy).collect();
    let messages: Vec<ChatMessage> = texts
        .chunks_exact(2)
        .map(|pair| ChatMessage {
            role: pair[0].to_string(),
            content: pair[1].to_string(),
        })
        .collect();
    let template = model
        .chat
        .as_ref()
        .expect("a directory with a template has one");
    template.render(&messages, true).is_ok()
}
