//! Another server, by its HTTP endpoint that streams: OpenAI's completions or
//! llama.cpp's own.

use std::io;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::{Value, json};
use sse_stream::SseStream;
use ternion_client::StreamExt;
use ternion_client::proto::FinishReason;
use tokio::time::Instant;

use super::observation::{Count, End, Outcome, Problem, Refusal, Signal};
use super::prompts::{Input, Request};

/// One server, as one tenant asks it.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Url,
    authorization: Option<HeaderValue>,
}

/// Where, and in which protocol.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Url {
    endpoint: Uri,
    dialect: Dialect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// `/v1/completions`.
    OpenAi,
    /// `/completion`.
    LlamaCpp,
}

/// What a server tells about its model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) model: Option<String>,
    pub(crate) vocab_size: Option<u32>,
    pub(crate) context_limit: Option<u32>,
}

/// The answer to one request.
pub(crate) struct PeerEvents {
    events: SseStream<BoxBody<Bytes, io::Error>>,
    deadline: Option<Instant>,
    /// Tokens of the prompt, until they are told.
    prompt_tokens: Option<u32>,
    state: State,
}

#[derive(Debug, PartialEq)]
enum State {
    Running,
    /// With what is known of the end until the stream's.
    Ending(End),
    Ended,
}

/// Of a whole answer. A token takes a few hundred bytes.
const MAX_ANSWER_BYTES: usize = 1 << 30;

/// Of an error or a description.
const MAX_PAGE_BYTES: usize = 1 << 20;

/// For descriptions, which a server has at hand.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

impl Url {
    /// An address without a path has that of the completions.
    pub(crate) fn parse(text: &str) -> Result<Url, String> {
        let uri: Uri = text
            .parse()
            .map_err(|error| format!("not a URL: {error}"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
            return Err("must begin with http:// or https:// and name a host".into());
        }
        let dialect = match uri.path() {
            path if path.ends_with("/completion") => Dialect::LlamaCpp,
            path if path.ends_with("/completions") || path == "/" => Dialect::OpenAi,
            path => {
                return Err(format!(
                    "ends with {path:?}; what is spoken here ends with /v1/completions or /completion"
                ));
            }
        };
        let endpoint = match uri.path() {
            "/" => with_path(&uri, "/v1/completions"),
            _ => uri,
        };
        Ok(Url { endpoint, dialect })
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.endpoint.fmt(f)
    }
}

fn with_path(uri: &Uri, path: &'static str) -> Uri {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(http_path(path));
    Uri::from_parts(parts).expect("it was one with another path")
}

fn http_path(path: &'static str) -> hyper::http::uri::PathAndQuery {
    hyper::http::uri::PathAndQuery::from_static(path)
}

impl Peer {
    pub(crate) fn new(url: Url, api_key: Option<&str>) -> Result<Peer, String> {
        let authorization = api_key.map(|key| {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                .map_err(|_| "the API key is not one: it can't be sent")?;
            // Keeps it out of what is printed of requests.
            value.set_sensitive(true);
            Ok::<_, String>(value)
        });
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_native_roots()
            .map_err(|error| format!("no authorities to trust: {error}"))?
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        Ok(Peer {
            client: Client::builder(TokioExecutor::new()).build(connector),
            url,
            authorization: authorization.transpose()?,
        })
    }

    /// What it says, where servers of this kind say it. Nothing is missing
    /// that the options can't give.
    pub(crate) async fn about(&self) -> About {
        let models = self.page("/v1/models").await.unwrap_or_default();
        let props = self.page("/props").await.unwrap_or_default();
        let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        let first = &models["data"][0];
        About {
            model: first["id"].as_str().map(str::to_owned),
            vocab_size: number(&first["meta"]["n_vocab"]),
            context_limit: number(&props["default_generation_settings"]["n_ctx"])
                .or(number(&first["max_model_len"])),
        }
    }

    async fn page(&self, path: &'static str) -> Option<Value> {
        let get = self.request(with_path(&self.url.endpoint, path));
        let get = get.body(Full::default()).ok()?;
        let page = async {
            let response = self.client.request(get).await.ok()?;
            let body = Limited::new(response.into_body(), MAX_PAGE_BYTES);
            serde_json::from_slice(&body.collect().await.ok()?.to_bytes()).ok()
        };
        tokio::time::timeout(PAGE_TIMEOUT, page).await.ok()?
    }

