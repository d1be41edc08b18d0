//! API keys, of which only hashes are kept.

use std::fmt;

use sha2::{Digest, Sha256};

/// How API keys begin, so that one that stands where it should not is noticed.
pub(crate) const KEY_PREFIX: &str = "tn_";

/// SHA-256 of an API key's text.
///
/// A fast hash without salt is enough because keys are 256 random bits:
/// guessing one is hopeless at any speed, and no two are alike. A password
/// would need something slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// How a hash begins in a tenants file.
    pub(crate) const PREFIX: &str = "sha256:";

    /// The hash of a whole key, `tn_` included.
    ///
    /// ```
    /// // printf %s tn_example | sha256sum
    /// assert_eq!(
    ///     ternion_policy::KeyHash::of("tn_example").to_string(),
    ///     "sha256:689893c2dece1799ce8bc384a6435cf71f8ae012092b01ec1ddc3ad433250e1f",
    /// );
    /// ```
    pub fn of(key: &str) -> KeyHash {
        KeyHash(Sha256::digest(key.as_bytes()).into())
    }

    /// Reads `sha256:` and 64 hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<KeyHash> {
        let digits = text.strip_prefix(KeyHash::PREFIX)?.as_bytes();
        let (pairs, rest) = digits.as_chunks::<2>();
        let mut hash = [0; 32];
        if pairs.len() != hash.len() || !rest.is_empty() {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(pairs) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(KeyHash(hash))
    }
}

fn digit(ascii: u8) -> Option<u8> {
    // A hexadecimal digit is below 16.
    char::from(ascii).to_digit(16).map(|digit| digit as u8)
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KeyHash::PREFIX)?;
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}
