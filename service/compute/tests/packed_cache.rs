//! A model from the cache of packed weights gives the bits that it gives
//! without; and whatever is in the cache, it is this model's weights or isn't
//! used.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ternion_compute::{
    CacheUse, CpuExecutor, HeadChoice, KvConfig, KvPrecision, LoadedModel, PackedCache,
};
use ternion_engine::{Batch, BlockId, Executor, Span, Wanted};
use ternion_kernel_host::{CacheDir, Kernel};
use ternion_kernels::team::Team;
use ternion_model::Model;

mod plugin;

const LIMIT: u64 = 1 << 30;
const TOKENS: [u32; 5] = [1, 2, 3, 5, 8];

struct Place {
    root: tempfile::TempDir,
    cache: CacheDir,
    kernel: Kernel,
    team: Arc<Team>,
}

impl Place {
    fn new() -> Place {
        let root = tempfile::tempdir().expect("a temporary directory");
        Place {
            cache: CacheDir::open(&root.path().join("cache")).expect("it can be created"),
            root,
            kernel: plugin::open("i2s"),
            team: Arc::new(Team::new(2)),
        }
    }

    fn load(&self, model: &Arc<Model>, limit: u64) -> (Vec<f32>, CacheUse) {
        let cache = PackedCache {
            dir: &self.cache,
            limit,
            model,
        };
        let model = model.clone();
        let (loaded, cache_use) =
            LoadedModel::load_cached(model, cache, &self.kernel, &self.team, &|_, _| {})
                .expect("loads");
        (self.logits(loaded), cache_use)
    }

    /// Logits with a head from the cache, which must be there or, if it is why
    /// not, is made; or with one that no cache has.
    fn head(
        &self,
        model: &Arc<Model>,
        choice: HeadChoice,
        limit: Option<u64>,
    ) -> (Vec<f32>, HeadUse) {
        let loaded = LoadedModel::load(model.clone(), None, &self.kernel, &self.team, &|_, _| {});
        let loaded = loaded.expect("loads");
        let Some(limit) = limit else {
            let chosen = loaded.choose_head(choice, &self.team);
            chosen.expect("a head like others");
            return (self.logits(loaded), HeadUse::Without);
        };
        let cache = PackedCache {
            dir: &self.cache,
            limit,
            model,
        };
        let found = loaded.find_head(choice, cache, &self.team);
        let head_use = if found == Ok(true) {
            HeadUse::Hit
        } else {
            let put = loaded.choose_head_cached(choice, cache, &self.team);
            HeadUse::Made {
                rejected: found.err(),
                put: put.expect("a head like others"),
            }
        };
        assert_eq!(loaded.head(), choice);
        (self.logits(loaded), head_use)
    }

    fn load_without(&self, model: &Arc<Model>) -> Vec<f32> {
        let loaded = LoadedModel::load(model.clone(), None, &self.kernel, &self.team, &|_, _| {});
        self.logits(loaded.expect("loads"))
    }

    fn logits(&self, loaded: LoadedModel) -> Vec<f32> {
        let kv = KvConfig {
            num_blocks: 2,
            block_size: 4,
            precision: KvPrecision::F16,
        };
        let len = TOKENS.len();
        let mut executor = CpuExecutor::new(Arc::new(loaded), self.team.clone(), kv, len);
        let mut batch = Batch::default();
        batch.tokens.extend(TOKENS);
        batch.block_tables.extend([BlockId(0), BlockId(1)]);
        batch.spans.push(Span {
            token_begin: 0,
            len,
            position: 0,
            table_begin: 0,
            table_len: 2,
            num_logits: len,
            wanted: Wanted::All,
        });
        let logits = executor.execute(&batch).expect("a valid batch");
        logits.whole_rows().to_vec()
    }

