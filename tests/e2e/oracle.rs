//! What other implementations answer. Each fixture's README says how close
//! its numbers can be met: int8 rounding is a step function, and one flipped
//! step moves a random model's logits by up to a few tenths from there on.
#![forbid(unsafe_code)]

use std::path::Path;

use serde_json::Value;
use ternion_tests::{
    Answer, Matrix, Server, answer, argmax, fixture, fixture_json, greedy, ids, server_tool,
};

struct Score {
    logits: Matrix,
    logprobs: Vec<Option<f64>>,
    greedy: Vec<u32>,
}

/// Runs `ternion-server score` as a script would.
fn score(model: &str, tokens: &[u32], num_greedy: usize, adapter: Option<&str>) -> Score {
    let dir = tempfile::tempdir().expect("a directory for the logits");
    let npy = dir.path().join("logits.npy");
    let model = fixture(model);
    let adapter = adapter.map(fixture);
    let tokens: Vec<String> = tokens.iter().map(u32::to_string).collect();
    let (tokens, num_greedy) = (tokens.join(","), num_greedy.to_string());
    let mut arguments = vec!["score", "--model", text(&model), "--tokens", &tokens];
    arguments.extend(["--greedy", &num_greedy, "--logits", text(&npy), "--json"]);
    if let Some(adapter) = &adapter {
        arguments.extend(["--adapter", text(adapter)]);
    }
    let json = server_tool(&arguments).succeeded().json();
    let logprobs = json["logprobs"].as_array().expect("an array");
    Score {
        logits: Matrix::from_npy(&npy),
        logprobs: logprobs.iter().map(Value::as_f64).collect(),
        greedy: ids(&json["greedy"]),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

#[track_caller]
fn assert_close(got: &Matrix, want: &Matrix, tolerance: f32) {
    let comparison = got.compare(want);
    assert!(
        comparison.max_difference <= tolerance,
        "{comparison:?}, tolerance {tolerance}"
    );
}

/// For long prompts of random models.
#[track_caller]
fn assert_near(got: &Matrix, want: &Matrix) {
    let comparison = got.compare(want);
    assert!(comparison.max_difference < 0.6, "{comparison:?}");
    assert!(comparison.argmax_agreement >= 0.9, "{comparison:?}");
}

mod hf_bitnet {
    use super::*;

    const MODEL: &str = "hf-bitnet/model";
    const ADAPTER: &str = "hf-bitnet/adapter";
    /// Positions of prompt 3 whose logits were kept.
    const KEPT: [usize; 9] = [0, 1, 63, 64, 127, 128, 255, 299, 300];

    fn logits(name: &str) -> Matrix {
        Matrix::from_npz(&fixture("hf-bitnet/logits.npz"), name)
    }

    fn expected() -> Value {
        fixture_json("hf-bitnet/expected.json")
    }

    #[test]
    fn safe_prompts_are_strict() {
        let expected = expected();
        let safe = expected["safe"].as_array().expect("safe prompts");
        assert_eq!(safe.len(), 12);
        for (i, prompt) in safe.iter().enumerate() {
            let score = score(MODEL, &ids(&prompt["input_ids"]), 0, None);
            assert_close(&score.logits, &logits(&format!("logits_safe{i}")), 1e-4);
        }
    }

    #[test]
    fn prompts_and_their_greedy_continuations() {
        let expected = expected();
        for p in 0..4 {
            let prompt = ids(&expected["input_ids"][p]);
            let score = score(MODEL, &prompt, 32, None);
            let run = &expected["runs"][format!("float32_eager_p{p}")];
            assert_eq!(score.greedy, ids(&run["greedy"]), "prompt {p}");
            let want = logits(&format!("logits_float32_eager_p{p}"));
            match p {
                0 => assert_close(&score.logits, &want, 1e-4),
                3 => assert_near(&score.logits.select(&KEPT), &want),
                _ => assert_near(&score.logits, &want),
            }
        }
    }

    #[test]
    fn an_adapter_is_added_to_the_unquantised_input() {
        let expected = expected();
        for p in 0..3 {
            let prompt = ids(&expected["input_ids"][p]);
            let score = score(MODEL, &prompt, 32, Some(ADAPTER));
            let want = logits(&format!("logits_lora_float32_p{p}"));
            if p == 0 {
                assert_close(&score.logits, &want, 1e-4);
                assert_eq!(
                    score.greedy,
                    ids(&expected["runs"]["lora_float32_p0"]["greedy"])
                );
            } else {
                assert_near(&score.logits, &want);
            }
        }
    }

    #[test]
    fn log_probabilities_are_those_of_the_logits() {
        let expected = expected();
        let prompt = ids(&expected["input_ids"][0]);
        let score = score(MODEL, &prompt, 0, None);
        assert_eq!(score.logprobs[0], None);
        let want = logits("logits_float32_eager_p0");
        for (i, token) in prompt.iter().enumerate().skip(1) {
            let got = score.logprobs[i].expect("all but the first have one");
            let want = log_softmax(want.row(i - 1), *token);
            assert!(
                (got - want).abs() < 1e-3,
                "position {i}: {got}, want {want}"
            );
        }
    }

    #[tokio::test]
    async fn the_same_through_a_stream() {
        let server = Server::start(&["--model", text(&fixture(MODEL))]);
        let client = server.client().await;
        let expected = expected();
        for p in 0..4 {
            let prompt = ids(&expected["input_ids"][p]);
            let mut request = greedy(&prompt, 32);
            request.request.logprobs = Some(0);
            let answer = answer(&client, request).await;
            let run = &expected["runs"][format!("float32_eager_p{p}")];
            assert_eq!(answer.token_ids, ids(&run["greedy"]), "prompt {p}");
            if p == 0 {
                assert_logprobs(&answer, &logits("steps_float32_eager_p0"));
            }
        }
    }

    fn assert_logprobs(answer: &Answer, steps: &Matrix) {
        assert_eq!(answer.logprobs.len(), answer.token_ids.len());
        for (got, step) in answer.logprobs.iter().zip(steps.rows()) {
            let want = log_softmax(step, got.token_id);
            // One flipped rounding moves a logit by 0.1 to 0.35.
            assert!(
                (f64::from(got.logprob) - want).abs() < 0.3,
                "{got:?}, want {want}"
            );
        }
    }

    fn log_softmax(row: &[f32], token: u32) -> f64 {
        let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
        f64::from(row[token as usize]) - sum.ln()
    }
}

mod hf_llama {
    use super::*;

    const MODEL: &str = "hf-llama/model";

    fn expected(p: usize) -> (Vec<u32>, Vec<u32>) {
        let expected = fixture_json("hf-llama/expected.json");
        let run = &expected["runs"][format!("float32_p{p}")];
        (ids(&expected["input_ids"][p]), ids(&run["greedy"]))
    }

    #[test]
    fn prompts_and_their_greedy_continuations() {
        for p in 0..4 {
            let (prompt, continuation) = expected(p);
            let score = score(MODEL, &prompt, 16, None);
            let name = format!("logits_float32_p{p}");
            let want = Matrix::from_npz(&fixture("hf-llama/logits.npz"), &name);
            match p {
                0 | 1 => assert_close(&score.logits, &want, 2e-4),
                _ => assert_near(&score.logits, &want),
            }
            assert_eq!(score.greedy, continuation, "prompt {p}");
        }
    }

    #[tokio::test]
    async fn the_same_through_a_stream() {
        let server = Server::start(&["--model", text(&fixture(MODEL))]);
        let client = server.client().await;
        for p in 0..4 {
            let (prompt, continuation) = expected(p);
            let answer = answer(&client, greedy(&prompt, 16)).await;
            assert_eq!(answer.token_ids, continuation, "prompt {p}");
        }
    }
}

mod bitnet_cpp {
    use super::*;

    const MODEL: &str = "bitnetcpp/tiny2-i2_s.gguf";
    const VOCAB: usize = 2048;
    /// Below this distance the oracle's own arithmetic decides by chance.
    const CLEAR_GAP: f32 = 0.2;

    struct Run {
        prompt: Vec<u32>,
        generated: Vec<u32>,
        /// A row for each position fed: the prompt, then all generated tokens
        /// but the last.
        logits: Matrix,
    }

    fn runs() -> Vec<Run> {
        let names = ["p1-single", "p1-batch", "p2-single", "p2-batch"];
        names
            .iter()
            .map(|name| {
                let path = |kind| fixture(&format!("bitnetcpp/tiny2-{name}-kvf16.{kind}"));
                let tokens = std::fs::read_to_string(path("tokens.txt")).expect("a fixture");
                let line = |label: &str| {
                    let line = tokens.lines().find_map(|line| line.strip_prefix(label));
                    let ids = line.expect("both lines are there").split_whitespace();
                    ids.map(|id| id.parse().expect("an id")).collect()
                };
                Run {
                    prompt: line("prompt:"),
                    generated: line("generated:"),
                    logits: Matrix::from_raw(&path("logits.f32"), VOCAB),
                }
            })
            .collect()
    }

    impl Run {
        /// Tokens that any sound arithmetic generates: those before the first
        /// narrow choice.
        fn certain(&self) -> &[u32] {
            let choices = self.logits.rows().skip(self.prompt.len() - 1);
            let certain = choices.take_while(|row| gap(row) > CLEAR_GAP).count();
            &self.generated[..certain]
        }
    }

    #[test]
    fn the_same_tokens_fed_give_the_same_logits() {
        for run in runs() {
            let fed = &run.generated[..run.generated.len() - 1];
            let tokens = [&run.prompt[..], fed].concat();
            let score = score(MODEL, &tokens, 0, None);
            assert_eq!(score.logits.rows().len(), run.logits.rows().len());
            for (position, (got, want)) in score.logits.rows().zip(run.logits.rows()).enumerate() {
                assert_row(position, got, want);
            }
        }
    }

    fn assert_row(position: usize, got: &[f32], want: &[f32]) {
        let pairs = || {
            got.iter()
                .zip(want)
                .map(|(a, b)| (f64::from(*a), f64::from(*b)))
        };
        let sum = |f: fn((f64, f64)) -> f64| pairs().map(f).sum::<f64>();
        let rms = (sum(|(a, b)| (a - b).powi(2)) / got.len() as f64).sqrt();
        let cosine = sum(|(a, b)| a * b) / (sum(|(a, _)| a * a) * sum(|(_, b)| b * b)).sqrt();
        assert!(rms <= 0.12, "position {position}: rms {rms}");
        assert!(cosine > 0.99, "position {position}: cosine {cosine}");
        if position == 0 {
            let max = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(max <= 0.01, "first position: {max}");
        }
        if gap(want) > CLEAR_GAP {
            assert_eq!(argmax(got), argmax(want), "position {position}");
        }
    }

    #[tokio::test]
    async fn clear_choices_are_the_same_through_a_stream() {
        let server = Server::start(&["--model", text(&fixture(MODEL))]);
        let client = server.client().await;
        let mut compared = 0;
        for run in runs() {
            let answer = answer(&client, greedy(&run.prompt, 32)).await;
            assert_eq!(answer.token_ids.len(), 32);
            let certain = run.certain();
            assert_eq!(&answer.token_ids[..certain.len()], certain);
            compared += certain.len();
        }
        assert!(compared > 0, "no choice was clear");
    }

    /// Between the two largest values.
    fn gap(row: &[f32]) -> f32 {
        let best = argmax(row);
        let others = row.iter().enumerate().filter(|(column, _)| *column != best);
        let second = others
            .map(|(_, value)| *value)
            .fold(f32::NEG_INFINITY, f32::max);
        row[best] - second
    }
}
