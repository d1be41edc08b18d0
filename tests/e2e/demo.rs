//! The embedded demo model, as somebody meets it who tries ternion out.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;
use ternion_client::proto::finished::Matched;
use ternion_client::proto::tokenize_request::Input;
use ternion_client::proto::{
    ChatInput, ChatMessage, FinishReason, Sampling, Stopping, TokenizeRequest,
};
use ternion_client::{Client, Generate};
use ternion_tests::{Answer, Ran, Server, answers, fixture_json, ids, ternion};

/// Below this distance between the two best tokens, one int8 rounding decides
/// which is taken, and other implementations differ too.
const CLEAR_MARGIN: f64 = 0.15;

#[tokio::test]
async fn greedy_answers_equal_those_of_transformers() {
    let server = Server::start(&[]);
    let client = server.client().await;
    let cases = cases();
    let requests = cases.iter().map(request).collect();
    let answers = answers(&client, requests).await;
    let mut compared = 0;
    for (case, answer) in cases.iter().zip(&answers) {
        assert_eq!(prompt_ids(&client, case).await, ids(&case["prompt_ids"]));
        assert_ended_by_itself(answer);
        if case["smallest_margin"].as_f64().expect("a number") >= CLEAR_MARGIN {
            assert_eq!(
                answer.token_ids,
                ids(&case["greedy_ids"]),
                "{}",
                case["prompt"]
            );
            assert_eq!(answer.text, case["text"].as_str().expect("text"));
            compared += 1;
        }
    }
    assert_eq!(compared, 8, "cases with a clear margin");
}

fn assert_ended_by_itself(answer: &Answer) {
    let finished = answer.finished();
    assert_eq!(finished.reason(), FinishReason::Stop, "{answer:?}");
    let last = answer.token_ids.last().copied();
    assert_eq!(finished.matched, last.map(Matched::StopTokenId));
    let usage = finished.usage.expect("every ending has it");
    assert_eq!(usage.completion_tokens as usize, answer.token_ids.len());
}

fn cases() -> Vec<Value> {
    let expected = fixture_json("demo/expected.json");
    expected["cases"].as_array().expect("cases").clone()
}

fn request(case: &Value) -> Generate {
    let request = match case["kind"].as_str() {
        Some("chat") => Generate::chat(messages(&case["input"])),
        _ => Generate::text(case["input"].as_str().expect("text")),
    };
    request
        .sampling(Sampling {
            temperature: Some(0.0),
            ..Sampling::default()
        })
        .stopping(Stopping {
            max_tokens: Some(200),
            ..Stopping::default()
        })
}

fn messages(input: &Value) -> Vec<ChatMessage> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let messages = input.as_array().expect("messages").iter();
    messages
        .map(|message| ChatMessage {
            role: text(&message["role"]),
            content: text(&message["content"]),
        })
        .collect()
}

async fn prompt_ids(client: &Client, case: &Value) -> Vec<u32> {
    let input = match case["kind"].as_str() {
        Some("chat") => Input::Chat(ChatInput {
            messages: messages(&case["input"]),
        }),
        _ => Input::Text(case["input"].as_str().expect("text").to_owned()),
    };
    let request = TokenizeRequest {
        input: Some(input),
        add_bos: Some(true),
        ..TokenizeRequest::default()
    };
    client
        .tokenize(request)
        .await
        .expect("it is a good request")
}

#[test]
fn the_command_line_lists_the_demo() {
    let server = Server::start(&[]);
    let models = run(&server, &["models", "--json"]).succeeded().json();
    let [model] = models.as_array().expect("an array").as_slice() else {
        panic!("one model is served: {models}");
    };
    assert_eq!(model["vocab_size"], 1024);
    assert_eq!(model["context_limit"], 1024);
    assert_eq!(model["chat"], true);
    for field in ["name", "digest", "architecture", "kernel"] {
        assert!(
            model[field].as_str().is_some_and(|text| !text.is_empty()),
            "{field}: {model}"
        );
    }
    assert!(
        model["parameters"]
            .as_u64()
            .is_some_and(|n| (4_000_000..6_000_000).contains(&n))
    );
}

#[test]
fn events_come_as_lines_of_json() {
    let server = Server::start(&[]);
    let events = run(
        &server,
        &[
            "generate",
            "--chat",
            "What is 7 times 8?",
            "--temperature",
            "0",
            "--json",
        ],
    )
    .succeeded()
    .json_lines();
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str()).collect();
    assert_eq!(names[..2], [Some("queued"), Some("started")]);
    let (finished, deltas) = events[2..].split_last().expect("more than two events");
    let mut text = String::new();
    for delta in deltas {
        assert_eq!(delta["event"], "delta");
        assert_eq!(delta["logprobs"], Value::Null);
        text.push_str(delta["text"].as_str().expect("text of a delta"));
    }
    assert_eq!(text, "7 times 8 is 56.");
    assert_eq!(finished["event"], "finished");
    assert_eq!(finished["finish_reason"], "stop");
    assert_eq!(finished["stop_token_id"], 1023);
    assert_eq!(finished["usage"]["completion_tokens"], 10);
    assert_eq!(finished["usage"]["cached_tokens"], 0);
    assert_eq!(
        finished["usage"]["prompt_tokens"],
        events[0]["prompt_tokens"]
    );
    let first = finished["timings"]["time_to_first_token_seconds"].as_f64();
    assert!(first.is_some_and(|seconds| seconds > 0.0), "{finished}");
}

