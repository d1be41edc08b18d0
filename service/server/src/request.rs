//! What a client may ask for.
//!
//! Every field is checked here, once, and all that is wrong with a request is
//! said at once. What comes out needs no second look.

use ternion_engine::{Sampling, Stopping};
use ternion_proto::v1;

/// What requests are measured against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) vocab_size: usize,
    /// Most tokens, prompt and output together.
    pub(crate) context_limit: usize,
    /// Tokens that the KV cache can hold.
    pub(crate) kv_tokens: usize,
    pub(crate) max_samples: usize,
}

impl Bounds {
    /// Samples that a request has, or would have if it asked for as many as it
    /// may.
    pub(crate) fn samples(&self, request: &v1::GenerateRequest) -> usize {
        let asked = request.n.map_or(1, |n| n as usize);
        asked.clamp(1, self.max_samples)
    }
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Path from the request's message: `sampling.top_p`, `stopping.stop[2]`.
    pub(crate) field: String,
    pub(crate) description: String,
}

/// Everything that is wrong with a request; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", summary(.0))]
pub(crate) struct Violations(pub(crate) Vec<Violation>);

fn summary(violations: &[Violation]) -> String {
    let parts: Vec<String> = violations
        .iter()
        .map(|v| format!("{}: {}", v.field, v.description))
        .collect();
    parts.join("; ")
}

impl Violations {
    pub(crate) fn one(field: &str, description: impl Into<String>) -> Violations {
        Violations(vec![Violation {
            field: field.to_owned(),
            description: description.into(),
        }])
    }
}

/// A request whose fields are good, before its prompt is tokenised.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) input: Input,
    pub(crate) sampling: Sampling,
    pub(crate) stopping: Stopping,
    /// Whether `stopping.max_tokens` is the client's or to be set from what
    /// the context leaves.
    pub(crate) max_tokens_given: bool,
    pub(crate) priority: i32,
    pub(crate) samples: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Input {
    Text {
        text: String,
        parse_special: bool,
        add_bos: bool,
    },
    Chat(Vec<v1::ChatMessage>),
    TokenIds(Vec<u32>),
}

impl Input {
    /// Name of the field it came in.
    pub(crate) fn field(&self) -> &'static str {
        match self {
            Input::Text { .. } => "text",
            Input::Chat(_) => "chat",
            Input::TokenIds(_) => "token_ids",
        }
    }
}

/// Most tokens that are generated when nobody says how many.
pub(crate) const DEFAULT_MAX_TOKENS: usize = 65536;
/// Longest id that a client may choose.
pub(crate) const MAX_REQUEST_ID_BYTES: usize = 128;

const MAX_TEMPERATURE: f32 = 100.0;
const MAX_REPETITION_PENALTY: f32 = 10.0;
const MAX_OTHER_PENALTY: f32 = 2.0;
const MAX_LOGPROBS: u32 = 20;
const MAX_PRIORITY: i32 = 100;
const MAX_STOP_STRINGS: usize = 16;
const MAX_STOP_STRING_BYTES: usize = 256;
const MAX_STOP_TOKENS: usize = 64;
const MAX_MESSAGES: usize = 1024;
const MAX_ROLE_BYTES: usize = 64;

/// Violations that are told: statuses travel in headers, which are limited.
const MAX_VIOLATIONS: usize = 16;

/// Checks all of a request but its length in tokens. `defaults` are the
/// model's for what the request leaves open.
pub(crate) fn check(
    request: v1::GenerateRequest,
    bounds: &Bounds,
    defaults: &Sampling,
    drawn_seed: u64,
) -> Result<Checked, Violations> {
    let mut found = Found::default();
    let mut sampling = found.sampling(&request.sampling.unwrap_or_default(), defaults, drawn_seed);
    sampling.num_logprobs = request.logprobs;
    if let Some(n) = request.logprobs.filter(|n| *n > MAX_LOGPROBS) {
        found.add("logprobs", format!("is {n}, at most {MAX_LOGPROBS}"));
    }
    let priority = request.priority.unwrap_or(0);
    if priority.unsigned_abs() > MAX_PRIORITY.unsigned_abs() {
        let range = format!("is {priority}, from -{MAX_PRIORITY} to {MAX_PRIORITY}");
        found.add("priority", range);
    }
    let samples = bounds.samples(&request);
    if let Some(n) = request.n.filter(|n| *n as usize != samples) {
        found.add("n", format!("is {n}, from 1 to {}", bounds.max_samples));
    }
    if request.request_id.len() > MAX_REQUEST_ID_BYTES {
        let len = request.request_id.len();
        found.add(
            "request_id",
            format!("has {len} bytes, at most {MAX_REQUEST_ID_BYTES}"),
        );
    }
    let wanted = request.stopping.unwrap_or_default();
    let max_tokens_given = wanted.max_tokens.is_some();
    let stopping = found.stopping(wanted, bounds);
    let input = found.input(
        request.input.map(Into::into),
        request.parse_special.unwrap_or(true),
        request.add_bos.unwrap_or(true),
        bounds,
    );
    found.result(input).map(|input| Checked {
        input,
        sampling,
        stopping,
        max_tokens_given,
        priority,
        samples,
    })
}

