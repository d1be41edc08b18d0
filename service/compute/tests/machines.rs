//! The same sequence gives the same logits, to the bit, on every machine and
//! by every plugin: those that are written here.

use std::sync::Arc;

use ternion_compute::{
    CpuExecutor, KvConfig, KvPrecision, LoadedModel, Synthetic, architecture_of,
};
use ternion_engine::{Batch, BlockId, Executor, Span, Wanted};
use ternion_kernel_host::Kernel;
use ternion_kernels::team::Team;
use ternion_model::{Activation, Architecture, Rope};

mod plugin;

/// [`digest`] of the logits of [`run`], told by an x86-64 and an aarch64.
/// Whoever changes a model's arithmetic changes them, and has to mean it.
const RELU2_WITH_SUB_NORMS: u64 = 0x074e_093c_875c_0884;
const SILU_INTERLEAVED: u64 = 0xdb51_26e0_7acc_fb1b;

const BLOCK_SIZE: usize = 16;
const NUM_BLOCKS: usize = 4;
/// A panel's worth of tokens at once, then some one at a time.
const STEPS: [usize; 8] = [37, 1, 1, 2, 4, 1, 7, 1];

fn tiny() -> Architecture {
    architecture_of("tiny").expect("a known shape")
}

fn run(architecture: Architecture, kernel: &Kernel) -> Vec<f32> {
    let team = Arc::new(Team::new(2));
    let source = Arc::new(Synthetic::new(architecture, &team));
    let loaded = LoadedModel::load(source, None, kernel, &team, &|_, _| {}).expect("loads");
    let kv = KvConfig {
        num_blocks: NUM_BLOCKS,
        block_size: BLOCK_SIZE,
        precision: KvPrecision::F16,
    };
    let max_tokens = NUM_BLOCKS * BLOCK_SIZE;
    let mut executor = CpuExecutor::new(Arc::new(loaded), team, kv, max_tokens);
    let mut batch = Batch::default();
    batch
        .block_tables
        .extend((0..NUM_BLOCKS as u32).map(BlockId));
    let mut logits = Vec::new();
    let mut position = 0;
    for len in STEPS {
        batch.tokens.clear();
        let tokens = position..position + len;
        batch
            .tokens
            .extend(tokens.map(|i| (i * 7919 % 1024) as u32));
        batch.spans.clear();
        batch.spans.push(Span {
            token_begin: 0,
            len,
            position,
            table_begin: 0,
            table_len: NUM_BLOCKS,
            num_logits: len,
            wanted: Wanted::All,
        });
        let step = executor.execute(&batch).expect("a valid batch");
        logits.extend(step.whole_rows());
        position += len;
    }
    logits
}

/// FNV-1a of the bits.
fn digest(logits: &[f32]) -> u64 {
    let bytes = logits.iter().flat_map(|logit| logit.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[track_caller]
fn assert_digest(architecture: &Architecture, want: u64) {
    for kernel in ["i2s", "tl1", "tl2"].map(plugin::open) {
        let logits = run(architecture.clone(), &kernel);
        assert!(logits.iter().all(|logit| logit.is_finite()));
        let got = digest(&logits);
        let (name, isa) = (kernel.name(), kernel.isa());
        assert_eq!(got, want, "{name} {isa}: {got:#018x} is not {want:#018x}");
    }
}

#[test]
fn a_model_with_relu2_and_sub_norms() {
    assert_digest(&tiny(), RELU2_WITH_SUB_NORMS);
}

#[test]
fn a_model_with_silu_and_interleaved_rotation() {
    let architecture = Architecture {
        activation: Activation::Silu,
        rope: Rope::Interleaved,
        ..tiny()
    };
    assert_digest(&architecture, SILU_INTERLEAVED);
}
