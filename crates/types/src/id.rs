//! Container ids and object names, as Docker defines them.

use crate::{ParseError, serde_as_text};
use std::fmt;
use std::str::FromStr;

/// 64 lower-case hex digits of 32 random bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(String);

impl ContainerId {
    /// A fresh id. Its first 12 digits are never all decimal: tools would take the short form for a number.
    pub fn random() -> Self {
        loop {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).expect("the kernel's random source cannot fail after boot");
            let id = hex::encode(bytes);
            if id[..12].bytes().any(|b| b.is_ascii_alphabetic()) {
                return ContainerId(id);
            }
        }
    }

    /// The 12 digits that lists show.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(ContainerId(text.to_owned()))
        } else {
            Err(ParseError::new("container id", text, "expected 64 lower-case hex digits"))
        }
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

serde_as_text!(ContainerId);

/// A container's or volume's name: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, at most 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The longest name: names become file names and host names.
    pub const MAX_BYTES: usize = 255;

    /// The name without a leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bytes = text.as_bytes();
        let word = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if bytes.len() < 2 || !bytes[0].is_ascii_alphanumeric() || !bytes.iter().all(word) {
            return Err(ParseError::new("name", text, "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"));
        }
        if bytes.len() > Self::MAX_BYTES {
            return Err(ParseError::new("name", text, "longer than 255 bytes"));
        }
        Ok(Name(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(Name);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_parse_and_differ() {
        let (a, b) = (ContainerId::random(), ContainerId::random());
        assert_ne!(a, b);
        assert_eq!(a.as_str().parse::<ContainerId>(), Ok(a.clone()));
        assert_eq!(a.short().len(), 12);
    }

    #[test]
    fn names() {
        for good in ["ab", "a.b", "A-1_2", "0x"] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "a", "_a", ".a", "a/b", "a b", "ä1", "../x", &"a".repeat(256)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