/// Checks an input that stands alone, as in Tokenize and CountTokens.
pub(crate) fn check_input(
    input: Option<AnyInput>,
    parse_special: bool,
    add_bos: bool,
    bounds: &Bounds,
) -> Result<Input, Violations> {
    let mut found = Found::default();
    let input = found.input(input, parse_special, add_bos, bounds);
    found.result(input)
}

/// Checks token ids that stand alone, as in Detokenize.
pub(crate) fn check_token_ids(field: &str, ids: &[u32], bounds: &Bounds) -> Result<(), Violations> {
    let mut found = Found::default();
    found.token_ids(field, ids, bounds);
    found.result(Some(()))
}

/// The inputs of all requests that have one, as one type.
pub(crate) enum AnyInput {
    Text(String),
    Chat(v1::ChatInput),
    TokenIds(v1::TokenIds),
}

impl From<v1::generate_request::Input> for AnyInput {
    fn from(input: v1::generate_request::Input) -> AnyInput {
        use v1::generate_request::Input;
        match input {
            Input::Text(text) => AnyInput::Text(text),
            Input::Chat(chat) => AnyInput::Chat(chat),
            Input::TokenIds(ids) => AnyInput::TokenIds(ids),
        }
    }
}

impl From<v1::tokenize_request::Input> for AnyInput {
    fn from(input: v1::tokenize_request::Input) -> AnyInput {
        use v1::tokenize_request::Input;
        match input {
            Input::Text(text) => AnyInput::Text(text),
            Input::Chat(chat) => AnyInput::Chat(chat),
        }
    }
}

impl From<v1::count_tokens_request::Input> for AnyInput {
    fn from(input: v1::count_tokens_request::Input) -> AnyInput {
        use v1::count_tokens_request::Input;
        match input {
            Input::Text(text) => AnyInput::Text(text),
            Input::Chat(chat) => AnyInput::Chat(chat),
            Input::TokenIds(ids) => AnyInput::TokenIds(ids),
        }
    }
}

/// What is wrong so far.
#[derive(Default)]
struct Found(Vec<Violation>);

