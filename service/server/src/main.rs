//! `ternion-server`: serves BitNet b1.58 models over gRPC, and tools for them.
//!
//! Two worlds meet here, and one channel lies between them. The engine and the
//! model run on one thread ([`engine_loop`]) that nothing may hold up; gRPC,
//! telemetry and signals live on tokio. A request crosses over in
//! [`admission`], and its tokens come back through its [`outbox`].
//!
//! Where to start reading: [`serve`] for the life of the process, [`generate`]
//! and [`session`] for that of a request, [`authentication`] for who may make
//! it, [`settings`] for configuration,
//! [`status`] for what clients are told when things go wrong.
#![forbid(unsafe_code)]

mod access;
mod admin;
mod admission;
mod audit;
mod authentication;
mod authorisation;
mod banner;
mod bench;
mod cache;
mod certificate;
mod cli;
mod config_command;
mod connection;
mod connection_life;
mod deadline;
mod drain;
mod energy;
mod engine_loop;
#[cfg(test)]
mod fake_model;
mod finish_reasons;
mod frame_log;
mod frames;
mod generate;
mod health;
mod heartbeat;
mod inference;
mod inspect;
mod json_log;
mod kernel_choice;
mod kernels;
mod keygen;
mod kv_size;
mod kv_touching;
mod launch;
mod live_requests;
mod load;
mod loading;
mod memory_room;
mod meter;
mod metrics;
mod models;
mod opening;
mod operations;
mod outbox;
mod preset;
mod processors;
mod prompt;
mod public_prompts;
mod queue;
mod queue_position;
mod reader;
mod refusal;
mod reload;
mod request;
mod request_progress;
mod request_run;
mod request_span;
mod request_stream;
mod requests;
mod resident;
mod retained;
mod retained_run;
mod rpc_calls;
mod score;
mod scrape;
mod semconv;
mod serve;
mod served;
mod session;
mod setting_kind;
mod setting_list;
mod settings;
mod status;
mod tally;
mod telemetry;
mod tls;
mod trial;
mod trial_command;
mod vitals;
mod vocabulary;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    cli::{Cli, Command},
    settings::Mistakes,
};

/// `EX_USAGE` of sysexits.h: the arguments or the configuration are wrong,
/// and starting again won't help.
const EX_USAGE: u8 = 64;

fn main() -> ExitCode {
    // Before anything asks for cryptography. Fails only if one is there.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" that go to standard output.
            let is_mistake = error.use_stderr();
            let _ = error.print();
            return match is_mistake {
                true => ExitCode::from(EX_USAGE),
                false => ExitCode::SUCCESS,
            };
        }
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ternion-server: {}", told_once(&error));
            match error.is::<Mistakes>() {
                true => ExitCode::from(EX_USAGE),
                false => ExitCode::FAILURE,
            }
        }
    }
}

/// An error and its causes, but for those that the one before tells already:
/// some messages include their cause's, so that they are whole on their own.
fn told_once(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !parts.last().is_some_and(|last| last.contains(&cause)) {
            parts.push(cause);
        }
    }
    parts.join(": ")
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(flags) => serve::run(flags.resolve()?.settings),
        Command::Config(arguments) => config_command::run(arguments),
        Command::Kernels(arguments) => kernels::run(arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Score(arguments) => score::run(&arguments),
        Command::Keygen(arguments) => keygen::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::TryPlugin(arguments) => trial_command::run(&arguments),
    }
}
