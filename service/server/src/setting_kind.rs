//! What a setting may hold, and how it is written.

use std::{net::SocketAddr, time::Duration};

use config::{Value, ValueKind};
use serde_json::Value as Json;
use tracing_subscriber::EnvFilter;

/// The kind of a setting.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Address,
    /// An address, or "off".
    AddressOrOff,
    Path,
    /// Absolute paths: what a plugin directory is must not depend on where the
    /// server was started.
    Directories,
    /// An absolute path, or "off".
    DirectoryOrOff,
    /// SHA-256 digests.
    Digests,
    Name,
    Count {
        min: u64,
        max: u64,
    },
    Bytes {
        min: u64,
        max: u64,
    },
    Duration {
        max_seconds: u64,
    },
    /// A duration of a second at least.
    Age {
        max_seconds: u64,
    },
    Choice(&'static [&'static str]),
    /// `on` or `off`, or a boolean of the file's format.
    Switch,
    HttpEndpoint,
    LogFilter,
}

/// What turns off what has an address or a switch.
pub(crate) const OFF: &str = "off";

/// Longest name that a setting takes: names go into every span and message.
const MAX_NAME_BYTES: usize = 256;

impl Kind {
    /// Placeholder in `--help`.
    pub(crate) fn placeholder(self) -> &'static str {
        match self {
            Kind::Address => "ADDRESS:PORT",
            Kind::AddressOrOff => "ADDRESS:PORT|off",
            Kind::Path => "PATH",
            Kind::Directories => "DIR",
            Kind::DirectoryOrOff => "DIR|off",
            Kind::Digests => "SHA256",
            Kind::Name => "NAME",
            Kind::Count { .. } => "N",
            Kind::Bytes { .. } => "BYTES",
            Kind::Duration { .. } | Kind::Age { .. } => "TIME",
            Kind::Choice(_) => "CHOICE",
            Kind::Switch => "on|off",
            Kind::HttpEndpoint => "URL",
            Kind::LogFilter => "FILTER",
        }
    }

    /// Brings a value from any source into the one form that
    /// [`Settings`](crate::settings::Settings) is read from, or says what is
    /// wrong with it.
    pub(crate) fn parse(self, value: &Value) -> Result<Json, String> {
        match self {
            Kind::Address => address(&text(value)?),
            Kind::AddressOrOff => match text(value)?.as_str() {
                OFF => Ok(OFF.into()),
                text => address(text).map_err(|mistake| format!("{mistake}, nor off")),
            },
            Kind::Path => Ok(not_empty(text(value)?)?.into()),
            Kind::Directories => list(value, ':', "paths", directory),
            Kind::DirectoryOrOff => match text(value)?.as_str() {
                OFF => Ok(OFF.into()),
                text => directory(text).map(Json::from),
            },
            Kind::Digests => list(value, ',', "SHA-256 digests", digest),
            Kind::Name => name(text(value)?),
            Kind::Count { min, max } => within(count(value)?, min, max),
            Kind::Bytes { min, max } => within(bytes(value)?, min, max),
            Kind::Duration { max_seconds } => duration(value, 0, max_seconds),
            Kind::Age { max_seconds } => duration(value, 1, max_seconds),
            Kind::Choice(choices) => choice(text(value)?, choices),
            Kind::Switch => switch(value),
            Kind::HttpEndpoint => endpoint(text(value)?),
            Kind::LogFilter => log_filter(text(value)?),
        }
    }
}

/// How a value is shown in a message.
fn shown(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Table(_) => "a table".to_owned(),
        ValueKind::Array(_) => "a list".to_owned(),
        ValueKind::Nil => "nothing".to_owned(),
        _ => value.to_string(),
    }
}

fn text(value: &Value) -> Result<String, String> {
    match &value.kind {
        ValueKind::String(text) => Ok(text.clone()),
        _ => Err(format!("{} is not a text", shown(value))),
    }
}

fn not_empty(text: String) -> Result<String, String> {
    match text.is_empty() {
        true => Err("must not be empty".to_owned()),
        false => Ok(text),
    }
}

fn address(text: &str) -> Result<Json, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| format!("{text:?} is not an IP address and port, such as 127.0.0.1:50051"))?;
    Ok(address.to_string().into())
}

fn name(text: String) -> Result<Json, String> {
    if text.len() > MAX_NAME_BYTES {
        let len = text.len();
        return Err(format!("has {len} bytes, at most {MAX_NAME_BYTES} may be"));
    }
    Ok(not_empty(text)?.into())
}

