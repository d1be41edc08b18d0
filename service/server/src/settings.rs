//! The configuration: defaults, then a file, then the environment, then
//! flags, each overriding the one before. Every mistake is reported at once.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use config::{Config, Environment, File, Source, Value, ValueKind};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value as Json};
use ternion_compute::{HeadChoice, KvPrecision};

use crate::{
    memory_room::{MemoryRoom, memory_room},
    preset::Preset,
    processors::{Numa, Pinning, Wanted},
    setting_kind::{OFF, parse_duration},
    setting_list::{SETTINGS, Setting, variable},
};

/// Everything that can be configured.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) listen: SocketAddr,
    pub(crate) model: Option<PathBuf>,
    pub(crate) model_name: Option<String>,
    #[serde(default)]
    pub(crate) plugin_dirs: Vec<PathBuf>,
    pub(crate) plugin_sha256: Option<Vec<String>>,
    #[serde(deserialize_with = "duration")]
    pub(crate) plugin_timeout: Duration,
    pub(crate) kernel: Option<String>,
    #[serde(deserialize_with = "duration")]
    pub(crate) kernel_timing_budget: Duration,
    #[serde(default, deserialize_with = "directory_or_off")]
    pub(crate) cache_dir: CacheDirectory,
    pub(crate) packed_cache_bytes: u64,
    #[serde(deserialize_with = "head_choice")]
    pub(crate) head: HeadChoice,
    #[serde(default, deserialize_with = "preset")]
    pub(crate) preset: Option<&'static Preset>,
    pub(crate) threads: Option<usize>,
    pub(crate) pin_threads: Pinning,
    pub(crate) numa: Numa,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) context_limit: Option<usize>,
    #[serde(deserialize_with = "duration")]
    pub(crate) drain_timeout: Duration,
    pub(crate) tenants: Option<PathBuf>,
    pub(crate) anonymous: Anonymous,
    pub(crate) reflection: bool,
    pub(crate) tls: TlsSettings,
    #[serde(deserialize_with = "duration")]
    pub(crate) drain_delay: Duration,
    pub(crate) kv: KvSettings,
    pub(crate) scheduler: SchedulerSettings,
    pub(crate) outbox: OutboxSettings,
    pub(crate) resume: ResumeSettings,
    pub(crate) limits: LimitSettings,
    pub(crate) operations: OperationsSettings,
    pub(crate) telemetry: TelemetrySettings,
}

/// Where the cache is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum CacheDirectory {
    /// `ternion` in the user's own cache directory, if there is one.
    #[default]
    Users,
    At(PathBuf),
    Off,
}

