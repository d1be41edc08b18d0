//! How long connections live: until their client closes them, they reach an
//! age, or the server drains. The last two cut nothing: the client is told to
//! go (GOAWAY), what runs goes on, and the connection closes with its last
//! stream.
//!
//! Tonic can tell only all connections of a server at once, or each at the
//! same age (and with its `max_connection_age_grace` set it tells none, and
//! cuts them). So each connection here is a tonic server of its own.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use tokio::{sync::oneshot, task::JoinSet};
use tokio_stream::{Stream, StreamExt};

use crate::{
    admission::random,
    connection::Connection,
    drain::{Drain, Phase},
    refusal::RETRY_DELAY,
};

/// Incoming connections of a server that has one.
pub(crate) type Incoming = Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>>;

/// Is ready when the connection is to be told to go.
pub(crate) type Leave = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves connections by `serve_one` until the drain has come to its end, and
/// returns when all of them are closed.
///
/// The port stays open while the server drains: those who are not told by
/// health are told by a refusal, which says more than a port that is closed.
pub(crate) async fn serve<F, E>(
    accepted: impl Stream<Item = io::Result<Connection>>,
    max_age: Option<Duration>,
    drain: Arc<Drain>,
    serve_one: impl Fn(Incoming, Leave) -> F,
) where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: std::error::Error + Send + 'static,
{
    let mut connections = JoinSet::new();
    {
        let mut accepted = std::pin::pin!(accepted);
        let mut ending = std::pin::pin!(drain.reached(Phase::Ending));
        loop {
            let connection = tokio::select! {
                () = &mut ending => break,
                Some(_) = connections.join_next() => continue,
                connection = accepted.next() => connection,
            };
            match connection {
                Some(Ok(mut connection)) => {
                    let leave = leave(connection.closed(), max_age, drain.clone());
                    // A server whose incoming connections end takes that for
                    // the time to go.
                    let incoming =
                        tokio_stream::once(Ok(connection)).chain(tokio_stream::pending());
                    let served = serve_one(Box::pin(incoming), Box::pin(leave));
                    connections.spawn(async move {
                        if let Err(error) = served.await {
                            tracing::debug!(%error, "connection failed");
                        }
                    });
                }
                Some(Err(error)) => tracing::debug!(%error, "connection failed"),
                None => break,
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn leave(closed: oneshot::Receiver<()>, max_age: Option<Duration>, drain: Arc<Drain>) {
    // Who connects to a draining server may have been sent here by a balancer
    // that will soon know better.
    let (age, phase) = match drain.phase() >= Phase::Draining {
        true => (Some(RETRY_DELAY), Phase::Ending),
        false => (max_age.map(jittered), Phase::Draining),
    };
    tokio::select! {
        _ = closed => {}
        () = drain.reached(phase) => {}
        () = after(age) => {}
    }
}

async fn after(age: Option<Duration>) {
    match age {
        Some(age) => tokio::time::sleep(age).await,
        None => std::future::pending().await,
    }
}

/// A tenth more or less: connections that were opened at once, as after a
/// restart, are not told all at once.
fn jittered(age: Duration) -> Duration {
    const STEPS: u64 = 1 << 16;
    let fraction = (random() % STEPS) as f64 / STEPS as f64;
    age.mul_f64(0.9 + 0.2 * fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_differ_by_a_tenth_at_most() {
        let age = Duration::from_secs(100);
        let ages: Vec<Duration> = (0..100).map(|_| jittered(age)).collect();
        let range = Duration::from_secs(90)..Duration::from_secs(110);
        assert!(ages.iter().all(|age| range.contains(age)), "{ages:?}");
        assert!(ages.iter().any(|age| *age != ages[0]), "{ages:?}");
    }
}
