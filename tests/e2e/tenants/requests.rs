//! A tenant's requests: whose they are, and what is told of their ends.

use super::*;

#[tokio::test]
async fn tenants_see_and_end_their_own_requests_only() {
    let (acme, other) = (keygen(), keygen());
    let tenants = Tenants::new().with("acme", "'inference'", &acme, "").with(
        "other",
        "'inference'",
        &other,
        "",
    );
    let (kernel, server) = tenants.serve_slowly(&ONE_AT_A_TIME);
    let (acme, other) = (client(&server, &acme).await, client(&server, &other).await);
    let mut ours = acme.generate(long("same")).await.expect("starts");
    let mut theirs = other.generate(long("same")).await.expect("its own id");
    let again = acme.generate(long("same")).await;
    let again = again.expect_err("it is in use");
    assert_eq!(again.code(), Code::AlreadyExists, "{again:?}");
    let mut session = acme.session().await.expect("a session opens");
    session.start("same", long("")).await.expect("it is open");
    let mut third = other.generate(long("secret-id")).await.expect("starts");

    let listed = async |client: &Client| -> Vec<(String, bool)> {
        let list = client.requests().await.expect("it is up");
        assert!(
            list.windows(2)
                .all(|pair| pair[0].age_seconds >= pair[1].age_seconds),
            "oldest first: {list:?}"
        );
        let facts = list.into_iter().map(|r| (r.request_id, r.in_session));
        facts.collect()
    };
    // The session's request is taken when its frame is read.
    let mut seen = listed(&acme).await;
    while seen.len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        seen = listed(&acme).await;
    }
    assert_eq!(
        seen,
        [("same".to_owned(), false), ("same".to_owned(), true)]
    );
    assert_eq!(
        listed(&other).await,
        [("same".to_owned(), false), ("secret-id".to_owned(), false)]
    );

    assert_eq!(acme.cancel("secret-id").await.expect("it is up"), 0);
    assert_eq!(acme.cancel("nothing").await.expect("it is up"), 0);
    assert_eq!(acme.cancel("same").await.expect("it is up"), 2);
    kernel.release();
    let mut answer = Answer::default();
    answer.read(&mut ours).await.expect("it ends well");
    assert_eq!(answer.finished().reason(), FinishReason::Cancelled);
    let end = session_end(&mut session, "same").await.expect("it ran");
    assert_eq!(end, FinishReason::Cancelled);
    for events in [&mut theirs, &mut third] {
        let mut answer = Answer::default();
        answer.read(events).await.expect("it ends well");
        assert_eq!(answer.finished().reason(), FinishReason::Length);
        assert_eq!(answer.token_ids.len(), MANY_TOKENS as usize);
    }
    assert_eq!(listed(&acme).await, []);
    assert_eq!(listed(&other).await, []);
}

