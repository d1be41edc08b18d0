use super::super::observation::Observation;
use super::super::prompts::Common;
use super::super::target::{Target, Way};
use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What is measured has to be this long at least.
const PAUSE: Duration = Duration::from_millis(300);

/// Answers one request with pieces of a response, a pause before each but
/// the first, and tells what was asked.
async fn answer(
    path: &str,
    pieces: Vec<Vec<u8>>,
    timeout: Option<Duration>,
) -> (Observation, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client comes");
        let mut asked = Vec::new();
        let mut buffer = [0; 4096];
        while !asked.ends_with(b"}") {
            let read = stream.read(&mut buffer).await.expect("it can be read");
            asked.extend_from_slice(&buffer[..read]);
        }
        for (i, piece) in pieces.iter().enumerate() {
            if i > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            if stream.write_all(piece).await.is_err() {
                break;
            }
        }
        String::from_utf8(asked).expect("JSON is UTF-8")
    });
    let url = Url::parse(&format!("http://{address}{path}")).expect("it is one");
    let peer = Peer::new(url, Some("a key")).expect("it can be made");
    let request = Request {
        input: Input::TokenIds(vec![5, 6, 7]),
        max_tokens: 3,
        seed: 9,
        priority: None,
        common: Common {
            timeout,
            ..Common::default()
        },
    };
    let target = Target::new(vec![Way::Peer(Box::new(peer))]);
    let due = std::time::Instant::now();
    let observation = Observation::of(target, 0, request, due).await;
    (observation, server.await.expect("it does not panic"))
}

const HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";

fn pieces(text: &[&str]) -> Vec<Vec<u8>> {
    text.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[tokio::test]
async fn tokens_of_an_open_ai_stream_are_timed_as_they_come() {
    let first = format!("{HEAD}: a comment\n\ndata: {{\"choices\":[{{\"text\":\"\"}}]}}\n\n");
    let (observation, asked) = answer(
        "/v1/completions",
        pieces(&[
            &first,
            "data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":null}]}\r\n\r\ndata: {\"cho",
            "ices\":[{\"text\":\"b\"}]}\n\n",
            "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}]}\n\ndata: {\"choices\":[],\"usage\":\
             {\"prompt_tokens\":4,\"completion_tokens\":3,\"prompt_tokens_details\":{\"cached_tokens\":2}}}\n\n\
             data: [DONE]\n\n",
        ]),
        None,
    )
    .await;
    assert_eq!(observation.outcome, Outcome::Finished(FinishReason::Length));
    // Two pieces of text came, and three tokens by the server's count.
    assert_eq!(observation.deltas.len(), 2);
    assert_eq!(
        (observation.output_tokens, observation.prompt_tokens),
        (3, 4)
    );
    assert_eq!(observation.cached_tokens, 2);
    let ttft = observation.time_to_first_token().expect("there is one");
    assert!(ttft >= PAUSE, "an empty text is no token: {ttft:?}");
    assert!(observation.end_to_end() >= 3 * PAUSE);
    let (head, body) = asked.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("POST /v1/completions HTTP/1.1"), "{head}");
    assert!(head.contains("authorization: Bearer a key"), "{head}");
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(
        body,
        json!({
            "prompt": [5, 6, 7], "max_tokens": 3, "stream": true, "ignore_eos": true, "seed": 9,
            "stream_options": {"include_usage": true},
        })
    );
}

#[tokio::test]
async fn so_are_those_of_llama_cpp_however_the_bytes_are_cut() {
    let whole = format!(
        "{HEAD}data: {{\"content\":\"\u{e4}\",\"stop\":false,\"tokens_predicted\":1}}\n\n\
         data: {{\"content\":\"\",\"stop\":true,\"stop_type\":\"limit\",\"tokens_predicted\":3,\"tokens_evaluated\":4}}\n\n"
    );
    let inside = whole.find('\u{e4}').expect("it is there") + 1;
    let whole = whole.into_bytes();
    let cut = vec![whole[..inside].to_vec(), whole[inside..].to_vec()];
    let (observation, asked) = answer("/completion", cut, None).await;
    assert_eq!(observation.outcome, Outcome::Finished(FinishReason::Length));
    assert_eq!(
        (observation.output_tokens, observation.prompt_tokens),
        (3, 4)
    );
    assert!(asked.contains("\"n_predict\":3"), "{asked}");
}

