//! Requests that outlive their readers, all but the network.

use std::time::Duration;

use tokio_stream::StreamExt;
use tonic::Code;
use tonic_types::StatusExt;

use super::{
    tests::{
        LONG, all_ended, all_pages_free, counting_from, finished, start, stuck, tokens, until,
    },
    *,
};
use crate::{
    drain::Phase,
    fake_model::{GOES_ON, RETENTION, served, served_with, tenants},
    retained::{RetainedRequests, Retention},
};

fn resumable(max_tokens: u32) -> v1::GenerateRequest {
    v1::GenerateRequest {
        resumable: true,
        ..counting_from(GOES_ON, max_tokens)
    }
}

fn keyed(key: &str, max_tokens: u32) -> v1::GenerateRequest {
    v1::GenerateRequest {
        idempotency_key: key.to_owned(),
        request_id: String::new(),
        ..counting_from(GOES_ON, max_tokens)
    }
}

fn resume(last_seq: Option<u64>) -> v1::GenerateRequest {
    v1::GenerateRequest {
        resume: Some(v1::Resume {
            request_id: "one".to_owned(),
            last_seq,
        }),
        ..v1::GenerateRequest::default()
    }
}

type Read = (Vec<v1::generate_response::Frame>, Option<Status>);

/// Everything that comes, from a frame on.
async fn read_from(seq: u64, mut frames: Frames) -> Read {
    let mut got = Vec::new();
    while let Some(next) = frames.next().await {
        match next {
            Ok(response) => {
                assert_eq!(response.seq, seq + got.len() as u64);
                got.push(response.frame.expect("no frame is empty"));
            }
            Err(status) => return (got, Some(status)),
        }
    }
    (got, None)
}

/// The first frames, and then the stream breaks.
async fn read_some(mut frames: Frames, count: usize) -> Vec<v1::generate_response::Frame> {
    let mut got = Vec::new();
    while got.len() < count {
        let next = frames.next().await.expect("a frame").expect("no error");
        got.push(next.frame.expect("no frame is empty"));
    }
    got
}

fn counted(count: u32) -> Vec<u32> {
    (GOES_ON + 1..=GOES_ON + count).collect()
}

#[tokio::test]
async fn a_request_is_read_on_without_a_gap_however_often_its_stream_breaks() {
    let (served, thread) = served();
    let frames = start(&served, resumable(60)).await.expect("starts");
    let mut all = read_some(frames, 3).await;
    for _ in 0..4 {
        let last = all.len() as u64 - 1;
        let frames = start(&served, resume(Some(last)))
            .await
            .expect("it is kept");
        all.extend(read_some(frames, 2).await);
    }
    // Of the last two the client has heard nothing.
    all.truncate(all.len() - 2);
    let seq = all.len() as u64;
    let frames = start(&served, resume(Some(seq - 1)))
        .await
        .expect("it is kept");
    let (rest, status) = read_from(seq, frames).await;
    assert!(status.is_none(), "{status:?}");
    all.extend(rest);
    assert_eq!(tokens(&all), counted(60));
    assert_eq!(finished(&all).reason(), v1::FinishReason::Length);
    assert_eq!(
        served.engine.load().computed_tokens,
        60,
        "nothing was generated twice"
    );

    // Even after its end.
    let frames = start(&served, resume(None)).await.expect("it is kept");
    assert_eq!(tokens(&read_from(0, frames).await.0), counted(60));
    served.drain.idle().await;
    thread.stop();
}

#[tokio::test]
async fn without_a_reader_a_request_is_parked_and_ends_after_its_grace() {
    let retention = Retention {
        grace: Duration::from_millis(200),
        ..RETENTION
    };
    let (served, thread) = served_with(retention, None);
    let frames = start(&served, resumable(LONG)).await.expect("starts");
    read_some(frames, 3).await;
    all_pages_free(&served).await;
    let steps = served.engine.load().steps;
    assert!(steps < u64::from(LONG), "{steps} steps: it went on");
    served.drain.idle().await;
    let status = start(&served, resume(Some(2))).await.expect_err("too late");
    assert_eq!(status.code(), Code::NotFound);
    let info = status.get_details_error_info().expect("a reason");
    assert_eq!(info.reason, "REQUEST_NOT_FOUND");
    start(&served, resumable(1)).await.expect("the id is free");
    thread.stop();
}

