//! Kernel plugins from files: what misbehaves is refused and harms nobody, and of
//! what works the fastest is taken.
#![forbid(unsafe_code)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use ternion_tests::{
    Server, answer, greedy, misbehaving_kernel, server_tool, shipped_kernel, signal, ternion_server,
};

/// Long enough for a plugin that is fine on a machine that is busy.
const TRIAL_TIMEOUT: &str = "20s";

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory for plugins")
}

fn install_i2s(dir: &Path) {
    fs::copy(shipped_kernel("i2s"), dir.join("i2s.so")).expect("it ships");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// The files that `kernels --json` tells of.
fn kernels(dir: &Path, arguments: &[&str]) -> Vec<Value> {
    let mut all = vec!["kernels", "--json", "--plugin-dir", text(dir)];
    all.extend(arguments);
    let found = server_tool(&all).succeeded().json();
    found.as_array().expect("an array").clone()
}

fn find<'a>(found: &'a [Value], file: &str) -> &'a Value {
    let is_it = |row: &&Value| {
        let path = row["path"].as_str().expect("a path");
        Path::new(path).file_stem().is_some_and(|stem| stem == file)
    };
    found.iter().find(is_it).expect("it was found")
}

/// What the banner says of the kernel.
fn kernel_of(server: &Server) -> &str {
    let line = server
        .banner()
        .lines()
        .find(|line| line.starts_with("kernel "));
    line.expect("it tells").trim_start_matches("kernel").trim()
}

async fn assert_serving(server: &Server) {
    let client = server.client().await;
    assert_eq!(
        answer(&client, greedy(&[1016, 591], 4))
            .await
            .token_ids
            .len(),
        4
    );
}

/// File, what it does and when, and what is said of it.
const MISBEHAVING: [(&str, (&str, &str), &str); 9] = [
    (
        "crash_when_loaded",
        ("AT_LOAD", "crash()"),
        "was killed by SIGSEGV in its initialiser",
    ),
    (
        "abort_when_loaded",
        ("AT_LOAD", "fputs(\"no luck\\n\", stderr); abort()"),
        "was killed by SIGABRT in its initialiser, having said \"no luck\"",
    ),
    (
        "exit_when_loaded",
        ("AT_LOAD", "exit(0)"),
        "ended the process with status 0 in its initialiser",
    ),
    (
        "crash_at_its_entry",
        ("AT_ENTRY", "crash()"),
        "was killed by SIGSEGV in ternion_kernel_v1",
    ),
    (
        "crash_in_probe",
        ("AT_PROBE", "crash()"),
        "was killed by SIGSEGV in probe or isa",
    ),
    (
        "trap_in_gemm",
        ("AT_GEMM", "__builtin_trap()"),
        "was killed by SIGILL while it multiplied ",
    ),
    (
        "hang_in_gemm",
        ("AT_GEMM", "for (;;) pause()"),
        "did not end within 20s while it multiplied ",
    ),
    (
        "print",
        ("AT_LOAD", "puts(\"hello\\033[2J\")"),
        "printed \"hello\\u{1b}[2J\" to standard output",
    ),
    (
        "crash_when_unloaded",
        ("AT_UNLOAD", "crash()"),
        "was killed by SIGSEGV when it was unloaded",
    ),
];

