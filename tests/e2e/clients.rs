//! One set of scenarios, three clients, one server: what each of them sees is
//! what is to be seen, and what the others see.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use ternion_tasks::{go_client, python_client};
use ternion_tests::{Authority, Server, StallingKernel, server_tool};

const SCENARIOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/scenarios.json");

const LANGUAGES: [&str; 4] = ["rust", "go", "python", "python-aio"];

/// The tenants that the scenarios speak of. `once` is used up by whoever uses
/// it, so each runner has its own.
fn tenants(keys: &Keys) -> String {
    let tenant = |name: &str, key: &str, limits: &str| {
        let hash = keys.hash(key);
        format!(
            "[[tenants]]\nname = '{name}'\n[[tenants.keys]]\nid = 'test'\nhash = '{hash}'\n\
             [tenants.limits]\n{limits}\n"
        )
    };
    let once = LANGUAGES.map(|language| {
        let name = format!("once-{language}");
        tenant(&name, &name, "requests_per_minute = 1")
    });
    tenant("alpha", "alpha", "")
        + &tenant("short", "short", "max_prompt_tokens = 8")
        + &once.concat()
}

/// API keys and their hashes by the name of who has them.
struct Keys(Vec<(String, Value)>);

impl Keys {
    fn new() -> Keys {
        let once = LANGUAGES.map(|language| format!("once-{language}"));
        let names = ["alpha", "short", "nobody"].map(str::to_owned);
        let names = names.into_iter().chain(once);
        Keys(names.map(|name| (name, keygen())).collect())
    }

    fn field(&self, name: &str, field: &str) -> String {
        let (_, key) = self.0.iter().find(|(n, _)| n == name).expect("made above");
        key[field].as_str().expect("a text").to_owned()
    }

    fn hash(&self, name: &str) -> String {
        self.field(name, "hash")
    }

    /// What the runner of a language takes.
    fn of(&self, language: &str) -> Value {
        let key = |name: &str| self.field(name, "key");
        json!({
            "alpha": key("alpha"),
            "short": key("short"),
            "nobody": key("nobody"),
            "once": key(&format!("once-{language}")),
        })
    }
}

fn keygen() -> Value {
    server_tool(&["keygen", "--json"]).succeeded().json()
}

fn runner(language: &str) -> Command {
    match language {
        "rust" => Command::new(env!("CARGO_BIN_EXE_scenario-runner")),
        "go" => go_client::scenario_runner().expect("it can be built"),
        _ => {
            let mut runner = python_client::scenario_runner().expect("it can be installed");
            if language == "python-aio" {
                runner.arg("--aio");
            }
            runner
        }
    }
}

/// What each language saw, scenario by scenario.
fn run(language: &str, endpoint: &str, ca: Option<&Path>, keys: &Keys, dir: &Path) -> Vec<Value> {
    let keys_file = dir.join(format!("{language}.json"));
    std::fs::write(&keys_file, keys.of(language).to_string()).expect("a directory of the test");
    let mut runner = runner(language);
    runner.args(["--endpoint", endpoint, "--scenarios", SCENARIOS]);
    runner.arg("--keys").arg(&keys_file);
    if let Some(ca) = ca {
        runner.arg("--ca").arg(ca);
    }
    let output = runner
        .stderr(Stdio::inherit())
        .output()
        .expect("it can be run");
    assert!(output.status.success(), "{language}: {}", output.status);
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let lines = text.lines().map(|line| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{language}: {error}: {line}"))
    });
    lines.collect()
}

/// So that what a scenario cancels, or lets run out of time, is not through
/// before that.
fn serve_slowly(arguments: &[&str]) -> (StallingKernel, Server) {
    let kernel = StallingKernel::build();
    let server = kernel.serve(arguments);
    kernel.slow();
    (kernel, server)
}

#[test]
fn three_clients_see_the_same_in_plain_text() {
    let keys = Keys::new();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let tenants_file = write(dir.path(), "tenants.toml", &tenants(&keys));
    let (_kernel, server) = serve_slowly(&["--tenants", &tenants_file]);
    compare(server.endpoint(), None, &keys, dir.path());
}

#[test]
fn and_over_tls() {
    let keys = Keys::new();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let tenants_file = write(dir.path(), "tenants.toml", &tenants(&keys));
    let authority = Authority::new();
    let ca = write(dir.path(), "ca.pem", authority.pem());
    let [certificate, key] = authority.server().write(dir.path(), "server");
    let (_kernel, server) = serve_slowly(&[
        "--tenants",
        &tenants_file,
        "--tls-certificate",
        certificate.to_str().expect("UTF-8"),
        "--tls-key",
        key.to_str().expect("UTF-8"),
    ]);
    assert!(server.endpoint().starts_with("https://"));
    compare(server.endpoint(), Some(Path::new(&ca)), &keys, dir.path());
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("a directory of the test");
    path.to_str().expect("UTF-8").to_owned()
}

