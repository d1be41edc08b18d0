use std::time::{Duration, Instant};

use crate::Error;
use crate::replicas::{Calls, Replicas};

/// What is tried again, and how often.
///
/// Only a request of which nothing has been heard is: once the server has
/// accepted one, its errors are the caller's. Between attempts the client
/// waits as long as the server asks to, unless another replica can be tried
/// at once, and never beyond the request's own time.
///
/// A request that did not leave this side because its connection was just told
/// to go (GOAWAY) is sent again in any case, on the next connection: that is
/// no attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all; 1 for no other than the first. Default: 3.
    pub max_attempts: u32,
    /// Also when a queue is full or a quota used up, if the server says when
    /// to come back. Default: no, since it adds load where there is too much.
    pub exhausted: bool,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            max_attempts: 3,
            exhausted: false,
        }
    }
}

impl Retry {
    /// The first attempt is the only one.
    pub const NEVER: Retry = Retry {
        max_attempts: 1,
        exhausted: false,
    };

    /// How long the replica that gave this error should be left alone, if the
    /// request may be tried again.
    fn pause(self, error: &Error) -> Option<Duration> {
        match error {
            Error::Unavailable { retry_after, .. } => {
                Some(retry_after.unwrap_or(UNTOLD_PAUSE).min(LONGEST_PAUSE))
            }
            Error::Transport { .. } => Some(UNTOLD_PAUSE),
            Error::ResourceExhausted {
                retry_after: Some(delay),
                ..
            } if self.exhausted => Some((*delay).min(LONGEST_PAUSE)),
            _ => None,
        }
    }
}

/// A connection that broke is up again in much less, where it ever is.
const UNTOLD_PAUSE: Duration = Duration::from_millis(200);

/// A server may ask for more; a caller waits for an answer meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Connections are not told to go as soon as they are made.
const MAX_RESENT: u32 = 3;

/// The attempts of one request.
pub(crate) struct Attempts<'a> {
    pub(crate) replicas: &'a Replicas,
    pub(crate) retry: Retry,
    pub(crate) deadline: Option<Instant>,
}

impl Attempts<'_> {
    /// Calls, with the time that is left, until it works or there is no sense
    /// in it.
    pub(crate) async fn run<T, F>(
        self,
        call: impl Fn(Calls, Option<Duration>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut attempt = 1;
        let mut resent = 0;
        loop {
            let replica = self.replicas.next();
            let error = match call(replica.calls(), self.left()).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if error.was_never_sent() && resent < MAX_RESENT {
                resent += 1;
                continue;
            }
            let Some(pause) = self.retry.pause(&error) else {
                return Err(error);
            };
            replica.rest_for(pause);
            let wait = self.wait(attempt);
            if attempt >= self.retry.max_attempts || self.left().is_some_and(|left| left <= wait) {
                return Err(error);
            }
            attempt += 1;
            tokio::time::sleep(wait).await;
        }
    }

    fn left(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Until a replica can be tried: longer with each attempt, and not alike
    /// for all clients that were refused at once.
    fn wait(&self, attempt: u32) -> Duration {
        let rest = self.replicas.least_rest();
        rest * attempt + rest.mul_f64(rand::random_range(0.0..0.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::ApiKey;
    use tonic::Status;
    use tonic::transport::Endpoint;
    use tonic_types::{ErrorDetails, StatusExt};

    fn replicas(n: u16) -> Replicas {
        let channel = |port| {
            let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"));
            endpoint.expect("it is one").connect_lazy()
        };
        Replicas::new((1..=n).map(channel).collect(), &ApiKey::default())
    }

    fn refusal(code: tonic::Code, delay: Duration) -> Error {
        let details = ErrorDetails::with_retry_info(Some(delay));
        Status::with_error_details(code, "not now", details).into()
    }

    /// The attempts made, and the time that they took.
    async fn attempts(
        replicas: &Replicas,
        retry: Retry,
        timeout: Option<Duration>,
        code: tonic::Code,
        delay: Duration,
    ) -> (u32, Duration) {
        let calls = std::cell::Cell::new(0);
        let attempts = Attempts {
            replicas,
            retry,
            deadline: timeout.map(|timeout| Instant::now() + timeout),
        };
        let start = Instant::now();
        let result = attempts
            .run(|_, _| {
                calls.set(calls.get() + 1);
                std::future::ready(Err::<(), Error>(refusal(code, delay)))
            })
            .await;
        result.expect_err("it never works");
        (calls.get(), start.elapsed())
    }

    #[tokio::test]
    async fn a_server_is_left_alone_for_as_long_as_it_asks() {
        let delay = Duration::from_millis(50);
        let code = tonic::Code::Unavailable;
        let (calls, took) = attempts(&replicas(1), Retry::default(), None, code, delay).await;
        assert_eq!(calls, 3);
        // The second pause is twice the first.
        assert!(took >= delay * 3 - Duration::from_millis(1), "{took:?}");
    }

    #[tokio::test]
    async fn another_replica_is_tried_at_once() {
        let delay = Duration::from_secs(5);
        let code = tonic::Code::Unavailable;
        let (calls, took) = attempts(&replicas(3), Retry::default(), None, code, delay).await;
        assert_eq!(calls, 3);
        assert!(took < delay, "{took:?}");
    }

    #[tokio::test]
    async fn a_request_is_not_tried_again_beyond_its_time() {
        let timeout = Some(Duration::from_millis(100));
        let code = tonic::Code::Unavailable;
        let delay = Duration::from_secs(5);
        let (calls, took) = attempts(&replicas(1), Retry::default(), timeout, code, delay).await;
        assert_eq!(calls, 1);
        assert!(took < delay, "{took:?}");
    }

    #[tokio::test]
    async fn a_used_up_quota_is_tried_again_only_if_asked() {
        let delay = Duration::from_millis(1);
        let code = tonic::Code::ResourceExhausted;
        let (calls, _) = attempts(&replicas(1), Retry::default(), None, code, delay).await;
        assert_eq!(calls, 1);
        let asked = Retry {
            exhausted: true,
            ..Retry::default()
        };
        let (calls, _) = attempts(&replicas(1), asked, None, code, delay).await;
        assert_eq!(calls, 3);
        let code = tonic::Code::InvalidArgument;
        let (calls, _) = attempts(&replicas(1), asked, None, code, delay).await;
        assert_eq!(calls, 1);
    }
}
