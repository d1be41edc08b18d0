//! A plugin by somebody else, in C, under the server as it ships.
#![forbid(unsafe_code)]

use ternion_client::Generate;
use ternion_tests::{
    Answer, Server, answers, compile_plugin, fixture_json, greedy, ids, server_tool,
};

const EXAMPLE: &str = "kernel-plugins/example-c/example.c";
/// Enough that the longest answers of the demo go on in their own words.
const MAX_TOKENS: u32 = 48;

#[tokio::test]
async fn the_demo_gives_the_same_tokens_on_the_example_in_c_as_on_i2s() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    compile_plugin(EXAMPLE, &directory.path().join("example.so"), &[]);
    let plugins = directory.path().to_str().expect("UTF-8");

    let found = server_tool(&["kernels", "--json", "--plugin-dir", plugins])
        .succeeded()
        .json();
    let found = found.as_array().expect("an array");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["name"], "example");
    assert_eq!(found[0]["state"], "selected");

    let on_c = answers_of(&["--plugin-dir", plugins, "--kernel", "example"]).await;
    let on_i2s = answers_of(&["--kernel", "i2s"]).await;
    assert!(on_c.len() >= 8, "{}", on_c.len());
    for (on_c, on_i2s) in on_c.iter().zip(&on_i2s) {
        assert_eq!(kernel(on_c), "example c");
        assert!(kernel(on_i2s).starts_with("i2s "), "{on_i2s:?}");
        assert_eq!(on_c.token_ids.len(), MAX_TOKENS as usize);
        assert_eq!(on_c.token_ids, on_i2s.token_ids);
        assert_eq!(on_c.text, on_i2s.text);
        // To the bit, as exact sums leave no choice.
        assert_eq!(on_c.logprobs, on_i2s.logprobs);
    }
}

fn kernel(answer: &Answer) -> &str {
    &answer.started.as_ref().expect("it ran").kernel
}

/// To the demo's own prompts, all at once.
async fn answers_of(arguments: &[&str]) -> Vec<Answer> {
    let server = Server::start(arguments);
    let client = server.client().await;
    let expected = fixture_json("demo/expected.json");
    let cases = expected["cases"].as_array().expect("cases");
    answers(&client, cases.iter().map(request).collect()).await
}

fn request(case: &serde_json::Value) -> Generate {
    let mut request = greedy(&ids(&case["prompt_ids"]), MAX_TOKENS);
    request.request.logprobs = Some(3);
    request
}
