//! Who calls, and that it may.

use std::{ops::Deref, sync::Arc};

use crate::{
    key_hash::KeyHash,
    role::{Role, Roles},
    san::San,
    tenant_id::TenantId,
};

/// Proof that a caller showed a good credential.
///
/// Only [`Policy::authenticate`] makes one. It proves what held then: a reload
/// may take the credential away, and [`Policy::enter`] looks again.
///
/// [`Policy::authenticate`]: crate::Policy::authenticate
/// [`Policy::enter`]: crate::Policy::enter
#[derive(Debug, Clone)]
pub struct Caller {
    pub(crate) tenant: TenantId,
    pub(crate) roles: Roles,
    pub(crate) identity: Identity,
}

/// Which of a tenant's credentials was shown.
#[derive(Debug, Clone)]
pub(crate) enum Identity {
    Anonymous,
    Key { id: Arc<str>, hash: KeyHash },
    Certificate(San),
}

/// Proof that a caller may call an RPC. Only [`Caller::allowed`] makes one.
#[derive(Debug, Clone)]
pub struct Authorised {
    caller: Caller,
}

/// A caller lacks the role that an RPC asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tenant {tenant} has not the role {role}")]
pub struct Forbidden {
    /// Who calls.
    pub tenant: TenantId,
    /// What it would need.
    pub role: Role,
}

impl Caller {
    /// The tenant for whom it calls.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// For logs: the id of the key, the name in the certificate, or
    /// `anonymous`.
    pub fn identity(&self) -> &str {
        match &self.identity {
            Identity::Anonymous => TenantId::ANONYMOUS,
            Identity::Key { id, .. } => id,
            Identity::Certificate(san) => san.as_str(),
        }
    }

    /// Whether no credential was needed.
    pub fn is_anonymous(&self) -> bool {
        matches!(self.identity, Identity::Anonymous)
    }

    /// Lets the caller on if it has a role.
    ///
    /// # Errors
    ///
    /// [`Forbidden`] if its tenant has not.
    pub fn allowed(&self, role: Role) -> Result<Authorised, Forbidden> {
        if !self.roles.holds(role) {
            let tenant = self.tenant.clone();
            return Err(Forbidden { tenant, role });
        }
        let caller = self.clone();
        Ok(Authorised { caller })
    }
}

impl Deref for Authorised {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}
