//! The `ternion` command line: talks to a ternion server.
#![forbid(unsafe_code)]

mod answer;
mod chat;
mod credentials;
mod failure;
mod generate;
mod json;
mod load;
mod models;
mod request;
mod samples;
mod stdout;
mod tokenize;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ternion_client::{Builder, Client, Retry};

use credentials::Credentials;
use failure::Failure;

/// Generate text with a ternion server.
#[derive(Debug, Parser)]
#[command(name = "ternion", version, after_help = EXIT_CODES)]
struct Command {
    /// Address of the server. May be given again for each of its replicas,
    /// which are then used in turn.
    #[arg(
        long,
        global = true,
        env = "TERNION_ENDPOINT",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:50051"
    )]
    endpoint: Vec<String>,

    #[command(flatten)]
    credentials: Credentials,

    /// Print results, and errors too, as JSON on standard output.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Continue a prompt, or answer one message.
    Generate(Box<generate::Generate>),
    /// Talk with a model, line by line.
    Chat(Box<chat::Chat>),
    /// List the models that are served.
    Models,
    /// Show the tokens of a text, or the text of tokens.
    Tokenize(tokenize::Tokenize),
    /// Send many requests and measure what their clients see.
    ///
    /// With --rate, requests come when they come, whether or not earlier ones
    /// are answered: the only way to see queueing. With --concurrency, each
    /// answer is followed by the next request. Ctrl-C sends no more, waits for
    /// what runs, and reports; a second one gives up.
    ///
    /// Times are those of the client. The first token (TTFT) and the whole
    /// request count from when the request was due, so that a load generator
    /// that lags does not flatter the server; "each gap" (ITL) is between one
    /// delta with tokens and the next; "per token" (TPOT) is the mean of a
    /// request after its first token.
    Load(Box<load::Load>),
}

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    no connection, the server failed, or the output could not be written
  2    the command line makes no sense
  3    the request was refused: it is invalid, or names what is not there
  4    the server is busy or draining: try again later
  5    the deadline passed
  6    load: too few requests were within the service level (--fail-on-slo)
  130  interrupted; the request was cancelled on the server";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // Before anything asks for cryptography. Fails only if one is there.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let command = Command::parse();
    let json = command.json;
    let Err(failure) = run(command).await else {
        return ExitCode::SUCCESS;
    };
    failure.report(json);
    failure.exit_code()
}

async fn run(command: Command) -> Result<(), Failure> {
    let Command {
        endpoint,
        credentials,
        json,
        action,
    } = command;
    let connect = || connect(&endpoint, &credentials, Retry::default());
    // Input is read before the connection is made: a missing prompt file is
    // not worth a wait.
    match action {
        Action::Generate(generate) => {
            let request = generate.request()?;
            let client = connect().await?;
            generate::run(&client, request, json).await
        }
        Action::Chat(chat) => chat::run(&connect().await?, *chat, json).await,
        Action::Models => models::run(&connect().await?, json).await,
        Action::Tokenize(tokenize) => {
            let input = tokenize.input()?;
            tokenize::run(&connect().await?, input, json).await
        }
        Action::Load(load) => {
            let connections = load.connections(&endpoint);
            let connect = async |key: Option<&str>| {
                let credentials = credentials.with_key(key);
                self::connect(&connections, &credentials, load.retry()).await
            };
            load::run(connect, credentials.key(), &endpoint, &load, json).await
        }
    }
}

async fn connect(
    endpoints: &[String],
    credentials: &Credentials,
    retry: Retry,
) -> Result<Client, Failure> {
    let mut all = endpoints.iter().cloned();
    let first = all.next().unwrap_or_default();
    let builder = credentials.give_to(all.fold(Client::builder(first), Builder::endpoint))?;
    let connecting = builder.retry(retry).connect();
    tokio::select! {
        connected = connecting => connected.map_err(|error| Failure::Connect {
            endpoint: endpoints.join(", "),
            error,
        }),
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Command::command().debug_assert();
    }
}
