//! The door of the server: no call gets to a service without the credential
//! that the table of authorisation asks for.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderName, header::AUTHORIZATION};
use ternion_policy::{Credential, Unauthenticated};
use tonic::{Status, body::Body, codegen::BoxFuture};
use tower::{Layer, Service};

use crate::{
    access::Access,
    audit,
    authorisation::{Needs, row},
    connection::Peer,
    status,
};

/// Longest credential that is looked at.
const MAX_KEY_BYTES: usize = 512;

/// What stands before a key, in any case.
const SCHEME: &str = "bearer ";

/// Puts [`Authenticated`] before all services.
#[derive(Clone)]
pub(crate) struct Authentication(pub(crate) Arc<Access>);

impl<S> Layer<S> for Authentication {
    type Service = Authenticated<S>;

    fn layer(&self, services: S) -> Authenticated<S> {
        Authenticated {
            access: self.0.clone(),
            services,
        }
    }
}

/// The services, behind the door.
#[derive(Clone)]
pub(crate) struct Authenticated<S> {
    access: Arc<Access>,
    services: S,
}

type Call = http::Request<Body>;
type Answer = http::Response<Body>;

impl<S> Service<Call> for Authenticated<S>
where
    S: Service<Call, Response = Answer, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = Infallible;
    type Future = BoxFuture<Answer, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        match authorise(&self.access, &mut call) {
            Ok(()) => Box::pin(self.services.call(call)),
            Err(status) => {
                audit::turned_away(&call, status.code());
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}

/// Leaves the caller with the call, where one is needed.
fn authorise(access: &Access, call: &mut Call) -> Result<(), Status> {
    let needs = row(call.uri().path()).map(|(_, needs)| *needs);
    if needs == Some(Needs::Nothing) {
        return Ok(());
    }
    let peer = call.extensions().get::<Peer>();
    let credential = Credential {
        key: key(call.headers())?,
        certificate_sans: peer.map_or(&[], |peer| &peer.certificate_names),
    };
    // Why is not told: a stranger must not learn which names there are.
    let caller = access.policy.authenticate(&credential).map_err(|error| {
        tracing::debug!(%error, "call without a good credential");
        match error {
            Unauthenticated::NoCredential => status::no_credential(),
            _ => status::bad_credential(),
        }
    })?;
    // Strangers are not told either which RPCs there are.
    let Some(Needs::Role(role)) = needs else {
        return Err(status::no_such_rpc());
    };
    let authorised = caller
        .allowed(role)
        .map_err(|_| status::role_missing(role))?;
    call.extensions_mut().insert(authorised);
    Ok(())
}

/// The API key of a call, if it brings one. Anything in its place that is not
/// one is a bad key, not none: whoever sends it means to be someone.
fn key(headers: &HeaderMap) -> Result<Option<&str>, Status> {
    const NAME: HeaderName = AUTHORIZATION;
    let mut values = headers.get_all(NAME).iter();
    let (first, second) = (values.next(), values.next());
    let Some(value) = first else {
        return Ok(None);
    };
    let text = value.to_str().ok().filter(|_| second.is_none());
    let key = text.and_then(|text| {
        let (scheme, key) = text.split_at_checked(SCHEME.len())?;
        scheme.eq_ignore_ascii_case(SCHEME).then(|| key.trim())
    });
    key.filter(|key| (1..=MAX_KEY_BYTES).contains(&key.len()))
        .map(Some)
        .ok_or_else(status::bad_credential)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = value.parse().expect("a header");
            headers.append(AUTHORIZATION, value);
        }
        headers
    }

    #[test]
    fn a_key_is_read_from_one_place_only() {
        for (values, expected) in [
            (&[][..], Some(None)),
            (&["Bearer tn_x"], Some(Some("tn_x"))),
            (&["bearer  tn_x "], Some(Some("tn_x"))),
            (&["Bearer"], None),
            (&["Bearer "], None),
            (&["Basic dXNlcjpwYXNz"], None),
            (&["tn_x"], None),
            (&["Bearer tn_x", "Bearer tn_y"], None),
            (&["Bearer \u{e9}"], None),
        ] {
            let headers = headers(values);
            let key = key(&headers);
            assert_eq!(key.ok(), expected, "{values:?}");
        }
        let mut other = HeaderMap::new();
        other.insert("x-api-key", "tn_x".parse().expect("a header"));
        other.insert("x-tenant", "acme".parse().expect("a header"));
        assert_eq!(key(&other).ok(), Some(None), "no other header counts");
        let long = format!("Bearer {}", "x".repeat(600));
        assert!(key(&headers(&[&long])).is_err());
    }
}