#[tokio::test]
async fn older_servers_have_one_form_at_both_addresses() {
    for (field, reason) in [
        ("true", FinishReason::Length),
        ("false", FinishReason::Stop),
    ] {
        let text = format!(
            "{HEAD}data: {{\"content\":\"a\",\"stop\":true,\"stopped_limit\":{field},\"tokens_predicted\":3}}\n\n"
        );
        for path in ["/completion", "/v1/completions"] {
            let (observation, _) = answer(path, pieces(&[&text]), None).await;
            assert_eq!(observation.outcome, Outcome::Finished(reason));
        }
    }
}

#[tokio::test]
async fn how_an_answer_ended_is_told_in_the_servers_own_words() {
    for (path, ending, reason) in [
        (
            "/v1/completions",
            "\"choices\":[{\"text\":\"a\",\"finish_reason\":\"length\"}]",
            FinishReason::Length,
        ),
        (
            "/v1/completions",
            "\"choices\":[{\"text\":\"a\",\"finish_reason\":\"stop\"}]",
            FinishReason::Stop,
        ),
        (
            "/completion",
            "\"content\":\"a\",\"stop\":true,\"stop_type\":\"limit\"",
            FinishReason::Length,
        ),
        (
            "/completion",
            "\"content\":\"a\",\"stop\":true,\"stop_type\":\"eos\"",
            FinishReason::Stop,
        ),
    ] {
        let text = format!("{HEAD}data: {{{ending}}}\n\n");
        let (observation, _) = answer(path, pieces(&[&text]), None).await;
        assert_eq!(observation.outcome, Outcome::Finished(reason), "{ending}");
        assert_eq!(observation.output_tokens, 1, "a count was not told");
    }
}

#[tokio::test]
async fn usage_that_was_told_holds_if_later_events_are_without() {
    let text = format!(
        "{HEAD}data: {{\"choices\":[{{\"text\":\"a\",\"finish_reason\":\"stop\"}}],\"usage\":\
         {{\"prompt_tokens\":4,\"completion_tokens\":3,\"prompt_tokens_details\":{{\"cached_tokens\":2}}}}}}\n\n\
         data: {{\"choices\":[]}}\n\n"
    );
    let (observation, _) = answer("/v1/completions", pieces(&[&text]), None).await;
    assert_eq!(observation.outcome, Outcome::Finished(FinishReason::Stop));
    assert_eq!(
        (
            observation.prompt_tokens,
            observation.cached_tokens,
            observation.output_tokens
        ),
        (4, 2, 3)
    );
}

#[test]
fn what_all_requests_have_in_common_is_asked_for() {
    for dialect in [Dialect::OpenAi, Dialect::LlamaCpp] {
        let request = Request {
            input: Input::Text("x".into()),
            max_tokens: 3,
            seed: 9,
            priority: None,
            common: Common {
                model: "m".into(),
                temperature: Some(0.5),
                timeout: None,
            },
        };
        let Ok(body) = dialect.body(request) else {
            panic!("{dialect:?} knows text");
        };
        assert_eq!(body["model"], "m");
        assert_eq!(body["temperature"], 0.5);
        assert_eq!(body["prompt"], "x");
        assert_eq!(body["ignore_eos"], true);
    }
}

#[test]
fn a_key_is_not_shown() {
    let url = Url::parse("http://h:1").expect("it is one");
    let peer = Peer::new(url, Some("tn_secret")).expect("it can be made");
    assert!(!format!("{peer:?}").contains("secret"));
}

