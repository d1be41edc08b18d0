use std::collections::HashMap;

use clap::Args;
use serde::Serialize;
use ternion_client::proto::tokenize_request::Input as Source;
use ternion_client::proto::{ChatInput, DetokenizeRequest, TokenizeRequest};
use ternion_client::{Client, user};

use crate::failure::Failure;
use crate::json;
use crate::stdout;

#[derive(Debug, Args)]
pub(crate) struct Tokenize {
    /// Text, or with --detokenize ids such as 1,2,3. Absent: standard input.
    #[arg(allow_hyphen_values = true)]
    text: Option<String>,

    /// Tokens of the text as a message in the model's chat template.
    #[arg(long, conflicts_with_all = ["detokenize", "bos"])]
    chat: bool,

    /// The other way round: the text of ids.
    #[arg(long)]
    detokenize: bool,

    /// Begin with the model's beginning-of-text token, as a prompt does.
    #[arg(long, conflicts_with = "detokenize")]
    bos: bool,

    /// Take special tokens written in the text as plain text; with
    /// --detokenize, leave special tokens out.
    #[arg(long)]
    no_special: bool,

    /// Name of the model; not needed where the server has one.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    model: String,
}

pub(crate) enum Input {
    Text(TokenizeRequest),
    Ids(DetokenizeRequest),
}

#[derive(Debug, Serialize)]
struct Tokens {
    token_ids: Vec<u32>,
    /// Text of each token alone, so halves of a character show as U+FFFD.
    pieces: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Text {
    text: String,
}

impl Tokenize {
    pub(crate) fn input(self) -> Result<Input, Failure> {
        let text = match self.text {
            Some(text) => text,
            None => std::io::read_to_string(std::io::stdin()).map_err(Failure::Input)?,
        };
        if self.detokenize {
            return Ok(Input::Ids(DetokenizeRequest {
                model: self.model,
                token_ids: parse_ids(&text)?,
                skip_special: self.no_special.then_some(true),
            }));
        }
        let input = if self.chat {
            Source::Chat(ChatInput {
                messages: vec![user(text)],
            })
        } else {
            Source::Text(text)
        };
        Ok(Input::Text(TokenizeRequest {
            model: self.model,
            input: Some(input),
            parse_special: self.no_special.then_some(false),
            add_bos: self.bos.then_some(true),
        }))
    }
}

fn parse_ids(text: &str) -> Result<Vec<u32>, Failure> {
    text.split(|c: char| c == ',' || c.is_whitespace())
        .filter(|id| !id.is_empty())
        .map(|id| {
            id.parse()
                .map_err(|_| Failure::Usage(format!("{id:?} is not a token id")))
        })
        .collect()
}

pub(crate) async fn run(client: &Client, input: Input, json: bool) -> Result<(), Failure> {
    match input {
        Input::Text(request) => tokenize(client, request, json).await,
        Input::Ids(request) => {
            let text = client.detokenize(request).await?;
            if json {
                json::print(&Text { text })
            } else {
                stdout::write_lines(&[text])
            }
        }
    }
}

async fn tokenize(client: &Client, request: TokenizeRequest, json: bool) -> Result<(), Failure> {
    let model = request.model.clone();
    let token_ids = client.tokenize(request).await?;
    let pieces = pieces(client, model, &token_ids).await?;
    if json {
        return json::print(&Tokens { token_ids, pieces });
    }
    let lines: Vec<String> = token_ids
        .iter()
        .zip(&pieces)
        .map(|(id, piece)| format!("{id:>7}  {piece:?}"))
        .collect();
    stdout::write_lines(&lines)
}

async fn pieces(client: &Client, model: String, ids: &[u32]) -> Result<Vec<String>, Failure> {
    let mut known = HashMap::new();
    for &id in ids {
        if known.contains_key(&id) {
            continue;
        }
        let request = DetokenizeRequest {
            model: model.clone(),
            token_ids: vec![id],
            skip_special: None,
        };
        known.insert(id, client.detokenize(request).await?);
    }
    Ok(ids.iter().map(|id| known[id].clone()).collect())
}
