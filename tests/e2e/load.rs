//! `ternion load` as people and scripts use it, against a real server.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use ternion_tests::{Ran, Server, StallingKernel, server_tool, ternion};

/// Short requests, so that a busy machine has done with them soon.
const SHORT: [&str; 4] = ["--prompt-tokens", "8-24", "--max-tokens", "5"];

/// Ends by itself, and is waited for as long as that takes.
fn load(endpoint: &str, arguments: &[&str]) -> Ran {
    let mut command = ternion();
    command
        .args(["load", "--endpoint", endpoint])
        .args(arguments);
    let output = command.stdin(Stdio::null()).output();
    output.expect("ternion can be run").into()
}

fn report(server: &Server, arguments: &[&str]) -> Value {
    let arguments = [&["--json"], arguments].concat();
    load(server.endpoint(), &arguments).succeeded().json()
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no count"))
}

/// A file of the test's own directory.
fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).expect("a directory of the test");
    path
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

#[test]
fn a_report_accounts_for_every_request_and_token() {
    let server = Server::start(&[]);
    let arguments = [
        &SHORT[..],
        &["--rate", "200", "--requests", "30", "--seed", "3"],
    ]
    .concat();
    let first = report(&server, &arguments);
    for (how, count) in [
        ("sent", 30),
        ("complete", 30),
        ("refused", 0),
        ("errors", 0),
    ] {
        assert_eq!(number(&first["requests"][how]), count, "{how} in {first}");
    }
    assert_eq!(number(&first["tokens"]["output"]), 30 * 5);
    assert_eq!(number(&first["ttft_seconds"]["count"]), 30);
    // One of each request is the first; deltas may hold more than one token.
    assert!(number(&first["itl_seconds"]["count"]) <= 30 * 4);
    assert_eq!(number(&first["tpot_seconds"]["count"]), 30);
    for times in ["accept_seconds", "queue_seconds"] {
        assert_eq!(number(&first[times]["count"]), 30, "{times}");
    }
    let seconds = first["time_series"].as_array().expect("rows");
    let sum = |field: &str| {
        seconds
            .iter()
            .map(|second| number(&second[field]))
            .sum::<u64>()
    };
    assert_eq!(
        (sum("due"), sum("complete"), sum("output_tokens")),
        (30, 30, 150)
    );
    assert_eq!(sum("prompt_tokens"), number(&first["tokens"]["prompt"]));
    for times in ["ttft_seconds", "e2e_seconds"] {
        let [p50, p95, p99, max] =
            ["p50", "p95", "p99", "max"].map(|q| first[times][q].as_f64().expect("seconds"));
        assert!(
            0.0 < p50 && p50 <= p95 && p95 <= p99 && p99 <= max,
            "{first}"
        );
    }

    // The lengths, and so their sum, are drawn by the seed. What the first run computed is in the cache.
    let again = report(&server, &arguments);
    for tokens in ["prompt", "output"] {
        assert_eq!(again["tokens"][tokens], first["tokens"][tokens], "{tokens}");
    }
    let other = [
        &SHORT[..],
        &["--rate", "200", "--requests", "30", "--seed", "4"],
    ]
    .concat();
    let other = report(&server, &other);
    assert_ne!(other["tokens"]["prompt"], first["tokens"]["prompt"]);
}

#[test]
fn refusals_are_told_by_what_the_server_said_and_are_no_goodput() {
    let kernel = StallingKernel::build();
    let server = kernel.serve(&["--max-num-seqs", "1", "--max-queued", "4"]);
    // Else it may be faster than the requests come.
    kernel.slow();
    let arguments = [&SHORT[..], &["--rate", "inf", "--requests", "200"]].concat();
    let report = report(&server, &arguments);
    let refused = number(&report["requests"]["refused"]);
    assert!(refused > 0, "{report}");
    assert_eq!(number(&report["requests"]["complete"]) + refused, 200);
    let [refusal] = report["refusals"].as_array().expect("rows").as_slice() else {
        panic!("{report}");
    };
    assert_eq!(refusal["code"], "RESOURCE_EXHAUSTED");
    assert_eq!(number(&refusal["count"]), refused);
    assert_eq!(number(&report["refusal_seconds"]["count"]), refused);
    let share = report["goodput"]["share"].as_f64().expect("a part");
    assert!(
        (share - (200 - refused) as f64 / 200.0).abs() < 1e-9,
        "{report}"
    );
}

