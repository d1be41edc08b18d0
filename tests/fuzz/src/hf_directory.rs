//! The small files of a directory: `config.json`, `tokenizer_config.json`, `generation_config.json`,
//! `chat_template.jinja` and the index of shards, with zero bytes between. Empty ones are left out.

use ternion_model::Model;

use crate::tiny_model;

const FILES: [&str; 5] = [
    "config.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
];

pub fn run(data: &[u8]) -> bool {
    let desk = tiny_model::directory("hf_directory");
    let mut parts = data.splitn(FILES.len(), |&byte| byte == 0);
    for file in FILES {
        match parts.next() {
            None | Some([]) => desk.remove(file),
            Some(bytes) => desk.put(file, bytes),
        }
    }
    // An index is looked for only where there is no single file.
    let weights = tiny_model::with_data(tiny_model::SAFETENSORS);
    let sharded = desk.path().join(FILES[4]).exists();
    desk.remove(if sharded {
        "model.safetensors"
    } else {
        "all.safetensors"
    });
    desk.put(
        if sharded {
            "all.safetensors"
        } else {
            "model.safetensors"
        },
        &weights,
    );
    Model::open(desk.path()).is_ok_and(|model| tiny_model::make_use_of(&model).is_ok())
}
