//! How much: rates, lengths and requests at once, refused and released.

use super::*;

/// When a refused call may be made again, as an interval on this clock: its
/// ends are the sending of the call and the arrival of its answer, both later
/// by what the refusal says.
#[derive(Debug)]
struct Release {
    earliest: Instant,
    latest: Instant,
}

/// Calls until the limit is reached, which is at once, unless the machine took
/// so long that something has come back. What is let in is kept alive.
async fn refused<T>(
    mut call: impl AsyncFnMut() -> Result<T, Error>,
    let_in: &mut Vec<T>,
) -> (Error, Release) {
    loop {
        let sent = Instant::now();
        match call().await {
            Ok(it) => let_in.push(it),
            Err(error) => {
                let release = Release::told(&error, sent);
                return (error, release);
            }
        }
    }
}

/// Half-way to the moment that a refusal tells, another one tells the same.
async fn refused_alike<T>(
    mut call: impl AsyncFnMut() -> Result<T, Error>,
    let_in: &mut Vec<T>,
) -> Error {
    loop {
        let (error, release) = refused(&mut call, let_in).await;
        let half = release.earliest.saturating_duration_since(Instant::now()) / 2;
        tokio::time::sleep(half).await;
        let sent = Instant::now();
        match call().await {
            Err(again) => {
                let again = Release::told(&again, sent);
                assert!(release.agrees_with(&again), "{release:?} {again:?}");
                return error;
            }
            // A machine that was busy for the other half.
            Ok(it) => {
                assert!(Instant::now() >= release.earliest, "{release:?}");
                let_in.push(it);
            }
        }
    }
}

impl Release {
    fn told(error: &Error, sent: Instant) -> Release {
        let received = Instant::now();
        assert!(
            matches!(error, Error::ResourceExhausted { .. }),
            "{error:?}"
        );
        let wait = error.retry_after().expect("it says when");
        assert!(!wait.is_zero());
        Release {
            earliest: sent + wait,
            latest: received + wait,
        }
    }

    /// Whether both can mean one moment. Waits are rounded up to a
    /// millisecond.
    fn agrees_with(&self, other: &Release) -> bool {
        let slack = Duration::from_millis(1);
        self.earliest <= other.latest + slack && other.earliest <= self.latest + slack
    }
}

fn quota(error: &Error) -> (String, String) {
    let status = error.status().expect("the server answered");
    let quota = status.get_details_quota_failure().expect("a quota");
    let [violation] = &quota.violations[..] else {
        panic!("{quota:?}");
    };
    (violation.subject.clone(), reason(error))
}

#[tokio::test]
async fn requests_a_minute_are_released_when_the_refusal_said() {
    let (acme, other) = (keygen(), keygen());
    let tenants = Tenants::new()
        .with("acme", "'inference'", &acme, "requests_per_minute = 60")
        .with("other", "'inference'", &other, "");
    let server = tenants.serve(&[]);
    let client = client(&server, &acme).await;
    let call = async || {
        let request = DetokenizeRequest {
            token_ids: vec![1016],
            ..DetokenizeRequest::default()
        };
        client.detokenize(request).await.map(drop)
    };

    // A minute's worth at once, and one a second.
    let begun = Instant::now();
    let mut served = Vec::new();
    let (error, release) = refused(call, &mut served).await;
    let refilled = begun.elapsed().as_secs() as usize;
    assert!((60..=61 + refilled).contains(&served.len()), "{served:?}");
    assert_eq!(
        quota(&error),
        ("acme".to_owned(), "REQUESTS_PER_MINUTE".to_owned())
    );
    // One takes a second to come back, and a part of it may have passed.
    assert!(release.latest <= Instant::now() + Duration::from_secs(1));
    tokio::time::sleep_until(release.latest.into()).await;
    call().await.expect("it is the time that was told");

    refused_alike(call, &mut served).await;
    // And text counts from the same bucket.
    let begun = Instant::now();
    let mut texts = Vec::new();
    let text = async || client.generate(greedy(&[1016], 1)).await;
    let (error, release) = refused(text, &mut texts).await;
    assert_eq!(quota(&error).1, "REQUESTS_PER_MINUTE");
    let refilled = begun.elapsed().as_secs() as usize;
    assert!(texts.len() <= 1 + refilled, "{texts:?}");
    tokio::time::sleep_until(release.latest.into()).await;
    call().await.expect("a refused call takes nothing");

    let other = crate::client(&server, &other).await;
    answer(&other, greedy(&[1016], 1)).await;
}

#[tokio::test]
async fn tokens_a_minute_are_released_when_the_refusal_said() {
    let key = keygen();
    let tenants = Tenants::new().with("acme", "'inference'", &key, "tokens_per_minute = 60");
    let server = tenants.serve(&[]);
    let client = client(&server, &key).await;

    let never = client.generate(greedy(&[1016, 591], 59)).await;
    let never = never.expect_err("61 are more than there ever are");
    assert_eq!(never.code(), Code::FailedPrecondition, "{never:?}");
    assert_eq!(reason(&never), "NEVER_FITS");
    let status = never.status().expect("the server answered");
    assert!(status.get_details_precondition_failure().is_some());

    // Two of prompt and 28 of output, twice: then the minute's are used up.
    for _ in 0..2 {
        let answer = answer(&client, greedy(&[1016, 591], 28)).await;
        let usage = answer.finished().usage.expect("every ending has it");
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (2, 28));
    }
    // One a second comes back.
    let small = async || client.generate(greedy(&[1016, 591], 1)).await;
    let mut events = Vec::new();
    let error = refused_alike(small, &mut events).await;
    assert_eq!(
        quota(&error),
        ("acme".to_owned(), "TOKENS_PER_MINUTE".to_owned())
    );
    let info = error.status().and_then(StatusExt::get_details_error_info);
    let info = info.expect("every refusal has a reason");
    assert_eq!(info.metadata["asked"], "3");
    assert_eq!(info.metadata["limit"], "60");
    let (_, release) = refused(small, &mut events).await;
    tokio::time::sleep_until(release.latest.into()).await;
    small().await.expect("it is the time that was told");
}

