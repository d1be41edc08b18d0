//! Models that are not damaged but absurd or unsupported: the error names the key.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use ternion_model::{Model, ModelError};

fn fixture(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(path)
}

/// A fixture's directory with some keys of one JSON file changed, `null` to take one away.
fn changed(of: &str, file: &str, changes: &Value) -> TempDir {
    let dir = TempDir::new().unwrap();
    for entry in std::fs::read_dir(fixture(of)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let path = dir.path().join(file);
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::write(path, config.to_string()).unwrap();
    dir
}

#[track_caller]
fn refused(result: Result<Model, ModelError>, expected: &str) {
    let error = result.unwrap_err().to_string();
    assert!(
        error.contains(expected),
        "{error:?} does not say {expected:?}"
    );
}

#[test]
fn configs_are_refused_by_key() {
    for (changes, expected) in [
        (json!({"hidden_size": 0}), "hidden_size"),
        (
            json!({"hidden_size": -1}),
            "hidden_size: is -1, expected a whole number",
        ),
        (json!({"hidden_size": 1e300}), "hidden_size: is 1e+300"),
        (json!({"hidden_size": null}), "hidden_size: is missing"),
        (
            json!({"hidden_size": u64::MAX, "head_dim": 32}),
            "expected 1 to 1048576",
        ),
        (
            json!({"hidden_size": 260, "head_dim": 32}),
            "embed_tokens.weight has shape [512, 256], expected [512, 260]",
        ),
        (
            json!({"hidden_size": 257}),
            "head_dim: is missing, and hidden_size 257 is not 8 equal heads",
        ),
        (
            json!({"head_dim": 31}),
            "head_dim: is 31, expected an even number",
        ),
        (
            json!({"head_dim": 64}),
            "q_proj.weight has shape [64, 256], expected [128, 256] (packed)",
        ),
        (json!({"num_attention_heads": 0}), "head_dim"),
        (
            json!({"num_attention_heads": 1048576, "head_dim": 1024}),
            "wider than 1048576",
        ),
        (
            json!({"num_key_value_heads": 3}),
            "num_key_value_heads: 8 heads cannot share 3",
        ),
        (
            json!({"num_key_value_heads": 0}),
            "num_key_value_heads: is 0",
        ),
        (
            json!({"num_hidden_layers": 1_000_000_000}),
            "num_hidden_layers: is 1000000000",
        ),
        (
            json!({"num_hidden_layers": 5}),
            "tensor model.layers.4.self_attn.q_proj.weight is missing",
        ),
        (
            json!({"vocab_size": 500}),
            "vocab_size: is 500, but tokenizer.json has ids up to 511",
        ),
        (
            json!({"vocab_size": 600}),
            "embed_tokens.weight has shape [512, 256], expected [600, 256]",
        ),
        (json!({"rms_norm_eps": 0}), "rms_norm_eps: is 0"),
        (json!({"rope_theta": -5}), "rope_theta: is -5"),
        (
            json!({"rope_theta": "x"}),
            "rope_theta: is \"x\", expected a number",
        ),
        (
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8}}),
            "rope_scaling: has type llama3",
        ),
        (
            json!({"rope_scaling": {"type": "yarn"}}),
            "rope_scaling: has type yarn",
        ),
        (
            json!({"partial_rotary_factor": 0.5}),
            "partial_rotary_factor",
        ),
        (json!({"attention_bias": true}), "attention_bias"),
        (json!({"hidden_act": "gelu"}), "hidden_act: is gelu"),
        (
            json!({"architectures": ["Qwen3ForCausalLM"]}),
            "architectures: is Qwen3ForCausalLM",
        ),
        (
            json!({"architectures": []}),
            "architectures: names no model class",
        ),
        (
            json!({"eos_token_id": 512}),
            "eos_token_id: 512 is not below vocab_size 512",
        ),
        (
            json!({"tie_word_embeddings": false}),
            "tensor lm_head.weight is missing",
        ),
        (
            json!({"quantization_config": {"quant_method": "gptq"}}),
            "quant_method: is gptq",
        ),
        (
            json!({"quantization_config": {"use_rms_norm": true}}),
            "use_rms_norm: is true",
        ),
        (
            json!({"quantization_config": {"linear_class": "other"}}),
            "linear_class: is other",
        ),
        (
            json!({"quantization_config": {"modules_to_not_convert": ["q_proj"]}}),
            "modules_to_not_convert",
        ),
    ] {
        let dir = changed("hf-bitnet/model", "config.json", &changes);
        refused(Model::open(dir.path()), expected);
    }
    let plain = changed(
        "hf-llama/model",
        "config.json",
        &json!({"quantization_config": null}),
    );
    refused(Model::open(plain.path()), "quantization_config: is missing");
}

