//! What guesses gain on a text: `guesses PLUGIN SHAPE THREADS ROUNDS MAX_DRAFT
//! PROMPT ANSWER …`, where the last two are files and may be repeated.
//!
//! Engine and forward pass are the real ones and every step is computed in
//! full, with random weights of the shape, screened head included. Only what
//! the head says is replaced by the next token of the answer: so times are
//! those of the shape, and guesses come true as often as they do for a model
//! that answers with that text. Each round generates it without guesses and
//! with them, by turns, in an engine that has learned nothing yet.
//!
//! Tokens are the pieces that Llama 3's tokenizer splits a text into before it
//! merges, about: most are one token there, long names are several.

mod numbers;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ternion_compute::{
    CpuExecutor, HeadChoice, KvConfig, KvPrecision, LoadedModel, Synthetic, architecture_of,
};
use ternion_engine::{
    Batch, BlockCopy, Engine, Event, Executor, ExecutorError, Limits, Logits, Request, Sampling,
    Share, Stopping, TokenLogit,
};
use ternion_kernel_host::Kernel;
use ternion_kernels::team::Team;

use numbers::Numbers;

const MAX_LEN: usize = 8192;
const MAX_PROMPT: usize = 2048;
const MAX_ANSWER: usize = 384;
const BLOCK_SIZE: usize = 16;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [plugin, shape, threads, rounds, max_draft, texts @ ..] = &arguments[..] else {
        panic!("guesses PLUGIN SHAPE THREADS ROUNDS MAX_DRAFT PROMPT ANSWER …");
    };
    let number = |text: &String| text.parse::<usize>().expect("a number");
    let (rounds, max_draft) = (number(rounds), number(max_draft));
    let team = Arc::new(Team::new(number(threads)));
    let architecture = architecture_of(shape).expect("a known shape");
    let vocab = architecture.vocab;
    let source = Arc::new(Synthetic::new(architecture, &team));
    let kernel = Kernel::open(Path::new(plugin)).expect("a plugin");
    let loaded = LoadedModel::load(source, None, &kernel, &team, &|_, _| {}).expect("it loads");
    loaded
        .choose_head(HeadChoice::Screened, &team)
        .expect("it is known");
    let kv = KvConfig {
        num_blocks: MAX_LEN / BLOCK_SIZE,
        block_size: BLOCK_SIZE,
        precision: KvPrecision::F16,
    };
    let mut forced = Forced {
        executor: CpuExecutor::new(Arc::new(loaded), team, kv, MAX_LEN),
        text: Vec::new(),
        logits: Logits::default(),
    };
    for pair in texts.chunks_exact(2) {
        let read = |path: &String| pieces(&std::fs::read_to_string(path).expect("a text"), vocab);
        let (mut prompt, mut answer) = (read(&pair[0]), read(&pair[1]));
        prompt.truncate(MAX_PROMPT);
        answer.truncate(MAX_ANSWER);
        forced.text = [&prompt[..], &answer[..]].concat();
        println!(
            "{} -> {}: {} and {} tokens",
            pair[0],
            pair[1],
            prompt.len(),
            answer.len()
        );
        for _ in 0..rounds {
            let plain = forced.run(&prompt, 0);
            let guessed = forced.run(&prompt, max_draft);
            println!(
                "  {:6.1} tokens/s, with guesses {:6.1} ({:.2} times) in {:.2} of the steps, {} of {} came true",
                plain.rate(),
                guessed.rate(),
                guessed.rate() / plain.rate(),
                guessed.steps as f64 / plain.steps as f64,
                guessed.accepted,
                guessed.drafted,
            );
        }
    }
}

