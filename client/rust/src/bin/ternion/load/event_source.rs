use std::time::Duration;

use ternion_client::proto::Finished;
use ternion_client::{Event, Events, StreamExt};

use super::observation::{Count, End, Problem, Signal};
use super::peer::PeerEvents;
use super::sessions::SessionEvents;

/// What is heard of one request, however it was sent.
pub(crate) enum EventSource {
    Call(Box<Events>),
    Session(SessionEvents),
    Peer(Box<PeerEvents>),
}

impl EventSource {
    pub(crate) async fn next(&mut self) -> Option<Result<Signal, Problem>> {
        loop {
            let event = match self {
                EventSource::Call(events) => match events.next().await? {
                    Ok(event) => event,
                    Err(error) => return Some(Err(Problem::from(&error))),
                },
                EventSource::Session(events) => match events.recv().await? {
                    Ok(event) => event,
                    Err(error) => return Some(Err(Problem::from(&*error))),
                },
                EventSource::Peer(events) => return events.next().await,
            };
            if let Some(signal) = signal(&event) {
                return Some(signal);
            }
        }
    }
}

/// A delta may be without tokens, and that the first is being computed is not
/// yet worth anything.
fn signal(event: &Event) -> Option<Result<Signal, Problem>> {
    match event {
        Event::Queued(queued) => Some(Ok(Signal::Accepted {
            prompt_tokens: queued.prompt_tokens,
        })),
        Event::Started(_) => None,
        Event::Delta(delta) => {
            let tokens = u32::try_from(delta.token_ids.len()).unwrap_or(u32::MAX);
            (tokens > 0).then_some(Ok(Signal::Tokens(tokens)))
        }
        Event::Finished(finished) => Some(end(finished)),
    }
}

fn end(finished: &Finished) -> Result<Signal, Problem> {
    let Some(usage) = finished.usage else {
        let message = "Finished came without usage";
        return Err(Problem::failed("no usage", message));
    };
    let seconds = finished.timings.map(|timings| timings.queue_seconds);
    Ok(Signal::Finished(End {
        reason: finished.reason(),
        output_tokens: Count::Same(usage.completion_tokens.into()),
        prompt_tokens: Some(usage.prompt_tokens.into()),
        cached_tokens: usage.cached_tokens.into(),
        queued: seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ternion_client::proto::{Delta, FinishReason, Timings, Usage};

    #[test]
    fn only_a_delta_with_tokens_is_one() {
        let delta = |ids: &[u32]| {
            Event::Delta(Delta {
                token_ids: ids.to_vec(),
                ..Delta::default()
            })
        };
        assert!(signal(&delta(&[])).is_none());
        let Some(Ok(Signal::Tokens(2))) = signal(&delta(&[5, 6])) else {
            panic!("two tokens came");
        };
    }

    #[test]
    fn an_ending_without_usage_is_a_failure() {
        let mut finished = Finished {
            reason: FinishReason::Length.into(),
            ..Finished::default()
        };
        assert!(end(&finished).is_err());
        finished.usage = Some(Usage {
            prompt_tokens: 7,
            cached_tokens: 5,
            completion_tokens: 4,
        });
        finished.timings = Some(Timings {
            queue_seconds: 0.5,
            ..Timings::default()
        });
        let Ok(Signal::Finished(end)) = end(&finished) else {
            panic!("it has ended");
        };
        assert_eq!(end.output_tokens, Count::Same(4));
        assert_eq!((end.prompt_tokens, end.cached_tokens), (Some(7), 5));
        assert_eq!(end.queued, Some(Duration::from_millis(500)));
    }
}
