//! What a certificate says about its holder.

use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, prelude::FromDer, prelude::X509Certificate};

/// Names of a certificate that are looked at.
const MAX_NAMES: usize = 100;

/// When a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validity {
    Valid,
    NotYet,
    Expired,
}

/// The URI and DNS names that a certificate was issued for. The certificate
/// must have been verified.
pub(crate) fn subject_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = extension.value.general_names.iter();
    names.filter_map(name).take(MAX_NAMES).collect()
}

/// A name of either kind can't be taken for one of the other: authorities may
/// check the two differently.
fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::URI(uri) => uri.contains(':').then(|| (*uri).to_owned()),
        GeneralName::DNSName(name) => (!name.contains([':', '/'])).then(|| name.to_lowercase()),
        _ => None,
    }
}

/// Whether a certificate holds now, or `None` if it can't be read.
pub(crate) fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let now = i64::try_from(now.as_secs()).ok()?;
    let validity = certificate.validity();
    Some(if now > validity.not_after.timestamp() {
        Validity::Expired
    } else if now < validity.not_before.timestamp() {
        Validity::NotYet
    } else {
        Validity::Valid
    })
}
