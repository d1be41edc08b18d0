use std::path::Path;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use serde::Deserialize;
use ternion_client::Generate;
use ternion_client::proto::{ChatMessage, Sampling, Stopping};

use super::json_lines;
use super::lengths::Lengths;
use super::seed::{Purpose, random};
use super::tenants::Tenant;
use crate::failure::Failure;

/// What is asked, of whatever server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) input: Input,
    /// So many are generated, neither more nor less.
    pub(crate) max_tokens: u32,
    pub(crate) seed: u64,
    pub(crate) priority: Option<i32>,
    pub(crate) common: Common,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Input {
    Text(String),
    Chat(Vec<ChatMessage>),
    TokenIds(Vec<u32>),
}

/// What all requests have in common.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Common {
    pub(crate) model: String,
    pub(crate) temperature: Option<f32>,
    pub(crate) timeout: Option<Duration>,
}

/// Where requests come from, without end.
#[derive(Debug)]
pub(crate) struct Prompts {
    source: Source,
    common: Common,
    tenants: Vec<Requests>,
    count: u64,
}

#[derive(Debug)]
pub(crate) enum Source {
    Random {
        lengths: Lengths,
        vocab_size: u32,
        prefixes: Prefixes,
    },
    Lines(Vec<(Input, u32)>),
}

/// Those of one tenant.
#[derive(Debug)]
struct Requests {
    random: Box<ChaCha8Rng>,
    count: u64,
    priority: Option<i32>,
}

/// Beginnings that prompts share.
#[derive(Debug)]
pub(crate) struct Prefixes {
    /// Of each prompt's tokens, so many come from a prefix.
    share: f64,
    prefixes: Vec<Prefix>,
}

/// Tokens without end, of which the first are drawn.
#[derive(Debug)]
struct Prefix {
    random: Box<ChaCha8Rng>,
    tokens: Vec<u32>,
}

/// A line of a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    prompt: Option<String>,
    chat: Option<Vec<Message>>,
    token_ids: Option<Vec<u32>>,
    max_tokens: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    role: String,
    content: String,
}

impl Prefixes {
    pub(crate) fn new(share: f64, count: u32, seed: u64) -> Prefixes {
        let prefix = |index| Prefix {
            random: Box::new(random(seed, Purpose::Prefix(index))),
            tokens: Vec::new(),
        };
        Prefixes {
            share,
            prefixes: (0..count).map(prefix).collect(),
        }
    }

    /// The beginning of a prompt of so many tokens.
    fn draw(&mut self, prompt: u32, vocab_size: u32, random: &mut ChaCha8Rng) -> &[u32] {
        let shared = (f64::from(prompt) * self.share) as usize;
        if shared == 0 {
            return &[];
        }
        let index = random.random_range(0..self.prefixes.len());
        let Prefix { random, tokens } = &mut self.prefixes[index];
        while tokens.len() < shared {
            tokens.push(random.random_range(0..vocab_size));
        }
        &tokens[..shared]
    }
}

impl Source {
    /// Random tokens: but for shared prefixes no two prompts begin alike, so
    /// no cache helps.
    pub(crate) fn random(lengths: Lengths, vocab_size: u32, prefixes: Prefixes) -> Source {
        Source::Random {
            lengths,
            vocab_size: vocab_size.max(1),
            prefixes,
        }
    }

    pub(crate) fn from_file(path: &Path, max_tokens: u32) -> Result<Source, Failure> {
        Ok(Source::Lines(json_lines::read(path, |line| {
            parse(line, max_tokens)
        })?))
    }
}

impl Prompts {
    pub(crate) fn new(source: Source, common: Common, tenants: &[Tenant], seed: u64) -> Prompts {
        let requests = |(index, tenant): (usize, &Tenant)| Requests {
            random: Box::new(random(seed, Purpose::Requests(index))),
            count: 0,
            priority: tenant.priority,
        };
        Prompts {
            source,
            common,
            tenants: tenants.iter().enumerate().map(requests).collect(),
            count: 0,
        }
    }

