use std::collections::HashMap;

use super::*;

fn activation(family: &'static str, tokenizer: &'static str, vocab: usize) -> Activation {
    activation_with(family, tokenizer, vocab, None)
}

fn activation_with(
    family: &'static str,
    tokenizer: &'static str,
    vocab: usize,
    stated: Option<&'static str>,
) -> Activation {
    let key = format!("{family}.hidden_activation");
    let mut metadata = HashMap::from([
        (ARCHITECTURE, Value::String(family)),
        ("tokenizer.ggml.model", Value::String(tokenizer)),
        (
            "tokenizer.ggml.tokens",
            Value::Array(Array::Strings(vec!["t"; vocab])),
        ),
    ]);
    if let Some(stated) = stated {
        metadata.insert(&key, Value::String(stated));
    }
    let header = Header {
        metadata,
        tensors: HashMap::new(),
        data_start: 0,
    };
    Metadata::new(&header).unwrap().activation(&key).unwrap()
}

#[test]
fn the_activation_follows_from_who_wrote_the_file() {
    use Activation::{Relu2, Silu};
    assert_eq!(activation("llama", "gpt2", 128_256), Silu);
    assert_eq!(activation("bitnet", "llama", 32_002), Silu);
    assert_eq!(activation("bitnet-25", "gpt2", 128_256), Relu2);
    assert_eq!(activation("bitnet-b1.58", "gpt2", 128_256), Relu2);
    assert_eq!(activation("bitnet-b1.58", "llama", 32_002), Silu);
    assert_eq!(activation("bitnet-b1.58", "llama", 32_000), Relu2);
    assert_eq!(
        activation_with("bitnet", "llama", 32_002, Some("relu2")),
        Relu2
    );
    assert_eq!(activation_with("bitnet-25", "gpt2", 9, Some("silu")), Silu);
}
