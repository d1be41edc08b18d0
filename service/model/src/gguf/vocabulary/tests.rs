use serde_json::Value;

use super::*;
use crate::{Specials, Tokenizer, gguf::reader::Header};

fn fixture(name: &str) -> Vec<u8> {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/tokenizers/"
    );
    std::fs::read(format!("{folder}{name}")).unwrap()
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&fixture(name)).unwrap()
}

fn tokenizer(name: &str) -> Tokenizer {
    let file = fixture(name);
    let header = Header::parse(&file).unwrap();
    let metadata = Metadata::new(&header).unwrap();
    read(&metadata).unwrap().0
}

fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().unwrap();
    list.iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn every_set_of_rules_cuts_words_where_an_independent_splitter_does() {
    let expected = json("words.json");
    let texts = expected["texts"].as_array().unwrap();
    for pre in ["llama-bpe", "gpt-2", "default", "falcon3"] {
        let tokenizer = tokenizer(&format!("bpe-{pre}.gguf"));
        for (text, want) in texts.iter().zip(expected["ids"][pre].as_array().unwrap()) {
            let text = text.as_str().unwrap();
            let got = tokenizer.encode(text, Specials::Text).unwrap();
            assert_eq!(got, ids(want), "{pre}: {text:?}");
        }
    }
}

#[test]
fn byte_level_tokens_spell_the_text() {
    let tokenizer = tokenizer("bpe-llama-bpe.gguf");
    for text in json("words.json")["texts"].as_array().unwrap() {
        let text = text.as_str().unwrap();
        let ids = tokenizer.encode(text, Specials::Text).unwrap();
        assert_eq!(tokenizer.decode(&ids), text);
    }
}

#[test]
fn sentence_piece_agrees_with_sentencepiece() {
    let tokenizer = tokenizer("spm.gguf");
    let cases = json("spm.json");
    let cases = cases.as_array().unwrap();
    assert!(cases.len() > 40);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let want = ids(&case["ids"]);
        let got = tokenizer.encode(text, Specials::Text).unwrap();
        assert_eq!(got, want, "{text:?}");
        if !text.is_empty() {
            let spelled = text.replace('▁', " ");
            assert_eq!(tokenizer.decode(&got), format!(" {spelled}"));
        }
    }
    assert_eq!((tokenizer.bos(), tokenizer.adds_bos()), (Some(1), true));
}

#[test]
fn sentence_piece_specials_are_parsed_only_when_asked_for() {
    let tokenizer = tokenizer("spm.gguf");
    let parsed = tokenizer.encode("<s>Emma</s>", Specials::Parse).unwrap();
    assert_eq!((parsed[0], *parsed.last().unwrap()), (1, 2));
    let plain = tokenizer.encode("<s>Emma</s>", Specials::Text).unwrap();
    assert!(plain.iter().all(|id| ![0, 1, 2].contains(id)));
    assert_eq!(tokenizer.decode(&parsed), " Emma");
}

/// The official 2B-4T file does not name its rules. Llama-3's take a word that is a token whole;
/// the default ones would have to get there by merging.
#[test]
fn a_vocabulary_of_llama_3s_size_has_llama_3s_rules() {
    use std::collections::HashMap;

    use crate::gguf::value::{Array, Value};

    let filler: Vec<String> = (0..LLAMA_3_VOCAB).map(|i| format!("filler {i}")).collect();
    for (size, want) in [(LLAMA_3_VOCAB, vec![0]), (LLAMA_3_VOCAB - 1, vec![1, 2])] {
        let mut tokens: Vec<&str> = filler.iter().take(size).map(String::as_str).collect();
        tokens[..3].copy_from_slice(&["hi", "h", "i"]);
        let header = Header {
            metadata: HashMap::from([
                ("general.architecture", Value::String("bitnet-b1.58")),
                (MODEL, Value::String("gpt2")),
                (TOKENS, Value::Array(Array::Strings(tokens))),
                (MERGES, Value::Array(Array::Strings(vec!["f i"]))),
            ]),
            tensors: HashMap::new(),
            data_start: 0,
        };
        let tokenizer = read(&Metadata::new(&header).unwrap()).unwrap().0;
        assert_eq!(tokenizer.encode("hi", Specials::Text).unwrap(), want);
    }
}