    /// The next request of a tenant, of given lengths where a trace has them.
    pub(crate) fn next(&mut self, tenant: usize, traced: Option<(u32, u32)>) -> Request {
        let line = self.count;
        self.count += 1;
        let requests = &mut self.tenants[tenant];
        let seed = requests.count;
        requests.count += 1;
        let (input, max_tokens) = match &mut self.source {
            Source::Random {
                lengths,
                vocab_size,
                prefixes,
            } => {
                let random = &mut *requests.random;
                let (prompt, output) = match traced {
                    Some((prompt, output)) => lengths.of(prompt, output),
                    None => lengths.draw(random),
                };
                let mut ids = prefixes.draw(prompt, *vocab_size, random).to_vec();
                let own = prompt as usize - ids.len();
                ids.extend((0..own).map(|_| random.random_range(0..*vocab_size)));
                (Input::TokenIds(ids), output)
            }
            Source::Lines(lines) => lines[(line % lines.len() as u64) as usize].clone(),
        };
        Request {
            input,
            max_tokens,
            seed,
            priority: requests.priority,
            common: self.common.clone(),
        }
    }
}

impl From<Request> for Generate {
    fn from(request: Request) -> Generate {
        let Common {
            model,
            temperature,
            timeout,
        } = request.common;
        let mut generate = match request.input {
            Input::Text(text) => Generate::text(text),
            Input::Chat(messages) => Generate::chat(messages),
            Input::TokenIds(ids) => Generate::token_ids(ids),
        }
        .model(model)
        .sampling(Sampling {
            temperature,
            seed: Some(request.seed),
            ..Sampling::default()
        })
        .stopping(Stopping {
            max_tokens: Some(request.max_tokens),
            ignore_eos: Some(true),
            ..Stopping::default()
        });
        generate.timeout = timeout;
        generate.request.priority = request.priority;
        generate
    }
}

fn parse(line: Line, max_tokens: u32) -> Result<(Input, u32), String> {
    let input = match (line.prompt, line.chat, line.token_ids) {
        (Some(prompt), None, None) => Input::Text(prompt),
        (None, Some(messages), None) => Input::Chat(
            messages
                .into_iter()
                .map(|message| ChatMessage {
                    role: message.role,
                    content: message.content,
                })
                .collect(),
        ),
        (None, None, Some(ids)) => Input::TokenIds(ids),
        _ => return Err("must hold exactly one of prompt, chat, token_ids".into()),
    };
    Ok((input, line.max_tokens.unwrap_or(max_tokens)))
}

#[cfg(test)]
mod tests {
    use super::super::lengths::Length;
    use super::*;

    fn prompts(source: Source, seed: u64) -> Prompts {
        let tenants = [Tenant::named("a"), Tenant::named("b")];
        Prompts::new(source, Common::default(), &tenants, seed)
    }

    fn random_prompts(share: f64, prefixes: u32, seed: u64) -> Prompts {
        let lengths = Lengths {
            prompt: Length::Uniform { low: 40, high: 60 },
            output: Length::Fixed(3),
            scale: 1.0,
            context: None,
        };
        let prefixes = Prefixes::new(share, prefixes, seed);
        prompts(Source::random(lengths, 500, prefixes), seed)
    }

    fn ids(request: Request) -> Vec<u32> {
        match request.input {
            Input::TokenIds(ids) => ids,
            other => panic!("{other:?}"),
        }
    }

