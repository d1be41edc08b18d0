//! Generate on a model that counts, all but the network.

use std::time::Duration;

use tokio_stream::StreamExt;
use tonic::Code;
use tonic_types::StatusExt;

use super::*;
use crate::{
    drain::Phase,
    fake_model::{CLUMSY, FAILS, GOES_ON, RETENTION, call, served, served_clumsily, served_with},
};

/// Long enough that it never ends while nobody reads.
pub(super) const LONG: u32 = 400;

pub(super) fn counting_from(first: u32, max_tokens: u32) -> v1::GenerateRequest {
    let ids = v1::TokenIds { ids: vec![first] };
    v1::GenerateRequest {
        input: Some(v1::generate_request::Input::TokenIds(ids)),
        sampling: Some(v1::Sampling {
            temperature: Some(0.0),
            ..v1::Sampling::default()
        }),
        stopping: Some(v1::Stopping {
            max_tokens: Some(max_tokens),
            ignore_eos: Some(true),
            ..v1::Stopping::default()
        }),
        request_id: "one".to_owned(),
        ..v1::GenerateRequest::default()
    }
}

pub(super) async fn start(
    served: &Arc<Served>,
    request: v1::GenerateRequest,
) -> Result<Frames, Status> {
    let response = generate(served.clone(), call(served, request)).await?;
    Ok(response.into_inner())
}

/// Everything that comes: frames, and the status if it is not OK.
pub(super) async fn read(
    mut frames: Frames,
) -> (Vec<v1::generate_response::Frame>, Option<Status>) {
    let mut got = Vec::new();
    while let Some(next) = frames.next().await {
        match next {
            Ok(response) => {
                assert_eq!(response.seq, got.len() as u64);
                got.push(response.frame.expect("no frame is empty"));
            }
            Err(status) => return (got, Some(status)),
        }
    }
    (got, None)
}

pub(super) fn finished(frames: &[v1::generate_response::Frame]) -> &v1::Finished {
    match frames.last() {
        Some(v1::generate_response::Frame::Finished(finished)) => finished,
        other => panic!("ends with {other:?}"),
    }
}

pub(super) fn tokens(frames: &[v1::generate_response::Frame]) -> Vec<u32> {
    let deltas = frames.iter().filter_map(|frame| match frame {
        v1::generate_response::Frame::Delta(delta) => Some(&delta.token_ids),
        _ => None,
    });
    deltas.flatten().copied().collect()
}

/// Waits until a request that nobody reads can't go on: the frames ahead are
/// full, its task holds one more, and its outbox is full.
pub(super) async fn stuck(served: &Served, frames: &Frames) {
    samples_stuck(served, frames, 1).await;
}

/// Likewise with so many samples.
pub(super) async fn samples_stuck(served: &Served, frames: &Frames, samples: usize) {
    for _ in 0..3 {
        until(|| {
            served.engine.load().parked == samples && frames.frames().as_ref().len() == FRAMES_AHEAD
        })
        .await;
        // The request's task may have had something to do yet.
        tokio::task::yield_now().await;
    }
}

/// Waits for the engine's thread to give all pages back.
pub(super) async fn all_pages_free(served: &Served) {
    until(|| served.engine.load().kv_pages_free == 32).await;
}

/// Waits until no request is left, not even one that nobody reads.
pub(super) async fn all_ended(served: &Served) {
    let tenant = caller(&call(served, ())).expect("anyone").tenant().clone();
    until(|| served.live.list(&tenant).is_empty()).await;
}

pub(super) async fn until(come: impl Fn() -> bool) {
    let polling = async {
        while !come() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), polling)
        .await
        .expect("it comes to that within two minutes");
}

#[tokio::test]
async fn frames_come_in_order_and_an_id_is_free_after_the_last() {
    let (served, thread) = served();
    for _ in 0..2 {
        let frames = start(&served, counting_from(GOES_ON, 20))
            .await
            .expect("starts");
        let (frames, status) = read(frames).await;
        assert!(status.is_none(), "{status:?}");
        use v1::generate_response::Frame;
        assert!(matches!(
            &frames[..3],
            [Frame::Queued(_), Frame::Started(started), Frame::Delta(_)]
                if started.request_id == "one"
        ));
        let expected: Vec<u32> = (GOES_ON + 1..=GOES_ON + 20).collect();
        assert_eq!(tokens(&frames), expected);
        assert_eq!(finished(&frames).reason(), v1::FinishReason::Length);
        assert_eq!(served.engine.load().kv_pages_free, 32);
    }
    thread.stop();
}

