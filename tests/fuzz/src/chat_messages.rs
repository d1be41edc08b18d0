//! Pairs of role and content, with zero bytes between, under a template that is as most are: whatever they say, the
//! special tokens of the conversation are those that the template wrote.

use std::cell::OnceCell;

use ternion_model::{ChatMessage, Model};

use crate::tiny_model;

thread_local! {
    static MODEL: OnceCell<Model> = const { OnceCell::new() };
}

pub fn run(data: &[u8]) -> bool {
    MODEL.with(|model| encode(model.get_or_init(open), data))
}

fn open() -> Model {
    let desk = tiny_model::directory("chat_messages");
    Model::open(desk.path()).expect("the tiny model is a model")
}

fn encode(model: &Model, data: &[u8]) -> bool {
    let texts: Vec<_> = data
        .split(|&byte| byte == 0)
        .map(String::from_utf8_lossy)
        .collect();
    let messages: Vec<ChatMessage> = texts
        .chunks_exact(2)
        .map(|pair| ChatMessage {
            role: pair[0].to_string(),
            content: pair[1].to_string(),
        })
        .collect();
    let Ok(ids) = model.encode_chat(&messages) else {
        return false;
    };
    let special = |id: &&u32| model.tokenizer.is_special(**id);
    let eot = model
        .tokenizer
        .token_id("<|eot_id|>")
        .expect("the tiny model has it");
    let bos = model.tokenizer.bos().expect("the tiny model has one");
    assert_eq!(ids.first(), Some(&bos));
    let written: Vec<u32> = ids[1..].iter().filter(special).copied().collect();
    assert_eq!(written, vec![eot; messages.len()]);
    true
}
