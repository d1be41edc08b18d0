//! `ternion-server config`: the settings in force.

use serde_json::Value as Json;

use crate::{
    cli::ConfigArguments,
    settings::{Entry, Origin, Resolved, tree},
};

pub(crate) fn run(arguments: ConfigArguments) -> anyhow::Result<()> {
    let resolved = arguments.settings.resolve()?;
    let text = match arguments.json {
        true => json(&resolved),
        false => toml(&resolved),
    };
    print!("{text}");
    Ok(())
}

/// The settings as a TOML file that, used as `--config`, gives the same ones.
/// Where each came from stands behind it.
fn toml(resolved: &Resolved) -> String {
    let mut out = String::new();
    let mut current = "";
    for entry in &resolved.entries {
        let (table, key) = entry
            .setting
            .key
            .split_once('.')
            .unwrap_or(("", entry.setting.key));
        if table != current {
            out += &format!("\n[{table}]\n");
            current = table;
        }
        out += &line(key, entry);
    }
    out
}

fn line(key: &str, entry: &Entry) -> String {
    match &entry.value {
        Json::Null => format!("# {key} is unset\n"),
        // The preset says it again when this is read, and may bound what is known later only.
        value if matches!(entry.origin, Origin::Preset(_)) => {
            let at_most = if entry.is_bound() { ", at most" } else { "" };
            format!("# {key} = {value}  # {}{at_most}\n", entry.origin)
        }
        value => format!("{key} = {value}  # {}\n", entry.origin),
    }
}

/// The settings as one JSON object; unset ones are left out.
fn json(resolved: &Resolved) -> String {
    format!("{:#}\n", Json::Object(tree(&resolved.entries)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Sources;

    #[test]
    fn printed_settings_read_back_as_the_same() {
        let first = Sources {
            environment: [
                ("TERNION_PLUGIN_DIRS", "/a:/b"),
                ("TERNION_MODEL_NAME", "quote \" and \\ backslash"),
                ("TERNION_DRAIN_TIMEOUT", "1500ms"),
                ("TERNION_PRESET", "edge"),
                ("TERNION_THREADS", "3"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            ..Sources::default()
        }
        .resolve()
        .expect("these are good");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("printed.toml");
        std::fs::write(&path, toml(&first)).expect("writable");

        let second = Sources {
            file: Some(path),
            ..Sources::default()
        }
        .resolve()
        .expect("printed settings are good");
        assert_eq!(json(&first), json(&second));
        let text = toml(&second);
        for line in [
            "preset = \"edge\"",
            "threads = 3  # file",
            "# context_limit = 4096  # preset edge, at most",
            "# max_num_seqs = 4  # preset edge\n",
        ] {
            assert!(text.contains(&format!("\n{line}")), "{line}: {text}");
        }
    }
}