#[tokio::test]
async fn what_was_set_aside_and_not_used_comes_back() {
    let key = keygen();
    let tenants = Tenants::new().with("acme", "'inference'", &key, "tokens_per_minute = 1000");
    let (_kernel, server) = tenants.serve_slowly(&[]);
    let client = client(&server, &key).await;
    // Each sets 502 of 1000 aside and uses two and a few, so that two would
    // be too many if nothing came back.
    for _ in 0..4 {
        let request = greedy(&[1016, 591], 500);
        let mut events = client.generate(request).await.expect("there is room");
        while !matches!(next(&mut events).await, Event::Delta(_)) {}
        drop(events);
        // The server notices within a step.
        while !client.requests().await.expect("it is up").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn lengths_are_limited_by_tenant() {
    let key = keygen();
    let limits = "max_prompt_tokens = 4\nmax_output_tokens = 7";
    let tenants = Tenants::new().with("acme", "'inference'", &key, limits);
    let server = tenants.serve(&[]);
    let client = client(&server, &key).await;
    let long = "Once upon a time there was a little girl who lived in a village";
    let stopping = greedy(&[1016], 7).request.stopping.expect("it has");
    for (field, request) in [
        ("token_ids", greedy(&[1016, 591, 580, 1016, 591], 7)),
        ("text", Generate::text(long).stopping(stopping.clone())),
        ("chat", Generate::chat([user(long)]).stopping(stopping)),
        ("stopping.max_tokens", greedy(&[1016, 591, 580, 1016], 8)),
    ] {
        let error = client.generate(request).await;
        let error = error.expect_err("too long");
        assert_eq!(error.code(), Code::OutOfRange, "{field}: {error:?}");
        assert_eq!(error.violations()[0].field, field);
        let expected = match field {
            "stopping.max_tokens" => ("MAX_OUTPUT_TOKENS", "8", "7"),
            "token_ids" => ("MAX_PROMPT_TOKENS", "5", "4"),
            _ => {
                assert_eq!(reason(&error), "MAX_PROMPT_TOKENS");
                continue;
            }
        };
        let info = error.status().and_then(StatusExt::get_details_error_info);
        let info = info.expect("every refusal has a reason");
        let got = (
            info.reason.as_str(),
            info.metadata["got"].as_str(),
            info.metadata["limit"].as_str(),
        );
        assert_eq!(got, expected);
    }
    // Exactly as much as may be; and who names no length gets that.
    let mut unnamed = greedy(&[1016, 591, 580, 1016], 7);
    let named = answer(&client, greedy(&[1016, 591, 580, 1016], 7)).await;
    let stopping = unnamed.request.stopping.as_mut().expect("it has");
    stopping.max_tokens = None;
    let unnamed = answer(&client, unnamed).await;
    for answer in [named, unnamed] {
        assert_eq!(answer.token_ids.len(), 7);
        assert_eq!(answer.finished().reason(), FinishReason::Length);
    }
}

#[tokio::test]
async fn requests_at_once_are_limited_by_tenant() {
    let (acme, other) = (keygen(), keygen());
    let tenants = Tenants::new()
        .with("acme", "'inference'", &acme, "concurrent_requests = 2")
        .with("other", "'inference'", &other, "");
    let (_kernel, server) = tenants.serve_slowly(&ONE_AT_A_TIME);
    let client = client(&server, &acme).await;
    let mut session = client.session().await.expect("a session opens");
    for id in ["first", "second", "third"] {
        session.start(id, long("")).await.expect("it is open");
    }
    let error = session_end(&mut session, "third").await;
    let error = error.expect_err("two are alive");
    assert_eq!(
        quota(&error),
        ("acme".to_owned(), "CONCURRENT_REQUESTS".to_owned())
    );
    assert!(error.retry_after().is_some());
    let error = client.generate(long("")).await.expect_err("two are alive");
    assert_eq!(quota(&error).1, "CONCURRENT_REQUESTS");
    let theirs = crate::client(&server, &other).await;
    let theirs = theirs.generate(long("")).await;
    let theirs = theirs.expect("another tenant's requests are none of ours");

    session.cancel("second").await.expect("it is open");
    let end = session_end(&mut session, "second").await.expect("it ran");
    assert_eq!(end, FinishReason::Cancelled);
    session.start("third", long("")).await.expect("it is open");
    session.cancel("third").await.expect("it is open");
    let end = session_end(&mut session, "third").await;
    assert_eq!(
        end.expect("there was a place again"),
        FinishReason::Cancelled
    );
    drop((session, theirs));
}

#[tokio::test]
async fn a_place_is_free_as_soon_as_the_last_frame_is_read() {
    let key = keygen();
    let tenants = Tenants::new().with("acme", "'inference'", &key, "concurrent_requests = 1");
    let server = tenants.serve(&[]);
    let client = client(&server, &key).await;
    for _ in 0..50 {
        answer(&client, greedy(&[1016, 591], 1)).await;
    }
    let mut session = client.session().await.expect("a session opens");
    for _ in 0..50 {
        session
            .start("one", greedy(&[1016, 591], 1))
            .await
            .expect("it is open");
        let end = session_end(&mut session, "one").await;
        assert_eq!(end.expect("there is a place"), FinishReason::Length);
    }
}