#[tokio::test]
async fn plugins_that_misbehave_are_refused_and_the_server_serves() {
    let dir = directory();
    for (name, does, _) in MISBEHAVING {
        misbehaving_kernel(dir.path(), name, &[does]);
    }
    misbehaving_kernel(dir.path(), "wrong", &[("AT_GEMM", "out[0] += batch == 3")]);
    install_i2s(dir.path());

    let found = kernels(dir.path(), &["--plugin-timeout", TRIAL_TIMEOUT]);
    assert_eq!(found.len(), MISBEHAVING.len() + 2);
    for (name, _, expected) in MISBEHAVING {
        let row = find(&found, name);
        assert_eq!(row["state"], "refused", "{row}");
        let reason = row["reason"].as_str().expect("a text");
        assert!(reason.starts_with(expected), "{row}");
    }
    let wrong = find(&found, "wrong");
    assert_eq!(
        (&wrong["state"], &wrong["name"]),
        (&"failed".into(), &"wrong".into())
    );
    let reason = wrong["reason"].as_str().expect("a text");
    assert!(
        reason.contains(", batch 3, ") && reason.contains(": row 0 of token 0 is "),
        "{reason}"
    );
    assert_eq!(find(&found, "i2s")["state"], "selected");

    let plugins = [
        "--plugin-dir",
        text(dir.path()),
        "--plugin-timeout",
        TRIAL_TIMEOUT,
    ];
    let mut server = Server::start(&plugins);
    assert!(
        kernel_of(&server).starts_with("i2s "),
        "{}",
        server.banner()
    );
    assert!(
        kernel_of(&server).ends_with(", the only one usable"),
        "{}",
        server.banner()
    );
    assert_serving(&server).await;
    for (name, _, expected) in MISBEHAVING {
        let line = |log: &str| {
            log.lines()
                .any(|line| line.contains(&format!("{name}.so")) && line.contains(expected))
        };
        server.log_with(line).await;
    }
}

#[test]
fn a_trial_ends_with_the_server_that_wants_it() {
    let dir = directory();
    let pid = dir.path().join("pid");
    let hang = format!("write_pid(\"{}\"); for (;;) pause()", pid.display());
    misbehaving_kernel(dir.path(), "hang", &[("AT_LOAD", &hang)]);
    let mut server = ternion_server()
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--operations-listen",
            "off",
        ])
        .args(["--plugin-timeout", "1h", "--plugin-dir", text(dir.path())])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("ternion-server can be run");
    let deadline = Instant::now() + Duration::from_secs(60);
    let soon = |what: &str, is_so: &dyn Fn() -> bool| {
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let child = || {
        fs::read_to_string(&pid)
            .ok()
            .and_then(|pid| pid.trim().parse::<u32>().ok())
    };
    soon("the plugin was not loaded", &|| child().is_some());
    let child = child().expect("it is there by now");
    assert_ne!(child, server.id(), "the server itself loaded it");

    signal(server.id(), "KILL");
    server.wait().expect("it can be waited for");
    soon("the trial goes on", &|| {
        // A zombie is dead, and waits for whoever adopted it.
        let stat = fs::read_to_string(format!("/proc/{child}/stat"));
        !stat.is_ok_and(|stat| !stat.contains(") Z "))
    });
}

/// Right, slow and full of itself.
const BOASTER: [(&str, &str); 1] = [("SCORE", "100000")];

#[test]
fn the_fastest_is_taken_whatever_it_says_of_itself() {
    let dir = directory();
    misbehaving_kernel(dir.path(), "boaster", &BOASTER);
    install_i2s(dir.path());
    let found = kernels(dir.path(), &["--budget", "20s"]);
    let (i2s, boaster) = (find(&found, "i2s"), find(&found, "boaster"));
    assert_eq!(
        (&i2s["state"], &boaster["state"]),
        (&"selected".into(), &"usable".into())
    );
    assert_eq!(i2s["cost"], 1.0, "{i2s}");
    let cost = boaster["cost"].as_f64().expect("timed to the end");
    assert!(cost > 1.5, "{boaster}");
    let reason = i2s["reason"].as_str().expect("a text");
    let expected = format!("fastest of 2 usable, {cost:.2} times as fast as boaster");
    assert_eq!(reason, expected);
    for row in [i2s, boaster] {
        let timings = row["timings"].as_array().expect("an array");
        for (batch, part) in [(1, "q, k, v"), (8, "o"), (64, "gate, up"), (64, "down")] {
            let timing = timings
                .iter()
                .find(|timing| timing["batch"] == batch && timing["part"] == part)
                .unwrap_or_else(|| panic!("no {part} with batch {batch}: {row}"));
            let number = |key: &str| timing[key].as_f64().expect("a number");
            let tokens = batch as f64 / number("seconds");
            assert!(
                (number("tokens_per_second") / tokens - 1.0).abs() < 1e-6,
                "{timing}"
            );
            assert!(number("gb_per_second") > 0.0, "{timing}");
        }
        assert_eq!(timings.len(), 12, "{row}");
    }

    let start = |arguments: &[&str]| {
        let mut all = vec!["--plugin-dir", text(dir.path())];
        all.extend(arguments);
        kernel_of(&Server::start(&all)).to_owned()
    };
    let fastest = start(&["--kernel-timing-budget", "20s"]);
    assert!(
        fastest.starts_with("i2s ") && fastest.contains(", fastest of 2 usable"),
        "{fastest}"
    );
    let by_score = start(&["--kernel-timing-budget", "0s"]);
    assert_eq!(by_score, "boaster c, highest score (100000) of 2 usable");
    let by_name = start(&["--kernel", "boaster"]);
    assert_eq!(by_name, "boaster c, configured by name");
}