#[test]
fn an_added_token_keeps_the_id_its_file_gives_it() {
    let tokenizer = std::fs::read(fixture("hf-bitnet/model/tokenizer.json")).unwrap();
    let tokenizer: Value = serde_json::from_slice(&tokenizer).unwrap();
    let mut added = tokenizer["added_tokens"].clone();
    let last = added.as_array().unwrap().len() - 1;
    let id = added[last]["id"].as_u64().unwrap();
    added[last]["content"] = json!("<|of the file's own|>");
    added[last]["id"] = json!(id + 7);
    let changes = json!({ "added_tokens": added });
    let dir = changed("hf-bitnet/model", "tokenizer.json", &changes);
    refused(
        Model::open(dir.path()),
        "tokenizer.json: gives the added token \"<|of the file's own|>\" the id",
    );
}

#[test]
fn the_scale_key_means_what_the_linear_class_says() {
    let scale = |changes: &Value| {
        let dir = changed("hf-bitnet/model", "config.json", changes);
        let model = Model::open(dir.path()).unwrap();
        model
            .weights
            .ternary(0, ternion_model::Projection::Q)
            .unwrap()
            .scale()
    };
    let multiplies = scale(&json!({}));
    let old =
        json!({"quantization_config": {"quant_method": "bitnet", "offline_quantization": true}});
    assert_eq!(scale(&old), multiplies);
    for divides in [
        json!({"quant_method": "bitnet"}),
        json!({"linear_class": "bitlinear"}),
    ] {
        assert_eq!(
            scale(&json!({"quantization_config": divides})),
            1.0 / multiplies
        );
    }
}

#[test]
fn shards_are_one_model() {
    let whole = Model::open(&fixture("hf-llama/model")).unwrap();
    let dir = changed("hf-llama/model", "config.json", &json!({}));
    let bytes = std::fs::read(dir.path().join("model.safetensors")).unwrap();
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let data = &bytes[8 + header_len..];
    let mut map = json!({});
    for shard in 0..2 {
        let file = format!("model-0000{}-of-00002.safetensors", shard + 1);
        let mut part = json!({});
        let mut content = Vec::new();
        for (i, (name, entry)) in header.as_object().unwrap().iter().enumerate() {
            if name == "__metadata__" || i % 2 != shard {
                continue;
            }
            let [start, end] = [0, 1].map(|i| entry["data_offsets"][i].as_u64().unwrap() as usize);
            part[name] = entry.clone();
            part[name]["data_offsets"] = json!([content.len(), content.len() + end - start]);
            content.extend_from_slice(&data[start..end]);
            map[name] = json!(file);
        }
        let text = part.to_string();
        let mut out = (text.len() as u64).to_le_bytes().to_vec();
        out.extend(text.as_bytes());
        out.extend(content);
        std::fs::write(dir.path().join(file), out).unwrap();
    }
    let index = dir.path().join("model.safetensors.index.json");
    std::fs::write(&index, json!({"weight_map": map}).to_string()).unwrap();
    let shards = Model::open(dir.path()).unwrap();
    assert_eq!(shards.architecture, whole.architecture);
    assert_eq!(shards.weights.head().bytes(), whole.weights.head().bytes());
    assert_eq!(shards.weights.output_norm(), whole.weights.output_norm());

    std::fs::write(
        &index,
        json!({"weight_map": {"a": "../model.safetensors"}}).to_string(),
    )
    .unwrap();
    refused(Model::open(dir.path()), "expected a .safetensors file");
    std::fs::write(
        &index,
        json!({"weight_map": {"a": "gone.safetensors"}}).to_string(),
    )
    .unwrap();
    refused(Model::open(dir.path()), "gone.safetensors");
}

