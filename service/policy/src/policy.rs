//! Who may call, and how much.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use crate::{
    account::Account,
    caller::{Authorised, Caller},
    credential::{Credential, Unauthenticated},
    directory::Directory,
    refusal::{Cause, Refusal},
    role::Role,
    tenants::{Tenant, Tenants},
    ticket::Ticket,
    usage::TenantUsage,
};

/// Who may call, and how much. To be shared behind an `Arc`.
///
/// `now` is the time since an origin that the caller chooses and keeps. It may
/// step back a little between threads: the latest one that was seen counts.
#[derive(Debug)]
pub struct Policy {
    /// Behind an `Arc`, so that nobody holds the lock for longer than it takes
    /// to clone one.
    directory: RwLock<Arc<Directory>>,
    /// Held by a reload, so that one carries on where another ended.
    reload: Mutex<()>,
    numbers: Numbers,
}

/// Numbers for tenants, each given once; after 65536 of them, of which a
/// configuration has at most 10,000, from the beginning.
#[derive(Debug, Default)]
struct Numbers(AtomicU32);

impl Numbers {
    fn account(&self, tenant: &Tenant) -> Arc<Account> {
        let number = self.0.fetch_add(1, Ordering::Relaxed) % (1 << 16);
        let Tenant {
            id, limits, weight, ..
        } = tenant;
        Arc::new(Account::new(id.clone(), number, *limits, *weight))
    }
}

impl Policy {
    /// Nobody needs a credential: everyone is the tenant `anonymous`, with all
    /// roles and no limits.
    pub fn open() -> Policy {
        Policy::of(Directory::open(), Numbers::default())
    }

    /// Everyone needs a credential of one of these tenants.
    pub fn new(tenants: Tenants) -> Policy {
        let numbers = Numbers::default();
        let directory = Directory::new(tenants, |tenant| numbers.account(tenant));
        Policy::of(directory, numbers)
    }

    fn of(directory: Directory, numbers: Numbers) -> Policy {
        Policy {
            directory: RwLock::new(Arc::new(directory)),
            reload: Mutex::new(()),
            numbers,
        }
    }

    /// Whether nobody needs a credential.
    pub fn is_open(&self) -> bool {
        self.directory().is_open()
    }

    /// Replaces the configuration. Tenants that stay keep what they have used
    /// and what they run, under their new limits; keys, certificates and
    /// tenants that are gone are good for nothing from here on, not even for
    /// callers that came before. What runs may end.
    pub fn reload(&self, tenants: Tenants, now: Duration) {
        let _alone = self.reload.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.directory();
        let new = Directory::new(tenants, |tenant| match old.member(&tenant.id) {
            Some(member) => {
                member.account.change(tenant.limits, tenant.weight, now);
                member.account.clone()
            }
            None => self.numbers.account(tenant),
        });
        *self
            .directory
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
    }

    /// Finds out who calls.
    ///
    /// # Errors
    ///
    /// [`Unauthenticated`] unless the key is one of a tenant's; or, where no
    /// key is given, a name of the certificate is.
    pub fn authenticate(&self, credential: &Credential<'_>) -> Result<Caller, Unauthenticated> {
        self.directory().find(credential)
    }

    /// Lets in one request: takes one of the tenant's requests a minute, and
    /// one of its concurrent requests until the [`Ticket`], or what it becomes,
    /// is dropped.
    ///
    /// # Errors
    ///
    /// [`Refusal`] if either is not to be had at `now`, or the caller may not
    /// infer or not any more ([`Cause::Revoked`]). A refused request takes
    /// nothing.
    pub fn enter(&self, caller: &Authorised, now: Duration) -> Result<Ticket, Refusal> {
        self.enter_samples(caller, 1, now)
    }

    /// Likewise for a request with so many samples, each of which counts as one
    /// request: all are let in or none.
    ///
    /// # Errors
    ///
    /// Also if the tenant may never have so many ([`Cause::TooManySamples`]).
    ///
    /// # Panics
    ///
    /// Without samples.
    pub fn enter_samples(
        &self,
        caller: &Authorised,
        samples: u64,
        now: Duration,
    ) -> Result<Ticket, Refusal> {
        assert!(samples > 0, "a request without samples");
        let directory = self.directory();
        let Some(member) = directory.member(caller.tenant()) else {
            return Err(Refusal::new(caller.tenant().clone(), Cause::Revoked));
        };
        let account = &member.account;
        if !directory.stands(caller, Role::Inference) {
            return Err(account.refused(Cause::Revoked));
        }
        let entry = account.enter(samples, now)?;
        let salt = member.cache_salt;
        Ok(Ticket::new(account, samples, entry, salt, now))
    }

    /// What each configured tenant has used, sorted by name.
    pub fn usage(&self) -> Vec<TenantUsage> {
        let directory = self.directory();
        directory
            .members()
            .map(|member| member.account.usage())
            .collect()
    }

    fn directory(&self) -> Arc<Directory> {
        self.directory
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
