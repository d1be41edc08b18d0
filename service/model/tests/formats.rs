//! The same model in different files is the same model.

use std::path::Path;

use serde_json::Value;
use ternion_model::{
    Activation, Architecture, DenseFormat, Model, Norm, Projection, Rope, TernaryMatrix,
};

fn open(path: &str) -> Model {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Model::open(&root.join(path)).unwrap()
}

fn trits(matrix: &TernaryMatrix<'_>) -> Vec<i8> {
    let mut trits = vec![0; matrix.rows() * matrix.cols()];
    matrix.trits_into(0..matrix.rows(), &mut trits).unwrap();
    trits
}

/// Rows of a llama GGUF in the order of the checkpoint: halves instead of neighbours.
fn halves(trits: &[i8], heads: usize, head_dim: usize, cols: usize) -> Vec<i8> {
    let mut out = Vec::with_capacity(trits.len());
    for head in 0..heads {
        for row in 0..head_dim {
            let (p, j) = (row / (head_dim / 2), row % (head_dim / 2));
            let from = head * head_dim + 2 * j + p;
            out.extend_from_slice(&trits[from * cols..(from + 1) * cols]);
        }
    }
    out
}

fn assert_same_matrices(gguf: &Model, hf: &Model) {
    let of = &hf.architecture;
    let interleaved = gguf.architecture.rope == Rope::Interleaved;
    for layer in 0..of.layers {
        for projection in Projection::ALL {
            let ours = gguf.weights.ternary(layer, projection).unwrap();
            let theirs = hf.weights.ternary(layer, projection).unwrap();
            assert_eq!(ours.scale(), theirs.scale());
            let heads = match projection {
                Projection::Q if interleaved => Some(of.heads),
                Projection::K if interleaved => Some(of.kv_heads),
                _ => None,
            };
            let mut got = trits(&ours);
            if let Some(heads) = heads {
                got = halves(&got, heads, of.head_dim, of.hidden);
            }
            assert!(got == trits(&theirs), "layer {layer}, {projection:?}");
        }
        for norm in Norm::ALL {
            assert_eq!(gguf.weights.norm(layer, norm), hf.weights.norm(layer, norm));
        }
    }
    assert_eq!(gguf.weights.output_norm(), hf.weights.output_norm());
}

#[test]
fn a_llama_gguf_is_its_checkpoint() {
    let gguf = open("tests/fixtures/gguf/llama-f16.gguf");
    let hf = open("tests/fixtures/hf-llama/model");
    let expected = Architecture {
        family: "llama".to_owned(),
        rope: Rope::Interleaved,
        ..hf.architecture.clone()
    };
    assert_eq!(gguf.architecture, expected);
    assert_eq!(
        (gguf.architecture.rope_theta, gguf.architecture.norm_eps),
        (5e5, 1e-6)
    );
    assert!(!gguf.architecture.tied_head && !gguf.architecture.sub_norms);
    assert_eq!(gguf.name, "hf-llama");
    assert_same_matrices(&gguf, &hf);
    assert_eq!(gguf.weights.head().format(), DenseFormat::F16);
    assert_ne!(
        gguf.weights.head().bytes(),
        gguf.weights.embedding().bytes()
    );
    assert_eq!(gguf.generation.end_tokens, hf.generation.end_tokens);
}

#[test]
fn a_bitnet_gguf_is_its_checkpoint_whatever_its_embedding() {
    let hf = open("tests/fixtures/hf-bitnet/model");
    let mut want = vec![0.0; hf.architecture.hidden];
    let mut got = want.clone();
    for (name, bound) in [("bitnet-f32", 0.0), ("bitnet-q8_0", 0.01)] {
        let gguf = open(&format!("tests/fixtures/gguf/{name}.gguf"));
        assert_eq!(gguf.architecture.activation, Activation::Relu2);
        assert_eq!(gguf.architecture.rope, Rope::Neox);
        assert_same_matrices(&gguf, &hf);
        for row in 0..hf.architecture.vocab {
            hf.weights.embedding().row_into(row, &mut want);
            gguf.weights.head().row_into(row, &mut got);
            let largest = want.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
            for (g, w) in got.iter().zip(&want) {
                assert!((g - w).abs() <= bound * largest, "{name}: {g} for {w}");
            }
        }
    }
}

#[test]
fn the_file_of_bitnet_cpp_opens() {
    let model = open("tests/fixtures/bitnetcpp/tiny2-i2_s.gguf");
    let of = &model.architecture;
    assert_eq!(of.family, "bitnet-b1.58");
    assert_eq!(
        (of.hidden, of.ffn, of.layers, of.vocab),
        (640, 1792, 4, 2048)
    );
    assert_eq!((of.heads, of.kv_heads, of.head_dim), (5, 1, 128));
    assert_eq!(of.activation, Activation::Relu2);
    assert_eq!(model.weights.embedding().format(), DenseFormat::F16);
    for layer in 0..of.layers {
        for projection in Projection::ALL {
            let trits = trits(&model.weights.ternary(layer, projection).unwrap());
            let zeros = trits.iter().filter(|&&t| t == 0).count() as f64 / trits.len() as f64;
            assert!((0.2..0.5).contains(&zeros), "{zeros} of a matrix is zero");
        }
    }
}

#[test]
fn masters_become_the_trits_that_were_packed_from_them() {
    let masters = open("tests/fixtures/masters");
    let packed = open("service/server/demo");
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/masters/logits.json");
    let numpy: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for layer in 0..masters.architecture.layers {
        for projection in Projection::ALL {
            let ours = masters.weights.ternary(layer, projection).unwrap();
            let theirs = packed.weights.ternary(layer, projection).unwrap();
            assert!(
                trits(&ours) == trits(&theirs),
                "layer {layer}, {projection:?}"
            );
            // The packed scale is the same mean in bf16.
            assert!((ours.scale() / theirs.scale() - 1.0).abs() < 1.0 / 256.0);
            let scales = &numpy["scales"];
            let want = scales[ours.name().strip_suffix(".weight").unwrap()]
                .as_f64()
                .unwrap();
            assert!((f64::from(ours.scale()) / want - 1.0).abs() < 1e-6);
        }
    }
}

#[test]
fn the_embedded_model_is_the_one_on_disk() {
    const FILES: [(&str, &[u8]); 5] = [
        (
            "config.json",
            include_bytes!("../../server/demo/config.json"),
        ),
        (
            "model.safetensors",
            include_bytes!("../../server/demo/model.safetensors"),
        ),
        (
            "tokenizer.json",
            include_bytes!("../../server/demo/tokenizer.json"),
        ),
        (
            "tokenizer_config.json",
            include_bytes!("../../server/demo/tokenizer_config.json"),
        ),
        (
            "generation_config.json",
            include_bytes!("../../server/demo/generation_config.json"),
        ),
    ];
    let embedded = Model::from_files("demo", &FILES).unwrap();
    let disk = open("service/server/demo");
    assert_eq!(embedded.digest, disk.digest);
    assert_eq!(embedded.architecture, disk.architecture);
    assert_eq!(embedded.generation, disk.generation);
    assert_ne!(disk.digest, open("tests/fixtures/masters").digest);
}
