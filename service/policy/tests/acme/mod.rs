//! A policy with one tenant, `acme`, whose limits a test chooses.
#![allow(dead_code, reason = "not every test file needs all of it")]

use std::time::Duration;

use ternion_policy::{Authorised, Caller, Credential, KeyHash, Policy, Role, TenantUsage, Tenants};

pub(crate) const KEY: &str = "tn_acme";

pub(crate) struct Acme {
    pub(crate) policy: Policy,
    pub(crate) caller: Authorised,
}

/// A tenants file of one tenant.
pub(crate) fn file(name: &str, key: &str, limits: &str) -> String {
    let hash = KeyHash::of(key);
    format!(
        "[[tenants]]
         name = {name:?}
         [[tenants.keys]]
         id = \"one\"
         hash = \"{hash}\"
         [tenants.limits]
         {limits}
        "
    )
}

pub(crate) fn tenants(limits: &str) -> Tenants {
    Tenants::parse(&file("acme", KEY, limits)).unwrap()
}

pub(crate) fn with_key(policy: &Policy, key: &str) -> Caller {
    let credential = Credential {
        key: Some(key),
        certificate_sans: &[],
    };
    policy.authenticate(&credential).unwrap()
}

impl Acme {
    pub(crate) fn new(limits: &str) -> Acme {
        let policy = Policy::new(tenants(limits));
        let caller = with_key(&policy, KEY).allowed(Role::Inference).unwrap();
        Acme { policy, caller }
    }

    pub(crate) fn usage(&self) -> TenantUsage {
        let usage = self.policy.usage();
        usage
            .into_iter()
            .find(|usage| usage.tenant.as_str() == "acme")
            .unwrap()
    }
}

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
