//! Sizes in bytes as Docker's flags take them: a number and an optional unit, base 1024 (go-units `RAMInBytes`).

use crate::{ParseError, serde_as_text};
use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason: &str| ParseError::new("size", text, reason);
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
        let exponent = match unit.as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 1,
            "m" | "mb" | "mib" => 2,
            "g" | "gb" | "gib" => 3,
            "t" | "tb" | "tib" => 4,
            "p" | "pb" | "pib" => 5,
            _ => return Err(bad("unknown unit, use b, k, m, g, t or p")),
        };
        let number: f64 = number.parse().map_err(|_| bad("expected a number and a unit, e.g. 512m"))?;
        let bytes = number * 1024f64.powi(exponent);
        // Beyond 2^63 the kernel's files and Docker's int64 overflow alike.
        if !(0.0..9.223_372_036_854_775e18).contains(&bytes) {
            return Err(bad("out of range"));
        }
        Ok(ByteSize(bytes as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

serde_as_text!(ByteSize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (text, bytes) in [
            ("0", 0),
            ("32", 32),
            ("32b", 32),
            ("32k", 32 << 10),
            ("32KB", 32 << 10),
            ("1.5GiB", 3 << 29),
            ("512m", 512 << 20),
            ("2 g", 2 << 30),
            ("1T", 1 << 40),
        ] {
            assert_eq!(text.parse::<ByteSize>(), Ok(ByteSize(bytes)), "{text}");
        }
        for bad in ["", "m", "-1", "1x", "1 2", "1.2.3k", "1kbb", "9999999999p", "0x10", "1i"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }
}