    fn read(file: &str) -> Result<Vec<(Input, u32)>, String> {
        json_lines::lines(file.as_bytes(), |line| parse(line, 9)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_tenants_requests_do_not_depend_on_others_and_do_on_the_seed() {
        let mut alone = random_prompts(0.5, 2, 1);
        let alone: Vec<Request> = (0..4).map(|_| alone.next(0, None)).collect();
        let mut among = random_prompts(0.5, 2, 1);
        for request in &alone {
            let _ = among.next(1, None);
            assert_eq!(&among.next(0, None), request);
        }
        assert_ne!(random_prompts(0.5, 2, 2).next(0, None), alone[0]);
    }

    #[test]
    fn prompts_share_as_much_of_as_many_prefixes_as_asked() {
        let mut prompts = random_prompts(0.5, 3, 1);
        let prompts: Vec<Vec<u32>> = (0..100).map(|i| ids(prompts.next(i % 2, None))).collect();
        // Of 5000 tokens, the first and the last of the 500 that there are.
        let tokens = || prompts.iter().flatten();
        assert_eq!((tokens().min(), tokens().max()), (Some(&0), Some(&499)));
        // Every prompt has 20 tokens of a prefix at least.
        let mut beginnings: Vec<&[u32]> = prompts.iter().map(|ids| &ids[..20]).collect();
        beginnings.sort_unstable();
        beginnings.dedup();
        assert_eq!(beginnings.len(), 3);
        let mut ends: Vec<&[u32]> = prompts.iter().map(|ids| &ids[ids.len() - 20..]).collect();
        ends.sort_unstable();
        ends.dedup();
        assert_eq!(ends.len(), 100);
    }

    #[test]
    fn a_tenants_requests_differ_in_their_seeds() {
        let mut prompts = random_prompts(0.0, 1, 1);
        let seeds = [0, 1, 0, 0, 1].map(|tenant| prompts.next(tenant, None).seed);
        assert_eq!(seeds, [0, 0, 1, 2, 1]);
    }

    #[test]
    fn a_server_is_asked_for_all_that_was_planned() {
        let generate = Generate::from(Request {
            input: Input::TokenIds(vec![5, 6]),
            max_tokens: 3,
            seed: 9,
            priority: Some(-2),
            common: Common {
                model: "m".into(),
                temperature: Some(0.5),
                timeout: Some(Duration::from_secs(4)),
            },
        });
        let asked = generate.request;
        let sampling = asked.sampling.expect("it is set");
        let stopping = asked.stopping.expect("it is set");
        assert_eq!((asked.model.as_str(), asked.priority), ("m", Some(-2)));
        assert_eq!((sampling.temperature, sampling.seed), (Some(0.5), Some(9)));
        assert_eq!(stopping.max_tokens, Some(3));
        assert_eq!(stopping.ignore_eos, Some(true), "neither more nor less");
        assert_eq!(generate.timeout, Some(Duration::from_secs(4)));
    }

    #[test]
    fn a_trace_has_the_lengths() {
        let request = random_prompts(0.9, 1, 1).next(0, Some((17, 5)));
        assert_eq!(request.max_tokens, 5);
        assert_eq!(ids(request).len(), 17);
    }

    #[test]
    fn lines_are_used_in_turn_with_their_own_limits() {
        let lines = read("{\"prompt\": \"a\"}\n\n{\"token_ids\": [1], \"max_tokens\": 2}\n");
        let mut prompts = prompts(Source::Lines(lines.expect("a good file")), 0);
        let limits: Vec<u32> = (0..3).map(|_| prompts.next(0, None).max_tokens).collect();
        assert_eq!(limits, [9, 2, 9]);
    }

    #[test]
    fn what_is_wrong_in_a_file_is_told_with_its_line() {
        for (file, expected) in [
            ("", "holds no line"),
            (
                "{\"prompt\": \"a\"}\n{\"promt\": \"a\"}",
                "line 2: unknown field `promt`",
            ),
            ("{}", "line 1: must hold exactly one of"),
            (
                "{\"prompt\": \"a\", \"token_ids\": []}",
                "line 1: must hold exactly one of",
            ),
        ] {
            let error = read(file).expect_err("a bad file");
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