#[test]
fn alternatives_come_with_log_probabilities() {
    let server = Server::start(&[]);
    let arguments = [
        "generate",
        "--prompt",
        "The",
        "--max-tokens",
        "3",
        "--temperature",
        "0",
    ];
    let events = run(
        &server,
        &[&arguments[..], &["--logprobs", "2", "--json"]].concat(),
    )
    .succeeded()
    .json_lines();
    let mut tokens = 0;
    for delta in events.iter().filter(|event| event["event"] == "delta") {
        for (id, logprob) in ids(&delta["token_ids"])
            .iter()
            .zip(array(&delta["logprobs"]))
        {
            assert_eq!(logprob["token_id"], *id);
            assert_eq!(array(&logprob["top"]).len(), 2);
            // Greedy takes the first of them.
            assert_eq!(logprob["top"][0]["token_id"], *id);
            assert_eq!(logprob["top"][0]["logprob"], logprob["logprob"]);
            tokens += 1;
        }
    }
    assert_eq!(tokens, 3);
}

#[test]
fn a_piped_conversation_remembers_and_forgets() {
    let server = Server::start(&[]);
    let mut chat = ternion()
        .args([
            "chat",
            "--temperature",
            "0",
            "--endpoint",
            server.endpoint(),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ternion can be run");
    let mut lines = chat.stdin.take().expect("piped above");
    lines
        .write_all(b"My name is Mia.\nWhat is my name?\n/reset\nWhat is 7 times 8?\n")
        .expect("it reads");
    drop(lines);
    let ran: Ran = chat.wait_with_output().expect("it ends").into();
    let answers: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(answers.len(), 3, "{ran:?}");
    assert_eq!(answers[1..], ["Your name is Mia.", "7 times 8 is 56."]);
}

#[test]
fn tokens_go_to_text_and_back() {
    let server = Server::start(&[]);
    let tokens = run(&server, &["tokenize", "--json", "Once upon a time"])
        .succeeded()
        .json();
    let pieces: String = array(&tokens["pieces"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(pieces, "Once upon a time");
    let ids: Vec<String> = ids(&tokens["token_ids"])
        .iter()
        .map(u32::to_string)
        .collect();
    let back = run(&server, &["tokenize", "--detokenize", &ids.join(",")]).succeeded();
    assert_eq!(back.stdout, "Once upon a time\n");
}

#[test]
fn exit_codes_tell_what_to_do_next() {
    let server = Server::start(&[]);
    let refused = run(
        &server,
        &["generate", "--prompt", "a", "--top-p", "7", "--json"],
    );
    assert_eq!(refused.code, Some(3), "{refused:?}");
    let error = refused.json();
    assert_eq!(error["event"], "error");
    assert_eq!(error["code"], "INVALID_ARGUMENT");
    assert_eq!(error["violations"][0]["field"], "sampling.top_p");

    let unknown = run(&server, &["generate", "--prompt", "a", "--model", "nobody"]);
    assert_eq!(unknown.code, Some(3), "{unknown:?}");
    assert!(unknown.stderr.contains("nobody"), "{unknown:?}");

    let late = [
        "generate",
        "--prompt",
        "a",
        "--timeout",
        "0.02",
        "--ignore-eos",
        "--json",
    ];
    let late = run(&server, &late);
    assert_eq!(late.code, Some(5), "{late:?}");
    let last = late.json_lines().pop().expect("an ending");
    // Cut off in the middle, or not begun since the server knows its own speed.
    let cut_off = last["finish_reason"] == "deadline_exceeded";
    assert!(cut_off || last["code"] == "DEADLINE_EXCEEDED", "{last}");

    assert_eq!(run(&server, &["generate"]).code, Some(2));
    let nowhere = ["models", "--endpoint", "http://127.0.0.1:1"];
    let nowhere: Ran = ternion()
        .args(nowhere)
        .output()
        .expect("it can be run")
        .into();
    assert_eq!(nowhere.code, Some(1), "{nowhere:?}");
}

fn run(server: &Server, arguments: &[&str]) -> Ran {
    ternion()
        .args(arguments)
        .env("TERNION_ENDPOINT", server.endpoint())
        .output()
        .expect("ternion can be run")
        .into()
}

fn array(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is no array"))
}
