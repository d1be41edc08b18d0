//! What sampling costs: `sampling PLUGIN SHAPE THREADS STREAMS TOKENS ROUNDS
//! SETTING …`, where a setting is `HEAD:TEMPERATURE:TOP_K:TOP_P:MIN_P`.
//!
//! Engine, forward pass, head and sampler are the real ones, with random
//! weights of the shape, and nothing else of a server. Each round runs the
//! settings by turns: `STREAMS` sequences of `TOKENS` tokens each, counted from
//! the first step after their prompts on.

mod numbers;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ternion_compute::{
    CpuExecutor, HeadChoice, KvConfig, KvPrecision, LoadedModel, Synthetic, architecture_of,
};
use ternion_engine::{Engine, Event, Executor, Limits, Request, Sampling, Share, Stopping};
use ternion_kernel_host::Kernel;
use ternion_kernels::team::Team;

use numbers::Numbers;

const BLOCK_SIZE: usize = 16;
const PROMPT: usize = 8;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [
        plugin,
        shape,
        threads,
        streams,
        tokens,
        rounds,
        settings @ ..,
    ] = &arguments[..]
    else {
        panic!("sampling PLUGIN SHAPE THREADS STREAMS TOKENS ROUNDS HEAD:T:TOP_K:TOP_P:MIN_P …");
    };
    let number = |text: &String| text.parse::<usize>().expect("a number");
    let (streams, tokens, rounds) = (number(streams), number(tokens), number(rounds));
    let team = Arc::new(Team::new(number(threads)));
    let architecture = architecture_of(shape).expect("a known shape");
    let source = Arc::new(Synthetic::new(architecture, &team));
    let kernel = Kernel::open(Path::new(plugin)).expect("a plugin");
    let loaded = LoadedModel::load(source, None, &kernel, &team, &|_, _| {}).expect("it loads");
    let loaded = Arc::new(loaded);
    let len = PROMPT + tokens;
    let kv = KvConfig {
        num_blocks: streams * len.div_ceil(BLOCK_SIZE),
        block_size: BLOCK_SIZE,
        precision: KvPrecision::F16,
    };
    let mut head_now = None;
    let mut executor = CpuExecutor::new(Arc::clone(&loaded), Arc::clone(&team), kv, len);
    for round in 0..rounds {
        for setting in settings {
            let (head, sampling) = parse(setting);
            if head_now != Some(head) {
                loaded.choose_head(head, &team).expect("it is known");
                head_now = Some(head);
            }
            let before = executor.candidates();
            let (rate, distinct) = run(&mut executor, streams, tokens, &sampling, round);
            let after = executor.candidates();
            let positions = after.positions - before.positions;
            println!(
                "{setting:28} {rate:7.1} tokens/s, {distinct} distinct tokens, {positions} positions screened, {:.0} rows each",
                (after.rows - before.rows) as f64 / positions.max(1) as f64,
            );
        }
    }
}

fn parse(setting: &str) -> (HeadChoice, Sampling) {
    let parts: Vec<&str> = setting.split(':').collect();
    let [head, temperature, top_k, top_p, min_p] = parts[..] else {
        panic!("{setting:?} is not HEAD:TEMPERATURE:TOP_K:TOP_P:MIN_P");
    };
    let sampling = Sampling {
        temperature: temperature.parse().expect("a temperature"),
        top_k: top_k.parse().expect("top_k"),
        top_p: top_p.parse().expect("top_p"),
        min_p: min_p.parse().expect("min_p"),
        ..Sampling::default()
    };
    (head.parse().expect("a head"), sampling)
}

/// Tokens a second, and how many different ones there were.
fn run(
    executor: &mut CpuExecutor,
    streams: usize,
    tokens: usize,
    sampling: &Sampling,
    round: usize,
) -> (f64, usize) {
    let limits = Limits {
        num_blocks: streams * (PROMPT + tokens).div_ceil(BLOCK_SIZE),
        block_size: BLOCK_SIZE,
        max_num_seqs: streams,
        max_num_batched_tokens: 512,
        max_draft_tokens: 0,
        step_budget: None,
        max_queued: 0,
        max_queued_tokens: streams * PROMPT,
        max_model_len: PROMPT + tokens,
    };
    let size = executor.vocab_size();
    let mut engine = Engine::new(limits, Arc::new(Numbers(size)));
    let origin = Instant::now();
    for stream in 0..streams {
        let request = Request {
            prompt: (0..PROMPT)
                .map(|n| ((n * 7919 + stream * 104_729 + round) % size) as u32)
                .collect(),
            sampling: Sampling {
                seed: (round * streams + stream) as u64,
                ..sampling.clone()
            },
            stopping: Stopping {
                max_tokens: tokens,
                ..Stopping::default()
            },
            share: Share::default(),
            priority: 0,
            salt: None,
            num_public: 0,
            deadline: None,
            credit: usize::MAX,
        };
        engine.submit(request, origin.elapsed()).expect("it fits");
    }
    let (mut events, mut chosen) = (Vec::new(), Vec::new());
    engine.step(|| origin.elapsed(), executor, &mut events);
    let begin = Instant::now();
    let mut steps = 0;
    while engine.has_work() {
        engine.step(|| origin.elapsed(), executor, &mut events);
        steps += 1;
    }
    let seconds = begin.elapsed().as_secs_f64();
    for event in events {
        if let Event::Token { token, .. } = event {
            chosen.push(token);
        }
    }
    assert_eq!(chosen.len(), streams * tokens);
    chosen.sort_unstable();
    chosen.dedup();
    ((streams * steps) as f64 / seconds, chosen.len())
}
