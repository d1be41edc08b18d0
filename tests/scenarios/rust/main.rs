//! Goes through the scenarios with the Rust client, and prints what it saw.
//! See ../README.md.
#![forbid(unsafe_code)]

mod seen;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use ternion_client::proto::{
    ChatMessage, CountTokensRequest, DetokenizeRequest, DetokenizeResponse, GenerateRequest,
    RequestServiceCancelResponse, RequestServiceListResponse, Sampling, TokenizeRequest,
    TokenizeResponse,
};
use ternion_client::{Client, Error, Generate, SessionEvent, StreamExt};

use seen::{Seen, error, parsed, shown};

/// A scenario never takes that long; a runner that waits for ever tells
/// nothing.
const TIMEOUT: Duration = Duration::from_secs(60);

struct Arguments {
    endpoint: String,
    ca: Option<Vec<u8>>,
    keys: BTreeMap<String, String>,
    scenarios: Vec<Value>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::read()?;
    for scenario in &arguments.scenarios {
        let seen = match arguments.connect(scenario).await? {
            Ok(client) => see(&client, scenario).await?,
            Err(failed) => error(&failed),
        };
        println!("{}", json!({"scenario": scenario["name"], "seen": seen}));
    }
    Ok(())
}

impl Arguments {
    fn read() -> Result<Arguments> {
        let mut flags = BTreeMap::new();
        let mut arguments = std::env::args().skip(1);
        while let Some(flag) = arguments.next() {
            let value = arguments
                .next()
                .with_context(|| format!("{flag} takes a value"))?;
            flags.insert(flag, value);
        }
        let mut take = |flag: &str| flags.remove(flag);
        let mut require = |flag: &str| take(flag).with_context(|| format!("{flag} is missing"));
        let read = |path: String| std::fs::read(&path).with_context(|| path.clone());
        let arguments = Arguments {
            endpoint: require("--endpoint")?,
            keys: serde_json::from_slice(&read(require("--keys")?)?)?,
            scenarios: serde_json::from_slice(&read(require("--scenarios")?)?)?,
            ca: take("--ca").map(read).transpose()?,
        };
        if let Some(flag) = flags.keys().next() {
            bail!("{flag} means nothing here");
        }
        Ok(arguments)
    }

    async fn connect(&self, scenario: &Value) -> Result<Result<Client, Error>> {
        let mut builder = Client::builder(&self.endpoint).request_timeout(TIMEOUT);
        if let Some(ca) = &self.ca {
            builder = builder.ca(ca.clone());
        }
        if let Some(name) = scenario["as"].as_str() {
            let key = self
                .keys
                .get(name)
                .with_context(|| format!("no key of {name}"))?;
            builder = builder.api_key(key);
        }
        Ok(builder.connect().await)
    }
}

async fn see(client: &Client, scenario: &Value) -> Result<Value> {
    let call = text(scenario, "call")?;
    Ok(match call {
        "generate" | "chat" => generate(client, request_of(scenario, call)?, scenario).await?,
        "session" => session(client, scenario).await?,
        _ => simple(client, call, scenario)
            .await?
            .unwrap_or_else(|failed| error(&failed)),
    })
}

fn request_of(scenario: &Value, call: &str) -> Result<Generate> {
    if call == "generate" {
        return generate_request(scenario);
    }
    let messages: Vec<ChatMessage> = scenario["messages"]
        .as_array()
        .context("messages is a list")?
        .iter()
        .map(parsed)
        .collect::<Result<_>>()?;
    let sampling: Sampling = parsed(&scenario["sampling"])?;
    Ok(Generate::chat(messages).sampling(sampling))
}

/// `request` and `timeout_ms` of a scenario, or of a frame in one.
fn generate_request(of: &Value) -> Result<Generate> {
    let request: GenerateRequest = parsed(&of["request"])?;
    let mut generate = Generate::from(request);
    if let Some(timeout) = of["timeout_ms"].as_u64() {
        generate = generate.timeout(Duration::from_millis(timeout));
    }
    Ok(generate)
}