    pub(crate) async fn open(&self, request: Request) -> Result<PeerEvents, Problem> {
        let timeout = request.common.timeout;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let prompt_tokens = match &request.input {
            Input::TokenIds(ids) => u32::try_from(ids.len()).ok(),
            Input::Text(_) | Input::Chat(_) => None,
        };
        let body = self.url.dialect.body(request)?;
        let post = self
            .request(self.url.endpoint.clone())
            .method("POST")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body.to_string()))
            .map_err(|error| Problem::failed("not a request", error.to_string()))?;
        let response = within(deadline, self.client.request(post)).await?;
        let response = response.map_err(|error| Problem::failed("transport", chain(&error)))?;
        if response.status() != StatusCode::OK {
            return Err(refused(response).await);
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        Ok(PeerEvents {
            events: SseStream::new(body.map_err(io::Error::other).boxed()),
            deadline,
            prompt_tokens,
            state: State::Running,
        })
    }

    fn request(&self, uri: Uri) -> hyper::http::request::Builder {
        let builder = hyper::Request::builder().uri(uri);
        match &self.authorization {
            Some(value) => builder.header(AUTHORIZATION, value),
            None => builder,
        }
    }
}

/// A request that is past its deadline has ended as it should.
async fn within<T>(
    deadline: Option<Instant>,
    future: impl Future<Output = T>,
) -> Result<T, Problem> {
    let Some(deadline) = deadline else {
        return Ok(future.await);
    };
    match tokio::time::timeout_at(deadline, future).await {
        Ok(value) => Ok(value),
        Err(_) => Err(Problem {
            outcome: Outcome::Finished(FinishReason::DeadlineExceeded),
            code: None,
        }),
    }
}

/// 500 and 502 are what a server did not mean, all others say why.
async fn refused(response: Response<Incoming>) -> Problem {
    let status = response.status();
    let retry_after = response.headers().contains_key(RETRY_AFTER);
    let body = Limited::new(response.into_body(), MAX_PAGE_BYTES)
        .collect()
        .await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    if matches!(status.as_u16(), 500 | 502) {
        return Problem::failed("HTTP 5xx", format!("{status}: {}", excerpt(&body)));
    }
    let told: Value = serde_json::from_slice(&body).unwrap_or_default();
    let reason = told["error"]["type"].as_str().unwrap_or_default();
    Problem {
        outcome: Outcome::Refused(Refusal {
            code: format!("HTTP {}", status.as_u16()),
            reason: reason.chars().take(100).collect(),
            busy: matches!(status.as_u16(), 429 | 503 | 504),
            retry_after,
        }),
        code: None,
    }
}

fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned()
}

fn chain(error: &dyn std::error::Error) -> String {
    let errors = std::iter::successors(Some(error), |error| error.source());
    errors
        .map(|error| error.to_string())
        .collect::<Vec<_>>()
        .join(": ")
}

impl Dialect {
    fn body(self, request: Request) -> Result<Value, Problem> {
        let prompt = match request.input {
            Input::Text(text) => json!(text),
            Input::TokenIds(ids) => json!(ids),
            Input::Chat(_) => {
                let message = "chat can't be sent to another server's completions";
                return Err(Problem::failed("not a request", message));
            }
        };
        let mut body = match self {
            Dialect::OpenAi => json!({
                "prompt": prompt,
                "max_tokens": request.max_tokens,
                "stream_options": {"include_usage": true},
            }),
            Dialect::LlamaCpp => json!({"prompt": prompt, "n_predict": request.max_tokens}),
        };
        body["stream"] = json!(true);
        // Not OpenAI's, but of those who have an endpoint like it.
        body["ignore_eos"] = json!(true);
        body["seed"] = json!(request.seed);
        if !request.common.model.is_empty() {
            body["model"] = json!(request.common.model);
        }
        if let Some(temperature) = request.common.temperature {
            body["temperature"] = json!(temperature);
        }
        Ok(body)
    }
}

/// What one event tells.
#[derive(Debug, Default)]
struct Chunk {
    text: bool,
    reason: Option<FinishReason>,
    output_tokens: Option<u64>,
    prompt_tokens: Option<u64>,
    cached_tokens: Option<u64>,
}

