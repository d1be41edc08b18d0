//! `ternion-server keygen`: a fresh API key.

use anyhow::Context;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use clap::Args;
use rustls::crypto::CryptoProvider;
use serde_json::json;
use ternion_policy::KeyHash;

/// Make an API key, and the line that goes into the tenants file for it.
#[derive(Debug, Args)]
pub(crate) struct KeygenArguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Keys are hashed without salt or stretching, which is safe only because
/// nobody can guess so many bits.
const KEY_BYTES: usize = 32;

/// Runs the command.
pub(crate) fn run(arguments: &KeygenArguments) -> anyhow::Result<()> {
    let key = fresh()?;
    let hash = KeyHash::of(&key).to_string();
    match arguments.json {
        true => println!("{}", json!({ "key": key, "hash": hash })),
        false => println!("{key}\nhash = \"{hash}\""),
    }
    Ok(())
}

fn fresh() -> anyhow::Result<String> {
    let provider = CryptoProvider::get_default().context("no cryptography was set up")?;
    let mut bytes = [0; KEY_BYTES];
    let filled = provider.secure_random.fill(&mut bytes);
    // The error has nothing to say.
    if filled.is_err() {
        anyhow::bail!("the system gives no random numbers");
    }
    Ok(format!("tn_{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_alike_in_form_only() {
        // Fails if another test was first, and then it is there.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (one, two) = (fresh().expect("a key"), fresh().expect("a key"));
        assert_ne!(one, two);
        for key in [one, two] {
            let random = key.strip_prefix("tn_").expect("the prefix");
            // 256 bits, six a character.
            assert_eq!(random.len(), 43);
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
            assert!(random.chars().all(allowed), "{random}");
        }
    }
}