async fn generate(client: &Client, request: Generate, scenario: &Value) -> Result<Value> {
    let mut seen = Seen::new(scenario["cancel_after_tokens"].as_u64());
    match client.generate(request).await {
        Err(failed) => seen.failed(&failed),
        Ok(mut events) => {
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        if !seen.goes_on(&event)? {
                            break;
                        }
                    }
                    Err(failed) => seen.failed(&failed),
                }
            }
        }
    }
    Ok(seen.events())
}

async fn session(client: &Client, scenario: &Value) -> Result<Value> {
    let mut session = match client.session().await {
        Ok(session) => session,
        Err(failed) => return Ok(error(&failed)),
    };
    let mut requests: BTreeMap<String, Seen> = BTreeMap::new();
    let mut cancels: BTreeMap<String, u64> = BTreeMap::new();
    for frame in scenario["frames"].as_array().context("frames is a list")? {
        if let Some(id) = frame["start"].as_str() {
            requests.insert(id.to_owned(), Seen::new(None));
            session.start(id, generate_request(frame)?).await?;
        } else {
            let tokens = frame["after_tokens"].as_u64().context("after_tokens")?;
            cancels.insert(text(frame, "cancel")?.to_owned(), tokens);
        }
    }
    // Cancels are still to be sent, and then nothing is.
    if cancels.is_empty() {
        session.close();
    }
    while let Some(event) = session.next().await {
        let of = |requests: &mut BTreeMap<String, Seen>, id: &str| match requests.remove(id) {
            Some(seen) => Ok(seen),
            None => bail!("an event of {id:?}, which was not started"),
        };
        match event {
            Ok(SessionEvent::Event { id, event }) => {
                let mut seen = of(&mut requests, &id)?;
                seen.goes_on(&event)?;
                if cancels
                    .get(&id)
                    .is_some_and(|tokens| seen.tokens() >= *tokens)
                {
                    cancels.remove(&id);
                    session.cancel(&id).await?;
                    if cancels.is_empty() {
                        session.close();
                    }
                }
                requests.insert(id, seen);
            }
            Ok(SessionEvent::Failed { id, error, .. }) => {
                let mut seen = of(&mut requests, &id)?;
                seen.failed(&error);
                requests.insert(id, seen);
            }
            Ok(_) => {}
            Err(failed) => return Ok(error(&failed)),
        }
    }
    let requests: Map<String, Value> = requests
        .into_iter()
        .map(|(id, seen)| (id, seen.events()))
        .collect();
    Ok(requests.into())
}

/// Calls with one answer.
async fn simple(client: &Client, call: &str, scenario: &Value) -> Result<Result<Value, Error>> {
    let request = &scenario["request"];
    Ok(match call {
        "tokenize" => {
            let ids = client.tokenize(parsed::<TokenizeRequest>(request)?).await;
            ids.map(|token_ids| shown(&TokenizeResponse { token_ids }))
        }
        "detokenize" => {
            let text = client
                .detokenize(parsed::<DetokenizeRequest>(request)?)
                .await;
            text.map(|text| shown(&DetokenizeResponse { text }))
        }
        "count_tokens" => {
            let count = client
                .count_tokens(parsed::<CountTokensRequest>(request)?)
                .await;
            count.map(|count| shown(&count))
        }
        "models" => {
            let models = client.models().await;
            models.map(|models| models.iter().map(shown).collect())
        }
        "model" => {
            let model = client.model(text(scenario, "model")?).await;
            model.map(|model| shown(&model))
        }
        "list_requests" => {
            let requests = client.requests().await;
            requests.map(|requests| shown(&RequestServiceListResponse { requests }))
        }
        "cancel_request" => {
            let cancelled = client.cancel(text(scenario, "request_id")?).await;
            cancelled.map(|cancelled| shown(&RequestServiceCancelResponse { cancelled }))
        }
        _ => bail!("no such call: {call}"),
    })
}

fn text<'a>(of: &'a Value, field: &str) -> Result<&'a str> {
    of[field]
        .as_str()
        .with_context(|| format!("{field} is a text"))
}
