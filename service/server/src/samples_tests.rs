//! Requests with several samples, all but the network.

use ternion_engine::Limits;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_types::StatusExt;

use super::{
    tests::{
        LONG, all_pages_free, counting_from, finished, read, samples_stuck, start, tokens, until,
    },
    *,
};
use crate::{
    engine_loop::EngineThread,
    fake_model::{FAILS, GOES_ON, RETENTION, call, served, served_within},
    load::Load,
};

type Frame = v1::generate_response::Frame;

/// Room for four sequences, and four more that wait.
fn served_to_samples() -> (Arc<Served>, EngineThread) {
    let limits = Limits {
        num_blocks: 32,
        block_size: 16,
        max_num_seqs: 4,
        max_num_batched_tokens: 64,
        step_budget: None,
        max_draft_tokens: 0,
        max_queued: 4,
        max_queued_tokens: usize::MAX,
        max_model_len: 400,
    };
    served_within(limits, 4, RETENTION, None)
}

fn samples(n: u32, first: u32, max_tokens: u32) -> v1::GenerateRequest {
    v1::GenerateRequest {
        n: Some(n),
        ..counting_from(first, max_tokens)
    }
}

/// The tokens of one of them.
fn tokens_of(frames: &[Frame], index: u32) -> Vec<u32> {
    let own = frames.iter().filter(|frame| match frame {
        Frame::Delta(delta) => delta.index == index,
        _ => false,
    });
    tokens(&own.cloned().collect::<Vec<_>>())
}

fn endings(frames: &[Frame]) -> Vec<&v1::Finished> {
    let endings = frames.iter().filter_map(|frame| match frame {
        Frame::Finished(finished) => Some(finished),
        _ => None,
    });
    endings.collect()
}

/// One ending for each sample, behind all that it says, and in the last of them
/// what all used.
fn check_endings(frames: &[Frame], n: u32, reason: v1::FinishReason) {
    let endings = endings(frames);
    let mut indices: Vec<u32> = endings.iter().map(|ending| ending.index).collect();
    indices.sort_unstable();
    assert_eq!(indices, (0..n).collect::<Vec<_>>());
    for (place, ending) in (0..n).zip(&endings) {
        assert_eq!(ending.remaining, n - 1 - place);
        assert_eq!(ending.reason(), reason);
        let is_last = place == n - 1;
        assert_eq!(
            (ending.usage.is_some(), ending.timings.is_some()),
            (is_last, is_last)
        );
        let is_it = |frame: &Frame| matches!(frame, Frame::Finished(f) if f.index == ending.index);
        let at = frames.iter().position(is_it).expect("it is one of them");
        let behind = &frames[at..];
        assert!(tokens_of(behind, ending.index).is_empty());
    }
    let all = (0..n).map(|index| tokens_of(frames, index).len() as u32);
    let usage = finished(frames).usage.expect("it is the last");
    assert_eq!(
        (usage.prompt_tokens, usage.completion_tokens),
        (1, all.sum())
    );
}

#[tokio::test]
async fn each_sample_has_its_frames_and_the_last_ending_tells_of_all() {
    let (served, thread) = served_to_samples();
    // More than run at once, one of them included.
    for n in [1, 3, 8] {
        let frames = start(&served, samples(n, GOES_ON, 9))
            .await
            .expect("starts");
        let (frames, status) = read(frames).await;
        assert!(status.is_none(), "{status:?}");
        assert!(matches!(
            &frames[..2],
            [Frame::Queued(_), Frame::Started(_)]
        ));
        let starts = frames.iter().filter(|f| matches!(f, Frame::Started(_)));
        assert_eq!(starts.count(), 1);
        for index in 0..n {
            let all: Vec<u32> = (GOES_ON + 1..=GOES_ON + 9).collect();
            assert_eq!(tokens_of(&frames, index), all, "sample {index} of {n}");
        }
        check_endings(&frames, n, v1::FinishReason::Length);
    }
    all_pages_free(&served).await;
    let places = served.queue.taken().requests;
    assert_eq!(places, 0);
    thread.stop();
}

