//! A request that may be run.

use std::time::Duration;

use crate::{account::Reservation, cache_salt::CacheSalt, tenant_id::TenantId, ticket::Slot};

/// Proof that a caller was authenticated and its quota reserved.
///
/// Only [`Ticket::admit`] makes one, and the engine's way in asks for it, so a
/// handler that skips admission does not compile. Not `Clone`: one admission
/// is good for one request.
///
/// Dropping it ends the request for the tenant's limits: the slot becomes free,
/// and what was reserved and not used is given back. What is given back after
/// the rate has filled up is lost.
///
/// [`Ticket::admit`]: crate::Ticket::admit
#[derive(Debug)]
pub struct Admitted {
    slot: Slot,
    reservation: Reservation,
    cache_salt: CacheSalt,
    prompt_tokens: u64,
    started: bool,
    output_tokens: u64,
    last_heard: Option<Duration>,
}

impl Admitted {
    pub(crate) fn new(
        slot: Slot,
        prompt_tokens: u64,
        reservation: Reservation,
        cache_salt: CacheSalt,
    ) -> Admitted {
        Admitted {
            slot,
            reservation,
            cache_salt,
            prompt_tokens,
            started: false,
            output_tokens: 0,
            last_heard: None,
        }
    }

    /// Whose request it is.
    pub fn tenant(&self) -> &TenantId {
        self.slot.account.tenant()
    }

    /// Tells the tenant apart from others, below 65536: for whoever shares
    /// out service and has no use for names.
    pub fn tenant_number(&self) -> u32 {
        self.slot.account.number()
    }

    /// How much service its tenant gets, in relation to others.
    pub fn weight(&self) -> u32 {
        self.slot.account.weight()
    }

    /// What its request has in common with those that may use what is computed
    /// of its prompt, and whose it may use: those of its tenant, and of all
    /// tenants of its `cache_group` if it has one. With others it has not.
    pub fn cache_salt(&self) -> u128 {
        self.cache_salt.0
    }

    /// Samples that it may have.
    pub fn samples(&self) -> u64 {
        self.slot.samples
    }

    /// Tokens that may be generated, for each sample.
    pub fn max_output_tokens(&self) -> u64 {
        self.reservation.max_output_tokens
    }

    /// The prompt is being computed: from here on it counts as used. A request
    /// that never gets so far (a full queue, a client that left while it
    /// waited) gives everything back.
    pub fn started(&mut self) {
        if !self.started {
            self.started = true;
            self.slot.account.count_input(self.prompt_tokens);
        }
    }

    /// The request has generated `output_tokens` so far, of all samples, as of
    /// `now`. With a token there must have been a prompt: that implies
    /// [`Admitted::started`]. Without one it does not, so that a request which
    /// ends before it began can be told to have used nothing.
    ///
    /// Tokens beyond [`Admitted::max_output_tokens`] of each sample are counted
    /// as usage, but not charged: whoever runs the request is to stop it there.
    pub fn used(&mut self, output_tokens: u64, now: Duration) {
        if output_tokens > 0 {
            self.started();
        }
        let more = output_tokens.saturating_sub(self.output_tokens);
        self.output_tokens += more;
        self.last_heard = Some(now);
        self.slot.account.count_output(more);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let account = &self.slot.account;
        let prompt = if self.started { self.prompt_tokens } else { 0 };
        let used = prompt.saturating_add(self.output_tokens);
        account.give_back(self.reservation.tokens.saturating_sub(used));
        // There is no clock here; when it was last heard of is as good as the
        // end.
        if let Some(end) = self.last_heard {
            account.learn(end.saturating_sub(self.slot.since));
        }
    }
}