#[tokio::test]
async fn whoever_reads_is_given_all_of_it_however_long_that_takes() {
    let retention = Retention {
        grace: Duration::from_millis(50),
        finished_bytes: 0,
        ..RETENTION
    };
    let (served, thread) = served_with(retention, None);
    let mut frames = start(&served, resumable(30)).await.expect("starts");
    let mut all = Vec::new();
    while let Some(next) = frames.next().await {
        let frame = next.expect("no error").frame.expect("no frame is empty");
        all.push(frame);
        // Its end is long past when the reader comes to it.
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    assert_eq!(tokens(&all), counted(30));
    assert_eq!(finished(&all).reason(), v1::FinishReason::Length);
    thread.stop();
}

#[tokio::test]
async fn a_request_can_go_on_without_a_reader() {
    let retention = Retention {
        goes_on: true,
        ..RETENTION
    };
    let (served, thread) = served_with(retention, None);
    let frames = start(&served, resumable(LONG)).await.expect("starts");
    let mut all = read_some(frames, 3).await;
    all_pages_free(&served).await;
    served.drain.idle().await;
    let frames = start(&served, resume(Some(2))).await.expect("it is kept");
    all.extend(read_from(3, frames).await.0);
    assert_eq!(tokens(&all), counted(LONG));
    assert_eq!(finished(&all).reason(), v1::FinishReason::Length);
    thread.stop();
}

#[tokio::test]
async fn a_request_without_a_reader_can_be_cancelled_and_does_not_hold_up_a_drain() {
    let (served, thread) = served();
    let frames = start(&served, resumable(LONG)).await.expect("starts");
    read_some(frames, 3).await;
    let caller = caller(&crate::fake_model::call(&served, ())).expect("anyone");
    served.live.cancel(&Scope::calls(caller.tenant()), "one");
    all_pages_free(&served).await;
    served.drain.idle().await;
    let frames = start(&served, resume(Some(2))).await.expect("it is kept");
    let (frames, _) = read_from(3, frames).await;
    assert_eq!(finished(&frames).reason(), v1::FinishReason::Cancelled);

    let frames = start(&served, resumable(LONG))
        .await
        .expect("the id is free");
    read_some(frames, 3).await;
    served.drain.advance(Phase::Draining);
    served.drain.idle().await;
    all_pages_free(&served).await;
    thread.stop();
}

#[tokio::test]
async fn who_comes_later_reads_on() {
    let (served, thread) = served();
    let first = start(&served, resumable(LONG)).await.expect("starts");
    stuck(&served, &first).await;
    let second = start(&served, resume(None)).await.expect("it runs");
    let status = read_from(0, first).await.1.expect("it is another's");
    assert_eq!(status.code(), Code::Aborted);
    let (frames, status) = read_from(0, second).await;
    assert!(status.is_none(), "{status:?}");
    assert_eq!(tokens(&frames), counted(LONG));
    thread.stop();
}

#[tokio::test]
async fn the_same_key_generates_once() {
    let (served, thread) = served();
    let first = start(&served, keyed("k", LONG)).await.expect("starts");
    stuck(&served, &first).await;
    // The client has given up on it; the connection does not know yet.
    let retried = start(&served, keyed("k", LONG)).await.expect("it runs");
    let status = read_from(0, first).await.1.expect("it is another's");
    assert_eq!(
        status.get_details_error_info().expect("a reason").reason,
        "TAKEN_OVER"
    );
    let answer = read_from(0, retried).await.0;
    assert_eq!(tokens(&answer), counted(LONG));
    // Again after its end, by a client that does not know that it did.
    let retried = start(&served, keyed("k", LONG)).await.expect("it is kept");
    assert_eq!(read_from(0, retried).await.0, answer);
    let load = served.engine.load();
    assert_eq!(load.computed_tokens, u64::from(LONG), "generated once");

    let mut other = keyed("k", LONG + 1);
    other.sampling.as_mut().expect("set").seed = Some(1);
    let status = start(&served, other).await.expect_err("another request");
    assert_eq!(status.code(), Code::InvalidArgument);
    let bad = status.get_details_bad_request().expect("fields");
    let fields: Vec<_> = bad
        .field_violations
        .iter()
        .map(|v| v.field.as_str())
        .collect();
    assert_eq!(fields, ["sampling", "stopping"]);
    let other = start(&served, keyed("l", 3)).await.expect("another key");
    assert_eq!(tokens(&read_from(0, other).await.0), counted(3));
    thread.stop();
}

#[tokio::test]
async fn a_request_that_was_refused_keeps_no_key() {
    let (served, thread) = served();
    let status = start(&served, keyed("k", 600))
        .await
        .expect_err("never fits");
    assert_eq!(status.code(), Code::FailedPrecondition);
    let frames = start(&served, keyed("k", 3))
        .await
        .expect("the key is free");
    assert_eq!(tokens(&read_from(0, frames).await.0), counted(3));
    thread.stop();
}

#[tokio::test]
async fn refusals_name_what_is_wrong() {
    let tight = Retention {
        request_bytes: 600,
        ..RETENTION
    };
    let (served, thread) = served_with(tight, None);
    let field = |status: Status| {
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let bad = status.get_details_bad_request().expect("a field");
        bad.field_violations[0].field.clone()
    };
    let nameless = v1::GenerateRequest {
        request_id: String::new(),
        ..resumable(1)
    };
    let status = start(&served, nameless).await.expect_err("no id");
    assert_eq!(field(status), "request_id");
    let status = start(&served, keyed(&"k".repeat(129), 1)).await;
    assert_eq!(field(status.expect_err("too long")), "idempotency_key");
    let longest = start(&served, keyed(&"k".repeat(128), 1)).await;
    read_from(0, longest.expect("as long as one may be")).await;

    let frames = start(&served, resumable(LONG)).await.expect("starts");
    let status = start(&served, resumable(LONG)).await.expect_err("in use");
    assert_eq!(status.code(), Code::AlreadyExists);
    read_some(frames, 40).await;
    let status = start(&served, resume(Some(9999))).await.expect_err("ahead");
    assert_eq!(field(status), "resume.last_seq");
    let status = start(&served, resume(None)).await.expect_err("forgotten");
    assert_eq!(status.code(), Code::OutOfRange);
    let info = status.get_details_error_info().expect("a reason");
    assert_eq!(info.reason, "FRAMES_FORGOTTEN");
    let begin: u64 = info.metadata["begin"].parse().expect("a number");
    let both = v1::GenerateRequest {
        resume: resume(None).resume,
        ..counting_from(GOES_ON, 1)
    };
    assert_eq!(
        field(start(&served, both).await.expect_err("both")),
        "input"
    );
    let frames = start(&served, resume(Some(begin - 1)))
        .await
        .expect("it is kept");
    read_from(begin, frames).await;
    thread.stop();
}

/// Three samples of a token each: five frames at least behind the first two,
/// of which the reader's channel holds four in all, and the request has ended.
async fn ended_unread(served: &Arc<Served>) -> Frames {
    let request = v1::GenerateRequest {
        n: Some(3),
        ..resumable(1)
    };
    let frames = start(served, request).await.expect("starts");
    all_ended(served).await;
    frames
}

/// Longer than whatever is not to happen takes, if it does.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn nothing_is_cut_off_from_whoever_still_reads() {
    let retention = Retention {
        grace: Duration::from_millis(50),
        ..RETENTION
    };
    for (retention, drains) in [
        (retention, false),
        (RETENTION, true),
        (
            Retention {
                finished_bytes: 0,
                ..RETENTION
            },
            false,
        ),
    ] {
        let (served, thread) = served_with(retention, None);
        let frames = ended_unread(&served).await;
        if drains {
            served.drain.advance(Phase::Draining);
        }
        a_while().await;
        let (frames, status) = read_from(0, frames).await;
        assert!(status.is_none(), "{status:?}");
        assert_eq!(tokens(&frames), [GOES_ON + 1; 3]);
        assert_eq!(finished(&frames).remaining, 0);
        thread.stop();
    }
}

