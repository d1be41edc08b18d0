//! What a node can do, what it is advised to serve, and what presets make of a
//! server.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use ternion_tests::{Powercap, Server, answer, greedy, server_tool, ternion_server};

fn number(value: &Value) -> f64 {
    let number = value.as_f64();
    number.unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn bench_tells_how_much_of_what_the_machine_gives_it_uses() {
    let arguments = [
        "bench", "--pp", "32", "--tg", "32", "--repeat", "1", "--json",
    ];
    for row in server_tool(&arguments).succeeded().json_lines() {
        let limits = &row["limits"];
        for share in ["read_percent", "products_percent"] {
            // The demo's weights stay in a cache, which is faster than memory.
            let share = number(&limits[share]);
            assert!(share > 0.0 && share < 10_000.0, "{row}");
        }
        let read = number(&row["weight_gb_per_second"]) + number(&row["kv_gb_per_second"]);
        let percent = 100.0 * read / number(&limits["read_gb_per_second"]);
        assert!(
            (percent - number(&limits["read_percent"])).abs() < 0.01,
            "{row}"
        );
    }
    let arguments = [
        &arguments[..],
        &["--no-limits", "--powercap-dir", "/nowhere"],
    ]
    .concat();
    for row in server_tool(&arguments).succeeded().json_lines() {
        assert!(
            row["limits"].is_null() && row["joules_per_token"].is_null(),
            "{row}"
        );
    }
}

#[test]
fn bench_tells_the_energy_of_a_token() {
    let powercap = Powercap::new();
    let ended = AtomicBool::new(false);
    let row = std::thread::scope(|scope| {
        // A machine that burns 10 W or less, as fast as this thread comes round.
        scope.spawn(|| {
            for joules in 0.. {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                powercap.set_microjoules(joules * 10_000);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let ran = ternion_server()
            .args([
                "bench",
                "--pp",
                "0",
                "--tg",
                "512",
                "--repeat",
                "1",
                "--no-limits",
                "--json",
            ])
            .arg("--powercap-dir")
            .arg(powercap.path())
            .output();
        ended.store(true, Ordering::Relaxed);
        let output = ran.expect("ternion-server can be run");
        let row: Value = serde_json::from_slice(&output.stdout).expect("a row");
        row
    });
    assert!(number(&row["joules_per_token"]) > 0.0, "{row}");
}

#[test]
fn a_model_without_room_is_refused_with_the_numbers() {
    let arguments = [
        "bench",
        "--synthetic",
        "8b",
        "--preset",
        "mobile",
        "--threads",
        "1",
    ];
    let refused = server_tool(&arguments);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for part in ["synthetic-8b needs", "packed weights", "GiB", "bytes are a"] {
        assert!(refused.stderr.contains(part), "{part}: {refused:?}");
    }
}

#[test]
fn advice_is_what_was_measured() {
    // A token in 100 s: whatever the machine does besides, it makes that.
    let arguments = [
        "bench",
        "--advise",
        "--preset",
        "edge",
        "--rate",
        "0.01",
        "--prompt-tokens",
        "48",
        "--output-tokens",
        "16",
        "--json",
    ];
    let advice = server_tool(&arguments).succeeded().json();
    assert_eq!(advice["streams"], 4, "as many as the preset has: {advice}");
    assert_eq!(advice["is_capped"], true);
    assert!(
        number(&advice["measured_tokens_per_second"]) >= 0.01,
        "{advice}"
    );
    let settings = &advice["settings"];
    assert_eq!(settings["scheduler.max_num_seqs"], 4);
    assert_eq!(settings["kv.pages"], 16);
    let steps = advice["steps"].as_array().expect("a list");
    let streams: Vec<_> = steps.iter().map(|step| step["streams"].as_u64()).collect();
    assert_eq!(streams, [Some(1), Some(2), Some(4)]);
}

#[tokio::test]
async fn a_preset_bounds_a_server_and_what_is_set_is_stronger() {
    let server = Server::start(&["--preset", "mobile", "--max-num-seqs", "3"]);
    let banner = server.banner();
    // The demo's own context is less than the preset's bound.
    assert!(banner.contains("context 1024,"), "{banner}");
    // Three full contexts, as set, of 64 pages: the preset has one.
    assert!(banner.contains("kv       192 pages"), "{banner}");
    let client = server.client().await;
    answer(&client, greedy(&[1016, 591], 5)).await;
}
