//! Prompts that are the operator's own, and so no tenant's secret.
//!
//! What is computed of them is shared by all tenants, as far as a prompt begins
//! as one of them does: whoever finds it computed learns that somebody asked
//! with the operator's words. The file has one JSON object a line:
//!
//! ```text
//! {"system": "You are a helpful assistant."}
//! {"text": "Translate into French: "}
//! ```
//!
//! `system` is a chat's first message, as the model's template renders it,
//! `text` the beginning of a prompt as it is.

use std::{io::Read, path::Path};

use anyhow::{Context, bail};
use serde::Deserialize;
use ternion_model::Model;

use ternion_proto::v1::ChatMessage;

use crate::{prompt::encode, request::Input};

/// Longest file.
const MAX_BYTES: u64 = 1 << 20;
/// Most prompts in it: each is compared to every prompt that comes.
const MAX_PROMPTS: usize = 256;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    System(String),
    Text(String),
}

/// The tokens of each.
#[derive(Debug, Default)]
pub(crate) struct PublicPrompts(Vec<Vec<u32>>);

impl PublicPrompts {
    pub(crate) fn read(path: &Path, model: &Model) -> anyhow::Result<PublicPrompts> {
        let what = || path.display().to_string();
        let file = std::fs::File::open(path).with_context(what)?;
        let mut text = String::new();
        file.take(MAX_BYTES + 1)
            .read_to_string(&mut text)
            .with_context(what)?;
        if text.len() as u64 > MAX_BYTES {
            bail!("{} is longer than {MAX_BYTES} bytes", what());
        }
        PublicPrompts::parse(&text, model).with_context(what)
    }

    fn parse(text: &str, model: &Model) -> anyhow::Result<PublicPrompts> {
        let lines = text.lines().enumerate();
        let lines = lines.filter(|(_, line)| !line.trim().is_empty());
        let prompts = lines
            .map(|(index, line)| tokens(line, model).with_context(|| format!("line {}", index + 1)))
            .collect::<Result<Vec<_>, _>>()?;
        match prompts.len() {
            0 => bail!("has no prompts"),
            1..=MAX_PROMPTS => Ok(PublicPrompts(prompts)),
            many => bail!("has {many} prompts, and may have {MAX_PROMPTS}"),
        }
    }

    /// How many of a prompt's first tokens are those of one of these.
    pub(crate) fn in_common(&self, prompt: &[u32]) -> usize {
        let lengths = self.0.iter().map(|public| common(public, prompt));
        lengths.max().unwrap_or(0)
    }
}

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn tokens(line: &str, model: &Model) -> anyhow::Result<Vec<u32>> {
    let tokens = match serde_json::from_str(line)? {
        Line::Text(text) => {
            let input = Input::Text {
                text,
                parse_special: true,
                add_bos: true,
            };
            encode(model, input)?
        }
        Line::System(system) => {
            let chat = |user: &str| {
                let message = |role: &str, content: &str| ChatMessage {
                    role: role.to_owned(),
                    content: content.to_owned(),
                };
                let messages = [message("system", &system), message("user", user)];
                encode(model, Input::Chat(messages.into()))
            };
            // What doesn't depend on what the user says.
            let mut tokens = chat("a")?;
            tokens.truncate(common(&tokens, &chat("1")?));
            tokens
        }
    };
    match tokens.is_empty() {
        true => bail!("nothing of it is a prompt's beginning"),
        false => Ok(tokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch;

    fn demo() -> Model {
        launch::open_model(None).expect("the demo opens")
    }

    fn chat(model: &Model, messages: &[(&str, &str)]) -> Vec<u32> {
        let messages = messages.iter().map(|(role, content)| ChatMessage {
            role: (*role).to_owned(),
            content: (*content).to_owned(),
        });
        encode(model, Input::Chat(messages.collect())).expect("it is rendered")
    }

    #[test]
    fn what_the_operator_says_is_public_and_what_the_user_says_is_not() {
        let model = demo();
        let lines = "{\"system\": \"Be brief.\"}\n\n{\"text\": \"Once upon a time\"}\n";
        let public = PublicPrompts::parse(lines, &model).expect("they are good");

        let one = chat(
            &model,
            &[("system", "Be brief."), ("user", "What is this?")],
        );
        let other = chat(&model, &[("system", "Be brief."), ("user", "Where is it?")]);
        let bare = chat(&model, &[("user", "What is this?")]);
        let known = public.in_common(&one);
        assert_eq!(known, public.in_common(&other));
        assert_eq!(one[..known], other[..known]);
        let system = chat(&model, &[("system", "Be brief.")]);
        // The template says who speaks next, as it does whoever asks.
        assert!(known > common(&system, &one).saturating_sub(3), "{known}");
        assert!(known > public.in_common(&bare));
        assert!(known < one.len());

        let text = |text: &str| {
            let input = Input::Text {
                text: text.to_owned(),
                parse_special: false,
                add_bos: true,
            };
            encode(&model, input).expect("it is a text")
        };
        let whole = text("Once upon a time");
        assert_eq!(
            public.in_common(&text("Once upon a time there")),
            whole.len()
        );
        assert_eq!(public.in_common(&whole[..2]), 2);
        assert_eq!(public.in_common(&[]), 0);
        assert_eq!(PublicPrompts::default().in_common(&whole), 0);
    }

    #[test]
    fn a_bad_file_is_refused_and_the_line_named() {
        let model = demo();
        let many = "{\"text\": \"a\"}\n".repeat(MAX_PROMPTS + 1);
        for (text, want) in [
            ("", "has no prompts"),
            ("\n \n", "has no prompts"),
            (&many, "has 257 prompts, and may have 256"),
            ("{\"text\": \"a\"}\nx", "line 2: expected value"),
            ("{\"txt\": \"a\"}", "line 1: unknown variant `txt`"),
            ("{\"text\": 1}", "line 1: invalid type"),
            ("{\"text\": \"a\", \"system\": \"b\"}", "line 1: "),
        ] {
            let error = PublicPrompts::parse(text, &model).expect_err(text);
            let said = format!("{error:#}");
            assert!(said.starts_with(want), "{said}");
        }
        let nowhere = PublicPrompts::read(Path::new("/nowhere"), &model);
        let said = format!("{:#}", nowhere.expect_err("it isn't there"));
        assert!(said.starts_with("/nowhere: "), "{said}");
    }
}
