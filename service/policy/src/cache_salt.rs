//! Whose requests may use what was computed of each other's prompts.

use sha2::{Digest, Sha256};

use crate::tenant_id::TenantId;

/// A number that requests have in common if they may: those of one tenant, or
/// of all tenants of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheSalt(pub(crate) u128);

impl CacheSalt {
    /// Of a tenant that shares with nobody, or else of its group.
    pub(crate) fn of(tenant: &TenantId, group: Option<&TenantId>) -> CacheSalt {
        // A group may have a tenant's name, and is not that tenant.
        let (kind, name) = match group {
            None => ("tenant", tenant),
            Some(group) => ("group", group),
        };
        let hash = Sha256::new()
            .chain_update(kind)
            .chain_update([0])
            .chain_update(name.as_str())
            .finalize();
        let (salt, _) = hash.split_first_chunk().expect("a hash is 32 bytes");
        CacheSalt(u128::from_le_bytes(*salt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_share_in_groups_only() {
        let name = |name: &str| TenantId::parse(name).expect("a good name");
        let salt = |tenant: &str, group: Option<&str>| {
            CacheSalt::of(&name(tenant), group.map(name).as_ref())
        };
        assert_eq!(salt("a", None), salt("a", None));
        assert_ne!(salt("a", None), salt("b", None));
        assert_eq!(salt("a", Some("g")), salt("b", Some("g")));
        assert_ne!(salt("a", Some("g")), salt("a", Some("h")));
        assert_ne!(salt("a", None), salt("b", Some("a")));
    }
}
