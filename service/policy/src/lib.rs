//! Who may call, and how much: tenants, credentials, quotas, admission.
//!
//! A call passes three doors, and each hands it what the next one asks for:
//!
//! ```text
//! Credential --authenticate--> Caller --allowed--> Authorised --enter--> Ticket --admit--> Admitted
//!    key or                    who it              may call              one request       tokens
//!    certificate               is                  this RPC              and a slot        reserved
//! ```
//!
//! None of these can be made in another way, so a handler that wants an
//! [`Admitted`], and the engine's way in wants one, has been through all of
//! them:
//!
//! ```
//! use std::time::Duration;
//! use ternion_policy::{Admitted, Credential, MaxOutput, Policy, Role};
//!
//! fn submit(_: Admitted) {}
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let policy = Policy::open();
//! let now = Duration::from_secs(1);
//! let caller = policy.authenticate(&Credential { key: None, certificate_sans: &[] })?;
//! let ticket = policy.enter(&caller.allowed(Role::Inference)?, now)?;
//! submit(ticket.admit(12, MaxOutput::AtMost(256), now)?);
//! # Ok(())
//! # }
//! ```
//!
//! The same without the last door does not compile:
//!
//! ```compile_fail,E0308
//! use std::time::Duration;
//! use ternion_policy::{Admitted, Credential, MaxOutput, Policy, Role};
//!
//! fn submit(_: Admitted) {}
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let policy = Policy::open();
//! let now = Duration::from_secs(1);
//! let caller = policy.authenticate(&Credential { key: None, certificate_sans: &[] })?;
//! let ticket = policy.enter(&caller.allowed(Role::Inference)?, now)?;
//! submit(ticket);
//! # Ok(())
//! # }
//! ```
//!
//! nor does one admission for two requests, nor going in without having asked
//! for the role:
//!
//! ```compile_fail,E0599
//! fn twice(admitted: ternion_policy::Admitted) -> [ternion_policy::Admitted; 2] {
//!     [admitted.clone(), admitted]
//! }
//! ```
//!
//! ```compile_fail,E0308
//! use std::time::Duration;
//! use ternion_policy::{Caller, Policy};
//!
//! fn enter(policy: &Policy, caller: &Caller) {
//!     let _ = policy.enter(caller, Duration::ZERO);
//! }
//! ```
//!
//! A rate of `n` a minute is a bucket of `n` that gains `n` a minute: a tenant
//! that was idle may have a minute's worth at once. Tokens are taken when a
//! request is admitted, as many as it may need, and come back when it ends, as
//! far as it did not need them. So in any span of time a tenant is given, less
//! what comes back, at most a minute's worth and what the span gains.
//!
//! What is absent on purpose: no clock (a moment is the time since an origin
//! that the caller chooses and keeps), no I/O (the tenants file comes as text),
//! no transport, no logging, no waiting. Locks are held for arithmetic only.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod account;
mod admitted;
mod cache_salt;
mod caller;
mod credential;
mod directory;
mod key_hash;
mod limits;
mod mistakes;
mod node;
mod policy;
mod refusal;
mod request_durations;
mod role;
mod san;
mod tenant_id;
mod tenants;
mod tenants_file;
mod ticket;
mod token_bucket;
mod usage;

pub use admitted::Admitted;
pub use caller::{Authorised, Caller, Forbidden};
pub use credential::{Credential, Unauthenticated};
pub use key_hash::KeyHash;
pub use mistakes::{Mistake, TenantsError};
pub use policy::Policy;
pub use refusal::{Cause, Refusal};
pub use role::Role;
pub use tenant_id::TenantId;
pub use tenants::Tenants;
pub use ticket::{MaxOutput, Ticket};
pub use usage::TenantUsage;