#[tokio::test]
async fn an_answer_that_nobody_reads_to_its_end_does_not_hold_up_a_drain() {
    let (served, thread) = served();
    let frames = ended_unread(&served).await;
    let idle = tokio::time::timeout(Duration::from_millis(50), served.drain.idle());
    idle.await.expect_err("its reader is on its way");
    drop(frames);
    let idle = tokio::time::timeout(RETENTION.grace / 2, served.drain.idle());
    idle.await.expect("long before its grace is over");
    thread.stop();
}

#[tokio::test]
async fn an_answer_is_kept_for_its_grace_and_no_longer() {
    let retention = Retention {
        grace: Duration::from_millis(100),
        ..RETENTION
    };
    let (served, thread) = served_with(retention, None);
    let frames = start(&served, keyed("k", 3)).await.expect("starts");
    read_from(0, frames).await;
    let mut tries = 0..600;
    // The same key is that of another request then, which is generated.
    while served.engine.load().computed_tokens == 3 && tries.next().is_some() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let frames = start(&served, keyed("k", 3)).await.expect("one or another");
        assert_eq!(tokens(&read_from(0, frames).await.0), counted(3));
    }
    assert_eq!(served.engine.load().computed_tokens, 6);
    thread.stop();
}

#[tokio::test]
async fn whoever_has_to_make_room_is_gone_with_all_it_kept() {
    let retention = Retention {
        finished_bytes: 0,
        ..RETENTION
    };
    let (served, thread) = served_with(retention, None);
    let frames = start(&served, resumable(LONG)).await.expect("starts");
    let caller = caller(&crate::fake_model::call(&served, ())).expect("anyone");
    let found = served.retained.begin(caller.tenant(), "", &resume(None));
    let line = match found {
        Ok(Begin::Attach { line, .. }) => Arc::downgrade(&line),
        other => panic!("{other:?}"),
    };
    read_from(0, frames).await;
    until(|| line.strong_count() == 0).await;
    let status = start(&served, resume(None)).await.expect_err("it is gone");
    assert_eq!(status.code(), Code::NotFound);
    thread.stop();
}

