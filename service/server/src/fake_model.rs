//! A model for tests that need no arithmetic: after token t comes t + 1.

use std::{sync::Arc, time::Duration};

use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use ternion_engine::{Batch, BlockCopy, Executor, ExecutorError, Limits, Logits, Vocabulary};
use ternion_policy::{
    Admitted, Authorised, Credential, KeyHash, MaxOutput, Policy, Role, TenantId, Tenants,
};
use tonic::Request;

use crate::{
    access::Access,
    drain::Drain,
    engine_loop::{self, EngineThread},
    launch,
    live_requests::LiveRequests,
    metrics::Metrics,
    models::default_sampling,
    prompt::Prompts,
    public_prompts::PublicPrompts,
    queue::{Amount, Queue},
    request::Bounds,
    retained::{RetainedRequests, Retention},
    served::Served,
    vocabulary::ModelVocabulary,
};

/// Tokens from here to [`PANICS`] make a step fail.
pub(crate) const FAILS: u32 = 40;
/// Tokens from here to [`GOES_ON`] make it panic.
pub(crate) const PANICS: u32 = 50;
/// Tokens from here on are like those below [`FAILS`].
pub(crate) const GOES_ON: u32 = 60;

pub(crate) const RETENTION: Retention = Retention {
    grace: Duration::from_secs(60),
    goes_on: false,
    request_bytes: 1 << 20,
    finished_bytes: 1 << 20,
};

pub(crate) struct Counting {
    vocab: usize,
    logits: Logits,
}

/// The token that follows another one. None leads to those that fail.
pub(crate) fn next(token: u32, vocab: usize) -> u32 {
    match token + 1 {
        next if (next as usize) < vocab => next,
        _ => GOES_ON,
    }
}

impl Counting {
    pub(crate) fn new(vocab: usize) -> Counting {
        let logits = Logits::default();
        Counting { vocab, logits }
    }
}

impl Executor for Counting {
    /// What follows a token depends on nothing else.
    fn copy_blocks(&mut self, _: &[BlockCopy]) {}

    fn execute(&mut self, batch: &Batch) -> Result<&Logits, ExecutorError> {
        let mut whole = self.logits.begin(self.vocab, batch.num_logits());
        for span in &batch.spans {
            let tokens = batch.tokens_of(span);
            let is_among = |begin, end| tokens.iter().any(|t| (begin..end).contains(t));
            assert!(!is_among(PANICS, GOES_ON), "told to panic");
            if is_among(FAILS, PANICS) {
                let message = "told to fail".to_owned();
                return Err(ExecutorError { message });
            }
            for token in &tokens[tokens.len() - span.num_logits..] {
                let row;
                (row, whole) = whole.split_at_mut(self.vocab);
                row.fill(0.0);
                row[next(*token, self.vocab) as usize] = 1.0;
            }
        }
        (0..batch.num_logits()).for_each(|_| self.logits.push_whole());
        Ok(&self.logits)
    }

    fn vocab_size(&self) -> usize {
        self.vocab
    }
}

/// The token that [`served_clumsily`] is about.
pub(crate) const CLUMSY: u32 = 100;

/// The vocabulary of a model, on which requests' tasks fall over, but not the
/// engine.
struct Clumsy(Arc<dyn Vocabulary>);

impl Vocabulary for Clumsy {
    fn token_bytes(&self, token: u32) -> &[u8] {
        assert_ne!(token, CLUMSY, "told to panic");
        self.0.token_bytes(token)
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn is_end(&self, token: u32) -> bool {
        self.0.is_end(token)
    }
}

/// Whose requests' tasks panic at [`CLUMSY`].
pub(crate) fn served_clumsily() -> (Arc<Served>, EngineThread) {
    let (served, engine) = served();
    let mut served = Arc::into_inner(served).expect("nobody else has it yet");
    served.vocabulary = Arc::new(Clumsy(served.vocabulary));
    (Arc::new(served), engine)
}

/// As many tokens as a test needs, an x each.
pub(crate) struct Letters;

impl Letters {
    pub(crate) const SIZE: usize = 64;
}

impl Vocabulary for Letters {
    fn token_bytes(&self, _: u32) -> &[u8] {
        b"x"
    }

    fn size(&self) -> usize {
        Letters::SIZE
    }

