//! Names in certificates.

use std::{fmt, sync::Arc};

/// A name by which a certificate is known: a URI (which is compared as it is)
/// or a DNS name (in lower case, because DNS is blind to case).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct San(Arc<str>);

/// Longest SPIFFE ID, in bytes.
const MAX_URI: usize = 2048;
const MAX_DNS_NAME: usize = 253;
const MAX_DNS_LABEL: usize = 63;

/// Why a text names no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadSan {
    Wildcard,
    NoName,
}

impl San {
    /// A name of a certificate as it came over the wire.
    pub(crate) fn of_certificate(san: &str) -> San {
        match is_uri(san) {
            true => San(san.into()),
            false => San(san.to_ascii_lowercase().into()),
        }
    }

    /// A name as an operator writes it.
    pub(crate) fn parse(text: &str) -> Result<San, BadSan> {
        if text.contains('*') {
            return Err(BadSan::Wildcard);
        }
        let ok = match is_uri(text) {
            true => text.len() <= MAX_URI && text.bytes().all(|byte| byte.is_ascii_graphic()),
            false => is_dns_name(text),
        };
        match ok {
            true => Ok(San::of_certificate(text)),
            false => Err(BadSan::NoName),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether it is `scheme://…` or `urn:…`. `host:50051` is neither.
fn is_uri(text: &str) -> bool {
    let (scheme, rest) = match text.split_once("://") {
        Some(parts) => parts,
        None => match text.split_once(':') {
            Some(("urn", rest)) => ("urn", rest),
            _ => return false,
        },
    };
    let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let starts = scheme
        .bytes()
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic());
    starts && scheme.bytes().all(in_scheme) && !rest.is_empty()
}

fn is_dns_name(text: &str) -> bool {
    let in_label = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_label =
        |label: &str| (1..=MAX_DNS_LABEL).contains(&label.len()) && label.bytes().all(in_label);
    text.len() <= MAX_DNS_NAME && text.split('.').all(is_label)
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