/// Words with the space before them, numbers of up to three digits, runs of
/// white space, and other characters one by one.
fn pieces(text: &str, vocab: usize) -> Vec<u32> {
    let mut pieces: Vec<String> = Vec::new();
    for c in text.chars() {
        let goes_on = pieces.last().is_some_and(|piece| {
            let last = piece.chars().last().expect("no piece is empty");
            let is_word = c.is_alphabetic() && (last.is_alphabetic() || piece == " ");
            let is_number = c.is_ascii_digit() && last.is_ascii_digit() && piece.len() < 3;
            is_word || is_number || (c.is_whitespace() && last.is_whitespace())
        });
        match pieces.last_mut() {
            Some(piece) if goes_on => piece.push(c),
            _ => pieces.push(c.to_string()),
        }
    }
    let token = |piece: String| {
        let mut hasher = DefaultHasher::new();
        piece.hash(&mut hasher);
        (hasher.finish() % vocab as u64) as u32
    };
    pieces.into_iter().map(token).collect()
}

struct Outcome {
    tokens: usize,
    seconds: f64,
    steps: usize,
    drafted: usize,
    accepted: usize,
}

impl Outcome {
    fn rate(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }
}

/// An executor of a model that answers with a given text.
struct Forced {
    executor: CpuExecutor,
    /// Prompt and answer.
    text: Vec<u32>,
    logits: Logits,
}

impl Forced {
    /// Generates the answer; counts from its first token on.
    fn run(&mut self, prompt: &[u32], max_draft_tokens: usize) -> Outcome {
        let limits = Limits {
            num_blocks: MAX_LEN / BLOCK_SIZE,
            block_size: BLOCK_SIZE,
            max_num_seqs: 1,
            max_num_batched_tokens: 512,
            max_draft_tokens,
            step_budget: None,
            max_queued: 0,
            max_queued_tokens: MAX_PROMPT,
            max_model_len: MAX_LEN,
        };
        let size = self.executor.vocab_size();
        let mut engine = Engine::new(limits, Arc::new(Numbers(size)));
        let max_tokens = self.text.len() - prompt.len();
        let request = Request {
            prompt: prompt.to_vec(),
            sampling: Sampling::default(),
            stopping: Stopping {
                max_tokens,
                ..Stopping::default()
            },
            share: Share::default(),
            priority: 0,
            salt: None,
            num_public: 0,
            deadline: None,
            credit: usize::MAX,
        };
        let origin = Instant::now();
        let id = engine.submit(request, origin.elapsed()).expect("it fits");
        let mut outcome = Outcome {
            tokens: max_tokens - 1,
            seconds: 0.0,
            steps: 0,
            drafted: 0,
            accepted: 0,
        };
        let mut events = Vec::new();
        let mut answer = Vec::new();
        while engine.has_work() {
            let report = engine.step(|| origin.elapsed(), self, &mut events);
            outcome.steps += report.num_sampled;
            outcome.drafted += report.num_drafted;
            outcome.accepted += report.num_accepted;
            for event in events.drain(..) {
                match event {
                    Event::Token { token, .. } => answer.push(token),
                    Event::Finished { timings, .. } => {
                        outcome.seconds = timings.decode.as_secs_f64()
                    }
                    Event::Started { .. } => {}
                }
            }
        }
        assert_eq!(
            answer,
            self.text[prompt.len()..],
            "{id:?} has the given text"
        );
        outcome
    }
}

impl Executor for Forced {
    fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        self.executor.copy_blocks(copies);
    }

    fn execute(&mut self, batch: &Batch) -> Result<&Logits, ExecutorError> {
        self.executor.execute(batch)?;
        self.logits.begin(self.executor.vocab_size(), 0);
        for span in &batch.spans {
            let end = span.position + span.len;
            for next in end + 1 - span.num_logits..end + 1 {
                // Behind the text nothing is delivered.
                let token = self.text.get(next).copied().unwrap_or(0);
                self.logits.push_some([TokenLogit { token, logit: 1.0 }]);
            }
        }
        Ok(&self.logits)
    }

    fn vocab_size(&self) -> usize {
        self.executor.vocab_size()
    }
}