#[tokio::test]
async fn an_id_in_use_is_refused() {
    let (served, thread) = served();
    let _running = start(&served, counting_from(GOES_ON, LONG))
        .await
        .expect("starts");
    let status = start(&served, counting_from(GOES_ON, 1))
        .await
        .expect_err("the first has not ended");
    assert_eq!(status.code(), Code::AlreadyExists);
    thread.stop();
}

#[tokio::test]
async fn a_client_that_goes_away_gives_its_pages_back() {
    let (served, thread) = served();
    let mut frames = start(&served, counting_from(GOES_ON, LONG))
        .await
        .expect("starts");
    frames.next().await.expect("a frame").expect("no error");
    stuck(&served, &frames).await;
    drop(frames);
    all_pages_free(&served).await;
    served.drain.idle().await;
    thread.stop();
}

#[tokio::test]
async fn a_client_that_reads_nothing_for_too_long_fails_and_leaves_nothing_behind() {
    for resumable in [false, true] {
        let (served, thread) = served_with(RETENTION, Some(Duration::from_millis(50)));
        let request = v1::GenerateRequest {
            resumable,
            ..counting_from(GOES_ON, LONG)
        };
        let frames = start(&served, request).await.expect("starts");
        all_ended(&served).await;
        assert_eq!(served.engine.load().kv_pages_free, 32);
        let again = start(&served, counting_from(GOES_ON, 3)).await;
        let (others, status) = read(again.expect("the id is free")).await;
        assert!(status.is_none(), "{status:?}");
        assert_eq!(tokens(&others).len(), 3);

        let (frames, status) = read(frames).await;
        let count = tokens(&frames).len() as u32;
        assert_eq!(
            tokens(&frames),
            (GOES_ON + 1..=GOES_ON + count).collect::<Vec<_>>()
        );
        let status = status.expect("it failed");
        assert_eq!(status.code(), Code::ResourceExhausted);
        let info = status.get_details_error_info().expect("a reason");
        assert_eq!(info.reason, "READER_TOO_SLOW");
        assert_eq!(info.metadata["request_id"], "one");
        thread.stop();
    }
}

#[tokio::test]
async fn a_request_whose_task_panics_says_so_and_leaves_nothing_behind() {
    let (served, thread) = served_clumsily();
    for resumable in [false, true] {
        let request = v1::GenerateRequest {
            resumable,
            ..counting_from(CLUMSY - 3, 9)
        };
        let frames = start(&served, request).await.expect("starts");
        let (_, status) = read(frames).await;
        let status = status.expect("it panicked");
        assert_eq!(status.code(), Code::Internal);
        let info = status.get_details_error_info().expect("a reason");
        assert_eq!(info.metadata["request_id"], "one");
        all_pages_free(&served).await;
        let good = counting_from(GOES_ON, 5);
        let frames = start(&served, good).await.expect("the id is free");
        assert!(read(frames).await.1.is_none(), "the next one is served");
    }
    thread.stop();
}

#[tokio::test]
async fn a_client_that_is_late_gets_many_tokens_in_a_frame() {
    let (served, thread) = served();
    let frames = start(&served, counting_from(GOES_ON, 40))
        .await
        .expect("starts");
    stuck(&served, &frames).await;
    let (frames, _) = read(frames).await;
    let largest = frames.iter().filter_map(|frame| match frame {
        v1::generate_response::Frame::Delta(delta) => Some(delta.token_ids.len()),
        _ => None,
    });
    assert!(largest.max() > Some(2), "an outbox of 4 was full");
    thread.stop();
}

#[tokio::test]
async fn a_client_that_does_not_read_can_still_cancel() {
    let (served, thread) = served();
    let frames = start(&served, counting_from(GOES_ON, LONG))
        .await
        .expect("starts");
    stuck(&served, &frames).await;
    let caller = caller(&call(&served, ())).expect("anyone");
    served.live.cancel(&Scope::calls(caller.tenant()), "one");
    all_pages_free(&served).await;
    let (frames, _) = read(frames).await;
    assert_eq!(finished(&frames).reason(), v1::FinishReason::Cancelled);
    let count = tokens(&frames).len();
    assert_eq!(
        finished(&frames).usage.expect("usage").completion_tokens as usize,
        count,
        "what was generated before is not lost"
    );
    thread.stop();
}

#[tokio::test]
async fn a_deadline_ends_the_stream_with_usage_and_then_its_status() {
    let (served, thread) = served();
    let mut running = Vec::new();
    for (id, resumable) in [("one", false), ("two", true)] {
        let request = v1::GenerateRequest {
            request_id: id.to_owned(),
            resumable,
            ..counting_from(GOES_ON, LONG)
        };
        let mut call = call(&served, request);
        call.metadata_mut()
            .insert("grpc-timeout", "3S".parse().expect("metadata"));
        let frames = generate(served.clone(), call).await.expect("starts");
        running.push(frames.into_inner());
    }
    // Nobody reads until it is past.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for frames in running {
        let (frames, status) = read(frames).await;
        let last = finished(&frames);
        assert_eq!(last.reason(), v1::FinishReason::DeadlineExceeded);
        assert_eq!(last.usage.expect("usage").prompt_tokens, 1);
        assert_eq!(status.expect("a status").code(), Code::DeadlineExceeded);
    }
    all_pages_free(&served).await;
    thread.stop();
}