#[tokio::test]
async fn a_status_other_than_200_is_a_refusal_if_it_says_why() {
    let refusal = |code: &str, reason: &str, busy, retry_after| {
        Outcome::Refused(Refusal {
            code: code.into(),
            reason: reason.into(),
            busy,
            retry_after,
        })
    };
    for (head, body, outcome) in [
        (
            "429 Too Many Requests\r\nRetry-After: 1",
            "{\"error\":{\"type\":\"rate_limit\"}}",
            refusal("HTTP 429", "rate_limit", true, true),
        ),
        (
            "503 Service Unavailable",
            "busy",
            refusal("HTTP 503", "", true, false),
        ),
        (
            "504 Gateway Timeout",
            "",
            refusal("HTTP 504", "", true, false),
        ),
        ("400 Bad Request", "", refusal("HTTP 400", "", false, false)),
    ] {
        let text = format!(
            "HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (observation, _) = answer("/v1/completions", pieces(&[&text]), None).await;
        assert_eq!(observation.outcome, outcome);
    }
}

#[tokio::test]
async fn what_breaks_is_a_failure_of_its_kind() {
    let one = "data: {\"choices\":[{\"text\":\"a\"}]}\n\n";
    for (text, kind) in [
        (format!("{HEAD}{one}"), "ended without Finished"),
        (format!("{HEAD}{one}data: {{\n\n"), "unreadable event"),
        (
            format!("{HEAD}data: {{\"error\":{{\"message\":\"no\"}}}}\n\n"),
            "error in the stream",
        ),
        (
            "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".into(),
            "HTTP 5xx",
        ),
        (
            "HTTP/1.1 502 Oh\r\nContent-Length: 0\r\n\r\n".into(),
            "HTTP 5xx",
        ),
        (String::new(), "transport"),
    ] {
        let (observation, _) = answer("/v1/completions", pieces(&[&text]), None).await;
        let Outcome::Failed(failure) = observation.outcome else {
            panic!("{text}: {:?}", observation.outcome);
        };
        assert_eq!(failure.kind, kind, "{text}");
    }
}

#[tokio::test]
async fn a_request_has_no_longer_than_its_time() {
    // Nothing comes, not even a status.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let url = Url::parse(&format!("http://{address}")).expect("it is one");
    let peer = Peer::new(url, None).expect("it can be made");
    let request = Request {
        input: Input::TokenIds(vec![5]),
        max_tokens: 3,
        seed: 9,
        priority: None,
        common: Common {
            timeout: Some(PAUSE / 2),
            ..Common::default()
        },
    };
    let problem = tokio::time::timeout(Duration::from_secs(60), peer.open(request));
    let problem = problem.await.expect("its time is over long before that");
    let problem = problem.err().expect("nobody answered");
    let outcome = Outcome::Finished(FinishReason::DeadlineExceeded);
    assert_eq!(problem.outcome, outcome);
    // Half a minute, if nobody goes before.
    let mut pieces = pieces(&[HEAD]);
    pieces.extend(std::iter::repeat_n(b": wait\n\n".to_vec(), 100));
    let (observation, _) = answer("/v1/completions", pieces, Some(PAUSE / 2)).await;
    assert_eq!(observation.outcome, outcome);
}

#[tokio::test]
async fn a_server_is_asked_about_its_model() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.expect("it can be read"));
            }
            let page = match asked.starts_with(b"GET /v1/models ") {
                true => {
                    json!({"data": [{"id": "m", "meta": {"n_vocab": 7}, "max_model_len": 9}]})
                }
                false if asked.windows(9).any(|part| part == b"localhost") => json!({}),
                false => json!({"default_generation_settings": {"n_ctx": 8}}),
            }
            .to_string();
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length:";
            let text = format!("{head} {}\r\n\r\n{page}", page.len());
            stream
                .write_all(text.as_bytes())
                .await
                .expect("it can be written");
        }
    });
    let url = Url::parse(&format!("http://{address}")).expect("it is one");
    let peer = Peer::new(url, None).expect("it can be made");
    let about = About {
        model: Some("m".into()),
        vocab_size: Some(7),
        context_limit: Some(8),
    };
    assert_eq!(peer.about().await, about);
    // Others say how long the whole may be with the model.
    let url = Url::parse(&format!("http://localhost:{}", address.port()));
    let peer = Peer::new(url.expect("it is one"), None).expect("it can be made");
    assert_eq!(peer.about().await.context_limit, Some(9));
    // Nobody there, nothing known.
    let url = Url::parse("http://127.0.0.1:1").expect("it is one");
    let peer = Peer::new(url, None).expect("it can be made");
    assert_eq!(peer.about().await, About::default());
}

#[test]
fn urls_say_which_protocol_is_spoken() {
    let url = |text| Url::parse(text).map(|url| (url.to_string(), url.dialect));
    let completions = "http://h:1/v1/completions".to_owned();
    assert_eq!(
        url("http://h:1"),
        Ok((completions.clone(), Dialect::OpenAi))
    );
    assert_eq!(
        url("http://h:1/v1/completions"),
        Ok((completions, Dialect::OpenAi))
    );
    assert_eq!(
        url("https://h/completion"),
        Ok(("https://h/completion".into(), Dialect::LlamaCpp))
    );
    for text in [
        "",
        "h:1",
        "ftp://h/completion",
        "http://h/v1/chat",
        "http://",
    ] {
        assert!(url(text).is_err(), "{text}");
    }
}
