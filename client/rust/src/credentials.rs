use std::fmt;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use tonic::{Request, Status};

use crate::Error;

/// What a connection proves itself with, and whom it trusts. Never shown.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    pub(crate) api_key: Option<String>,
    pub(crate) ca: Option<Vec<u8>>,
    /// Certificate and key.
    pub(crate) certificate: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = |given: bool| if given { "given" } else { "none" };
        f.debug_struct("Credentials")
            .field("api_key", &given(self.api_key.is_some()))
            .field("ca", &given(self.ca.is_some()))
            .field("certificate", &given(self.certificate.is_some()))
            .finish()
    }
}

impl Credentials {
    /// TLS as an `https://` endpoint needs it: with the system's authorities,
    /// unless another is named.
    pub(crate) fn tls(&self) -> Result<ClientTlsConfig, Error> {
        let mut tls = match &self.ca {
            None => ClientTlsConfig::new().with_native_roots(),
            Some(pem) => {
                holds_certificates("the CA", pem)?;
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
            }
        };
        if let Some((certificate, key)) = &self.certificate {
            holds_certificates("the client certificate", certificate)?;
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        Ok(tls)
    }

    /// Without TLS there is no use for certificates, and whoever gave them
    /// means to have it.
    pub(crate) fn no_tls(&self) -> Result<(), Error> {
        match self.ca.is_some() || self.certificate.is_some() {
            true => Err(unusable(
                "certificates are of use with an https:// endpoint only",
            )),
            false => Ok(()),
        }
    }

    pub(crate) fn api_key(&self) -> Result<ApiKey, Error> {
        let Some(key) = &self.api_key else {
            return Ok(ApiKey(None));
        };
        let value = format!("Bearer {key}").parse::<AsciiMetadataValue>();
        let Some(mut value) = value.ok().filter(|_| !key.is_empty()) else {
            return Err(unusable("the API key is not one: it can't be sent"));
        };
        // Keeps it out of what is printed of requests.
        value.set_sensitive(true);
        Ok(ApiKey(Some(value)))
    }
}

/// Puts the key on every call.
#[derive(Clone, Debug, Default)]
pub(crate) struct ApiKey(Option<AsciiMetadataValue>);

impl Interceptor for ApiKey {
    fn call(&mut self, mut call: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            call.metadata_mut().insert("authorization", key.clone());
        }
        Ok(call)
    }
}

/// A file without any would be taken for one that trusts nobody.
fn holds_certificates(what: &str, pem: &[u8]) -> Result<(), Error> {
    let mut certificates = CertificateDer::pem_slice_iter(pem);
    match certificates.next() {
        Some(Ok(_)) => Ok(()),
        Some(Err(_)) | None => Err(unusable(&format!("{what} holds no certificate (PEM)"))),
    }
}

fn unusable(reason: &str) -> Error {
    Error::Credentials {
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Client;

    #[test]
    fn keys_are_not_shown() {
        let builder = Client::builder("http://127.0.0.1:1")
            .api_key("tn_secret")
            .client_certificate("certificate", "secret key");
        let shown = format!("{builder:?}");
        assert!(!shown.contains("secret"), "{shown}");
        let credentials = Credentials {
            api_key: Some("tn_secret".to_owned()),
            ..Credentials::default()
        };
        let mut key = credentials.api_key().expect("it can be sent");
        let call = key.call(Request::new(())).expect("it is let through");
        let sent = call.metadata().get("authorization").expect("on the call");
        assert_eq!(sent, "Bearer tn_secret");
        let shown = format!("{key:?} {call:?}");
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn credentials_that_are_none_are_refused() {
        let bad = |credentials: Credentials| {
            let credentials = [
                credentials.api_key().map(|_| ()),
                credentials.tls().map(|_| ()),
                credentials.no_tls(),
            ];
            let errors = credentials.into_iter().filter_map(Result::err);
            errors.map(|error| error.to_string()).collect::<Vec<_>>()
        };
        for key in ["", "two\nlines"] {
            let api_key = Some(key.to_owned());
            let errors = bad(Credentials {
                api_key,
                ca: None,
                certificate: None,
            });
            let [error] = &errors[..] else {
                panic!("{errors:?}");
            };
            assert!(error.contains("API key"), "{error}");
        }
        let errors = bad(Credentials {
            ca: Some(b"nothing".to_vec()),
            ..Credentials::default()
        });
        assert!(
            errors[0].contains("the CA holds no certificate"),
            "{errors:?}"
        );
        assert!(errors[1].contains("https://"), "{errors:?}");
    }
}
