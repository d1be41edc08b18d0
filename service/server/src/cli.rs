//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand};

use crate::{
    bench::BenchArguments,
    inspect::InspectArguments,
    keygen::KeygenArguments,
    score::ScoreArguments,
    setting_kind::{Kind, parse_duration},
    setting_list::{SETTINGS, Setting},
    settings::{Mistakes, Resolved, Sources},
    trial_command::TrialArguments,
};

/// Serves BitNet b1.58 language models over gRPC.
#[derive(Debug, Parser)]
#[command(name = "ternion-server", version, after_help = EXIT_STATUS)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_STATUS: &str = "Exit status: 0 success, 1 failure or ended by a second signal, 64 wrong arguments or configuration.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a model; without a model, the embedded demo
    Serve(SettingFlags),
    /// Print the configuration in force, from defaults, file, environment and flags
    Config(ConfigArguments),
    /// List the kernel plugins: what was found, what became of each, how fast it is, which one is selected
    Kernels(KernelsArguments),
    /// Describe a model file or directory
    Inspect(InspectArguments),
    /// Log-probabilities of given tokens, and a greedy continuation
    Score(ScoreArguments),
    /// Make an API key, and the line for it in the tenants file
    Keygen(KeygenArguments),
    /// Measure prompt and generation speed
    Bench(BenchArguments),
    /// Load one plugin and multiply with it, for a server that doesn't dare to
    #[command(name = crate::trial::COMMAND, hide = true)]
    TryPlugin(TrialArguments),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArguments {
    #[command(flatten)]
    pub(crate) settings: SettingFlags,
    /// Print JSON instead of TOML
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KernelsArguments {
    #[command(flatten)]
    pub(crate) settings: SettingFlags,
    /// How long the kernels may be timed, all together; what is found is kept
    /// in cache_dir for the server's next start
    #[arg(long, default_value = "3s", value_name = "TIME", value_parser = time)]
    pub(crate) budget: Duration,
    /// Print one JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "is not a time, such as 500ms, 30s or 2m".to_owned())
}

/// `--config`, and a flag for every setting of the list.
#[derive(Debug, Default)]
pub(crate) struct SettingFlags {
    file: Option<PathBuf>,
    given: Vec<(&'static Setting, Vec<String>)>,
}

const FILE: &str = "config";

impl Args for SettingFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new(FILE)
            .long(FILE)
            .env("TERNION_CONFIG")
            .hide_env_values(true)
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Configuration file, TOML (.toml) or YAML (.yaml, .yml)");
        SETTINGS.iter().fold(command.arg(file), |command, setting| {
            let action = match setting.kind {
                Kind::Directories | Kind::Digests => ArgAction::Append,
                _ => ArgAction::Set,
            };
            let default = match setting.default {
                Some(default) => format!(" [default: {default}]"),
                None => String::new(),
            };
            let variable = setting.variable();
            command.arg(
                Arg::new(setting.key)
                    .long(setting.flag)
                    .value_name(setting.kind.placeholder())
                    .action(action)
                    .help(format!("{}{default} [env: {variable}]", setting.help)),
            )
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        SettingFlags::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SettingFlags, clap::Error> {
        let mut flags = SettingFlags::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.file = matches.get_one::<PathBuf>(FILE).cloned();
        self.given = SETTINGS
            .iter()
            .filter_map(|setting| {
                let values = matches.get_many::<String>(setting.key)?;
                Some((setting, values.cloned().collect()))
            })
            .collect();
        Ok(())
    }
}

impl SettingFlags {
    /// Merges the flags with file, environment and defaults.
    pub(crate) fn resolve(self) -> Result<Resolved, Mistakes> {
        // A variable that is no Unicode can't be one of ours.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let sources = Sources {
            file: self.file,
            environment,
            flags: self.given,
        };
        sources.resolve()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_reach_the_settings_under_their_keys() {
        let cli = Cli::try_parse_from([
            "ternion-server",
            "serve",
            "--max-num-seqs",
            "3",
            "--plugin-dir",
            "a",
            "--plugin-dir",
            "b",
        ])
        .expect("these flags exist");
        let Command::Serve(flags) = cli.command else {
            panic!("parsed as something else: {:?}", cli.command);
        };
        let given: Vec<(&str, Vec<String>)> = flags
            .given
            .iter()
            .map(|(setting, values)| (setting.key, values.clone()))
            .collect();
        assert_eq!(
            given,
            [
                ("plugin_dirs", vec!["a".to_owned(), "b".to_owned()]),
                ("scheduler.max_num_seqs", vec!["3".to_owned()]),
            ],
        );
    }
}
