//! The tenants, where they come from, and the clock that their limits go by.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ternion_policy::{Authorised, Policy, Tenants, Ticket};
use tonic::{Request, Status};

use crate::{refusal::Refusal, settings::Mistakes, status};

pub(crate) struct Access {
    pub(crate) policy: Policy,
    /// `None` while no tenants are configured.
    pub(crate) file: Option<PathBuf>,
    /// Whether clients are asked for certificates.
    certificates: bool,
    origin: Instant,
}

impl Access {
    /// Everyone may do everything, or what the file of tenants says.
    /// `certificates`: whether clients are asked for theirs.
    pub(crate) fn open(file: Option<&Path>, certificates: bool) -> Result<Access, Mistakes> {
        Ok(Access {
            policy: match file {
                None => Policy::open(),
                Some(file) => Policy::new(read(file, certificates)?),
            },
            file: file.map(Path::to_owned),
            certificates,
            origin: Instant::now(),
        })
    }

    /// Now, as the policy has it.
    pub(crate) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// What [`Access::now`] counts from.
    pub(crate) fn origin(&self) -> Instant {
        self.origin
    }

    /// Takes one of the tenant's requests, or one for each of several samples.
    pub(crate) fn enter(&self, caller: &Authorised, samples: usize) -> Result<Ticket, Refusal> {
        let entered = self
            .policy
            .enter_samples(caller, samples as u64, self.now());
        entered.map_err(|refused| Refusal::quota("n", refused))
    }

    /// Takes the tenants from the file as it is now. Requests that run go on.
    pub(crate) fn reload(&self, file: &Path) -> Result<usize, Mistakes> {
        let tenants = read(file, self.certificates)?;
        let num_tenants = tenants.len();
        self.policy.reload(tenants, self.now());
        Ok(num_tenants)
    }
}

fn read(file: &Path, certificates: bool) -> Result<Tenants, Mistakes> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Mistakes(vec![format!("tenants: {shown}: can't be read: {error}")]))?;
    let tenants = Tenants::parse(&text).map_err(|error| {
        let mistakes = error.mistakes().iter();
        Mistakes(
            mistakes
                .map(|mistake| format!("tenants: {shown}: {mistake}"))
                .collect(),
        )
    })?;
    if !certificates && let Some(tenant) = tenants.with_certificates().next() {
        tracing::warn!(
            tenant,
            "clients are not asked for certificates, since tls.client_ca is not set: those of \
             tenants are of no use"
        );
    }
    Ok(tenants)
}

/// Who makes a call that needs a role. Every call has passed
/// [`Authentication`](crate::authentication::Authentication), which put it
/// there.
pub(crate) fn caller<T>(call: &Request<T>) -> Result<Authorised, Status> {
    let caller = call.extensions().get::<Authorised>();
    caller.cloned().ok_or_else(status::no_caller)
}