#[test]
fn tenants_have_their_keys_and_their_figures() {
    let keys = ["heavy", "light"]
        .map(|name| (name, server_tool(&["keygen", "--json"]).succeeded().json()));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let served = keys.iter().map(|(name, key)| {
        let hash = key["hash"].as_str().expect("a hash");
        format!("[[tenants]]\nname = '{name}'\n[[tenants.keys]]\nid = 'k'\nhash = '{hash}'\n")
    });
    let served = file(&dir, "tenants.toml", &served.collect::<String>());
    let sent = keys.iter().zip([3, 1]).map(|((name, key), share)| {
        format!(
            "{{\"name\": \"{name}\", \"share\": {share}, \"api_key\": {}}}\n",
            key["key"]
        )
    });
    let sent = file(&dir, "tenants.jsonl", &sent.collect::<String>());
    let server = Server::start(&["--tenants", text(&served)]);

    let arguments = [
        "--tenants",
        text(&sent),
        "--concurrency",
        "4",
        "--requests",
        "40",
    ];
    let report = report(&server, &[&SHORT[..], &arguments].concat());
    assert_eq!(number(&report["requests"]["complete"]), 40, "{report}");
    let tenants = report["tenants"].as_array().expect("rows");
    let names: Vec<&Value> = tenants.iter().map(|tenant| &tenant["name"]).collect();
    assert_eq!(names, ["heavy", "light"]);
    let complete = tenants
        .iter()
        .map(|tenant| number(&tenant["requests"]["complete"]));
    assert_eq!(complete.sum::<u64>(), 40);
    assert!(tenants.iter().all(|tenant| tenant["entitled_share"] == 0.5));

    // Without a key nobody is let in.
    let refused = load(server.endpoint(), &["--rate", "1", "--requests", "1"]);
    assert_eq!(refused.code, Some(3), "{refused:?}");
}

#[test]
fn a_trace_is_played_with_its_lengths_and_tenants() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let line = |arrival, tokens, tenant| {
        format!(
            "{{\"arrival\": {arrival}, \"prompt_tokens\": {tokens}, \"output_tokens\": 3, \
             \"tenant\": \"{tenant}\"}}\n"
        )
    };
    let trace = line(0.0, 10, "a") + &line(0.5, 20, "b") + &line(1.0, 30, "b");
    let trace = file(&dir, "trace.jsonl", &trace);
    let report = report(&server, &["--trace", text(&trace), "--speed", "10"]);
    assert_eq!(number(&report["requests"]["complete"]), 3, "{report}");
    assert_eq!(number(&report["tokens"]["prompt"]), 60);
    assert_eq!(number(&report["tokens"]["output"]), 9);
    assert_eq!(report["tenants"][1]["name"], "b");
    assert_eq!(number(&report["tenants"][1]["tokens"]["prompt"]), 50);
}

#[test]
fn a_sweep_finds_the_capacity_and_multiplies_it() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let page = dir.path().join("report.html");
    let arguments = [
        "--concurrency",
        "4",
        "--rate",
        "0.5x,2x",
        "--requests",
        "20",
        "--html",
        text(&page),
    ];
    let report = report(&server, &[&SHORT[..], &arguments].concat());
    let runs = report["runs"].as_array().expect("rows");
    assert_eq!(runs.len(), 3);
    let capacity = runs[0]["throughput"]["requests_per_second"]
        .as_f64()
        .expect("a rate");
    for (run, factor) in runs[1..].iter().zip([0.5, 2.0]) {
        let rate = run["load"]["rate"].as_f64().expect("a rate");
        assert!(
            (rate / (factor * capacity) - 1.0).abs() < 1e-9,
            "{rate} of {capacity}"
        );
        assert_eq!(number(&run["requests"]["complete"]), 20);
    }
    let peak = number(&report["peak"]["run"]) as usize;
    let share = report["last_share_of_peak"].as_f64().expect("a part");
    let goodput = |run: &Value| {
        run["goodput"]["requests_per_second"]
            .as_f64()
            .expect("a rate")
    };
    assert!(runs.iter().all(|run| goodput(run) <= goodput(&runs[peak])));
    let of_peak = goodput(&runs[2]) / goodput(&runs[peak]);
    assert!((share - of_peak).abs() < 1e-9, "{share} of {of_peak}");

    let page = std::fs::read_to_string(page).expect("it was written");
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    assert!(page.matches("<svg").count() > 10);
    // Nothing is loaded, and nothing runs.
    for foreign in ["<script", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}

