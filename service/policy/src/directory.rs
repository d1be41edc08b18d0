//! Who is who.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    account::Account,
    cache_salt::CacheSalt,
    caller::{Caller, Identity},
    credential::{Credential, Unauthenticated},
    key_hash::KeyHash,
    limits::Limits,
    role::{Role, Roles},
    san::San,
    tenant_id::TenantId,
    tenants::{Tenant, Tenants},
};

/// One configuration, indexed. A reload makes a new one.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    members: BTreeMap<TenantId, Member>,
    /// The member everyone is, if nobody needs a credential.
    anonymous: Option<TenantId>,
    keys: HashMap<KeyHash, KeyOwner>,
    sans: HashMap<San, TenantId>,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) account: Arc<Account>,
    pub(crate) cache_salt: CacheSalt,
    roles: Roles,
}

#[derive(Debug)]
struct KeyOwner {
    tenant: TenantId,
    id: Arc<str>,
}

impl Directory {
    /// Everyone may do everything.
    pub(crate) fn open() -> Directory {
        let tenant = TenantId::anonymous();
        let member = Member {
            account: Arc::new(Account::new(tenant.clone(), 0, Limits::default(), 1)),
            cache_salt: CacheSalt::of(&tenant, None),
            roles: Roles::ALL,
        };
        Directory {
            members: BTreeMap::from([(tenant.clone(), member)]),
            anonymous: Some(tenant),
            ..Directory::default()
        }
    }

    /// `account` finds the account of each tenant.
    pub(crate) fn new(
        tenants: Tenants,
        mut account: impl FnMut(&Tenant) -> Arc<Account>,
    ) -> Directory {
        let mut directory = Directory::default();
        for tenant in tenants.into_iter() {
            let account = account(&tenant);
            let Tenant { id, roles, .. } = tenant;
            for key in tenant.keys {
                let owner = KeyOwner {
                    tenant: id.clone(),
                    id: key.id,
                };
                directory.keys.insert(key.hash, owner);
            }
            for san in tenant.sans {
                directory.sans.insert(san, id.clone());
            }
            let cache_salt = CacheSalt::of(&id, tenant.cache_group.as_ref());
            let member = Member {
                account,
                cache_salt,
                roles,
            };
            directory.members.insert(id, member);
        }
        directory
    }

    pub(crate) fn is_open(&self) -> bool {
        self.anonymous.is_some()
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub(crate) fn member(&self, tenant: &TenantId) -> Option<&Member> {
        self.members.get(tenant)
    }

    pub(crate) fn find(&self, credential: &Credential<'_>) -> Result<Caller, Unauthenticated> {
        let (tenant, identity) = if let Some(anonymous) = &self.anonymous {
            (anonymous, Identity::Anonymous)
        } else if let Some(key) = credential.key {
            self.find_key(key)?
        } else {
            self.find_certificate(credential.certificate_sans)?
        };
        let member = &self.members[tenant];
        Ok(Caller {
            tenant: tenant.clone(),
            roles: member.roles,
            identity,
        })
    }

    fn find_key(&self, key: &str) -> Result<(&TenantId, Identity), Unauthenticated> {
        // How long a look-up takes can tell something about a hash, but
        // nobody can choose a key by its hash, or get from it back to one.
        let hash = KeyHash::of(key);
        let owner = self.keys.get(&hash).ok_or(Unauthenticated::UnknownKey)?;
        let id = owner.id.clone();
        Ok((&owner.tenant, Identity::Key { id, hash }))
    }

    fn find_certificate(&self, sans: &[String]) -> Result<(&TenantId, Identity), Unauthenticated> {
        let [first, others @ ..] = sans else {
            return Err(Unauthenticated::NoCredential);
        };
        let mut known = sans.iter().filter_map(|san| {
            let san = San::of_certificate(san);
            self.sans.get(&san).map(|tenant| (tenant, san))
        });
        let Some((tenant, san)) = known.next() else {
            return Err(Unauthenticated::UnknownCertificate {
                san: first.clone(),
                others: others.len(),
            });
        };
        if let Some((_, second)) = known.find(|(other, _)| *other != tenant) {
            return Err(Unauthenticated::AmbiguousCertificate {
                first: san.to_string(),
                second: second.to_string(),
            });
        }
        Ok((tenant, Identity::Certificate(san)))
    }

    /// Whether a caller's credential is still its tenant's, and the tenant
    /// still has a role.
    pub(crate) fn stands(&self, caller: &Caller, role: Role) -> bool {
        let owner = match &caller.identity {
            Identity::Anonymous => self.anonymous.as_ref(),
            Identity::Key { hash, .. } => self.keys.get(hash).map(|owner| &owner.tenant),
            Identity::Certificate(san) => self.sans.get(san),
        };
        owner == Some(&caller.tenant) && self.members[&caller.tenant].roles.holds(role)
    }
}
