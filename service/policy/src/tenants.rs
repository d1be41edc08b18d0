//! The tenants that are configured.

use std::sync::Arc;

use crate::{
    key_hash::KeyHash, limits::Limits, mistakes::TenantsError, role::Roles, san::San,
    tenant_id::TenantId, tenants_file,
};

/// The content of a tenants file: at least one tenant, all names, keys and
/// certificate names different.
///
/// ```toml
/// [[tenants]]
/// name = "acme"                 # 1 to 64 of a-z, 0-9 and -
/// roles = ["inference"]         # of inference (the default) and admin
/// weight = 2                    # share of service when all want more; 1 by default
/// cache_group = "emea"          # shares its prefix cache with the tenants of that group
///
/// [[tenants.keys]]
/// id = "2026-11"                # shown in logs
/// hash = "sha256:…"             # printf %s "$KEY" | sha256sum
///
/// [[tenants.certificates]]
/// san = "spiffe://prod/acme"    # URI or DNS name in the client certificate
///
/// [tenants.limits]              # each may be left out: then there is none
/// requests_per_minute = 60
/// tokens_per_minute = 100000    # prompt and output together
/// concurrent_requests = 8
/// max_prompt_tokens = 2048
/// max_output_tokens = 512
/// ```
#[derive(Debug, Clone)]
pub struct Tenants(Vec<Tenant>);

#[derive(Debug, Clone)]
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    pub(crate) roles: Roles,
    /// Tenants of a group share what is computed of their prompts.
    pub(crate) cache_group: Option<TenantId>,
    pub(crate) keys: Vec<Key>,
    pub(crate) sans: Vec<San>,
    pub(crate) limits: Limits,
    pub(crate) weight: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) id: Arc<str>,
    pub(crate) hash: KeyHash,
}

impl Tenants {
    /// Reads a tenants file: TOML of at most 1 MiB, with at most 10,000
    /// tenants of at most 64 keys and 64 certificates each.
    ///
    /// # Errors
    ///
    /// [`TenantsError`] with every mistake (up to a hundred are spelled
    /// out), each with its place. Nothing that may be a key is repeated.
    pub fn parse(text: &str) -> Result<Tenants, TenantsError> {
        tenants_file::parse(text).map(Tenants)
    }

    /// How many there are: never 0.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Their names, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|tenant| tenant.id.as_str())
    }

    /// Names of those that certificates stand for, in the order of the file.
    pub fn with_certificates(&self) -> impl Iterator<Item = &str> {
        let with = self.0.iter().filter(|tenant| !tenant.sans.is_empty());
        with.map(|tenant| tenant.id.as_str())
    }

    pub(crate) fn into_iter(self) -> impl Iterator<Item = Tenant> {
        self.0.into_iter()
    }
}
