use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use ternion_client::Builder;

use crate::failure::Failure;

/// What this client proves itself with, and whom it trusts.
#[derive(Clone, Debug, Args)]
pub(crate) struct Credentials {
    /// API key. Better in the environment: others can see command lines.
    #[arg(
        long,
        global = true,
        env = "TERNION_API_KEY",
        hide_env_values = true,
        value_name = "KEY"
    )]
    api_key: Option<ApiKey>,

    /// Authorities to trust with an https:// endpoint (PEM). Default: those of
    /// the system.
    #[arg(long, global = true, env = "TERNION_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Client certificate and its chain (PEM).
    #[arg(long, global = true, value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,

    /// Private key of --client-cert (PEM).
    #[arg(long, global = true, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
}

/// Not to be shown.
#[derive(Clone)]
struct ApiKey(String);

impl From<String> for ApiKey {
    fn from(key: String) -> ApiKey {
        ApiKey(key)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey")
    }
}

impl Credentials {
    /// The same with another key, if there is one.
    pub(crate) fn with_key(&self, key: Option<&str>) -> Credentials {
        let key = key.map(|key| ApiKey(key.to_owned()));
        Credentials {
            api_key: key.or_else(|| self.api_key.clone()),
            ..self.clone()
        }
    }

    pub(crate) fn key(&self) -> Option<&str> {
        self.api_key.as_ref().map(|ApiKey(key)| key.as_str())
    }

    /// Reads the files.
    pub(crate) fn give_to(&self, mut builder: Builder) -> Result<Builder, Failure> {
        if let Some(key) = self.key() {
            builder = builder.api_key(key);
        }
        if let Some(ca) = &self.ca {
            builder = builder.ca(read("--ca", ca)?);
        }
        if let (Some(certificate), Some(key)) = (&self.client_cert, &self.client_key) {
            let certificate = read("--client-cert", certificate)?;
            builder = builder.client_certificate(certificate, read("--client-key", key)?);
        }
        Ok(builder)
    }
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|source| Failure::Credential {
        flag,
        path: path.to_owned(),
        source,
    })
}