#[tokio::test]
async fn too_many_and_none_are_bad_and_what_does_not_fit_comes_later() {
    let (served, thread) = served_to_samples();
    for n in [0, 9, u32::MAX] {
        let refused = start(&served, samples(n, GOES_ON, 9)).await;
        let refused = refused.map(|_| ()).expect_err("from 1 to 8");
        assert_eq!(refused.code(), Code::InvalidArgument);
        let bad = refused.get_details_bad_request().expect("the field");
        assert_eq!(bad.field_violations[0].field, "n");
    }
    let five = start(&served, samples(5, GOES_ON, LONG - 1))
        .await
        .expect("starts");
    let four = v1::GenerateRequest {
        request_id: "two".to_owned(),
        ..samples(4, GOES_ON, 9)
    };
    let refused = start(&served, four.clone()).await;
    let refused = refused.map(|_| ()).expect_err("three places are left");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.get_details_retry_info().is_some());
    assert_eq!(served.queue.taken().requests, 5, "nothing is kept of it");
    drop(five);
    let is_alone = |load: Load| load.running + load.parked + load.waiting == 0;
    until(|| is_alone(served.engine.load())).await;
    assert_eq!(served.queue.taken().requests, 0);
    let (frames, _) = read(start(&served, four).await.expect("starts")).await;
    check_endings(&frames, 4, v1::FinishReason::Length);
    thread.stop();
}

#[tokio::test]
async fn a_cancel_ends_all_and_a_failure_is_that_of_the_request() {
    let (served, thread) = served_to_samples();
    let frames = start(&served, samples(3, GOES_ON, LONG - 1))
        .await
        .expect("starts");
    until(|| served.engine.load().parked == 3).await;
    let anyone = call(&served, ());
    let caller = caller(&anyone).expect("anyone");
    assert_eq!(served.live.cancel_all(caller.tenant(), "one"), 1);
    let (frames, status) = read(frames).await;
    assert!(status.is_none(), "{status:?}");
    check_endings(&frames, 3, v1::FinishReason::Cancelled);

    let frames = start(&served, samples(3, FAILS - 3, 9))
        .await
        .expect("starts");
    let (frames, status) = read(frames).await;
    assert_eq!(status.expect("all fail").code(), Code::Internal);
    assert_eq!(endings(&frames), [] as [&v1::Finished; 0]);
    all_pages_free(&served).await;
    thread.stop();
}

#[tokio::test]
async fn a_reader_that_comes_back_has_every_frame_of_every_sample_once() {
    let (served, thread) = served_to_samples();
    let request = v1::GenerateRequest {
        resumable: true,
        idempotency_key: "key".to_owned(),
        ..samples(3, GOES_ON, 30)
    };
    let whole = read(start(&served, request.clone()).await.expect("starts"))
        .await
        .0;
    check_endings(&whole, 3, v1::FinishReason::Length);
    // The frames of a request that has ended are as they were, from any on.
    for last in [
        None,
        Some(0),
        Some(whole.len() as u64 / 2),
        Some(whole.len() as u64 - 3),
    ] {
        let resume = v1::GenerateRequest {
            resume: Some(v1::Resume {
                request_id: "one".to_owned(),
                last_seq: last,
            }),
            ..v1::GenerateRequest::default()
        };
        let mut frames = start(&served, resume).await.expect("it is kept");
        let mut seq = last.map_or(0, |last| last + 1);
        while let Some(next) = frames.next().await {
            let next = next.expect("no error");
            assert_eq!(next.seq, seq);
            assert_eq!(next.frame.as_ref(), whole.get(seq as usize));
            seq += 1;
        }
        assert_eq!(seq, whole.len() as u64);
    }
    let other = v1::GenerateRequest {
        n: Some(2),
        ..request
    };
    let refused = start(&served, other)
        .await
        .map(|_| ())
        .expect_err("differs");
    let bad = refused.get_details_bad_request().expect("the field");
    assert_eq!(bad.field_violations[0].field, "n");
    thread.stop();
}

#[tokio::test]
async fn samples_that_nobody_reads_are_parked_together() {
    let (served, thread) = served();
    let frames = start(&served, samples(2, GOES_ON, LONG))
        .await
        .expect("starts");
    samples_stuck(&served, &frames, 2).await;
    let computed = served.engine.load().computed_tokens;
    assert!(computed < u64::from(LONG), "{computed}");
    let (frames, _) = read(frames).await;
    check_endings(&frames, 2, v1::FinishReason::Length);
    assert_eq!(tokens_of(&frames, 1).len(), LONG as usize);
    thread.stop();
}