#[test]
fn safetensors_headers_are_refused_by_tensor() {
    for (header, expected) in [
        (
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,9]}}"#,
            "tensor a: bytes 0..9 do not lie",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
            "tensor a: bytes 8..0 do not lie",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
            "tensor a: F32 of shape [3] is not 8 bytes",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,8]}}"#,
            "is not 8 bytes long",
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},"b":{"dtype":"U8","shape":[5],"data_offsets":[3,8]}}"#,
            "tensors a and b overlap at byte",
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
            "tensor a appears twice",
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#,
            "tensor a: invalid value",
        ),
        ("[]", "expected an object of tensors"),
    ] {
        let dir = changed("hf-bitnet/model", "config.json", &json!({}));
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 8]);
        std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        refused(Model::open(dir.path()), expected);
    }
}

#[test]
fn a_path_that_is_no_model_is_said_to_be_none() {
    let dir = TempDir::new().unwrap();
    refused(
        Model::open(dir.path()),
        "neither a GGUF file nor a directory with a config.json",
    );
    let file = dir.path().join("x.gguf");
    std::fs::write(&file, b"GG").unwrap();
    refused(Model::open(&file), "neither a GGUF file");
    refused(Model::open(&dir.path().join("nowhere")), "cannot read");
    std::fs::write(dir.path().join("config.json"), vec![b' '; 2 << 20]).unwrap();
    refused(
        Model::open(dir.path()),
        "config.json has 2097152 bytes, more than the 1048576",
    );
}

/// Enough GGUF to say one absurd thing at a time.
#[derive(Clone)]
struct Gguf {
    kv: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: usize,
}

fn string(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text.as_bytes());
    out
}

impl Gguf {
    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.kv.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.kv {
            out.extend(string(key));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        for (name, dims, kind, offset) in &self.tensors {
            out.extend(string(name));
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32) + self.data, 0);
        out
    }

    fn open(&self) -> Result<Model, ModelError> {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("x.gguf");
        std::fs::write(&path, self.bytes()).unwrap();
        Model::open(&path)
    }

    fn set(&self, key: &str, kind: u32, value: &[u8]) -> Gguf {
        let mut changed = self.clone();
        changed.kv.retain(|(k, ..)| k != key);
        changed.kv.push((key.to_owned(), kind, value.to_vec()));
        changed
    }

    fn u32(&self, key: &str, value: u32) -> Gguf {
        self.set(key, 4, &value.to_le_bytes())
    }

    fn tensor(&self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Gguf {
        let mut changed = self.clone();
        changed
            .tensors
            .push((name.to_owned(), dims.to_vec(), kind, offset));
        changed
    }
}

fn small() -> Gguf {
    let strings = |items: &[&str]| {
        let mut out = 8_u32.to_le_bytes().to_vec();
        out.extend((items.len() as u64).to_le_bytes());
        items.iter().for_each(|item| out.extend(string(item)));
        out
    };
    let empty = Gguf {
        kv: Vec::new(),
        tensors: Vec::new(),
        data: 4096,
    };
    empty
        .set("general.architecture", 8, &string("llama"))
        .set("tokenizer.ggml.model", 8, &string("gpt2"))
        .set("tokenizer.ggml.tokens", 9, &strings(&["a", "b", "ab"]))
        .set("tokenizer.ggml.merges", 9, &strings(&["a b"]))
        .u32("llama.embedding_length", 128)
        .u32("llama.feed_forward_length", 128)
        .u32("llama.block_count", 1)
        .u32("llama.attention.head_count", 2)
        .u32("llama.context_length", 64)
}

