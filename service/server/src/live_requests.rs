//! Requests that are alive, by id, so that a Cancel frame finds its request
//! and an id is not used twice at a time.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use dashmap::{DashMap, Entry};
use tokio::sync::Notify;

/// Who chose an id, and so among whom it is unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// Generate calls: the whole server.
    Server,
    /// One Session stream.
    Session(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    scope: Scope,
    id: String,
}

#[derive(Debug, Default)]
pub(crate) struct LiveRequests {
    cancels: DashMap<Key, Arc<Notify>>,
    num_sessions: AtomicU64,
}

/// An id in use, until dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    requests: Arc<LiveRequests>,
    key: Key,
    /// Told when a Cancel frame comes, also before the request waits for it.
    pub(crate) cancel: Arc<Notify>,
}

/// The id belongs to a request that is alive.
#[derive(Debug, thiserror::Error)]
#[error("request id {id:?} is in use by a request that has not ended")]
pub(crate) struct AlreadyLive {
    pub(crate) id: String,
}

impl LiveRequests {
    /// A scope for a new stream.
    pub(crate) fn session(&self) -> Scope {
        Scope::Session(self.num_sessions.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn claim(self: &Arc<Self>, scope: Scope, id: String) -> Result<Claim, AlreadyLive> {
        let key = Key { scope, id };
        let Entry::Vacant(vacant) = self.cancels.entry(key.clone()) else {
            return Err(AlreadyLive { id: key.id });
        };
        let cancel = Arc::new(Notify::new());
        vacant.insert(cancel.clone());
        Ok(Claim {
            requests: self.clone(),
            key,
            cancel,
        })
    }

    /// Tells a request that it is no longer wanted. Nothing happens if there
    /// is none: it may just have ended.
    pub(crate) fn cancel(&self, scope: Scope, id: &str) {
        let key = Key {
            scope,
            id: id.to_owned(),
        };
        if let Some(cancel) = self.cancels.get(&key) {
            cancel.notify_one();
        }
    }
}

impl Claim {
    pub(crate) fn id(&self) -> &str {
        &self.key.id
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.requests.cancels.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_id_is_unique_in_its_scope_while_its_request_lives() {
        let requests = Arc::new(LiveRequests::default());
        let (one, two) = (requests.session(), requests.session());
        let claim = requests.claim(one, "a".to_owned()).expect("first");
        requests.claim(one, "a".to_owned()).expect_err("in use");
        let _other = requests.claim(two, "a".to_owned()).expect("other stream");

        requests.cancel(one, "a");
        requests.cancel(one, "unknown");
        // A cancel is kept for a request that does not listen yet.
        claim.cancel.notified().await;
        drop(claim);
        requests.claim(one, "a".to_owned()).expect("free again");
    }
}