/// In either form: older servers of llama.cpp answer in their own at OpenAI's
/// address too.
#[derive(Debug, Deserialize)]
struct Event {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
    content: Option<String>,
    #[serde(default)]
    stop: bool,
    /// Of newer servers, in place of the next.
    stop_type: Option<String>,
    stopped_limit: Option<bool>,
    tokens_predicted: Option<u64>,
    tokens_evaluated: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    text: Option<String>,
    finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: Option<PromptTokens>,
}

#[derive(Debug, Deserialize)]
struct PromptTokens {
    cached_tokens: Option<u64>,
}

impl Event {
    fn chunk(data: &str) -> Result<Chunk, Problem> {
        let event: Event = serde_json::from_str(data).map_err(|error| {
            let message = format!("{error}: {}", excerpt(data.as_bytes()));
            Problem::failed("unreadable event", message)
        })?;
        if let Some(error) = event.error {
            let message = excerpt(error.to_string().as_bytes());
            return Err(Problem::failed("error in the stream", message));
        }
        let texts = event.choices.iter().map(|choice| choice.text.as_deref());
        let mut texts = texts.chain([event.content.as_deref()]).flatten();
        // Counts come with every event of some servers, and are final in the
        // last only.
        let final_count = |count: Option<u64>| count.filter(|_| event.stop);
        let usage = event.usage.as_ref();
        let details = usage.and_then(|usage| usage.prompt_tokens_details.as_ref());
        Ok(Chunk {
            text: texts.any(|text| !text.is_empty()),
            reason: event.reason(),
            output_tokens: usage
                .map(|usage| usage.completion_tokens)
                .or(final_count(event.tokens_predicted)),
            prompt_tokens: usage
                .map(|usage| usage.prompt_tokens)
                .or(final_count(event.tokens_evaluated)),
            cached_tokens: details.and_then(|details| details.cached_tokens),
        })
    }

    fn reason(&self) -> Option<FinishReason> {
        let mut told = self
            .choices
            .iter()
            .map(|choice| choice.finish_reason.as_deref());
        let length = match told.find_map(|reason| reason) {
            Some(reason) => reason == "length",
            None if !self.stop => return None,
            None => match &self.stop_type {
                Some(kind) => kind == "limit",
                None => self.stopped_limit.unwrap_or(false),
            },
        };
        Some(if length {
            FinishReason::Length
        } else {
            FinishReason::Stop
        })
    }
}

impl PeerEvents {
    pub(crate) async fn next(&mut self) -> Option<Result<Signal, Problem>> {
        if self.state == State::Ended {
            return None;
        }
        if let Some(prompt_tokens) = self.prompt_tokens.take() {
            return Some(Ok(Signal::Accepted { prompt_tokens }));
        }
        loop {
            let event = match within(self.deadline, self.events.next()).await {
                Ok(event) => event,
                Err(late) => return self.fail(late),
            };
            match event {
                Some(Ok(event)) => match event.data.as_deref() {
                    Some("[DONE]") | None | Some("") => {}
                    Some(data) => match Event::chunk(data) {
                        Ok(chunk) => {
                            if let Some(signal) = self.take(&chunk) {
                                return Some(Ok(signal));
                            }
                        }
                        Err(problem) => return self.fail(problem),
                    },
                },
                Some(Err(error)) => return self.fail(Problem::failed("transport", chain(&error))),
                // What came of the end is all there is.
                None => {
                    return match std::mem::replace(&mut self.state, State::Ended) {
                        State::Ending(end) => Some(Ok(Signal::Finished(end))),
                        State::Running | State::Ended => None,
                    };
                }
            }
        }
    }

    fn fail(&mut self, problem: Problem) -> Option<Result<Signal, Problem>> {
        self.state = State::Ended;
        Some(Err(problem))
    }

    fn take(&mut self, chunk: &Chunk) -> Option<Signal> {
        if let Some(reason) = chunk.reason {
            self.state = State::Ending(End {
                reason,
                output_tokens: Count::Untold,
                prompt_tokens: None,
                cached_tokens: 0,
                queued: None,
            });
        }
        // Usage comes with the end or after it.
        if let State::Ending(end) = &mut self.state {
            if let Some(tokens) = chunk.output_tokens {
                end.output_tokens = Count::Instead(tokens);
            }
            end.prompt_tokens = chunk.prompt_tokens.or(end.prompt_tokens);
            end.cached_tokens = chunk.cached_tokens.unwrap_or(end.cached_tokens);
        }
        chunk.text.then_some(Signal::Tokens(1))
    }
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
