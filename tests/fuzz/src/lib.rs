//! Fuzz targets: functions that take any bytes for what an outsider hands over.
//!
//! None of them may panic, overflow, run for seconds or grow beyond what its input pays for, whatever the bytes. Some
//! hold more than that: what is always true of an answer is asserted where the answer is made.
//!
//! The programs in `targets/` hand them to libFuzzer (`cargo verify` builds and runs those for a while); the tests
//! replay `corpus/`, which holds a seed for every format and every input that ever failed.
#![forbid(unsafe_code)]

pub mod adapter;
pub mod chat_messages;
pub mod chat_template;
pub mod gguf;
pub mod gguf_vocabulary;
pub mod hf_directory;
pub mod safetensors;
pub mod text_stream;
pub mod tokenizer_json;

mod desk;
mod tiny_model;

/// A name, which is also that of its corpus and of its program, and what is called with the bytes.
pub struct Target {
    pub name: &'static str,
    /// Whether the bytes were taken for what they are called.
    pub run: fn(&[u8]) -> bool,
}

pub const TARGETS: [Target; 9] = [
    target("gguf", gguf::run),
    target("gguf_vocabulary", gguf_vocabulary::run),
    target("safetensors", safetensors::run),
    target("hf_directory", hf_directory::run),
    target("tokenizer_json", tokenizer_json::run),
    target("adapter", adapter::run),
    target("chat_template", chat_template::run),
    target("chat_messages", chat_messages::run),
    target("text_stream", text_stream::run),
];

const fn target(name: &'static str, run: fn(&[u8]) -> bool) -> Target {
    Target { name, run }
}
