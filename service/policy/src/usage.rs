//! What tenants have used, for metrics.

use crate::{refusal::Cause, tenant_id::TenantId};

/// One tenant's counts. All but `running` only ever grow, from the time at
/// which the tenant was configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantUsage {
    /// Whose they are.
    pub tenant: TenantId,
    /// Requests that were admitted.
    pub admitted: u64,
    /// Requests that were refused, by [`Cause::name`]. Every cause is there.
    ///
    /// [`Cause::name`]: crate::Cause::name
    pub refused: Vec<(&'static str, u64)>,
    /// Prompt tokens of requests that began.
    pub input_tokens: u64,
    /// Generated tokens.
    pub output_tokens: u64,
    /// Requests between entering and their end.
    pub running: u64,
}

/// The same while it is being counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) admitted: u64,
    pub(crate) refused: [u64; Cause::NAMES.len()],
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
}

impl Counts {
    pub(crate) fn of(&self, tenant: &TenantId, running: u64) -> TenantUsage {
        TenantUsage {
            tenant: tenant.clone(),
            admitted: self.admitted,
            refused: Cause::NAMES.into_iter().zip(self.refused).collect(),
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            running,
        }
    }
}