#[tokio::test]
async fn every_end_of_a_request_is_one_audit_line() {
    let key = keygen();
    let limits = "max_prompt_tokens = 100\nmax_output_tokens = 1000";
    let tenants = Tenants::new().with("acme", "'inference', 'admin'", &key, limits);
    let mut flags = vec!["--log-format", "json", "--log-filter", "debug"];
    flags.extend(ONE_AT_A_TIME);
    let (_kernel, mut server) = tenants.serve_slowly(&flags);
    let client = client(&server, &key).await;
    let with_id = |mut request: Generate, id: &str| {
        request.request.request_id = id.to_owned();
        request
    };

    // Finished.
    answer(&client, with_id(greedy(&[1016, 591, 580], 5), "finished")).await;
    // Refused.
    let text = "xyzzy plugh ".repeat(100);
    let refused = client
        .generate(with_id(Generate::text(text.as_str()), "refused"))
        .await;
    assert_eq!(refused.expect_err("too long").code(), Code::OutOfRange);
    // Cancelled, while it runs.
    let mut events = client.generate(long("cancelled")).await.expect("starts");
    while !matches!(next(&mut events).await, Event::Delta(_)) {}
    assert_eq!(client.cancel("cancelled").await.expect("it is up"), 1);
    let mut answer = Answer::default();
    answer.read(&mut events).await.expect("it ends well");
    // Abandoned, while it runs.
    let mut events = client.generate(long("abandoned")).await.expect("starts");
    while !matches!(next(&mut events).await, Event::Delta(_)) {}
    drop(events);
    while !client.requests().await.expect("it is up").is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // On a session: refused, and finished.
    let mut session = client.session().await.expect("a session opens");
    session
        .start("too-much", greedy(&[1016], 1001))
        .await
        .expect("it is open");
    let error = session_end(&mut session, "too-much").await;
    assert_eq!(error.expect_err("too long").code(), Code::OutOfRange);
    session
        .start("in-session", greedy(&[1016, 591], 4))
        .await
        .expect("it is open");
    session_end(&mut session, "in-session").await.expect("ends");
    // A call without frames.
    let tokens = client.detokenize(DetokenizeRequest {
        token_ids: vec![1016],
        ..DetokenizeRequest::default()
    });
    tokens.await.expect("it is up");
    // A stranger.
    let stranger = Client::builder(server.endpoint()).api_key("tn_strangers-key");
    let stranger = stranger.connect().await.expect("it is up");
    stranger.models().await.expect_err("nobody knows it");

    // The cancel is a line, too.
    let lines = audit_lines(&mut server, 8).await;
    for line in &lines {
        assert_eq!(line["tenant"], "acme", "{line}");
        assert_eq!(line["identity"], "key-of-acme", "{line}");
        assert!(
            line["total_ms"].as_f64().is_some_and(|ms| ms >= 0.0),
            "{line}"
        );
    }
    let generate = "ternion.v1.InferenceService/Generate";
    let session = "ternion.v1.InferenceService/Session";
    // One each, in whatever order: the server hears of a reader that has gone
    // when it does.
    let line_of = |id: Option<&str>, method: &str| {
        let of = |line: &&Value| line["request_id"].as_str() == id && line["method"] == method;
        let found: Vec<&Value> = lines.iter().filter(of).collect();
        match found[..] {
            [line] => line,
            _ => panic!("{id:?} of {method} in {lines:#?}"),
        }
    };
    for (id, method, code, reason, tokens) in [
        ("finished", generate, "OK", "length", Some((3, 5))),
        ("refused", generate, "OUT_OF_RANGE", "", Some((0, 0))),
        ("cancelled", generate, "CANCELLED", "cancelled", None),
        ("abandoned", generate, "CANCELLED", "abandoned", None),
        ("too-much", session, "OUT_OF_RANGE", "", Some((0, 0))),
        ("in-session", session, "OK", "length", Some((2, 4))),
    ] {
        let line = line_of(Some(id), method);
        assert_eq!(line["code"], code, "{line}");
        assert_eq!(
            line["finish_reason"].as_str().unwrap_or(""),
            reason,
            "{line}"
        );
        let count = |name: &str| line[name].as_u64().expect("a count");
        let got = (count("prompt_tokens"), count("completion_tokens"));
        match tokens {
            Some(tokens) => assert_eq!(got, tokens, "{line}"),
            None => {
                assert_eq!(got.0, 2, "{line}");
                assert!((1..1000).contains(&got.1), "{line}");
            }
        }
        let has_times = |name: &str| line[name].as_f64().is_some();
        let ran_to_an_end = ["length", "cancelled"].contains(&reason);
        assert_eq!(has_times("queue_ms"), ran_to_an_end, "{line}");
        assert_eq!(has_times("ttft_ms"), ran_to_an_end, "{line}");
    }
    line_of(None, "ternion.v1.RequestService/Cancel");
    line_of(None, "ternion.v1.InferenceService/Detokenize");
    let log = server
        .log_with(|log| log.contains("call turned away"))
        .await;
    for secret in [&key.key[3..], "strangers-key", "xyzzy", "plugh"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