#[tokio::test]
async fn a_choice_is_remembered_until_what_it_depends_on_changes() {
    let (dir, cache) = (directory(), directory());
    misbehaving_kernel(dir.path(), "boaster", &BOASTER);
    install_i2s(dir.path());
    let start = || {
        let plugins = [
            "--plugin-dir",
            text(dir.path()),
            "--cache-dir",
            text(cache.path()),
            // What is cut short is not kept, and the machine may be busy.
            "--kernel-timing-budget",
            "10s",
        ];
        Server::start(&plugins)
    };
    let is_remembered = |server: &Server| {
        assert!(kernel_of(server).starts_with("i2s "), "{}", server.banner());
        kernel_of(server).ends_with(", measured at an earlier start")
    };
    assert!(!is_remembered(&start()));
    assert!(is_remembered(&start()));
    // The weather doesn't change it, whatever the time allowed.
    let files: Vec<_> = fs::read_dir(cache.path())
        .expect("it was written")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| text(path).contains("kernel-choice-"))
        .collect();
    let [file] = &files[..] else {
        panic!("{files:?}");
    };
    let mode = fs::metadata(file)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let whole = fs::read(file).expect("it is ours");
    fs::write(file, &whole[..whole.len() / 2]).expect("it is ours");
    let mut server = start();
    assert!(!is_remembered(&server));
    server
        .log_with(|log| log.contains("a remembered choice of kernel is not used"))
        .await;
    drop(server);
    // It was measured again, and that was kept.
    assert!(is_remembered(&start()));

    fs::set_permissions(file, Permissions::from_mode(0o666)).expect("it is ours");
    let mut server = start();
    assert!(!is_remembered(&server));
    server
        .log_with(|log| log.contains("is not this user's alone"))
        .await;
    drop(server);

    misbehaving_kernel(dir.path(), "boaster", &[("SCORE", "100001")]);
    assert!(!is_remembered(&start()));
}

#[tokio::test]
async fn with_a_list_nothing_else_is_loaded() {
    let dir = directory();
    install_i2s(dir.path());
    let found = kernels(dir.path(), &[]);
    let digest = find(&found, "i2s")["sha256"]
        .as_str()
        .expect("a digest")
        .to_owned();
    misbehaving_kernel(dir.path(), "boaster", &BOASTER);
    let found = kernels(dir.path(), &["--plugin-sha256", &digest]);
    let (i2s, boaster) = (find(&found, "i2s"), find(&found, "boaster"));
    assert_eq!(i2s["state"], "selected");
    assert_eq!(boaster["state"], "refused");
    let reason = boaster["reason"].as_str().expect("a text");
    assert!(
        reason.starts_with("is not among the files allowed: its SHA-256 is "),
        "{reason}"
    );

    let listed = ["--plugin-dir", text(dir.path()), "--plugin-sha256", &digest];
    let server = Server::start(&listed);
    assert_serving(&server).await;
    drop(server);
    let none = server_tool(&[
        "serve",
        "--plugin-dir",
        text(dir.path()),
        "--plugin-sha256",
        &"0".repeat(64),
        "--listen",
        "127.0.0.1:0",
        "--operations-listen",
        "off",
    ]);
    assert_eq!(none.code, Some(1), "{none:?}");
    assert!(none.stderr.contains(&digest), "{none:?}");
}
