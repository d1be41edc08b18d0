//! The smallest model there can be, and what is done with every model that opens.

use ternion_model::{Model, ModelError, Projection, Specials};

use crate::desk::Desk;

pub(crate) const CONFIG: &[u8] = include_bytes!("../base/config.json");
pub(crate) const TOKENIZER: &[u8] = include_bytes!("../base/tokenizer.json");
pub(crate) const TOKENIZER_CONFIG: &[u8] = include_bytes!("../base/tokenizer_config.json");
pub(crate) const SAFETENSORS: &[u8] = include_bytes!("../base/model.safetensors.head");

/// More than the tensors of the tiny models have together.
const DATA_BYTES: usize = 40 << 10;

/// The beginning of a file, up to where its tensors' numbers begin, with numbers: what a fuzzer changes are then not
/// the weights, which mean nothing. They are 2.0 in every float format, and trits in every packed one.
pub(crate) fn with_data(head: &[u8]) -> Vec<u8> {
    let mut file = head.to_vec();
    let byte = |at: usize| if at % 4 == 3 { 0x40 } else { 0 };
    file.extend((head.len()..head.len() + DATA_BYTES).map(byte));
    file
}

/// A Hugging Face directory of it.
pub(crate) fn directory(name: &str) -> Desk {
    let desk = Desk::new(name);
    desk.put("config.json", CONFIG);
    desk.put("tokenizer.json", TOKENIZER);
    desk.put("tokenizer_config.json", TOKENIZER_CONFIG);
    desk.put("model.safetensors", &with_data(SAFETENSORS));
    desk
}

/// Uses a model as a server does, so that what is found late is found.
pub(crate) fn make_use_of(model: &Model) -> Result<(), ModelError> {
    for layer in 0..model.architecture.layers {
        for projection in Projection::ALL {
            let matrix = model.weights.ternary(layer, projection)?;
            let mut trits = vec![0; matrix.rows() * matrix.cols()];
            matrix.trits_into(0..matrix.rows(), &mut trits)?;
        }
    }
    let mut row = vec![0.0; model.architecture.hidden];
    let (embedding, head) = (model.weights.embedding(), model.weights.head());
    embedding.row_into(embedding.rows() - 1, &mut row);
    head.row_into(head.rows() - 1, &mut row);
    tokenize(model, "a test\u{e9} <|eot_id|> 12  \n");
    let message = |role: &str, content: &str| ternion_model::ChatMessage {
        role: role.to_owned(),
        content: content.to_owned(),
    };
    // An error is an answer.
    let _ = model.encode_chat(&[message("system", "be"), message("user", "hi <|eot_id|>")]);
    Ok(())
}

/// Both ways of taking a text, and what is true of every answer.
pub(crate) fn tokenize(model: &Model, text: &str) {
    let tokenizer = &model.tokenizer;
    for specials in [Specials::Parse, Specials::Text] {
        let Ok(ids) = tokenizer.encode(text, specials) else {
            continue;
        };
        for &id in &ids {
            assert!((id as usize) < tokenizer.vocab_size(), "{id}");
        }
        let written = tokenizer.decode(&ids);
        assert!(
            written.len()
                <= ids
                    .iter()
                    .map(|&id| 3 * tokenizer.token_bytes(id).len())
                    .sum()
        );
    }
    for id in 0..tokenizer.vocab_size() as u32 + 1 {
        tokenizer.token_bytes(id);
        tokenizer.special_text(id);
    }
    let _ = tokenizer.encode_prompt(text);
}