#[test]
fn a_missed_service_level_has_an_exit_code_of_its_own() {
    let server = Server::start(&[]);
    let level = |seconds, pace: &[&str]| {
        let level = [
            "--requests",
            "5",
            // All of them.
            "--fail-on-slo=1",
            "--slo-ttft",
            seconds,
        ];
        let arguments = [pace, &level].concat();
        load(server.endpoint(), &[&SHORT[..], &arguments].concat())
    };
    let missed = level("0.000001", &["--rate", "100"]);
    assert_eq!(missed.code, Some(6), "{missed:?}");
    assert!(
        missed.stderr.contains("0.0 % of the requests"),
        "{missed:?}"
    );
    assert!(
        missed.stdout.contains("goodput    0.00 requests/s"),
        "{missed:?}"
    );
    let met = level("3600", &["--rate", "100"]).succeeded();
    assert!(met.stdout.contains("100.0 % of all"), "{met:?}");
    // A capacity is what gets through, however late.
    let missed = level("0.000001", &["--concurrency", "2", "--rate", "1x"]);
    assert_eq!(missed.code, Some(6), "{missed:?}");
}

#[test]
fn what_makes_no_sense_is_refused_by_the_name_of_its_option() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let bad = file(&dir, "bad.jsonl", "{\"name\": \"a\"}\n{\"nome\": \"b\"}\n");
    let bad = text(&bad);
    for (arguments, told) in [
        (&[][..], "--rate"),
        (&["--rate", "0"], "--rate"),
        (&["--rate", "fast"], "--rate"),
        (&["--rate", "inf"], "--requests"),
        (&["--rate", "2x", "--requests", "1"], "--concurrency"),
        (&["--rate", "2", "--concurrency", "2"], "--concurrency"),
        (&["--rate", "1,2"], "--duration"),
        (&["--rate", "1", "--burstiness", "0"], "--burstiness"),
        (&["--rate", "1", "--ramp-to", "2"], "--duration"),
        (&["--rate", "1", "--on-off", "1"], "--on-off"),
        (
            &["--rate", "1", "--duration", "2", "--warm-up", "2"],
            "--warm-up",
        ),
        (&["--rate", "1", "--duration", "-1"], "--duration"),
        (&["--concurrency", "0"], "--concurrency"),
        (&["--rate", "-1"], "--rate"),
        (&["--rate", "1", "--slo-ttft", "-1"], "--slo-ttft"),
        (
            &["--rate", "1", "--prompt-tokens", "9-1"],
            "--prompt-tokens",
        ),
        (
            &["--rate", "1", "--max-tokens", "lognormal:x"],
            "--max-tokens",
        ),
        (&["--rate", "1", "--lengths", "none"], "--lengths"),
        (&["--rate", "1", "--scale", "2"], "--scale"),
        (&["--rate", "1", "--shared-prefix", "2"], "--shared-prefix"),
        (&["--rate", "1", "--fail-on-slo=2"], "--fail-on-slo"),
        (&["--rate", "1", "--target", "h:1"], "--target"),
        (&["--rate", "1", "--vocab-size", "9"], "--target"),
        (
            &["--rate", "1", "--tenants", bad],
            "bad.jsonl: line 2: unknown field `nome`",
        ),
        (&["--trace", bad], "bad.jsonl: line 1: unknown field `name`"),
        (&["--trace", "/nowhere"], "/nowhere"),
    ] {
        // Nobody is asked before that.
        let ran = load("http://127.0.0.1:1", arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(told), "{arguments:?}: {}", ran.stderr);
    }
}

#[test]
fn help_tells_the_formats_and_the_exit_codes() {
    let help = load("http://127.0.0.1:1", &["--help"]).succeeded().stdout;
    for told in [
        "\"arrival\"",
        "\"share\"",
        "\"token_ids\"",
        "azure-conv",
        "6: --fail-on-slo",
        "Examples:",
    ] {
        assert!(help.contains(told), "{told} in {help}");
    }
}
