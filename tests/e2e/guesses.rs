//! Guessing ahead makes answers come sooner and leaves them as they are.
#![forbid(unsafe_code)]

use ternion_client::Generate;
use ternion_client::proto::{LoadResponse, Sampling, Stopping};
use ternion_tests::{Answer, Server, answer, http_get};

/// Long enough for the demo to repeat itself.
const LEN: u32 = 400;

#[tokio::test]
async fn the_same_tokens_in_fewer_steps() {
    let (plain, plain_load, _) = run("0").await;
    let (guessed, load, metrics) = run("8").await;
    for (plain, guessed) in plain.iter().zip(&guessed) {
        assert_eq!(plain.token_ids, guessed.token_ids);
        assert_eq!(plain.text, guessed.text);
        assert_eq!(plain.logprobs, guessed.logprobs);
        assert_eq!(plain.token_ids.len(), LEN as usize);
    }
    assert!(
        load.steps < plain_load.steps,
        "{} steps, and {} without guesses",
        load.steps,
        plain_load.steps
    );
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        value.unwrap_or_else(|| panic!("no {name} in {metrics}"))
    };
    let (guesses, came_true) = (
        value("ternion_guesses_total{"),
        value("ternion_guesses_true_total{"),
    );
    assert!(
        came_true > 0.0 && guesses >= came_true,
        "{came_true} of {guesses}"
    );
}

/// Answers to every request, one after the other, and what the server says
/// then.
async fn run(max_draft_tokens: &str) -> (Vec<Answer>, LoadResponse, String) {
    let server = Server::start(&["--max-draft-tokens", max_draft_tokens]);
    let client = server.client().await;
    let mut answers = Vec::new();
    for request in requests() {
        answers.push(answer(&client, request).await);
    }
    let load = client.load().await.expect("it is up");
    let metrics = http_get(server.operations(), "/metrics").await;
    (answers, load, metrics.expect("it is up").body)
}

/// Greedy, sampled with a seed, and with penalties for what was said before.
fn requests() -> [Generate; 3] {
    let greedy = Sampling {
        temperature: Some(0.0),
        ..Sampling::default()
    };
    let sampled = Sampling {
        temperature: Some(0.4),
        top_k: Some(20),
        seed: Some(7),
        ..Sampling::default()
    };
    let penalised = Sampling {
        repetition_penalty: Some(1.02),
        ..greedy
    };
    let mut requests = [greedy, sampled, penalised].map(|sampling| {
        let text = "Once upon a time there was a fox. Once upon a time there was a fox.";
        Generate::text(text).sampling(sampling).stopping(Stopping {
            max_tokens: Some(LEN),
            ignore_eos: Some(true),
            ..Stopping::default()
        })
    });
    requests[1].request.logprobs = Some(2);
    requests
}