    fn is_end(&self, _: u32) -> bool {
        false
    }
}

/// The demo's tokenizer and chat template on [`Counting`]. Its outboxes hold
/// four tokens, and its KV cache 32 pages of 16.
pub(crate) fn served() -> (Arc<Served>, EngineThread) {
    served_with(RETENTION, None)
}

pub(crate) fn served_with(
    retention: Retention,
    read_timeout: Option<Duration>,
) -> (Arc<Served>, EngineThread) {
    served_within(LIMITS, 4, retention, read_timeout)
}

const LIMITS: Limits = Limits {
    num_blocks: 32,
    block_size: 16,
    max_num_seqs: 2,
    max_num_batched_tokens: 64,
    step_budget: None,
    max_draft_tokens: 0,
    max_queued: 1,
    max_queued_tokens: usize::MAX,
    // That of the demo.
    max_model_len: 1024,
};

pub(crate) fn served_within(
    limits: Limits,
    outbox_capacity: usize,
    retention: Retention,
    read_timeout: Option<Duration>,
) -> (Arc<Served>, EngineThread) {
    let model = Arc::new(launch::open_model(None).expect("the demo opens"));
    let vocabulary: Arc<dyn Vocabulary> = Arc::new(ModelVocabulary::new(model.clone()));
    let executor = Counting::new(model.architecture.vocab);
    let (engine, thread) =
        engine_loop::start(limits, vocabulary.clone(), executor, || {}).expect("a thread");
    let served = Served {
        name: "demo".to_owned(),
        parameters: 1,
        kernel: "none".to_owned(),
        kernels: Vec::new(),
        default_sampling: default_sampling(&model.generation),
        bounds: Bounds {
            max_samples: 16.min(limits.max_num_seqs + limits.max_queued),
            vocab_size: vocabulary.size(),
            context_limit: limits.max_model_len,
            kv_tokens: limits.num_blocks * limits.block_size,
        },
        queue: Arc::new(Queue::new(
            Amount {
                requests: limits.max_num_seqs + limits.max_queued,
                tokens: limits.max_queued_tokens,
            },
            false,
        )),
        prompts: Prompts::new(model.clone(), 1),
        model,
        vocabulary,
        engine,
        access: Arc::new(Access::open(None, false).expect("needs no file")),
        live: Arc::new(LiveRequests::default()),
        drain: Arc::new(Drain::new(Duration::ZERO)),
        metrics: Metrics::new(&SdkMeterProvider::default().meter("test"), "demo"),
        outbox_capacity,
        read_timeout,
        retained: Arc::new(RetainedRequests::new(retention)),
        prefix_cache: true,
        public_prompts: PublicPrompts::default(),
        max_stream_requests: limits.max_num_seqs + limits.max_queued,
    };
    (Arc::new(served), thread)
}

/// A call as it comes through the door, from anyone.
pub(crate) fn call<T>(served: &Served, message: T) -> Request<T> {
    let mut call = Request::new(message);
    call.extensions_mut().insert(anyone(&served.access.policy));
    call
}

/// Room for a request that nobody limits.
pub(crate) fn admitted(max_output_tokens: u64) -> Admitted {
    let policy = Policy::open();
    let ticket = policy.enter(&anyone(&policy), Duration::ZERO);
    let ticket = ticket.expect("there is no limit");
    let output = MaxOutput::Asked(max_output_tokens);
    let admitted = ticket.admit(1, output, Duration::ZERO);
    admitted.expect("there is no limit")
}

fn anyone(policy: &Policy) -> Authorised {
    let nothing = Credential {
        key: None,
        certificate_sans: &[],
    };
    let caller = policy.authenticate(&nothing).expect("it is open");
    caller.allowed(Role::Inference).expect("it is open")
}

/// Two that are not the same.
pub(crate) fn tenants() -> [TenantId; 2] {
    ["acme", "other"].map(|name| {
        let key = format!("tn_{name}");
        let text = format!(
            "[[tenants]]\nname = {name:?}\n[[tenants.keys]]\nid = '1'\nhash = '{}'\n",
            KeyHash::of(&key)
        );
        let policy = Policy::new(Tenants::parse(&text).expect("a good file"));
        let credential = Credential {
            key: Some(&key),
            certificate_sans: &[],
        };
        let caller = policy.authenticate(&credential).expect("its key");
        caller.tenant().clone()
    })
}
