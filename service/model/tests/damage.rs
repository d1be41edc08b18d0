//! Damaged files: an error with something to say, never a panic.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use ternion_model::{Adapter, Model, ModelError, Projection};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// A file of a small model, to be damaged on its way to disk.
struct Victim {
    dir: TempDir,
    file: &'static str,
    bytes: Vec<u8>,
    /// Where the interesting part ends: flips beyond it only change numbers.
    structure: usize,
    open: fn(&Path) -> Result<(), ModelError>,
}

/// Opens and uses a model as a server would, so that what is found late is found.
fn use_model(path: &Path) -> Result<(), ModelError> {
    let model = Model::open(path)?;
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
    model.tokenizer.encode_prompt("a test\u{e9}")?;
    for id in 0..model.architecture.vocab as u32 {
        model.tokenizer.token_bytes(id);
    }
    Ok(())
}

fn use_adapter(path: &Path) -> Result<(), ModelError> {
    let of = Model::open(&fixtures().join("hf-bitnet/model"))?.architecture;
    Adapter::open(path, &of).map(drop)
}

impl Victim {
    fn gguf(name: &str) -> Victim {
        let bytes = std::fs::read(fixtures().join("gguf").join(name)).unwrap();
        Victim {
            dir: TempDir::new().unwrap(),
            file: "model.gguf",
            structure: 24 << 10,
            bytes,
            open: |dir| use_model(&dir.join("model.gguf")),
        }
    }

    fn directory(
        of: &str,
        file: &'static str,
        open: fn(&Path) -> Result<(), ModelError>,
    ) -> Victim {
        let dir = TempDir::new().unwrap();
        for entry in std::fs::read_dir(fixtures().join(of)).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        let bytes = std::fs::read(dir.path().join(file)).unwrap();
        Victim {
            dir,
            file,
            structure: if file.ends_with(".json") {
                bytes.len()
            } else {
                6 << 10
            },
            bytes,
            open,
        }
    }

    /// Returns whether the damage was noticed.
    fn suffers(&self, bytes: &[u8], how: &str) -> bool {
        std::fs::write(self.dir.path().join(self.file), bytes).unwrap();
        match catch_unwind(AssertUnwindSafe(|| (self.open)(self.dir.path()))) {
            Ok(Ok(())) => false,
            Ok(Err(error)) => {
                assert!(error.to_string().len() > 10, "{} {how}: {error}", self.file);
                true
            }
            Err(_) => panic!("{} {how}: panicked", self.file),
        }
    }
}

/// Enough of a generator for flips that are the same in every run.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % n
    }
}

fn victims() -> [Victim; 7] {
    [
        Victim::gguf("llama-f16.gguf"),
        Victim::gguf("bitnet-q8_0.gguf"),
        Victim::directory("hf-bitnet/model", "model.safetensors", use_model),
        Victim::directory("hf-bitnet/model", "config.json", use_model),
        Victim::directory("hf-bitnet/model", "tokenizer.json", use_model),
        Victim::directory(
            "hf-bitnet/adapter",
            "adapter_model.safetensors",
            use_adapter,
        ),
        Victim::directory("hf-bitnet/adapter", "adapter_config.json", use_adapter),
    ]
}

#[test]
fn no_truncation_goes_unnoticed() {
    for victim in victims() {
        let len = victim.bytes.len();
        let mut lens: Vec<usize> = (0..64).chain(len - 40..len - 33).collect();
        lens.extend((0..60).map(|i| victim.structure * i / 60));
        lens.extend((0..20).map(|i| (len - 40) * i / 20));
        for cut in lens {
            let noticed = victim.suffers(&victim.bytes[..cut], &format!("cut at {cut}"));
            assert!(noticed, "{} cut at {cut} of {len}", victim.file);
        }
    }
}

#[test]
fn no_flipped_bit_causes_a_panic() {
    for (seed, victim) in victims().into_iter().enumerate() {
        let mut random = Lcg(seed as u64);
        let mut noticed = 0;
        for _ in 0..300 {
            let mut bytes = victim.bytes.clone();
            let mut how = String::from("with flips at");
            for _ in 0..=random.below(3) {
                let at = random.below(victim.structure);
                let bit = random.below(8);
                bytes[at] ^= 1 << bit;
                how += &format!(" {at}.{bit}");
            }
            noticed += usize::from(victim.suffers(&bytes, &how));
        }
        assert!(noticed > 20, "{}: {noticed} of 300 noticed", victim.file);
    }
}

#[test]
fn no_length_field_is_believed() {
    for victim in victims() {
        if victim.file.ends_with(".json") {
            continue;
        }
        for at in (0..512).step_by(4) {
            for huge in [u64::MAX, 1 << 62, 1 << 40, 0x7fff_ffff] {
                let mut bytes = victim.bytes.clone();
                bytes[at..at + 8].copy_from_slice(&huge.to_le_bytes());
                victim.suffers(&bytes, &format!("with {huge} at {at}"));
            }
        }
    }
}