#[test]
fn gguf_keys_are_refused_by_name() {
    let small = small();
    for (gguf, expected) in [
        (small.clone(), "tensor token_embd.weight is missing"),
        (
            small.u32("llama.embedding_length", 0),
            "llama.embedding_length: is 0",
        ),
        (
            small.u32("llama.embedding_length", u32::MAX),
            "llama.attention.key_length: is missing, and 4294967295",
        ),
        (
            small.u32("llama.block_count", u32::MAX),
            "llama.block_count: is 4294967295",
        ),
        (
            small.u32("llama.attention.head_count", 0),
            "llama.attention.key_length",
        ),
        (
            small.u32("llama.attention.head_count", 3),
            "128 is not 3 equal heads",
        ),
        (
            small.u32("llama.attention.head_count_kv", 4),
            "2 heads cannot share 4",
        ),
        (
            small.u32("llama.rope.dimension_count", 32),
            "llama.rope.dimension_count: is 32, but a head has 64",
        ),
        (
            small.u32("llama.vocab_size", 4),
            "llama.vocab_size: is 4, but tokenizer.ggml.tokens has 3",
        ),
        (
            small.u32("tokenizer.ggml.bos_token_id", 3),
            "tokenizer.ggml.bos_token_id: is 3, but there are 3 tokens",
        ),
        (
            small.set("llama.block_count", 8, &string("one")),
            "llama.block_count: is \"one\", expected a whole number",
        ),
        (
            small.set("llama.block_count", 5, &(-1_i32).to_le_bytes()),
            "llama.block_count: is -1",
        ),
        (
            small.set("llama.rope.freq_base", 6, &f32::NAN.to_le_bytes()),
            "llama.rope.freq_base: is NaN",
        ),
        (
            small.set("llama.rope.scaling.type", 8, &string("yarn")),
            "llama.rope.scaling.type: is yarn",
        ),
        (
            small.set("llama.hidden_activation", 8, &string("gelu")),
            "llama.hidden_activation: is gelu",
        ),
        (
            small.set("general.architecture", 8, &string("qwen3")),
            "general.architecture: is qwen3",
        ),
        (
            small.set("tokenizer.ggml.model", 8, &string("bert")),
            "tokenizer.ggml.model: is bert",
        ),
        (
            small.set("tokenizer.ggml.pre", 8, &string("deepseek")),
            "tokenizer.ggml.pre: is deepseek",
        ),
        (
            small.set("tokenizer.ggml.add_bos_token", 7, &[2]),
            "tokenizer.ggml.add_bos_token is [2], expected a bool",
        ),
        (small.set("x", 13, &[]), "the type of x is 13"),
        (
            small.u32("general.alignment", 48),
            "general.alignment is 48, expected a power of two",
        ),
        (small.u32("general.alignment", 0), "general.alignment is 0"),
    ] {
        refused(gguf.open(), expected);
    }
}

#[test]
fn gguf_tensors_are_refused_by_name_and_offset() {
    let small = small();
    let announced = small.bytes().len() - small.data;
    let at = |offset: usize| format!("byte {offset}: ");
    // The announcement of the first tensor follows the metadata, which padding may follow in turn.
    let infos = {
        let mut unpadded = small.bytes();
        unpadded.truncate(announced);
        let last = unpadded
            .windows(20)
            .rposition(|w| w == b"llama.context_length")
            .unwrap();
        last + 20 + 4 + 4
    };
    let name = "token_embd.weight";
    for (gguf, expected) in [
        (
            small.tensor(name, &[128, 3], 0, 1 << 40),
            "tensor token_embd.weight: 1536 bytes at data offset 1099511627776",
        ),
        (
            small.tensor(name, &[128, 3], 0, u64::MAX - 31),
            "do not lie within the 4096 bytes",
        ),
        (
            small.tensor(name, &[128, 3], 0, 8),
            "the offset of token_embd.weight is 8, expected a multiple",
        ),
        (
            small.tensor(name, &[128, 0], 0, 0),
            "a dimension of token_embd.weight is 0",
        ),
        (
            small.tensor(name, &[1 << 33, 1 << 33], 0, 0),
            "shape [8589934592, 8589934592] of F32",
        ),
        (
            small.tensor(name, &[u64::MAX, 1], 36, 0),
            "of I2_S is not a whole number of its blocks",
        ),
        (
            small.tensor(name, &[128, 3], 39, 0),
            "the type of token_embd.weight is 39",
        ),
        (
            small.tensor(name, &[], 0, 0),
            "the number of dimensions of token_embd.weight is 0",
        ),
        (
            small.tensor(name, &[1; 5], 0, 0),
            "the number of dimensions of token_embd.weight is 5",
        ),
        (
            small.tensor(name, &[128, 4], 0, 0),
            "token_embd.weight has shape [128, 4], expected [128, 3]",
        ),
        (
            small.tensor(name, &[128, 3], 36, 0),
            "token_embd.weight has type I2_S",
        ),
        (
            small.tensor("a", &[8], 0, 0).tensor("a", &[8], 0, 32),
            "tensor a appears twice",
        ),
        (
            small.tensor("a", &[9], 0, 0).tensor("b", &[8], 0, 32),
            "tensors a and b overlap at byte",
        ),
    ] {
        refused(gguf.open(), expected);
    }
    let far = small.tensor(name, &[128, 3], 0, 1 << 40);
    refused(far.open(), &at(infos));
}

