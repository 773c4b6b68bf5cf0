//! Content digests (OCI image-spec, descriptor.md#digests). Only sha256 is accepted.

use crate::{ParseError, serde_as_text};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;

/// `sha256:` and 64 lower-case hex digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(Sha256::digest(bytes).into())
    }

    /// A digest from the raw hash.
    pub fn from_sha256(hash: [u8; 32]) -> Self {
        Digest(hash)
    }

    /// The 64 hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first 12 hex digits, as lists print them.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }

    /// Always `sha256`.
    pub fn algorithm(&self) -> &'static str {
        "sha256"
    }

    /// The raw hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason: &str| ParseError::new("digest", text, reason);
        let (algorithm, hex_digits) = text.split_once(':').ok_or_else(|| bad("expected algorithm:hex"))?;
        if algorithm != "sha256" {
            return Err(bad("unsupported algorithm, only sha256 is"));
        }
        if hex_digits.len() != 64 || hex_digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(bad("expected 64 lower-case hex digits"));
        }
        let mut hash = [0; 32];
        hex::decode_to_slice(hex_digits, &mut hash).map_err(|_| bad("expected 64 lower-case hex digits"))?;
        Ok(Digest(hash))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

serde_as_text!(Digest);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hash_and_round_trip() {
        let empty = Digest::of(b"");
        assert_eq!(empty.to_string(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(empty.to_string().parse::<Digest>(), Ok(empty));
    }

    #[test]
    fn refuses_other_shapes() {
        let digits = "a".repeat(64);
        for text in [
            "",
            "sha256:",
            "sha256:abc",
            "md5:00",
            &format!("sha512:{digits}"),
            &format!("sha256:{}", "A".repeat(64)),
            &format!("sha256:{digits}0"),
            &format!("sha256:../{}", "a".repeat(61)),
            &digits,
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
