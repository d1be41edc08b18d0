//! The vocabulary of a GGUF file, which is otherwise that of the tiny model: its kind and its rules for words, the
//! tokens, their types (a digit each) and scores, the merges, and a text. Zero bytes between them, line ends between
//! tokens and between merges.

use ternion_model::Model;

use crate::{desk::Desk, tiny_model};

pub fn run(data: &[u8]) -> bool {
    let mut parts = data.splitn(8, |&byte| byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (kind, words) = (part(), part());
    let tokens: Vec<&[u8]> = part().split(|&byte| byte == b'\n').collect();
    let (types, scores) = (part(), part());
    let merges: Vec<&[u8]> = part().split(|&byte| byte == b'\n').collect();
    let (ends, text) = (part(), part());
    let mut file = Metadata::default();
    file.text("general.architecture", b"bitnet-b1.58");
    for (key, size) in SIZES {
        file.number(&format!("bitnet-b1.58.{key}"), size);
    }
    file.text("tokenizer.ggml.model", kind);
    if !words.is_empty() {
        file.text("tokenizer.ggml.pre", words);
    }
    file.strings("tokenizer.ggml.tokens", &tokens);
    if !types.is_empty() {
        file.numbers("tokenizer.ggml.token_type", types, |digit| {
            u32::from(digit.wrapping_sub(b'0')).to_le_bytes()
        });
    }
    file.numbers("tokenizer.ggml.scores", scores, |score| {
        f32::from(score.cast_signed()).to_le_bytes()
    });
    file.strings("tokenizer.ggml.merges", &merges);
    for (name, &id) in ["bos", "eos", "eot"].iter().zip(ends) {
        file.number(&format!("tokenizer.ggml.{name}_token_id"), u32::from(id));
    }
    let desk = Desk::new("gguf_vocabulary");
    desk.put(
        "model.gguf",
        &tiny_model::with_data(&file.with_tensors(tokens.len())),
    );
    Model::open(&desk.path().join("model.gguf"))
        .inspect(|model| tiny_model::tokenize(model, &String::from_utf8_lossy(text)))
        .is_ok()
}

const WIDTH: u32 = 32;
const SIZES: [(&str, u32); 6] = [
    ("embedding_length", WIDTH),
    ("feed_forward_length", WIDTH),
    ("block_count", 1),
    ("attention.head_count", 2),
    ("attention.head_count_kv", 2),
    ("context_length", 64),
];

const UINT32: u32 = 4;
const FLOAT32: u32 = 6;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const F16: u32 = 1;
const F32: u32 = 0;
const I2_S: u32 = 36;

/// Keys and values as GGUF writes them.
#[derive(Default)]
struct Metadata {
    bytes: Vec<u8>,
    num_keys: u64,
}

impl Metadata {
    fn key(&mut self, key: &str, kind: u32) {
        self.num_keys += 1;
        string(&mut self.bytes, key.as_bytes());
        self.bytes.extend(kind.to_le_bytes());
    }

    fn text(&mut self, key: &str, text: &[u8]) {
        self.key(key, STRING);
        string(&mut self.bytes, text);
    }

    fn number(&mut self, key: &str, number: u32) {
        self.key(key, UINT32);
        self.bytes.extend(number.to_le_bytes());
    }

    fn strings(&mut self, key: &str, strings: &[&[u8]]) {
        self.key(key, ARRAY);
        self.bytes.extend(STRING.to_le_bytes());
        self.bytes.extend((strings.len() as u64).to_le_bytes());
        for text in strings {
            string(&mut self.bytes, text);
        }
    }

    /// Types are read as whole numbers, and scores as floats.
    fn numbers(&mut self, key: &str, values: &[u8], number: impl Fn(u8) -> [u8; 4]) {
        self.key(key, ARRAY);
        let kind = if key.ends_with("scores") {
            FLOAT32
        } else {
            UINT32
        };
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((values.len() as u64).to_le_bytes());
        self.bytes
            .extend(values.iter().flat_map(|&value| number(value)));
    }

    fn with_tensors(self, vocab: usize) -> Vec<u8> {
        let width = u64::from(WIDTH);
        let dense =
            |name: &str, dims: &[u64], kind, bytes| (name.to_owned(), dims.to_vec(), kind, bytes);
        let mut tensors = vec![
            dense(
                "token_embd.weight",
                &[width, vocab as u64],
                F16,
                2 * width * vocab as u64,
            ),
            dense("output_norm.weight", &[width], F32, 4 * width),
        ];
        for norm in ["attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm"] {
            tensors.push(dense(
                &format!("blk.0.{norm}.weight"),
                &[width],
                F32,
                4 * width,
            ));
        }
        for matrix in [
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
        ] {
            let bytes = width * width / 4 + 32;
            tensors.push(dense(
                &format!("blk.0.{matrix}.weight"),
                &[width, width],
                I2_S,
                bytes,
            ));
        }
        let mut file = b"GGUF".to_vec();
        file.extend(3_u32.to_le_bytes());
        file.extend((tensors.len() as u64).to_le_bytes());
        file.extend(self.num_keys.to_le_bytes());
        file.extend(self.bytes);
        let mut offset = 0_u64;
        for (name, dims, kind, bytes) in tensors {
            string(&mut file, name.as_bytes());
            file.extend((dims.len() as u32).to_le_bytes());
            file.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
            file.extend(kind.to_le_bytes());
            file.extend(offset.to_le_bytes());
            offset += bytes.next_multiple_of(32);
        }
        file
    }
}

fn string(into: &mut Vec<u8>, text: &[u8]) {
    into.extend((text.len() as u64).to_le_bytes());
    into.extend(text);
}