    /// The files of the cache.
    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.cache.path()).expect("readable");
        entries.map(|e| e.expect("readable").path()).collect()
    }

    /// A copy of a fixture that may be changed.
    fn copy(&self, fixture: &str, name: &str) -> PathBuf {
        let copy = self.root.path().join(name);
        fs::create_dir(&copy).expect("new");
        for entry in fs::read_dir(path(fixture)).expect("a fixture") {
            let entry = entry.expect("readable");
            fs::copy(entry.path(), copy.join(entry.file_name())).expect("copies");
        }
        copy
    }
}

fn path(fixture: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(fixture)
}

fn open(path: &Path) -> Arc<Model> {
    Arc::new(Model::open(path).expect("a model"))
}

/// What came of the cache for a head.
#[derive(Debug, PartialEq)]
enum HeadUse {
    Without,
    Hit,
    Made {
        rejected: Option<String>,
        put: Result<(), String>,
    },
}

const MADE: HeadUse = HeadUse::Made {
    rejected: None,
    put: Ok(()),
};

const WRITTEN: CacheUse = CacheUse::Written { rejected: None };

#[track_caller]
fn assert_rejected(cache_use: &CacheUse, why: &str) {
    match cache_use {
        CacheUse::Written {
            rejected: Some(reason),
        } => assert!(reason.contains(why), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_kind_of_model_is_the_same_from_the_cache() {
    let place = Place::new();
    let fixtures = [
        "hf-bitnet/model",
        "hf-llama/model",
        "masters",
        "gguf/bitnet-q8_0.gguf",
        "gguf/llama-f16.gguf",
    ];
    for fixture in fixtures {
        let model = open(&path(fixture));
        let want = place.load_without(&model);
        let (first, written) = place.load(&model, LIMIT);
        let (second, hit) = place.load(&model, LIMIT);
        assert_eq!((written, hit), (WRITTEN, CacheUse::Hit), "{fixture}");
        assert!(first == want && second == want, "{fixture}");
    }
    assert_eq!(place.files().len(), fixtures.len());
}

#[test]
fn a_copy_of_the_model_finds_what_the_model_left() {
    let place = Place::new();
    assert_eq!(
        place.load(&open(&path("hf-bitnet/model")), LIMIT).1,
        WRITTEN
    );
    let copy = open(&place.copy("hf-bitnet/model", "copy"));
    assert_eq!(place.load(&copy, LIMIT).1, CacheUse::Hit);
}

/// The digest of a large model leaves most bytes out.
#[test]
fn other_weights_under_the_same_digest_are_not_mixed_up() {
    let place = Place::new();
    let dir = place.copy("hf-bitnet/model", "changed");
    let before = open(&dir);
    place.load(&before, LIMIT);
    let file = dir.join("model.safetensors");
    let mut bytes = fs::read(&file).expect("readable");
    let modified = file.metadata().and_then(|m| m.modified()).expect("known");
    let at = find_trits(&bytes);
    bytes[at..at + 64].fill(0b01_01_01_01);
    fs::write(&file, &bytes).expect("writable");
    let times = fs::File::options().append(true).open(&file);
    times
        .and_then(|file| file.set_modified(modified))
        .expect("can be set");

    let mut after = Model::open(&dir).expect("still a model");
    assert_ne!(after.digest, before.digest);
    after.digest = before.digest.clone();
    let after = Arc::new(after);
    let want = place.load_without(&after);
    let (logits, cache_use) = place.load(&after, LIMIT);
    assert_rejected(&cache_use, "the weights in it are not the model's");
    assert!(logits == want);
    assert_eq!(place.load(&after, LIMIT).1, CacheUse::Hit);
}

/// Where the first packed projection begins.
fn find_trits(safetensors: &[u8]) -> usize {
    find(safetensors, "layers.0.self_attn.q_proj.weight\"")
}

/// Where a tensor begins.
fn find(safetensors: &[u8], name: &str) -> usize {
    let header_len = u64::from_le_bytes(safetensors[..8].try_into().expect("eight bytes"));
    let data = 8 + header_len as usize;
    let header = std::str::from_utf8(&safetensors[8..data]).expect("JSON");
    let (_, tensor) = header.split_once(name).expect("there");
    let (_, offsets) = tensor.split_once("\"data_offsets\":[").expect("there");
    let start: usize = offsets
        .split(',')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a number");
    data + start
}

#[test]
fn what_is_damaged_is_made_anew() {
    let place = Place::new();
    let model = open(&path("hf-bitnet/model"));
    let (want, _) = place.load(&model, LIMIT);
    let [file] = &place.files()[..] else {
        panic!("one file")
    };
    let whole = fs::read(file).expect("readable");
    for (at, why) in [
        (9, "header"),
        (200, "header"),
        (5000, "damaged"),
        (whole.len() - 1, "damaged"),
    ] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(file, &bytes).expect("writable");
        let (logits, cache_use) = place.load(&model, LIMIT);
        assert_rejected(&cache_use, why);
        assert!(logits == want);
        assert!(fs::read(file).expect("readable") == whole);
    }
    fs::write(file, &whole[..whole.len() / 2]).expect("writable");
    assert_rejected(&place.load(&model, LIMIT).1, "bytes, not");
    assert_eq!(place.load(&model, LIMIT).1, CacheUse::Hit);
}

/// A plugin with another layout under an unchanged name and version, as far as
/// digests can tell.
#[test]
fn weights_that_give_another_product_are_not_used() {
    let place = Place::new();
    let (one, other) = (
        open(&path("hf-bitnet/model")),
        place.copy("hf-bitnet/model", "other"),
    );
    place.load(&one, LIMIT);
    let file = other.join("model.safetensors");
    let mut bytes = fs::read(&file).expect("readable");
    let at = find_trits(&bytes);
    bytes[at..at + 4096].fill(0b10_10_10_10);
    fs::write(&file, &bytes).expect("writable");
    let mut other = Model::open(&other).expect("a model");
    let digest = std::mem::replace(&mut other.digest, one.digest.clone());
    let other = Arc::new(other);
    place.load(&other, LIMIT);
    // The weights of `one`, with the origin of `other`: no file in earnest.
    let [file] = &place.files()[..] else {
        panic!("one file")
    };
    let (kept, mut forged) = (fs::read(file).expect("readable"), Vec::new());
    place.load(&one, LIMIT);
    forged.extend(fs::read(file).expect("readable"));
    forged[72..136].copy_from_slice(&kept[72..136]);
    let digest_of_header = blake3::hash(&forged[40..4096]);
    forged[8..40].copy_from_slice(digest_of_header.as_bytes());
    fs::write(file, &forged).expect("writable");
    let want = place.load_without(&other);
    let (logits, cache_use) = place.load(&other, LIMIT);
    assert_rejected(&cache_use, "don't give what the model's do");
    assert!(logits == want);
    assert_ne!(digest, other.digest);
}

#[test]
fn a_cache_that_cannot_be_written_costs_nothing_else() {
    let place = Place::new();
    let model = open(&path("hf-bitnet/model"));
    let want = place.load_without(&model);
    let (logits, cache_use) = place.load(&model, 100);
    let CacheUse::Failed { reason, .. } = cache_use else {
        panic!("{cache_use:?}")
    };
    assert!(reason.contains("and the cache may have 100"), "{reason}");
    assert!(logits == want && place.files().is_empty());

    // Something that can't be written to is where the file would be written.
    place.load(&model, LIMIT);
    let [file] = &place.files()[..] else {
        panic!("one file")
    };
    let name = file
        .file_name()
        .and_then(|name| name.to_str())
        .expect("UTF-8");
    let unfinished = file.with_file_name(format!(".{name}"));
    fs::remove_file(file).expect("it is there");
    for make in [
        |path: &Path| symlink("/nowhere", path),
        |path: &Path| fs::create_dir(path),
    ] {
        make(&unfinished).expect("new");
        let (logits, cache_use) = place.load(&model, LIMIT);
        assert!(
            matches!(cache_use, CacheUse::Failed { .. }),
            "{cache_use:?}"
        );
        assert!(logits == want && !file.exists());
        let _ = fs::remove_file(&unfinished);
    }
}

#[test]
fn every_kind_of_head_is_the_same_from_the_cache() {
    let place = Place::new();
    let fixtures = [
        "hf-bitnet/model",
        "hf-llama/model",
        "gguf/bitnet-f32.gguf",
        "gguf/bitnet-q8_0.gguf",
        "gguf/llama-f16.gguf",
    ];
    let choices = [HeadChoice::Int8, HeadChoice::Screened];
    for fixture in fixtures {
        let model = open(&path(fixture));
        for choice in choices {
            let (want, _) = place.head(&model, choice, None);
            let (first, made) = place.head(&model, choice, Some(LIMIT));
            let (second, hit) = place.head(&model, choice, Some(LIMIT));
            assert_eq!((made, hit), (MADE, HeadUse::Hit), "{fixture}, {choice}");
            assert!(first == want && second == want, "{fixture}, {choice}");
        }
    }
    assert_eq!(place.files().len(), fixtures.len() * choices.len());
}

#[test]
fn a_head_that_is_damaged_or_another_models_is_made_anew() {
    let place = Place::new();
    let dir = place.copy("hf-bitnet/model", "changed");
    let model = open(&dir);
    let (want, _) = place.head(&model, HeadChoice::Int8, Some(LIMIT));
    let [file] = &place.files()[..] else {
        panic!("one file")
    };
    let whole = fs::read(file).expect("readable");
    let rejected = |model: &Arc<Model>| {
        let (logits, head_use) = place.head(model, HeadChoice::Int8, Some(LIMIT));
        match head_use {
            HeadUse::Made {
                rejected: Some(reason),
                put: Ok(()),
            } => (logits, reason),
            other => panic!("{other:?}"),
        }
    };
    for (at, why) in [
        (60, "header"),
        (5000, "damaged"),
        (whole.len() - 1, "damaged"),
    ] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(file, &bytes).expect("writable");
        let (logits, reason) = rejected(&model);
        assert!(reason.contains(why), "{at}: {reason}");
        assert!(logits == want);
        assert!(fs::read(file).expect("readable") == whole);
    }

    // Another embedding under the same digest.
    let weights = dir.join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("readable");
    let at = find(&bytes, "model.embed_tokens.weight\"");
    bytes.swap(at, at + 2);
    fs::write(&weights, &bytes).expect("writable");
    let mut other = Model::open(&dir).expect("still a model");
    other.digest = model.digest.clone();
    let other = Arc::new(other);
    let (_, reason) = rejected(&other);
    assert!(reason.contains("are not the model's"), "{reason}");
    let (_, hit) = place.head(&other, HeadChoice::Int8, Some(LIMIT));
    assert_eq!(hit, HeadUse::Hit);
    // Codes of the one with the origin of the other, as if digests had failed.
    let mut forged = whole;
    let theirs = fs::read(file).expect("readable");
    forged[72..136].copy_from_slice(&theirs[72..136]);
    let digest_of_header = blake3::hash(&forged[40..4096]);
    forged[8..40].copy_from_slice(digest_of_header.as_bytes());
    fs::write(file, &forged).expect("writable");
    let (_, reason) = rejected(&other);
    assert!(reason.contains("not what the model's becomes"), "{reason}");
}

#[test]
fn a_head_that_cannot_be_written_is_used_all_the_same() {
    let place = Place::new();
    let model = open(&path("hf-bitnet/model"));
    let (want, _) = place.head(&model, HeadChoice::Int8, None);
    let (logits, head_use) = place.head(&model, HeadChoice::Int8, Some(100));
    let HeadUse::Made {
        rejected: None,
        put: Err(reason),
    } = head_use
    else {
        panic!("{head_use:?}")
    };
    assert!(reason.contains("and the cache may have 100"), "{reason}");
    assert!(logits == want && place.files().is_empty());
}
