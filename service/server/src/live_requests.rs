//! Requests that are alive, by tenant and id, so that a Cancel finds its
//! request, an id is not used twice at a time, and nobody sees another
//! tenant's.

use std::{
    cmp::Reverse,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dashmap::{DashMap, Entry};
use ternion_policy::TenantId;
use tokio::sync::Notify;

/// Who chose an id, and so among whom it is unique.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    tenant: TenantId,
    /// One Session stream, or all Generate calls of the tenant.
    session: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    scope: Scope,
    id: String,
}

#[derive(Debug)]
struct Entered {
    cancel: Arc<Notify>,
    at: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct LiveRequests {
    entered: DashMap<Key, Entered>,
    num_sessions: AtomicU64,
}

/// A request as its tenant sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) id: String,
    pub(crate) in_session: bool,
    pub(crate) age: Duration,
}

/// An id in use, until dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    requests: Arc<LiveRequests>,
    key: Key,
    /// Told when a Cancel comes, also before the request waits for it.
    pub(crate) cancel: Arc<Notify>,
}

/// The id belongs to a request that is alive.
#[derive(Debug, thiserror::Error)]
#[error("request id {id:?} is in use by a request that has not ended")]
pub(crate) struct AlreadyLive {
    pub(crate) id: String,
}

impl Scope {
    /// That of a tenant's Generate calls.
    pub(crate) fn calls(tenant: &TenantId) -> Scope {
        Scope {
            tenant: tenant.clone(),
            session: None,
        }
    }
}

impl LiveRequests {
    /// A scope for a new stream of a tenant.
    pub(crate) fn session(&self, tenant: &TenantId) -> Scope {
        Scope {
            tenant: tenant.clone(),
            session: Some(self.num_sessions.fetch_add(1, Ordering::Relaxed)),
        }
    }

    pub(crate) fn claim(self: &Arc<Self>, scope: &Scope, id: String) -> Result<Claim, AlreadyLive> {
        let scope = scope.clone();
        let key = Key { scope, id };
        let Entry::Vacant(vacant) = self.entered.entry(key.clone()) else {
            return Err(AlreadyLive { id: key.id });
        };
        let cancel = Arc::new(Notify::new());
        vacant.insert(Entered {
            cancel: cancel.clone(),
            at: Instant::now(),
        });
        Ok(Claim {
            requests: self.clone(),
            key,
            cancel,
        })
    }

    /// Tells a request that it is no longer wanted. Nothing happens if there
    /// is none: it may just have ended.
    pub(crate) fn cancel(&self, scope: &Scope, id: &str) {
        let key = Key {
            scope: scope.clone(),
            id: id.to_owned(),
        };
        if let Some(entered) = self.entered.get(&key) {
            entered.cancel.notify_one();
        }
    }

    /// Tells all of a tenant's requests under an id, on whatever stream, and
    /// counts them.
    pub(crate) fn cancel_all(&self, tenant: &TenantId, id: &str) -> usize {
        let theirs = self.entered.iter().filter(|entry| {
            let key = entry.key();
            key.scope.tenant == *tenant && key.id == id
        });
        theirs.map(|entry| entry.cancel.notify_one()).count()
    }

    /// A tenant's requests, oldest first.
    pub(crate) fn list(&self, tenant: &TenantId) -> Vec<Live> {
        let now = Instant::now();
        let theirs = self
            .entered
            .iter()
            .filter(|entry| entry.key().scope.tenant == *tenant);
        let mut list: Vec<Live> = theirs
            .map(|entry| Live {
                id: entry.key().id.clone(),
                in_session: entry.key().scope.session.is_some(),
                age: now.saturating_duration_since(entry.at),
            })
            .collect();
        list.sort_by_key(|live| Reverse(live.age));
        list
    }
}

impl Claim {
    pub(crate) fn id(&self) -> &str {
        &self.key.id
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.requests.entered.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_model::tenants;

    #[tokio::test]
    async fn an_id_is_unique_in_its_scope_while_its_request_lives() {
        let requests = Arc::new(LiveRequests::default());
        let [tenant, _] = tenants();
        let (one, two) = (requests.session(&tenant), requests.session(&tenant));
        let claim = requests.claim(&one, "a".to_owned()).expect("first");
        requests.claim(&one, "a".to_owned()).expect_err("in use");
        let _other = requests.claim(&two, "a".to_owned()).expect("other stream");

        requests.cancel(&one, "a");
        requests.cancel(&one, "unknown");
        // A cancel is kept for a request that does not listen yet.
        claim.cancel.notified().await;
        drop(claim);
        requests.claim(&one, "a".to_owned()).expect("free again");
    }

    #[tokio::test]
    async fn tenants_share_no_ids() {
        let requests = Arc::new(LiveRequests::default());
        let [acme, other] = tenants();
        let call = requests
            .claim(&Scope::calls(&acme), "a".to_owned())
            .expect("first");
        let session = requests
            .claim(&requests.session(&acme), "a".to_owned())
            .expect("a stream of its own");
        let theirs = requests
            .claim(&Scope::calls(&other), "a".to_owned())
            .expect("another tenant");

        let ids = |tenant| -> Vec<(String, bool)> {
            let list = requests.list(tenant);
            list.into_iter().map(|r| (r.id, r.in_session)).collect()
        };
        assert_eq!(
            ids(&acme),
            [("a".to_owned(), false), ("a".to_owned(), true)]
        );
        assert_eq!(ids(&other), [("a".to_owned(), false)]);

        assert_eq!(requests.cancel_all(&acme, "b"), 0);
        assert_eq!(requests.cancel_all(&acme, "a"), 2);
        call.cancel.notified().await;
        session.cancel.notified().await;
        let told = tokio::time::timeout(Duration::from_millis(20), theirs.cancel.notified());
        told.await.expect_err("the other tenant's goes on");
    }
}
