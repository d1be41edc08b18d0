//! What a running request uses, counted as it comes.

use std::time::Instant;

use ternion_policy::Admitted;

use crate::audit::Audit;

/// Tells the tenant's quota and the audit line. Dropping it gives back what
/// the request had reserved and did not use.
#[derive(Debug)]
pub(crate) struct Meter {
    admitted: Admitted,
    audit: Audit,
    /// What the policy's clock counts from.
    origin: Instant,
    prompt_tokens: u64,
    output_tokens: u64,
}

impl Meter {
    pub(crate) fn new(
        admitted: Admitted,
        audit: Audit,
        origin: Instant,
        prompt_tokens: usize,
    ) -> Meter {
        Meter {
            admitted,
            audit,
            origin,
            prompt_tokens: prompt_tokens as u64,
            output_tokens: 0,
        }
    }

    /// The engine has begun with the prompt.
    pub(crate) fn started(&mut self) {
        self.admitted.started();
        self.audit.prompt_tokens(self.prompt_tokens);
    }

    /// One more token.
    pub(crate) fn token(&mut self) {
        self.output(self.output_tokens + 1);
    }

    /// The engine's own count at the end: an end token is generated, too, and
    /// not sent.
    pub(crate) fn finished(&mut self, output_tokens: usize) {
        let tokens = output_tokens as u64;
        // A request that never began has used nothing, its prompt included.
        if tokens > self.output_tokens {
            self.output(tokens);
        }
    }

    fn output(&mut self, tokens: u64) {
        self.output_tokens = tokens;
        self.admitted.used(tokens, self.origin.elapsed());
        self.audit.completion_tokens(tokens);
    }
}
