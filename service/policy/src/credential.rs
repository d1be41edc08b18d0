//! What a caller shows, and why it may not be enough.

use std::fmt;

/// What a caller shows.
#[derive(Clone, Copy)]
pub struct Credential<'a> {
    /// The API key, without `Bearer`. If there is one it counts alone: a
    /// certificate does not make up for a wrong key.
    pub key: Option<&'a str>,
    /// URI and DNS names of the client certificate, which the TLS stack has
    /// verified.
    pub certificate_sans: &'a [String],
}

impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("key", &self.key.map(|_| "(hidden)"))
            .field("certificate_sans", &self.certificate_sans)
            .finish()
    }
}

/// Why a caller is nobody. Holds nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    /// Neither a key nor a name in a client certificate.
    #[error("no credential: an API key or a client certificate is needed")]
    NoCredential,
    /// No tenant has this key, or has it any more.
    #[error("API key is not known")]
    UnknownKey,
    /// No tenant has any of the certificate's names.
    #[error("client certificate is not known: no tenant has the name {san:?}{}", or_others(*.others))]
    UnknownCertificate {
        /// The first name.
        san: String,
        /// How many names it has besides.
        others: usize,
    },
    /// The certificate's names belong to several tenants, and nothing says
    /// for which of them the caller speaks.
    #[error(
        "client certificate is ambiguous: {first:?} and {second:?} are different tenants' names"
    )]
    AmbiguousCertificate {
        /// A name of one tenant.
        first: String,
        /// A name of another.
        second: String,
    },
}

fn or_others(others: usize) -> String {
    match others {
        0 => String::new(),
        1 => " or its other one".to_owned(),
        n => format!(" or its {n} others"),
    }
}