#[tokio::test]
async fn a_drain_refuses_new_requests_and_at_its_end_cuts_off_the_rest() {
    let (served, thread) = served();
    let running = start(&served, counting_from(GOES_ON, LONG))
        .await
        .expect("starts");
    stuck(&served, &running).await;
    served.drain.advance(Phase::Draining);
    let mut late = counting_from(GOES_ON, 1);
    late.request_id = "late".to_owned();
    let status = start(&served, late).await.expect_err("draining");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_details_retry_info().is_some());
    let reason = status.get_details_error_info().expect("a reason").reason;
    assert_eq!(reason, "DRAINING");

    served.drain.advance(Phase::Ending);
    let (frames, status) = read(running).await;
    assert_eq!(finished(&frames).reason(), v1::FinishReason::Drained);
    assert_eq!(status.expect("a status").code(), Code::Unavailable);
    served.drain.idle().await;
    thread.stop();
}

#[tokio::test]
async fn a_step_that_fails_is_an_internal_error_under_the_requests_id() {
    let (served, thread) = served();
    let frames = start(&served, counting_from(FAILS, 5))
        .await
        .expect("starts");
    let (_, status) = read(frames).await;
    let status = status.expect("fails");
    assert_eq!(status.code(), Code::Internal);
    let info = status.get_details_error_info().expect("a reason");
    assert_eq!(info.metadata["request_id"], "one");
    let frames = start(&served, counting_from(GOES_ON, 5))
        .await
        .expect("starts");
    assert!(read(frames).await.1.is_none(), "the next one is served");
    thread.stop();
}

#[tokio::test]
async fn refusals_say_what_is_wrong_and_what_to_do() {
    let (served, thread) = served();
    let text = |text: &str| v1::GenerateRequest {
        input: Some(v1::generate_request::Input::Text(text.to_owned())),
        ..v1::GenerateRequest::default()
    };

    let unknown = v1::GenerateRequest {
        model: "nothing".to_owned(),
        ..text("x")
    };
    let status = start(&served, unknown).await.expect_err("unknown");
    assert_eq!(status.code(), Code::NotFound);
    let resource = status.get_details_resource_info().expect("which");
    assert_eq!(resource.resource_name, "nothing");

    // The context is 1024 tokens: once too long by its size alone, once
    // only after it is tokenised.
    for too_long in ["z".repeat(1 << 20), "z ".repeat(1100)] {
        let status = start(&served, text(&too_long)).await.expect_err("too long");
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
        let info = status.get_details_error_info().expect("a reason");
        assert_eq!(info.metadata["limit"], "1024");
        let got: usize = info.metadata["got"].parse().expect("a number");
        assert!(got > 1024, "{got}");
        let bad = status.get_details_bad_request().expect("a field");
        assert_eq!(bad.field_violations[0].field, "text");
    }

    let status = start(&served, counting_from(GOES_ON, 2000))
        .await
        .expect_err("too many");
    assert_eq!(status.code(), Code::OutOfRange);
    // 32 pages of 16 tokens hold half of the context.
    let status = start(&served, counting_from(GOES_ON, 600))
        .await
        .expect_err("never fits");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.get_details_precondition_failure().is_some());

    let mut running = Vec::new();
    for i in 0..3 {
        let mut request = counting_from(GOES_ON, LONG);
        request.request_id = format!("running {i}");
        running.push(start(&served, request).await.expect("starts"));
    }
    let status = start(&served, text("x")).await.expect_err("full");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().is_some());
    let info = status.get_details_error_info().expect("a reason");
    assert_eq!(info.reason, "QUEUE_FULL");
    thread.stop();
}

#[tokio::test]
async fn a_request_that_names_no_length_takes_what_the_cache_can_hold() {
    let (served, thread) = served();
    let mut request = counting_from(GOES_ON, 1);
    request.stopping.as_mut().expect("set").max_tokens = None;
    let frames = start(&served, request).await.expect("fits");
    let (frames, _) = read(frames).await;
    // 512 tokens have room, one of them the prompt's, and the last needs none.
    assert_eq!(
        finished(&frames).usage.expect("usage").completion_tokens,
        512
    );
    thread.stop();
}
