//! PEFT adapters: what is read, what is refused.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use ternion_model::{Adapter, Architecture, Model, ModelError, Projection, Rope};

fn fixture(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf-bitnet");
    root.join(path)
}

fn architecture() -> Architecture {
    Model::open(&fixture("model")).unwrap().architecture
}

/// The fixture's adapter with some keys of its config changed.
fn changed(changes: Value) -> TempDir {
    let text = std::fs::read_to_string(fixture("adapter/adapter_config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    let tensors = "adapter_model.safetensors";
    std::fs::copy(fixture("adapter").join(tensors), dir.path().join(tensors)).unwrap();
    dir
}

fn open(changes: Value, of: &Architecture) -> Result<Adapter, ModelError> {
    Adapter::open(changed(changes).path(), of)
}

/// The first number of a tensor, straight from the file.
fn first_number(tensor: &str) -> f32 {
    let bytes = std::fs::read(fixture("adapter/adapter_model.safetensors")).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let offset = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    let at = 8 + header_len + offset;
    f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

#[test]
fn every_projection_of_the_fixture_is_adapted() {
    let of = architecture();
    let adapter = Adapter::open(&fixture("adapter"), &of).unwrap();
    assert_eq!(adapter.pairs().count(), of.layers * 7);
    for (_, projection, pair) in adapter.pairs() {
        let (rows, cols) = projection.shape(&of);
        assert_eq!((pair.rank, pair.scaling), (8, 2.0));
        assert_eq!((pair.a.len(), pair.b.len()), (8 * cols, 8 * rows));
    }
    let down = adapter.pair(1, Projection::Down).unwrap();
    let name = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight";
    assert_eq!(down.a[0], first_number(name));
    assert!(adapter.pair(of.layers, Projection::Q).is_none());
}

#[test]
fn scaling_follows_the_config() {
    let of = architecture();
    let scaling = |changes| {
        let adapter = open(changes, &of).unwrap();
        let of = |layer, projection| adapter.pair(layer, projection).unwrap().scaling;
        (
            of(0, Projection::Q),
            of(1, Projection::Q),
            of(1, Projection::V),
        )
    };
    let patterns = json!({"alpha_pattern": {"layers.1.self_attn.q_proj": 4, "q_proj": 32}});
    assert_eq!(scaling(patterns), (4.0, 0.5, 2.0));
    let root = 16.0 / 8.0_f32.sqrt();
    assert_eq!(scaling(json!({"use_rslora": true})), (root, root, root));
}

#[test]
fn rows_of_interleaved_heads_are_in_the_models_order() {
    let of = architecture();
    let interleaved = Architecture {
        rope: Rope::Interleaved,
        ..of.clone()
    };
    let neox = Adapter::open(&fixture("adapter"), &of).unwrap();
    let moved = Adapter::open(&fixture("adapter"), &interleaved).unwrap();
    let half = of.head_dim / 2;
    for (projection, heads) in [(Projection::Q, of.heads), (Projection::K, of.kv_heads)] {
        let (neox, moved) = (
            neox.pair(2, projection).unwrap(),
            moved.pair(2, projection).unwrap(),
        );
        assert_eq!(neox.a, moved.a);
        for head in 0..heads {
            for p in 0..2 {
                for j in 0..half {
                    let row = |at: usize| {
                        (head * of.head_dim + at) * 8..(head * of.head_dim + at + 1) * 8
                    };
                    assert_eq!(neox.b[row(p * half + j)], moved.b[row(2 * j + p)]);
                }
            }
        }
    }
    assert_eq!(neox.pair(2, Projection::V), moved.pair(2, Projection::V));
}

#[test]
fn what_is_more_than_lora_is_refused_by_name() {
    let of = architecture();
    for (changes, named) in [
        (json!({"use_dora": true}), "use_dora: is true"),
        (json!({"bias": "all"}), "bias: is all"),
        (
            json!({"modules_to_save": ["lm_head"]}),
            "modules_to_save: is [\"lm_head\"]",
        ),
        (json!({"peft_type": "IA3"}), "peft_type: is IA3"),
        (json!({"fan_in_fan_out": true}), "fan_in_fan_out"),
        (
            json!({"init_lora_weights": "pissa_niter_4"}),
            "init_lora_weights: is pissa_niter_4",
        ),
        (json!({"r": 0}), "r: is 0"),
        (json!({"r": -8}), "r: is -8"),
        (json!({"r": 1e300}), "r: is 1"),
        (json!({"lora_alpha": 1e300}), "lora_alpha"),
        (json!({"r": 4}), "has shape [8, "),
        (
            json!({"rank_pattern": {".*q_proj": 8}}),
            ".*q_proj: is not the name of a module",
        ),
        (
            json!({"rank_pattern": {"v_proj": 3}}),
            "self_attn.v_proj.lora_A.weight has shape [8, 256]",
        ),
    ] {
        let error = open(changes.clone(), &of).unwrap_err().to_string();
        assert!(error.contains(named), "{changes}: {error}");
    }
}

#[test]
fn an_adapter_for_another_model_is_refused() {
    let of = architecture();
    let shallow = Architecture {
        layers: 2,
        ..of.clone()
    };
    let error = open(json!({}), &shallow).unwrap_err().to_string();
    assert!(
        error.contains("is not the lora_A or lora_B of a projection of this model"),
        "{error}"
    );
    let wide = Architecture { ffn: 704, ..of };
    let error = open(json!({}), &wide).unwrap_err().to_string();
    assert!(
        error.contains("expected [8, 704]") || error.contains("expected [704, 8]"),
        "{error}"
    );
}
