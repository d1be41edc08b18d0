//! A request that was let in.

use std::{sync::Arc, time::Duration};

use crate::{
    account::{Account, Entry},
    admitted::Admitted,
    cache_salt::CacheSalt,
    refusal::Refusal,
    tenant_id::TenantId,
};

/// A request that was let in, and whose size is not known yet. Dropped, it
/// gives back its slot; the request stays counted in the minute.
#[derive(Debug)]
pub struct Ticket {
    slot: Slot,
    entry: Entry,
    cache_salt: CacheSalt,
}

/// One of a tenant's concurrent requests, or as many as it has samples, until
/// it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) account: Arc<Account>,
    pub(crate) samples: u64,
    pub(crate) since: Duration,
}

/// How much output each sample of a request may need, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxOutput {
    /// The client asks for so many: more than its tenant may have is refused.
    Asked(u64),
    /// The client leaves it open, and so many are the server's default: cut to
    /// what its tenant may have.
    AtMost(u64),
}

impl Ticket {
    pub(crate) fn new(
        account: &Arc<Account>,
        samples: u64,
        entry: Entry,
        cache_salt: CacheSalt,
        now: Duration,
    ) -> Ticket {
        let slot = Slot {
            account: account.clone(),
            samples,
            since: now,
        };
        Ticket {
            slot,
            entry,
            cache_salt,
        }
    }

    /// Whose request it is.
    pub fn tenant(&self) -> &TenantId {
        self.slot.account.tenant()
    }

    /// What [`Admitted::tenant_number`] will be.
    pub fn tenant_number(&self) -> u32 {
        self.slot.account.number()
    }

    /// Samples that it was let in with.
    pub fn samples(&self) -> u64 {
        self.slot.samples
    }

    /// Sets aside what the request may need of the tenant's tokens a minute:
    /// its prompt, once, and the output of all its samples.
    ///
    /// # Errors
    ///
    /// [`Refusal`] if the request is larger than the tenant's limits, or its
    /// tokens are not there at `now`. A refused request takes nothing: its
    /// slot, and the one of the requests a minute that it took when it was let
    /// in, are given back.
    pub fn admit(
        mut self,
        prompt_tokens: u64,
        output: MaxOutput,
        now: Duration,
    ) -> Result<Admitted, Refusal> {
        let account = &self.slot.account;
        let samples = self.slot.samples;
        let entry = &mut self.entry;
        let reservation = account.reserve(entry, samples, prompt_tokens, output, now)?;
        Ok(Admitted::new(
            self.slot,
            prompt_tokens,
            reservation,
            self.cache_salt,
        ))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.account.leave(self.samples);
    }
}