#[tokio::test]
async fn without_a_reader_a_request_goes_on_as_far_as_there_is_room() {
    let retention = Retention {
        goes_on: true,
        request_bytes: 600,
        ..RETENTION
    };
    let (served, thread) = served_with(retention, None);
    let frames = start(&served, resumable(LONG)).await.expect("starts");
    read_some(frames, 3).await;
    a_while().await;
    until(|| served.engine.load().parked == 1).await;
    let computed = served.engine.load().computed_tokens;
    assert!(computed < u64::from(LONG), "{computed} tokens");
    thread.stop();
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_not_computed_for() {
    let (served, thread) = served();
    let frames = start(&served, resumable(LONG)).await.expect("starts");
    stuck(&served, &frames).await;
    a_while().await;
    until(|| served.engine.load().parked == 1).await;
    let computed = served.engine.load().computed_tokens;
    assert!(computed < u64::from(LONG), "{computed} tokens");
    thread.stop();
}

#[tokio::test]
async fn a_session_that_reads_on_cancels_by_its_own_id() {
    let (served, thread) = served();
    let frames = start(&served, resumable(LONG)).await.expect("starts");
    stuck(&served, &frames).await;
    let caller = caller(&crate::fake_model::call(&served, ())).expect("anyone");
    let found = served.retained.begin(caller.tenant(), "", &resume(None));
    let Ok(Begin::Attach { line, last, .. }) = found else {
        panic!("it is kept");
    };
    let session = served.live.session(caller.tenant());
    let claim = served.live.claim(&session, "mine".to_owned());
    let claim = claim.expect("the id is free");
    let (out, mut responses) = mpsc::channel(4);
    let reader = Reader::of_session("mine", &out);
    drop(out);
    line.attach(reader, last, Some(claim))
        .await
        .expect("it runs");
    read_from(0, frames).await.1.expect("it is another's");
    // The one of the call that began it is no more.
    served.live.cancel(&Scope::calls(caller.tenant()), "one");
    let ids = |served: &Served| -> Vec<String> {
        let live = served.live.list(caller.tenant());
        live.into_iter().map(|live| live.id).collect()
    };
    assert_eq!(ids(&served), ["mine"]);
    served.live.cancel(&session, "mine");
    let mut seq = 0;
    let mut last = None;
    while let Some(response) = responses.recv().await {
        let response = response.expect("a session has no status");
        assert_eq!((response.request_id.as_str(), response.seq), ("mine", seq));
        seq += 1;
        last = response.frame;
    }
    let Some(v1::session_response::Frame::Finished(finished)) = last else {
        panic!("ends with {last:?}");
    };
    assert_eq!(finished.reason(), v1::FinishReason::Cancelled);
    thread.stop();
}

#[tokio::test]
async fn a_session_is_told_that_another_reads_on() {
    let (served, thread) = served();
    let frames = start(&served, resumable(LONG)).await.expect("starts");
    stuck(&served, &frames).await;
    let caller = caller(&crate::fake_model::call(&served, ())).expect("anyone");
    let found = served.retained.begin(caller.tenant(), "", &resume(None));
    let Ok(Begin::Attach { line, last, .. }) = found else {
        panic!("it is kept");
    };
    // Too little room for all of it, so that it can't be through before that.
    let (out, mut responses) = mpsc::channel(4);
    let reader = Reader::of_session("mine", &out);
    drop(out);
    line.attach(reader, last, None).await.expect("it runs");
    let frames = start(&served, resume(None)).await.expect("it runs");
    let mut told = None;
    while let Some(response) = responses.recv().await {
        let response = response.expect("a session has no status");
        assert_eq!(response.request_id, "mine");
        told = response.frame;
    }
    let Some(v1::session_response::Frame::Failed(failed)) = told else {
        panic!("ends with {told:?}");
    };
    let status = failed.status.expect("why");
    assert_eq!(status.code, Code::Aborted as i32);
    assert_eq!(tokens(&read_from(0, frames).await.0), counted(LONG));
    thread.stop();
}

#[test]
fn what_differs_under_a_key_is_named_field_by_field() {
    use v1::generate_request::Input;

    let retained = Arc::new(RetainedRequests::new(RETENTION));
    let [acme, _] = tenants();
    let same = || v1::GenerateRequest {
        n: Some(1),
        ..keyed("key", 3)
    };
    let Ok(Begin::Retained(_kept)) = retained.begin(&acme, "one", &same()) else {
        panic!("it is new");
    };
    type Change = fn(&mut v1::GenerateRequest);
    let changes: [(&str, Change); 9] = [
        ("model", |request| request.model = "demo".to_owned()),
        ("input", |request| {
            request.input = Some(Input::Text("x".to_owned()))
        }),
        ("sampling", |request| request.sampling = None),
        ("stopping", |request| request.stopping = None),
        ("parse_special", |request| {
            request.parse_special = Some(true)
        }),
        ("add_bos", |request| request.add_bos = Some(true)),
        ("priority", |request| request.priority = Some(1)),
        ("logprobs", |request| request.logprobs = Some(1)),
        ("n", |request| request.n = Some(2)),
    ];
    for (field, change) in changes {
        let mut other = same();
        change(&mut other);
        let refusal = retained.begin(&acme, "two", &other).expect_err(field);
        let status = Status::from(refusal);
        let bad = status.get_details_bad_request().expect("fields");
        let fields = bad.field_violations.iter().map(|v| v.field.as_str());
        assert_eq!(fields.collect::<Vec<_>>(), [field]);
    }
    // How its frames are wanted is not what is asked for.
    let other = v1::GenerateRequest {
        request_id: "another".to_owned(),
        resumable: true,
        ..same()
    };
    let again = retained.begin(&acme, "another", &other);
    assert!(matches!(again, Ok(Begin::Attach { .. })), "{again:?}");
}

#[test]
fn an_id_of_a_request_that_ended_can_be_another_ones() {
    let retained = Arc::new(RetainedRequests::new(RETENTION));
    let [acme, _] = tenants();
    let begin = |id: &str, key: &str| {
        let request = v1::GenerateRequest {
            idempotency_key: key.to_owned(),
            resumable: true,
            ..v1::GenerateRequest::default()
        };
        retained.begin(&acme, id, &request).expect("a good request")
    };
    let is_kept = || retained.begin(&acme, "", &resume(None)).is_ok();
    let Begin::Retained(first) = begin("one", "key") else {
        panic!("it is new");
    };
    first.finished(60);
    let Begin::Retained(second) = begin("one", "") else {
        panic!("the first has ended");
    };
    let line = first.line.clone();
    let leave = std::pin::pin!(line.leave.notified());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(
        leave.poll(&mut context).is_ready(),
        "the first is told to go"
    );
    let Begin::Retained(_third) = begin("two", "key") else {
        panic!("the key went with the first");
    };
    // What the first leaves behind is not its own any more.
    drop(first);
    assert!(is_kept());
    assert!(matches!(begin("three", "key"), Begin::Attach { .. }));
    drop(second);
    assert!(!is_kept());
}

#[test]
fn those_that_ended_have_all_the_room_there_is() {
    let retained = Arc::new(RetainedRequests::new(Retention {
        finished_bytes: 100,
        ..RETENTION
    }));
    let [acme, _] = tenants();
    let finish = |id: &str, bytes| {
        let request = v1::GenerateRequest {
            resumable: true,
            ..v1::GenerateRequest::default()
        };
        let Ok(Begin::Retained(registration)) = retained.begin(&acme, id, &request) else {
            panic!("it is new");
        };
        registration.finished(bytes);
        registration
    };
    let is_kept = |id: &str| {
        let resume = v1::GenerateRequest {
            resume: Some(v1::Resume {
                request_id: id.to_owned(),
                last_seq: None,
            }),
            ..v1::GenerateRequest::default()
        };
        retained.begin(&acme, "", &resume).is_ok()
    };
    let _kept = [finish("a", 60), finish("b", 40)];
    assert!(is_kept("a") && is_kept("b"), "a hundred may be");
    let _one = finish("c", 1);
    assert!(
        !is_kept("a") && is_kept("b") && is_kept("c"),
        "the oldest goes"
    );
    let _much = finish("d", 60);
    assert!(!is_kept("b") && is_kept("c") && is_kept("d"));
}

#[test]
fn tenants_find_their_own_only_and_those_that_ended_make_room() {
    let retained = Arc::new(RetainedRequests::new(Retention {
        finished_bytes: 100,
        ..RETENTION
    }));
    let [acme, other] = tenants();
    let begin = |tenant, id: &str, key: &str| {
        let request = v1::GenerateRequest {
            idempotency_key: key.to_owned(),
            resumable: true,
            ..v1::GenerateRequest::default()
        };
        retained
            .begin(tenant, id, &request)
            .expect("a good request")
    };
    let is_kept = |tenant| retained.begin(tenant, "", &resume(None)).is_ok();
    let Begin::Retained(one) = begin(&acme, "one", "key") else {
        panic!("it is new");
    };
    assert!(is_kept(&acme) && !is_kept(&other));
    let Begin::Retained(theirs) = begin(&other, "one", "key") else {
        panic!("neither the id nor the key is theirs");
    };
    assert!(matches!(begin(&acme, "two", "key"), Begin::Attach { .. }));
    drop(theirs);
    assert!(is_kept(&acme) && !is_kept(&other));

    one.finished(60);
    assert!(is_kept(&acme));
    let Begin::Retained(next) = begin(&acme, "next", "") else {
        panic!("it is new");
    };
    next.finished(60);
    assert!(!is_kept(&acme), "the older one made room");
    assert!(matches!(begin(&acme, "one", "key"), Begin::Retained(_)));
}
