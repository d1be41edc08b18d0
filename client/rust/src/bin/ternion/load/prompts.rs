use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use ternion_client::Generate;
use ternion_client::proto::{ChatMessage, Sampling, Stopping};

use super::lengths::Lengths;
use crate::failure::Failure;

/// Where requests come from, without end.
#[derive(Debug)]
pub(crate) struct Prompts {
    source: Source,
    model: String,
    timeout: Option<Duration>,
    count: u64,
}

#[derive(Debug)]
enum Source {
    Random {
        lengths: Lengths,
        vocab_size: u32,
        random: Box<ChaCha8Rng>,
    },
    Lines {
        requests: Vec<(Generate, u32)>,
    },
}

/// All of a file is in memory, so that reading it delays no request.
const MAX_FILE_BYTES: u64 = 256 << 20;

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

impl Prompts {
    /// Random tokens: no two prompts begin alike, so no cache helps.
    pub(crate) fn random(lengths: Lengths, vocab_size: u32, model: &str, seed: u64) -> Prompts {
        Prompts::new(
            model,
            Source::Random {
                lengths,
                vocab_size,
                // Other numbers than those of the arrivals.
                random: Box::new(ChaCha8Rng::seed_from_u64(!seed)),
            },
        )
    }

    pub(crate) fn from_file(path: &Path, max_tokens: u32, model: &str) -> Result<Prompts, Failure> {
        let unreadable = |source| Failure::Prompt {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        let bytes = file.metadata().map_err(unreadable)?.len();
        if bytes > MAX_FILE_BYTES {
            let message = format!("has {bytes} bytes, at most {MAX_FILE_BYTES} may be");
            return Err(unreadable(io::Error::other(message)));
        }
        let requests = read(BufReader::new(file), max_tokens).map_err(unreadable)?;
        Ok(Prompts::new(model, Source::Lines { requests }))
    }

    pub(crate) fn with_timeout(mut self, timeout: Option<Duration>) -> Prompts {
        self.timeout = timeout;
        self
    }

    fn new(model: &str, source: Source) -> Prompts {
        Prompts {
            source,
            model: model.to_owned(),
            timeout: None,
            count: 0,
        }
    }

    pub(crate) fn next(&mut self) -> Generate {
        let number = self.count;
        self.count += 1;
        let (generate, max_tokens) = match &mut self.source {
            Source::Random {
                lengths,
                vocab_size,
                random,
            } => {
                let (prompt, output) = lengths.draw(random);
                let ids = (0..prompt).map(|_| random.random_range(0..(*vocab_size).max(1)));
                (Generate::token_ids(ids), output)
            }
            Source::Lines { requests } => {
                let len = requests.len() as u64;
                requests[(number % len) as usize].clone()
            }
        };
        let mut generate = generate
            .model(&self.model)
            .sampling(Sampling {
                seed: Some(number),
                ..Sampling::default()
            })
            .stopping(Stopping {
                max_tokens: Some(max_tokens),
                ignore_eos: Some(true),
                ..Stopping::default()
            });
        generate.timeout = self.timeout;
        generate
    }
}

fn read(file: impl BufRead, max_tokens: u32) -> io::Result<Vec<(Generate, u32)>> {
    let mut requests = Vec::new();
    for (i, line) in file.lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let request = parse(&line, max_tokens)
            .map_err(|error| io::Error::other(format!("line {}: {error}", i + 1)))?;
        requests.push(request);
    }
    match requests.is_empty() {
        true => Err(io::Error::other("holds no prompt")),
        false => Ok(requests),
    }
}

fn parse(line: &str, max_tokens: u32) -> Result<(Generate, u32), String> {
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let generate = match (line.prompt, line.chat, line.token_ids) {
        (Some(prompt), None, None) => Generate::text(prompt),
        (None, Some(messages), None) => {
            Generate::chat(messages.into_iter().map(|message| ChatMessage {
                role: message.role,
                content: message.content,
            }))
        }
        (None, None, Some(ids)) => Generate::token_ids(ids),
        _ => return Err("must hold exactly one of prompt, chat, token_ids".into()),
    };
    Ok((generate, line.max_tokens.unwrap_or(max_tokens)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_used_in_turn_with_their_own_limits() {
        let file = "{\"prompt\": \"a\"}\n\n{\"token_ids\": [1], \"max_tokens\": 2}\n";
        let requests = read(file.as_bytes(), 9).expect("a good file");
        let mut prompts = Prompts::new("m", Source::Lines { requests });
        let limits: Vec<Option<u32>> = (0..3)
            .map(|_| {
                prompts
                    .next()
                    .request
                    .stopping
                    .and_then(|stopping| stopping.max_tokens)
            })
            .collect();
        assert_eq!(limits, [Some(9), Some(2), Some(9)]);
    }

    #[test]
    fn what_is_wrong_in_a_file_is_told_with_its_line() {
        for (file, expected) in [
            ("", "holds no prompt"),
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
            let error = read(file.as_bytes(), 9)
                .expect_err("a bad file")
                .to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
