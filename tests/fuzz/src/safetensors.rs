//! A safetensors file up to its tensor data, in the directory of the tiny model.

use ternion_model::Model;

use crate::tiny_model;

pub fn run(data: &[u8]) -> bool {
    let desk = tiny_model::directory("safetensors");
    desk.put("model.safetensors", &tiny_model::with_data(data));
    Model::open(desk.path()).is_ok_and(|model| tiny_model::make_use_of(&model).is_ok())
}