/// A list of texts, or one text with separators between them, as in `PATH`.
fn list(
    value: &Value,
    separator: char,
    what: &str,
    item: fn(&str) -> Result<String, String>,
) -> Result<Json, String> {
    let texts: Vec<String> = match &value.kind {
        ValueKind::Array(items) => items.iter().map(text).collect::<Result<_, _>>()?,
        ValueKind::String(list) => list.split(separator).map(str::to_owned).collect(),
        _ => return Err(format!("{} is not a list of {what}", shown(value))),
    };
    // Who means none leaves it out; an empty one is a template's slip.
    if texts.is_empty() {
        return Err(format!("has no {what}"));
    }
    let items: Result<Vec<String>, String> = texts.iter().map(|text| item(text)).collect();
    Ok(items?.into())
}

fn directory(text: &str) -> Result<String, String> {
    match std::path::Path::new(text).is_absolute() {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is not an absolute path")),
    }
}

/// As `sha256sum` prints it, or with the algorithm before it.
fn digest(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    match digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(digits.to_ascii_lowercase()),
        false => Err(format!("{text:?} is not a SHA-256 digest of 64 hex digits")),
    }
}

fn count(value: &Value) -> Result<u64, String> {
    let number = match &value.kind {
        ValueKind::I64(number) => u64::try_from(*number).ok(),
        ValueKind::U64(number) => Some(*number),
        ValueKind::String(text) => text.parse().ok(),
        _ => None,
    };
    number.ok_or_else(|| format!("{} is not a whole number of 0 or more", shown(value)))
}

fn bytes(value: &Value) -> Result<u64, String> {
    let ValueKind::String(text) = &value.kind else {
        return count(value);
    };
    let (digits, unit) = split_unit(text);
    let factor = match unit {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    factor
        .zip(digits.parse::<u64>().ok())
        .and_then(|(factor, number)| number.checked_mul(factor))
        .ok_or_else(|| format!("{text:?} is not a number of bytes, such as 1048576 or 2GiB"))
}

fn within(number: u64, min: u64, max: u64) -> Result<Json, String> {
    match (min..=max).contains(&number) {
        true => Ok(number.into()),
        false => Err(format!("{number} is out of range, {min} to {max}")),
    }
}

fn duration(value: &Value, min_seconds: u64, max_seconds: u64) -> Result<Json, String> {
    let duration = match &value.kind {
        ValueKind::String(text) => parse_duration(text),
        _ => count(value).ok().map(Duration::from_secs),
    };
    match duration {
        None => Err(format!(
            "{} is not a time, such as 500ms, 30s or 2m",
            shown(value)
        )),
        Some(duration)
            if (Duration::from_secs(min_seconds)..=Duration::from_secs(max_seconds))
                .contains(&duration) =>
        {
            Ok(written(duration).into())
        }
        Some(_) => Err(format!(
            "{} is out of range, {min_seconds}s to {max_seconds}s",
            shown(value)
        )),
    }
}

fn written(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

/// Reads `500ms`, `30s`, `2m`, `1h`, or a bare number of seconds.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let (digits, unit) = split_unit(text);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let number: u64 = digits.parse().ok()?;
    Some(Duration::from_millis(number.checked_mul(milliseconds)?))
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

fn choice(text: String, choices: &[&str]) -> Result<Json, String> {
    match choices.contains(&text.as_str()) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is none of {}", choices.join(", "))),
    }
}

/// Written without quotes, YAML's on and off are truth values.
fn switch(value: &Value) -> Result<Json, String> {
    match &value.kind {
        ValueKind::Boolean(on) => Ok((*on).into()),
        ValueKind::String(text) if text == "on" || text == "true" => Ok(true.into()),
        ValueKind::String(text) if text == OFF || text == "false" => Ok(false.into()),
        _ => Err(format!("{} is neither on nor off", shown(value))),
    }
}

fn endpoint(text: String) -> Result<Json, String> {
    let uri: http::Uri = text
        .parse()
        .map_err(|error| format!("{text:?} is not a URL: {error}"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(host)) if !host.is_empty() => Ok(text.into()),
        (Some("https"), _) => Err("https is not supported here, only http".to_owned()),
        _ => Err(format!("{text:?} is not a URL such as http://host:4317")),
    }
}

fn log_filter(text: String) -> Result<Json, String> {
    EnvFilter::builder()
        .parse(&text)
        .map_err(|error| format!("{text:?} is not a log filter: {error}"))?;
    Ok(text.into())
}