impl Found {
    fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(Violation {
            field: field.into(),
            description: description.into(),
        });
    }

    /// `value` is `None` only if a violation was added.
    fn result<T>(mut self, value: Option<T>) -> Result<T, Violations> {
        self.0.truncate(MAX_VIOLATIONS);
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(Violations(self.0)),
        }
    }

    fn sampling(&mut self, wanted: &v1::Sampling, defaults: &Sampling, seed: u64) -> Sampling {
        let mut number = |field: &str, wanted: Option<f32>, default, range: Range| {
            if let Some(value) = wanted.filter(|value| !range.contains(*value)) {
                self.add(format!("sampling.{field}"), format!("is {value}, {range}"));
            }
            wanted.unwrap_or(default)
        };
        Sampling {
            temperature: number(
                "temperature",
                wanted.temperature,
                defaults.temperature,
                Range::closed(0.0, MAX_TEMPERATURE),
            ),
            top_k: wanted.top_k.unwrap_or(defaults.top_k),
            top_p: number(
                "top_p",
                wanted.top_p,
                defaults.top_p,
                Range::above(0.0, 1.0),
            ),
            min_p: number(
                "min_p",
                wanted.min_p,
                defaults.min_p,
                Range::closed(0.0, 1.0),
            ),
            seed: wanted.seed.unwrap_or(seed),
            repetition_penalty: number(
                "repetition_penalty",
                wanted.repetition_penalty,
                defaults.repetition_penalty,
                Range::above(0.0, MAX_REPETITION_PENALTY),
            ),
            presence_penalty: number(
                "presence_penalty",
                wanted.presence_penalty,
                defaults.presence_penalty,
                Range::closed(-MAX_OTHER_PENALTY, MAX_OTHER_PENALTY),
            ),
            frequency_penalty: number(
                "frequency_penalty",
                wanted.frequency_penalty,
                defaults.frequency_penalty,
                Range::closed(-MAX_OTHER_PENALTY, MAX_OTHER_PENALTY),
            ),
            num_logprobs: None,
        }
    }

    fn stopping(&mut self, wanted: v1::Stopping, bounds: &Bounds) -> Stopping {
        if wanted.max_tokens == Some(0) {
            self.add("stopping.max_tokens", "is 0, at least 1");
        }
        let max_tokens = wanted.max_tokens.map_or(0, |n| n as usize);
        let min_tokens = wanted.min_tokens.map_or(0, |n| n as usize);
        if wanted.max_tokens.is_some() && min_tokens > max_tokens {
            self.add(
                "stopping.min_tokens",
                format!("is {min_tokens}, at most max_tokens, which is {max_tokens}"),
            );
        }
        self.stop_strings(&wanted.stop);
        let num_stop_tokens = wanted.stop_token_ids.len();
        if num_stop_tokens > MAX_STOP_TOKENS {
            self.add(
                "stopping.stop_token_ids",
                format!("has {num_stop_tokens} ids, at most {MAX_STOP_TOKENS}"),
            );
        } else {
            self.token_ids("stopping.stop_token_ids", &wanted.stop_token_ids, bounds);
        }
        Stopping {
            max_tokens,
            min_tokens,
            stop: wanted.stop.into_iter().map(String::into_bytes).collect(),
            stop_tokens: wanted.stop_token_ids,
            ignore_eos: wanted.ignore_eos.unwrap_or(false),
            include_stop: wanted.include_stop.unwrap_or(false),
        }
    }

    fn stop_strings(&mut self, stop: &[String]) {
        if stop.len() > MAX_STOP_STRINGS {
            let len = stop.len();
            self.add(
                "stopping.stop",
                format!("has {len} strings, at most {MAX_STOP_STRINGS}"),
            );
            return;
        }
        for (i, stop) in stop.iter().enumerate() {
            if !(1..=MAX_STOP_STRING_BYTES).contains(&stop.len()) {
                let len = stop.len();
                self.add(
                    format!("stopping.stop[{i}]"),
                    format!("has {len} bytes, from 1 to {MAX_STOP_STRING_BYTES}"),
                );
            }
        }
    }

    /// Names the first bad id only: a prompt of another model has thousands.
    fn token_ids(&mut self, field: &str, ids: &[u32], bounds: &Bounds) {
        let size = bounds.vocab_size;
        let bad = ids.iter().enumerate().find(|(_, id)| **id as usize >= size);
        if let Some((i, id)) = bad {
            self.add(
                format!("{field}[{i}]"),
                format!("is {id}, below the vocabulary's size of {size}"),
            );
        }
    }

    fn input(
        &mut self,
        input: Option<AnyInput>,
        parse_special: bool,
        add_bos: bool,
        bounds: &Bounds,
    ) -> Option<Input> {
        match input {
            None => {
                self.add("input", "is missing: one of text, chat, token_ids");
                None
            }
            Some(AnyInput::Text(text)) => Some(Input::Text {
                text,
                parse_special,
                add_bos,
            }),
            Some(AnyInput::Chat(chat)) => {
                self.messages(&chat.messages);
                Some(Input::Chat(chat.messages))
            }
            Some(AnyInput::TokenIds(ids)) => {
                if ids.ids.is_empty() {
                    self.add("token_ids.ids", "is empty, at least one");
                }
                self.token_ids("token_ids.ids", &ids.ids, bounds);
                Some(Input::TokenIds(ids.ids))
            }
        }
    }

    fn messages(&mut self, messages: &[v1::ChatMessage]) {
        if !(1..=MAX_MESSAGES).contains(&messages.len()) {
            let len = messages.len();
            self.add(
                "chat.messages",
                format!("has {len} messages, from 1 to {MAX_MESSAGES}"),
            );
            return;
        }
        for (i, message) in messages.iter().enumerate() {
            let len = message.role.len();
            if !(1..=MAX_ROLE_BYTES).contains(&len) {
                self.add(
                    format!("chat.messages[{i}].role"),
                    format!("has {len} bytes, from 1 to {MAX_ROLE_BYTES}"),
                );
            }
        }
    }
}

/// Numbers up to `max`, and from `min` or above it. Holds no NaN.
struct Range {
    min: f32,
    min_included: bool,
    max: f32,
}

impl Range {
    fn closed(min: f32, max: f32) -> Range {
        let min_included = true;
        Range {
            min,
            min_included,
            max,
        }
    }

    fn above(min: f32, max: f32) -> Range {
        let min_included = false;
        Range {
            min,
            min_included,
            max,
        }
    }

    fn contains(&self, value: f32) -> bool {
        let above_min = value > self.min || (self.min_included && value == self.min);
        above_min && value <= self.max
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Range { min, max, .. } = self;
        match self.min_included {
            true => write!(f, "from {min} to {max}"),
            false => write!(f, "above {min}, at most {max}"),
        }
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
