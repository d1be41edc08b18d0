use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};

/// A certificate authority of a test.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = params("ternion test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("random numbers");
        let certificate = params.self_signed(&key).expect("good parameters");
        Authority {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// The authority's own certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// For a server on this machine, reached by address or as `localhost`.
    pub fn server(&self) -> Certificate {
        self.issue(vec![
            SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
            dns("localhost"),
        ])
    }

    /// For a client that is called by a URI.
    pub fn client(&self, uri: &str) -> Certificate {
        self.issue(vec![SanType::URI(uri.try_into().expect("ASCII"))])
    }

    /// For a client that is called by a DNS name.
    pub fn dns_client(&self, name: &str) -> Certificate {
        self.issue(vec![dns(name)])
    }

    /// The same, and over since the year 2000.
    pub fn expired(&self, uri: &str) -> Certificate {
        let mut params = params("expired");
        params.not_before = date_time_ymd(1999, 1, 1);
        params.not_after = date_time_ymd(2000, 1, 1);
        params.subject_alt_names = vec![
            SanType::URI(uri.try_into().expect("ASCII")),
            SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
        ];
        self.sign(&params)
    }

    fn issue(&self, names: Vec<SanType>) -> Certificate {
        let mut params = params("ternion test");
        params.subject_alt_names = names;
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Certificate {
        let key = KeyPair::generate().expect("random numbers");
        let certificate = params.signed_by(&key, &self.issuer);
        Certificate {
            certificate: certificate.expect("good parameters").pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Default for Authority {
    fn default() -> Authority {
        Authority::new()
    }
}

impl Certificate {
    /// Writes `NAME.pem` and `NAME.key`, and says where they are.
    pub fn write(&self, dir: &Path, name: &str) -> [PathBuf; 2] {
        let paths = [format!("{name}.pem"), format!("{name}.key")].map(|name| dir.join(name));
        for (path, text) in paths.iter().zip([&self.certificate, &self.key]) {
            std::fs::write(path, text).expect("a directory of the test");
        }
        paths
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("ASCII"))
}
