//! TLS of the main listener, from PEM files.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};

use crate::{
    certificate::{Validity, validity},
    settings::{ClientAuth, Mistakes, TlsSettings},
};

/// Where certificate, key and authorities are.
#[derive(Debug, Clone)]
pub(crate) struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    client_auth: ClientAuth,
}

impl TlsFiles {
    /// `None` without a certificate: then there is no TLS.
    pub(crate) fn of(settings: &TlsSettings) -> Option<TlsFiles> {
        Some(TlsFiles {
            certificate: settings.certificate.clone()?,
            key: settings.key.clone()?,
            client_ca: settings.client_ca.clone(),
            client_auth: settings.client_auth,
        })
    }

    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let mut paths = vec![self.certificate.clone(), self.key.clone()];
        paths.extend(self.client_ca.clone());
        paths
    }

    /// Reads the files, or says everything that is wrong with them.
    pub(crate) fn load(&self) -> Result<ServerConfig, Mistakes> {
        let mut mistakes = Vec::new();
        let mut keep = |mistake| mistakes.push(mistake);
        let chain = certificates("tls.certificate", &self.certificate).and_then(|chain| {
            holds_now("tls.certificate", &self.certificate, &chain[..1]).map(|()| chain)
        });
        let chain = chain.map_err(&mut keep).ok();
        let key = key(&self.key).map_err(&mut keep).ok();
        let verifier = self.client_verifier().map_err(&mut keep).ok();
        match (chain, key, verifier) {
            (Some(chain), Some(key), Some(verifier)) => self.config(chain, key, verifier),
            _ => Err(Mistakes(mistakes)),
        }
    }

    fn config(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        verifier: Arc<dyn ClientCertVerifier>,
    ) -> Result<ServerConfig, Mistakes> {
        let config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key);
        let mut config = config.map_err(|error| {
            let (key, certificate) = (self.key.display(), self.certificate.display());
            Mistakes(vec![match error {
                rustls::Error::InconsistentKeys(_) => {
                    format!("tls.key: {key} is not the key of tls.certificate {certificate}")
                }
                error => format!("tls.key: {key} with tls.certificate {certificate}: {error}"),
            }])
        })?;
        // A server that offers nothing would be spoken to in HTTP/1.1.
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would skip the look at the client's certificate,
        // which may have expired since. Connections here live long.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, String> {
        const SETTING: &str = "tls.client_ca";
        let Some(path) = &self.client_ca else {
            return Ok(WebPkiClientVerifier::no_client_auth());
        };
        let shown = path.display();
        let authorities = certificates(SETTING, path)?;
        holds_now(SETTING, path, &authorities)?;
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            let added = roots.add(authority);
            added.map_err(|error| format!("{SETTING}: {shown}: {error}"))?;
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
        let verifier = match self.client_auth {
            ClientAuth::Required => verifier,
            ClientAuth::Optional => verifier.allow_unauthenticated(),
        };
        let verifier = verifier.build();
        verifier.map_err(|error| format!("{SETTING}: {shown}: {error}"))
    }
}

/// All certificates of a file; at least one.
fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|error| format!("{setting}: {shown}: {}", reason(&error)))?;
    match certificates.is_empty() {
        true => Err(format!("{setting}: {shown} holds no certificate (PEM)")),
        false => Ok(certificates),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let shown = path.display();
    PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        pem::Error::NoItemsFound => format!("tls.key: {shown} holds no private key (PEM)"),
        error => format!("tls.key: {shown}: {}", reason(&error)),
    })
}

/// The library's errors quote what they stumble over, and that may be a key.
fn reason(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("can't be read: {error}"),
        _ => "is not a PEM file".to_owned(),
    }
}

/// That one of the certificates holds now: a file of authorities may carry
/// old ones along.
fn holds_now(
    setting: &str,
    path: &Path,
    certificates: &[CertificateDer<'static>],
) -> Result<(), String> {
    let found: Vec<Option<Validity>> = certificates.iter().map(validity).collect();
    if found.contains(&Some(Validity::Valid)) {
        return Ok(());
    }
    let what = match found.first() {
        Some(Some(Validity::Expired)) => "has expired",
        Some(Some(Validity::NotYet)) => "is not valid yet",
        _ => "can't be read",
    };
    let shown = path.display();
    Err(format!("{setting}: the certificate in {shown} {what}"))
}
