use std::path::{Path, PathBuf};

use clap::Args;
use ternion_client::{Client, Generate as Request, system, user};

use crate::answer::{self, Show};
use crate::failure::Failure;
use crate::request::RequestOptions;

#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// Instructions that come before the message given with --chat.
    #[arg(
        long,
        value_name = "TEXT",
        requires = "chat",
        allow_hyphen_values = true
    )]
    system: Option<String>,

    /// Take special tokens written in the prompt as plain text.
    #[arg(long)]
    no_special: bool,

    /// Don't begin with the model's beginning-of-text token.
    #[arg(long)]
    no_bos: bool,

    /// Answers to give to the same prompt, which is computed once. The first
    /// has the seed, each other one that of the one before plus 1.
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=128)
    )]
    samples: u32,

    /// Name of this request in the server's logs and traces.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,

    /// Ask again with the same key instead of generating twice.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,

    /// End when the connection breaks, instead of going on with another one.
    #[arg(long)]
    no_resume: bool,

    #[command(flatten)]
    options: RequestOptions,

    #[command(flatten)]
    prompt: Prompt,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
#[command(next_help_heading = "Prompt (one of)")]
struct Prompt {
    /// Text to continue.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,

    /// File with the text to continue; - is standard input.
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,

    /// Tokens to continue, such as 1,2,3.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    token_ids: Option<Vec<u32>>,

    /// Message to answer, put into the model's chat template.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    chat: Option<String>,
}

impl Generate {
    pub(crate) fn request(&self) -> Result<Request, Failure> {
        let Prompt {
            prompt,
            prompt_file,
            token_ids,
            chat,
        } = &self.prompt;
        let request = if let Some(prompt) = prompt {
            Request::text(prompt)
        } else if let Some(path) = prompt_file {
            Request::text(read(path)?)
        } else if let Some(ids) = token_ids {
            Request::token_ids(ids.iter().copied())
        } else {
            let instructions = self.system.as_ref().map(system);
            Request::chat(instructions.into_iter().chain(chat.as_ref().map(user)))
        };
        let mut request = self.options.apply(request);
        request.request.parse_special = self.no_special.then_some(false);
        request.request.add_bos = self.no_bos.then_some(false);
        request.request.request_id = self.request_id.clone().unwrap_or_default();
        request.request.idempotency_key = self.idempotency_key.clone().unwrap_or_default();
        request.request.resumable = !self.no_resume;
        Ok(match self.samples {
            1 => request,
            count => request.samples(count),
        })
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    if path == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).map_err(Failure::Input);
    }
    std::fs::read_to_string(path).map_err(|source| Failure::Prompt {
        path: path.to_owned(),
        source,
    })
}

pub(crate) async fn run(client: &Client, request: Request, json: bool) -> Result<(), Failure> {
    let show = if json { Show::Json } else { Show::Text };
    answer::stream(client, request, show).await?;
    Ok(())
}