fn compare(endpoint: &str, ca: Option<&Path>, keys: &Keys, dir: &Path) {
    let text = std::fs::read_to_string(SCENARIOS).expect("it is there");
    let scenarios: Vec<Value> = serde_json::from_str(&text).expect("a list");
    let runs = LANGUAGES.map(|language| run(language, endpoint, ca, keys, dir));
    let mut wrong = Vec::new();
    for (language, run) in LANGUAGES.iter().zip(&runs) {
        assert_eq!(run.len(), scenarios.len(), "scenarios seen by {language}");
        for ((scenario, seen), first) in scenarios.iter().zip(run).zip(&runs[0]) {
            let name = &scenario["name"];
            assert_eq!(&seen["scenario"], name, "{language}");
            let seen = &seen["seen"];
            let as_expected = match (scenario.get("expect"), scenario.get("expect_last")) {
                (Some(expected), None) => holds(seen, expected),
                (None, Some(expected)) => last_holds(seen, expected),
                _ => panic!("{name} has one of expect and expect_last"),
            };
            if let Err(difference) = as_expected {
                wrong.push(format!("{language}, {name}: {difference}\n  saw {seen}"));
            }
            let first = &first["seen"];
            if scenario["compare"] != false && lasting(scenario, seen) != lasting(scenario, first) {
                wrong.push(format!(
                    "{language}, {name}: saw {seen}\n  but rust {first}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether all that is expected was seen.
fn holds(seen: &Value, expected: &Value) -> Result<(), String> {
    if let Some(choices) = expected.get("any_of").and_then(Value::as_array) {
        let one_holds = choices.iter().any(|choice| holds(seen, choice).is_ok());
        return one_holds
            .then_some(())
            .ok_or_else(|| format!("expected {expected}"));
    }
    match (seen, expected) {
        (Value::Object(seen), Value::Object(expected)) => {
            // More may be seen than is told here, but no error.
            if seen.contains_key("error") && !expected.contains_key("error") {
                return Err("an error".to_owned());
            }
            expected.iter().try_for_each(|(key, expected)| {
                let seen = seen.get(key).unwrap_or(&Value::Null);
                holds(seen, expected).map_err(|inner| format!("{key}: {inner}"))
            })
        }
        (Value::Array(seen), Value::Array(expected)) if seen.len() == expected.len() => {
            let mut pairs = seen.iter().zip(expected).enumerate();
            pairs.try_for_each(|(i, (seen, expected))| {
                holds(seen, expected).map_err(|inner| format!("{i}: {inner}"))
            })
        }
        _ if seen == expected => Ok(()),
        _ => Err(format!("expected {expected}")),
    }
}

fn last_holds(seen: &Value, expected: &Value) -> Result<(), String> {
    let last = |events: &Value| events.as_array().and_then(|events| events.last().cloned());
    match seen {
        Value::Array(_) => holds(&last(seen).unwrap_or_default(), expected),
        _ => {
            let expected = expected.as_object().expect("from id to event");
            expected.iter().try_for_each(|(id, expected)| {
                let seen = last(&seen[id]).unwrap_or_default();
                holds(&seen, expected).map_err(|inner| format!("{id}: {inner}"))
            })
        }
    }
}

/// What was seen, without what depends on time.
fn lasting(scenario: &Value, seen: &Value) -> Value {
    let mut seen = comparable(seen);
    for path in scenario["ignore"].as_array().into_iter().flatten() {
        let (event, field) = path
            .as_str()
            .and_then(|path| path.split_once('.'))
            .expect("EVENT.FIELD");
        for events in seen.as_object_mut().expect("a session").values_mut() {
            for seen in events.as_array_mut().expect("events") {
                if let Some(message) = seen.get_mut(event).and_then(Value::as_object_mut) {
                    message.remove(field);
                }
            }
        }
    }
    seen
}

/// How long a request may wait, and what of its prompt others have left computed.
const ACCIDENTAL: [&str; 2] = ["wait_seconds", "cached_tokens"];

/// Languages write a float with more or fewer digits, and 1 for 1.0. No whole
/// number here is too large for one.
fn comparable(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| !ACCIDENTAL.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), comparable(value)))
            .collect(),
        Value::Array(items) => items.iter().map(comparable).collect(),
        Value::Number(number) => json!(number.as_f64().map(|number| number as f32)),
        other => other.clone(),
    }
}