/// Who may call without a credential while there are no tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Anonymous {
    Loopback,
    Anywhere,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsSettings {
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) client_ca: Option<PathBuf>,
    pub(crate) client_auth: ClientAuth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ClientAuth {
    Required,
    Optional,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KvSettings {
    pub(crate) block_size: usize,
    pub(crate) pages: Option<usize>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) prefix_cache: bool,
    pub(crate) public_prompts: Option<PathBuf>,
    /// `None`: the model's own.
    #[serde(rename = "type", default, deserialize_with = "kv_precision")]
    pub(crate) precision: Option<KvPrecision>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SchedulerSettings {
    pub(crate) max_num_seqs: usize,
    pub(crate) max_num_batched_tokens: usize,
    /// `None`: by what a step takes without prompts.
    #[serde(default, deserialize_with = "some_duration")]
    pub(crate) step_budget: Option<Duration>,
    pub(crate) max_draft_tokens: usize,
    pub(crate) max_queued: usize,
    pub(crate) max_queued_tokens: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutboxSettings {
    pub(crate) capacity: usize,
    /// Zero: for ever.
    #[serde(deserialize_with = "duration")]
    pub(crate) read_timeout: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResumeSettings {
    #[serde(deserialize_with = "duration")]
    pub(crate) grace: Duration,
    pub(crate) detached: Detached,
    pub(crate) request_bytes: usize,
    pub(crate) finished_bytes: usize,
}

/// What a resumable request does without a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Detached {
    Park,
    Run,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitSettings {
    pub(crate) max_message_bytes: usize,
    pub(crate) max_samples: usize,
    pub(crate) max_concurrent_streams: u32,
    pub(crate) max_connections: Option<usize>,
    #[serde(default, deserialize_with = "some_duration")]
    pub(crate) max_connection_age: Option<Duration>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OperationsSettings {
    /// `None`: off.
    #[serde(deserialize_with = "address_or_off")]
    pub(crate) listen: Option<SocketAddr>,
    #[serde(deserialize_with = "duration")]
    pub(crate) stall_timeout: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TelemetrySettings {
    pub(crate) otlp_endpoint: Option<String>,
    #[serde(deserialize_with = "duration")]
    pub(crate) otlp_metrics_interval: Duration,
    pub(crate) vllm_metric_names: bool,
    /// `None`: off.
    #[serde(deserialize_with = "path_or_off")]
    pub(crate) powercap_dir: Option<PathBuf>,
    pub(crate) service_name: String,
    pub(crate) log_format: LogFormat,
    pub(crate) log_filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl Settings {
    /// How to compute.
    pub(crate) fn wanted(&self) -> Wanted {
        Wanted {
            threads: self.threads,
            most: self.preset.and_then(|preset| preset.threads),
            pinning: self.pin_threads,
            numa: self.numa,
        }
    }

    /// Memory to plan with.
    pub(crate) fn memory_room(&self) -> MemoryRoom {
        let bound = self.preset.and_then(|preset| preset.memory);
        match (self.memory_limit, bound) {
            (Some(limit), _) => memory_room().at_most(limit, "memory_limit"),
            (None, Some(bound)) => memory_room().at_most(bound, "preset"),
            (None, None) => memory_room(),
        }
    }
}

/// Where settings come from besides the defaults.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) file: Option<PathBuf>,
    /// The whole environment; what doesn't concern us is passed over.
    pub(crate) environment: BTreeMap<String, String>,
    /// Key and values of each flag given.
    pub(crate) flags: Vec<(&'static Setting, Vec<String>)>,
}

/// The settings in force, and where each came from.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) settings: Settings,
    /// In the order of the list.
    pub(crate) entries: Vec<Entry>,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) setting: &'static Setting,
    /// `Null` if unset.
    pub(crate) value: Json,
    pub(crate) origin: Origin,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    Preset(&'static Preset),
    File(String),
    Variable(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Preset(preset) => write!(f, "preset {}", preset.name),
            Origin::File(path) => write!(f, "file {path}"),
            Origin::Variable(name) => write!(f, "environment {name}"),
            Origin::Flag(flag) => write!(f, "flag --{flag}"),
        }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) struct Mistakes(pub(crate) Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.0.len() == 1 { "" } else { "s" };
        write!(f, "{} mistake{s} in the configuration:", self.0.len())?;
        self.0
            .iter()
            .try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

/// What the environment source calls itself in values.
const ENVIRONMENT: &str = "the environment";

/// Variables that begin like ours and are not settings of the server.
const OTHER_VARIABLES: &[&str] = &[
    "TERNION_API_KEY",
    "TERNION_CA",
    "TERNION_CONFIG",
    "TERNION_ENDPOINT",
    "TERNION_MODEL_CACHE",
];

impl Sources {
    /// Merges all sources, or says everything that is wrong with them.
    pub(crate) fn resolve(&self) -> Result<Resolved, Mistakes> {
        let mut mistakes = Vec::new();
        let merged = self.merge(&mut mistakes);
        let mut values = BTreeMap::new();
        flatten(String::new(), &merged, &mut values);
        self.report_unknown(&values, &mut mistakes);

        let mut entries: Vec<Entry> = SETTINGS
            .iter()
            .map(|setting| self.entry(setting, &values, &mut mistakes))
            .collect();
        if let Some(preset) = chosen_preset(&entries) {
            entries.iter_mut().for_each(|entry| entry.apply(preset));
        }
        check_together(&entries, &mut mistakes);
        check_access(&entries, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(Mistakes(mistakes));
        }
        let told = entries.iter().filter(|entry| !entry.is_bound());
        let settings = serde_json::from_value(Json::Object(tree(told)))
            .map_err(|error| Mistakes(vec![error.to_string()]))?;
        Ok(Resolved { settings, entries })
    }

    fn merge(&self, mistakes: &mut Vec<String>) -> Value {
        let mut builder = Config::builder();
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                builder = builder
                    .set_default(setting.key, default)
                    .expect("keys of the list are paths");
            }
        }
        // A source that can't be read is a mistake like others, and must not
        // hide those of the next source.
        if let Some(path) = &self.file {
            match read_file(path) {
                Ok(file) => builder = builder.add_source(file),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        builder = builder.add_source(environment(&self.environment));
        for (setting, values) in &self.flags {
            builder = builder
                .set_override(setting.key, flag_value(setting, values))
                .expect("keys of the list are paths");
        }
        match builder.build() {
            Ok(config) => config.cache,
            Err(error) => {
                mistakes.push(error.to_string());
                Value::new(None, ValueKind::Table(config::Map::new()))
            }
        }
    }

    fn origin(&self, key: &str, value: &Value) -> Origin {
        match value.origin() {
            None => Origin::Default,
            Some(ENVIRONMENT) => Origin::Variable(variable(key)),
            Some(name) => {
                let flag = SETTINGS
                    .iter()
                    .find(|setting| name.strip_prefix("--") == Some(setting.flag));
                match flag {
                    Some(setting) => Origin::Flag(setting.flag),
                    // The library shows another form of the path.
                    None => Origin::File(match &self.file {
                        Some(file) => file.display().to_string(),
                        None => name.to_owned(),
                    }),
                }
            }
        }
    }

    fn report_unknown(&self, values: &BTreeMap<String, Value>, mistakes: &mut Vec<String>) {
        let known = |key: &str| SETTINGS.iter().any(|setting| setting.key == key);
        for (key, value) in values.iter().filter(|(key, _)| !known(key)) {
            let origin = self.origin(key, value);
            let table = format!("{key}.");
            if SETTINGS.iter().any(|s| s.key.starts_with(&table)) {
                mistakes.push(format!("{key}: is a table, not a single value ({origin})"));
                continue;
            }
            let hint = match nearest(key) {
                Some(name) => format!(", did you mean {name}?"),
                None => String::new(),
            };
            mistakes.push(format!("{key}: no such setting{hint} ({origin})"));
        }
    }

    fn entry(
        &self,
        setting: &'static Setting,
        values: &BTreeMap<String, Value>,
        mistakes: &mut Vec<String>,
    ) -> Entry {
        let unset = Entry {
            setting,
            value: Json::Null,
            origin: Origin::Default,
        };
        let Some(value) = values.get(setting.key) else {
            return unset;
        };
        let origin = self.origin(setting.key, value);
        match setting.kind.parse(value) {
            Ok(value) => Entry {
                setting,
                value,
                origin,
            },
            Err(mistake) => {
                mistakes.push(format!("{}: {mistake} ({origin})", setting.key));
                unset
            }
        }
    }
}

fn chosen_preset(entries: &[Entry]) -> Option<&'static Preset> {
    let entry = entries.iter().find(|entry| entry.setting.key == "preset")?;
    entry.value.as_str()?.parse().ok()
}

impl Entry {
    /// What nobody has set is as the preset says, if it says something.
    fn apply(&mut self, preset: &'static Preset) {
        if self.origin == Origin::Default
            && let Some(value) = preset.value(self.setting.key)
        {
            self.value = value;
            self.origin = Origin::Preset(preset);
        }
    }

    /// Whether the value is only the most that may come of it, which the
    /// machine and the model are asked for.
    pub(crate) fn is_bound(&self) -> bool {
        matches!(self.origin, Origin::Preset(_)) && Preset::bounds(self.setting.key)
    }
}

/// A configuration file that was read, so that merging can't fail on it.
#[derive(Debug, Clone)]
struct ReadFile(config::Map<String, Value>);

impl Source for ReadFile {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

fn read_file(path: &Path) -> Result<ReadFile, String> {
    if !path.exists() {
        return Err(format!("file {}: not found", path.display()));
    }
    let file = File::from(path);
    match file.collect() {
        Ok(values) => Ok(ReadFile(values)),
        Err(error) => Err(format!("file {}: {error}", path.display())),
    }
}

fn environment(variables: &BTreeMap<String, String>) -> Environment {
    let ours = variables
        .iter()
        .filter(|(name, _)| !OTHER_VARIABLES.contains(&name.as_str()) && !is_service_link(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Environment::with_prefix("TERNION")
        // Else it is TERNION__LISTEN, and TERNION_LISTEN is silently passed over.
        .prefix_separator("_")
        .separator("__")
        .ignore_empty(true)
        .source(Some(ours))
}

/// Kubernetes tells pods about every service of the namespace in variables
/// such as `TERNION_SERVICE_HOST` and `TERNION_PORT_50051_TCP_ADDR`. With a
/// service called ternion they look like ours.
fn is_service_link(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("TERNION_") else {
        return false;
    };
    let words: Vec<&str> = rest.split('_').collect();
    let is_port = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    words
        .windows(2)
        .any(|pair| pair[0] == "SERVICE" && matches!(pair[1], "HOST" | "PORT"))
        || words.last() == Some(&"PORT")
        || words
            .windows(3)
            .any(|w| w[0] == "PORT" && is_port(w[1]) && matches!(w[2], "TCP" | "UDP" | "SCTP"))
}

fn flag_value(setting: &Setting, values: &[String]) -> Value {
    let origin = format!("--{}", setting.flag);
    let text = |value: &String| Value::new(Some(&origin), value.as_str());
    match values {
        [one] => text(one),
        many => Value::new(Some(&origin), many.iter().map(text).collect::<Vec<Value>>()),
    }
}

/// Turns nested tables into dotted keys.
fn flatten(prefix: String, value: &Value, into: &mut BTreeMap<String, Value>) {
    match &value.kind {
        ValueKind::Table(table) => {
            for (key, value) in table {
                let path = match prefix.is_empty() {
                    true => key.clone(),
                    false => format!("{prefix}.{key}"),
                };
                flatten(path, value, into);
            }
        }
        _ => {
            into.insert(prefix, value.clone());
        }
    }
}

/// The known key that takes the fewest edits, unless those are so many that it
/// is a different word altogether.
fn nearest(key: &str) -> Option<&'static str> {
    let own = |key: &'static str| key.rsplit('.').next().unwrap_or(key);
    SETTINGS
        .iter()
        // `block_size` without its table is a likely slip, too.
        .flat_map(|setting| [(setting.key, setting.key), (setting.key, own(setting.key))])
        .map(|(name, spelled)| (edit_distance(key, spelled), spelled.len(), name))
        .filter(|(edits, len, _)| *edits <= len.div_ceil(4))
        .min()
        .map(|(_, _, name)| name)
}

/// Levenshtein distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Some beats of an idle engine.
const MIN_STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Rules between settings, and some that no kind has.
fn check_together(entries: &[Entry], mistakes: &mut Vec<String>) {
    let find = |key: &str| entries.iter().find(|entry| entry.setting.key == key);
    let number = |key| find(key).and_then(|entry| entry.value.as_u64());
    if let (Some(_), Some(_)) = (number("kv.pages"), number("kv.memory_bytes")) {
        mistakes.push("kv.pages, kv.memory_bytes: set one of them, not both".to_owned());
    }
    let stall_timeout = find("operations.stall_timeout")
        .and_then(|entry| parse_duration(entry.value.as_str()?))
        .filter(|timeout| *timeout < MIN_STALL_TIMEOUT);
    if stall_timeout.is_some() {
        mistakes.push(
            "operations.stall_timeout: must be at least 1s, an idle engine beats less often"
                .to_owned(),
        );
    }
    let tokens = number("scheduler.max_num_batched_tokens");
    let seqs = number("scheduler.max_num_seqs");
    if let Some((tokens, seqs)) = tokens.zip(seqs).filter(|(tokens, seqs)| tokens < seqs) {
        mistakes.push(format!(
            "scheduler.max_num_batched_tokens: {tokens} is less than scheduler.max_num_seqs \
             {seqs}, so that not every running request would get a token"
        ));
    }
}

/// Rules between the settings that say who may call, and how.
fn check_access(entries: &[Entry], mistakes: &mut Vec<String>) {
    let find = |key: &str| entries.iter().find(|entry| entry.setting.key == key);
    let text = |key| find(key).and_then(|entry| entry.value.as_str());
    match (text("tls.certificate"), text("tls.key")) {
        (Some(_), None) => {
            mistakes.push("tls.key: is unset, and tls.certificate needs its key".to_owned());
        }
        (None, Some(_)) => {
            mistakes.push("tls.certificate: is unset, and tls.key is of no use alone".to_owned());
        }
        (None, None) if text("tls.client_ca").is_some() => mistakes.push(
            "tls.client_ca: client certificates need TLS: set tls.certificate and tls.key too"
                .to_owned(),
        ),
        _ => {}
    }
    let listen = text("listen").and_then(|listen| listen.parse::<SocketAddr>().ok());
    if let Some(listen) = listen.filter(|listen| !listen.ip().is_loopback())
        && text("tenants").is_none()
        && text("anonymous") == Some("loopback")
    {
        mistakes.push(format!(
            "listen: {listen} can be reached from other machines, and nobody needs a credential: \
             set tenants to a file of keys, or anonymous to anywhere if that is meant, or listen \
             on 127.0.0.1 only"
        ));
    }
}

/// The nested form of the entries.
pub(crate) fn tree<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Map<String, Json> {
    let mut root = Map::new();
    for entry in entries {
        match entry.setting.key.split_once('.') {
            None => {
                if !entry.value.is_null() {
                    root.insert(entry.setting.key.to_owned(), entry.value.clone());
                }
            }
            Some((table, key)) => {
                let table = root
                    .entry(table)
                    .or_insert_with(|| Json::Object(Map::new()));
                if let Some(table) = table.as_object_mut().filter(|_| !entry.value.is_null()) {
                    table.insert(key.to_owned(), entry.value.clone());
                }
            }
        }
    }
    root
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).ok_or_else(|| serde::de::Error::custom("not a time"))
}

fn kv_precision<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<KvPrecision>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    name.map(|name| name.parse().map_err(serde::de::Error::custom))
        .transpose()
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

fn directory_or_off<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<CacheDirectory, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        OFF => Ok(CacheDirectory::Off),
        text => Ok(CacheDirectory::At(text.into())),
    }
}

fn path_or_off<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok((text != OFF).then(|| text.into()))
}

fn preset<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'static Preset>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    name.map(|name| name.parse().map_err(serde::de::Error::custom))
        .transpose()
}

fn address_or_off<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        OFF => Ok(None),
        text => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

fn head_choice<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HeadChoice, D::Error> {
    let name = String::deserialize(deserializer)?;
    name.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
