use std::io::{self, IsTerminal, Write};

use clap::Args;
use ternion_client::proto::ChatMessage;
use ternion_client::{Client, Generate, assistant, system, user};

use crate::answer::{self, Show};
use crate::failure::Failure;
use crate::request::RequestOptions;

/// Each line of standard input is a message. `/reset` forgets the
/// conversation, `/quit` or the end of input leaves, Ctrl-C stops an answer.
#[derive(Debug, Args)]
#[command(long_about = "Talk with a model, line by line.\n\n\
    Each line of standard input is a message. /reset forgets the conversation, \
    /quit or the end of input leaves, Ctrl-C stops an answer.")]
pub(crate) struct Chat {
    /// Instructions for the model.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    #[command(flatten)]
    options: RequestOptions,
}

pub(crate) async fn run(client: &Client, chat: Chat, json: bool) -> Result<(), Failure> {
    let show = if json { Show::Json } else { Show::Text };
    let opening: Vec<ChatMessage> = chat.system.iter().map(system).collect();
    let mut history = opening.clone();
    let interactive = io::stdin().is_terminal();
    while let Some(line) = read_line(interactive).await? {
        match line.trim() {
            "" => continue,
            "/quit" => break,
            "/reset" => {
                history.clone_from(&opening);
                continue;
            }
            message => history.push(user(message)),
        }
        let request = chat.options.apply(Generate::chat(history.iter().cloned()));
        match answer::stream(client, request, show).await {
            Ok(text) => history.push(assistant(text)),
            // A person can do something about it and go on; a script can't.
            Err(failure) if interactive && failure.ends_one_answer() => {
                history.pop();
                failure.report(json);
            }
            Err(failure) => return Err(failure),
        }
    }
    if interactive {
        eprintln!();
    }
    Ok(())
}

/// `None` at the end of input. Reading blocks a thread of its own, so that
/// the connection is kept alive meanwhile.
async fn read_line(prompt: bool) -> Result<Option<String>, Failure> {
    if prompt {
        eprint!("> ");
        io::stderr().flush().map_err(Failure::Output)?;
    }
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|bytes| (bytes, line))
    });
    let read = tokio::select! {
        read = read => read,
        // The thread still waits for a line, which the process must not.
        _ = tokio::signal::ctrl_c() => std::process::exit(130),
    };
    let (bytes, line) = read
        .map_err(io::Error::other)
        .and_then(|line| line)
        .map_err(Failure::Input)?;
    Ok((bytes > 0).then_some(line))
}
