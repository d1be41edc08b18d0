//! A GGUF file up to its tensor data.

use ternion_model::Model;

use crate::{desk::Desk, tiny_model};

pub fn run(data: &[u8]) -> bool {
    let desk = Desk::new("gguf");
    desk.put("model.gguf", &tiny_model::with_data(data));
    Model::open(&desk.path().join("model.gguf"))
        .is_ok_and(|model| tiny_model::make_use_of(&model).is_ok())
}
