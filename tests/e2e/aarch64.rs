//! The programs of the other architecture against this machine's: the same
//! request gives the same bits, whatever the CPU and the kernel.
//!
//! `cargo verify aarch64` builds them and lets them run, by emulation.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use ternion_tests::{Ran, Server, emulated, fixture, program};

/// CPUs that differ in what i2s and tl1 use of them.
const CPUS: [(&str, &str); 3] = [
    ("cortex-a72", "neon"),
    ("cortex-a76", "neon-dotprod"),
    ("max", "neon-i8mm"),
];

/// Models whose forward passes differ: norms, gates, rotations, the type of
/// the output head.
const MODELS: [&str; 6] = [
    "hf-bitnet/model",
    "hf-llama/model",
    "masters",
    "bitnetcpp/tiny2-i2_s.gguf",
    "gguf/bitnet-q8_0.gguf",
    "gguf/llama-f16.gguf",
];

/// What `ternion-server score` says, and the logits in bytes.
#[derive(Debug)]
struct Score {
    json: Value,
    logits: Vec<u8>,
}

impl Score {
    fn kernel(&self) -> &str {
        self.json["kernel"].as_str().expect("text")
    }

    #[track_caller]
    fn assert_same(&self, other: &Score) {
        for field in ["tokens", "logprobs", "greedy"] {
            let (this, other) = (&self.json[field], &other.json[field]);
            assert_eq!(this, other, "{field} by {}", self.kernel());
        }
        assert!(self.logits == other.logits, "logits by {}", self.kernel());
    }
}

/// Enough tokens for whole panels of them, then one at a time.
fn score(mut server: Command, model: Option<&Path>, kernel: Option<&str>) -> Score {
    let dir = tempfile::tempdir().expect("a directory for the logits");
    let npy = dir.path().join("logits.npy");
    let tokens: Vec<String> = (0..40).map(|i| (i * 7 % 200 + 3).to_string()).collect();
    server.args(["score", "--json", "--greedy", "8"]);
    server.args(["--tokens", &tokens.join(",")]);
    server.arg("--logits").arg(&npy);
    if let Some(model) = model {
        server.arg("--model").arg(model);
    }
    if let Some(kernel) = kernel {
        server.args(["--kernel", kernel]);
    }
    let ran: Ran = server.output().expect("the program can be run").into();
    Score {
        json: ran.succeeded().json(),
        logits: std::fs::read(&npy).expect("they were asked for"),
    }
}

#[test]
#[ignore = "cargo verify aarch64 runs it"]
fn every_kernel_on_every_cpu_gives_the_same_logits() {
    let here = score(program("ternion-server"), None, Some("i2s"));
    for (cpu, isa) in CPUS {
        for (kernel, isa) in [("i2s", isa), ("tl1", isa), ("tl2", "portable")] {
            let there = score(emulated(cpu, "ternion-server"), None, Some(kernel));
            assert_eq!(there.kernel(), format!("{kernel} ({isa})"));
            there.assert_same(&here);
        }
    }
}

#[test]
#[ignore = "cargo verify aarch64 runs it"]
fn every_kind_of_model_gives_the_same_logits() {
    for model in MODELS {
        let model = fixture(model);
        let here = score(program("ternion-server"), Some(&model), None);
        let there = score(emulated("max", "ternion-server"), Some(&model), None);
        there.assert_same(&here);
    }
}

#[test]
#[ignore = "cargo verify aarch64 runs it"]
fn a_client_streams_what_it_would_here() {
    let prompt = "What is the capital of France?";
    let here = Server::start(&[]);
    let want = generate(program("ternion"), &here, prompt);
    let server = emulated("cortex-a76", "ternion-server");
    let there = Server::start_program(server, "127.0.0.1:0", &[]);
    let got = generate(emulated("cortex-a76", "ternion"), &there, prompt);
    assert!(want.len() > 5, "{want:?}");
    assert_eq!(got, want);
}

/// Ids of the tokens that the command line prints one by one.
fn generate(mut client: Command, server: &Server, prompt: &str) -> Vec<Value> {
    client.args(["generate", "--chat", prompt, "--json", "--seed", "7"]);
    client.args(["--endpoint", server.endpoint()]);
    let ran: Ran = client.output().expect("the program can be run").into();
    let events = ran.succeeded().json_lines();
    assert_eq!(events.last().expect("events")["event"], "finished");
    let deltas = events.iter().filter(|event| event["event"] == "delta");
    deltas
        .flat_map(|delta| delta["token_ids"].as_array().expect("ids").clone())
        .collect()
}
