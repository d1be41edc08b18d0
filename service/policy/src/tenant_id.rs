//! The name of a tenant.

use std::{fmt, sync::Arc};

/// Name of a tenant, cheap to clone: 1 to 64 of `a-z`, `0-9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Arc<str>);

/// Longest name, in bytes.
pub(crate) const MAX_TENANT_NAME: usize = 64;

impl TenantId {
    /// The tenant that everyone is while no tenants are configured. A tenants
    /// file can't name it.
    pub(crate) const ANONYMOUS: &str = "anonymous";

    pub(crate) fn anonymous() -> TenantId {
        TenantId(TenantId::ANONYMOUS.into())
    }

    /// `None` for a name that is too long, empty, or has other characters.
    pub(crate) fn parse(name: &str) -> Option<TenantId> {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let ok = (1..=MAX_TENANT_NAME).contains(&name.len()) && name.bytes().all(allowed);
        ok.then(|| TenantId(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
