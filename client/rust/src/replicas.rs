use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::Error;
use crate::credentials::ApiKey;

/// What calls are made on.
pub(crate) type Calls = InterceptedService<Channel, ApiKey>;

/// Connections to replicas of a server, used in turn.
///
/// Not `Channel::balance_list`: it prefers the replica with the fewest calls,
/// and one that refuses at once always has the fewest.
#[derive(Clone, Debug)]
pub(crate) struct Replicas(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    replicas: Vec<Replica>,
    turn: AtomicUsize,
}

#[derive(Debug)]
pub(crate) struct Replica {
    calls: Calls,
    /// Until when others are preferred.
    rests_until: Mutex<Option<Instant>>,
}

impl Replicas {
    pub(crate) fn new(channels: Vec<Channel>, api_key: &ApiKey) -> Replicas {
        let replica = |channel| Replica {
            calls: InterceptedService::new(channel, api_key.clone()),
            rests_until: Mutex::new(None),
        };
        Replicas(Arc::new(Inner {
            replicas: channels.into_iter().map(replica).collect(),
            turn: AtomicUsize::new(0),
        }))
    }

    /// The next one that does not rest, or if all do, the one that rests
    /// least.
    pub(crate) fn next(&self) -> &Replica {
        let replicas = &self.0.replicas;
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..replicas.len()).map(|i| &replicas[turn.wrapping_add(i) % replicas.len()]);
        in_turn
            .min_by_key(|replica| replica.rest())
            .expect("a client has an endpoint")
    }

    /// How long until one does not rest.
    pub(crate) fn least_rest(&self) -> Duration {
        let rests = self.0.replicas.iter().map(Replica::rest);
        rests.min().unwrap_or_default()
    }
}

impl Replica {
    pub(crate) fn calls(&self) -> Calls {
        self.calls.clone()
    }

    /// Sends requests elsewhere for a while.
    pub(crate) fn rest_for(&self, time: Duration) {
        *self.lock() = Instant::now().checked_add(time);
    }

    /// How long it still rests.
    pub(crate) fn rest(&self) -> Duration {
        self.lock().map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.rests_until.lock().expect("nothing panics under it")
    }
}

/// Connects to all, of which one must be there. A single one is waited for,
/// so that a wrong address is told at once.
pub(crate) async fn connect_all(endpoints: Vec<Endpoint>) -> Result<Vec<Channel>, Error> {
    let mut channels: Vec<Channel> = endpoints.iter().map(Endpoint::connect_lazy).collect();
    let mut connecting = JoinSet::new();
    for (i, endpoint) in endpoints.into_iter().enumerate() {
        connecting.spawn(async move { (i, endpoint.connect().await) });
    }
    let mut failed = None;
    let mut connected = false;
    while let Some(done) = connecting.join_next().await {
        match done {
            Ok((i, Ok(channel))) => {
                channels[i] = channel;
                connected = true;
            }
            Ok((_, Err(error))) => failed = Some(error),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
    match failed {
        Some(error) if !connected => Err(error.into()),
        _ => Ok(channels),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replicas_take_turns_and_those_that_rest_are_passed_over() {
        let channel = |port| {
            let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"));
            endpoint.expect("it is one").connect_lazy()
        };
        let replicas = Replicas::new((1..=3).map(channel).collect(), &ApiKey::default());
        let index = |replica: &Replica| {
            let all = replicas.0.replicas.iter();
            all.take_while(|other| !std::ptr::eq(*other, replica))
                .count()
        };
        let turns: Vec<_> = (0..4).map(|_| index(replicas.next())).collect();
        assert_eq!(turns, [0, 1, 2, 0]);
        replicas.0.replicas[1].rest_for(Duration::from_secs(3600));
        let turns: Vec<_> = (0..4).map(|_| index(replicas.next())).collect();
        assert_eq!(turns, [2, 2, 0, 2]);
        replicas.0.replicas[0].rest_for(Duration::from_secs(7200));
        replicas.0.replicas[2].rest_for(Duration::from_secs(7200));
        assert_eq!(index(replicas.next()), 1, "the one that rests least");
    }
}
