//! API versions: `major.minor`, compared by number.

use std::fmt;
use std::str::FromStr;

/// A version of the Docker Engine API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    pub major: u16,
    pub minor: u16,
}

impl ApiVersion {
    /// The newest version this crate speaks.
    pub const MAX: Self = Self::new(1, 51);
    /// The oldest version a server serves unless told otherwise.
    pub const MIN: Self = Self::new(1, 40);
    /// The oldest version a server may be told to serve, and what a silent server is taken for.
    pub const FLOOR: Self = Self::new(1, 24);

    /// A version from its numbers.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The text is no API version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid API version {0:?}: expected MAJOR.MINOR")]
pub struct VersionError(pub String);

impl FromStr for ApiVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let refused = || VersionError(text.to_owned());
        let (major, minor) = text.strip_prefix('v').unwrap_or(text).split_once('.').ok_or_else(refused)?;
        let number = |part: &str| {
            if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(refused());
            }
            part.parse().map_err(|_| refused())
        };
        Ok(Self { major: number(major)?, minor: number(minor)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_compares_by_number() {
        let parse = |text: &str| text.parse::<ApiVersion>();
        assert_eq!(parse("1.51"), Ok(ApiVersion::MAX));
        assert_eq!(parse("v1.24"), Ok(ApiVersion::FLOOR));
        assert!(parse("1.9").unwrap() < parse("1.10").unwrap());
        for bad in ["", "1", "1.", ".1", "1.2.3", "a.b", "1.-2", "1.99999999", "+1.2"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
