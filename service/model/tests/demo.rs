//! The embedded demo model: what it is, and that text becomes the ids transformers gives it.

use std::path::{Path, PathBuf};

use serde_json::Value;
use ternion_model::{Activation, ChatMessage, Model, Norm, Projection, Rope};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn demo() -> Model {
    Model::open(&root().join("service/server/demo")).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().unwrap();
    list.iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn it_is_what_its_config_says() {
    let model = demo();
    let of = &model.architecture;
    assert_eq!(model.name, "demo");
    assert_eq!((of.hidden, of.ffn, of.layers), (256, 768, 6));
    assert_eq!((of.heads, of.kv_heads, of.head_dim), (8, 2, 32));
    assert_eq!((of.vocab, of.context), (1024, 1024));
    assert_eq!((of.activation, of.rope), (Activation::Relu2, Rope::Neox));
    assert!(of.sub_norms && of.tied_head);
    assert_eq!(model.generation.end_tokens, [1017, 1023]);
    assert_eq!(model.generation.temperature, Some(0.6));
    assert_eq!(model.tokenizer.bos(), Some(1016));
    assert!(model.tokenizer.adds_bos());
    for layer in 0..of.layers {
        for projection in Projection::ALL {
            let matrix = model.weights.ternary(layer, projection).unwrap();
            assert_eq!((matrix.rows(), matrix.cols()), projection.shape(of));
            let mut trits = vec![9; matrix.rows() * matrix.cols()];
            matrix.trits_into(0..matrix.rows(), &mut trits).unwrap();
            assert!(trits.iter().all(|t| (-1..=1).contains(t)));
        }
        assert!(
            Norm::ALL
                .iter()
                .all(|&n| model.weights.norm(layer, n).is_some())
        );
    }
}

#[test]
fn prompts_become_the_ids_transformers_gives_them() {
    let model = demo();
    let text = std::fs::read_to_string(root().join("tests/fixtures/demo/expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let cases = expected["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 14);
    for case in cases {
        let prompt = case["prompt"].as_str().unwrap();
        let want = ids(&case["prompt_ids"]);
        assert_eq!(model.tokenizer.encode_prompt(prompt).unwrap(), want);
        let greedy = ids(&case["greedy_ids"]);
        assert_eq!(
            model.tokenizer.decode(&greedy),
            case["text"].as_str().unwrap()
        );
        if case["kind"] != "chat" {
            continue;
        }
        let messages: Vec<ChatMessage> = case["input"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| ChatMessage {
                role: m["role"].as_str().unwrap().to_owned(),
                content: m["content"].as_str().unwrap().to_owned(),
            })
            .collect();
        let template = model.chat.as_ref().unwrap();
        assert_eq!(template.render(&messages, true).unwrap(), prompt);
        assert_eq!(model.encode_chat(&messages).unwrap(), want);
    }
}