#[test]
fn a_scale_has_to_be_one() {
    for (scale, shown) in [
        (0.0_f32, "0"),
        (-1.0, "-1"),
        (f32::NAN, "NaN"),
        (f32::INFINITY, "inf"),
    ] {
        let bytes = std::fs::read(fixture("gguf/bitnet-q8_0.gguf")).unwrap();
        let good = Model::open(&fixture("gguf/bitnet-q8_0.gguf")).unwrap();
        let wanted = good
            .weights
            .ternary(0, ternion_model::Projection::V)
            .unwrap()
            .scale();
        // The scale of a matrix stands before 28 zero bytes; this finds that of layer 0's v.
        let mut tail = wanted.to_le_bytes().to_vec();
        tail.extend([0; 28]);
        let mut damaged = bytes.clone();
        let at = damaged.windows(32).position(|w| w == tail).unwrap();
        damaged[at..at + 4].copy_from_slice(&scale.to_le_bytes());
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("x.gguf");
        std::fs::write(&path, damaged).unwrap();
        refused(
            Model::open(&path),
            &format!("blk.0.attn_v.weight has scale {shown}"),
        );
    }
}

#[test]
fn the_converters_placeholder_template_is_replaced() {
    let mut bytes = std::fs::read(fixture("gguf/bitnet-f32.gguf")).unwrap();
    // Of equal length, so that the file stays as it is around the change.
    let real = b"{% set loop_messages = messages %}";
    let placeholder = b"BITNETAssistant: {# ------------#}";
    let at = bytes.windows(real.len()).position(|w| w == real).unwrap();
    bytes[at..at + real.len()].copy_from_slice(placeholder);
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.gguf");
    std::fs::write(&path, bytes).unwrap();
    let model = Model::open(&path).unwrap();
    let message = ternion_model::ChatMessage {
        role: "user".to_owned(),
        content: "Hi".to_owned(),
    };
    let text = model
        .chat
        .as_ref()
        .unwrap()
        .render(&[message], true)
        .unwrap();
    assert_eq!(text, "User: Hi<|eot_id|>Assistant: ");
    let ids = model.encode_chat(&[]).unwrap();
    assert_eq!(ids.first().copied(), model.tokenizer.bos());
}

#[test]
fn the_template_is_found_where_it_is_kept() {
    let said = |dir: &TempDir| {
        let model = Model::open(dir.path()).unwrap();
        model
            .chat
            .map(|template| template.render(&[], true).unwrap())
    };
    let listed =
        json!([{"name": "tools", "template": "no"}, {"name": "default", "template": "yes"}]);
    let config = "tokenizer_config.json";
    let dir = changed("hf-bitnet/model", config, &json!({"chat_template": listed}));
    assert_eq!(said(&dir).as_deref(), Some("yes"));
    std::fs::write(
        dir.path().join("chat_template.jinja"),
        "{{ bos_token }}file",
    )
    .unwrap();
    assert_eq!(said(&dir).as_deref(), Some("<|begin_of_text|>file"));
    let none = changed("hf-bitnet/model", config, &json!({"chat_template": null}));
    assert_eq!(said(&none), None);
    let error = Model::open(none.path())
        .unwrap()
        .encode_chat(&[])
        .unwrap_err();
    assert_eq!(error.to_string(), "this model has no chat template");
}
