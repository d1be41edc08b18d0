//! `tokenizer.json`, then a zero byte and a text.

use ternion_model::Model;

use crate::tiny_model;

pub fn run(data: &[u8]) -> bool {
    let mut parts = data.splitn(2, |&byte| byte == 0);
    let tokenizer = parts.next().unwrap_or_default();
    let text = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let desk = tiny_model::directory("tokenizer_json");
    desk.put("tokenizer.json", tokenizer);
    Model::open(desk.path())
        .inspect(|model| tiny_model::tokenize(model, &text))
        .is_ok()
}
