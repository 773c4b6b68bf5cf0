//! The 512-byte header block: fields, numbers, checksum.

use super::BLOCK;

/// Which dialect a header speaks; it decides what the last fields mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

pub(super) struct Header<'a>(pub &'a [u8; BLOCK]);

impl<'a> Header<'a> {
    pub fn field(&self, offset: usize, length: usize) -> &'a [u8] {
        &self.0[offset..offset + length]
    }

    /// A field up to its first NUL.
    pub fn text(&self, offset: usize, length: usize) -> &'a [u8] {
        until_nul(self.field(offset, length))
    }

    pub fn number(&self, offset: usize, length: usize) -> Option<i64> {
        number(self.field(offset, length))
    }

    pub fn kind(&self) -> u8 {
        self.0[156]
    }

    /// The sum over all bytes with the checksum taken as spaces; some old programs summed signed bytes.
    pub fn checksum_holds(&self) -> bool {
        let Some(stored) = octal(self.field(148, 8)) else { return false };
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (at, byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        stored == unsigned || stored == signed
    }

    pub fn dialect(&self) -> Dialect {
        match (self.field(257, 6), self.field(263, 2)) {
            (b"ustar\0", _) if self.field(508, 4) == b"tar\0" => Dialect::Star,
            (b"ustar\0", _) => Dialect::Ustar,
            (b"ustar ", b" \0") => Dialect::Gnu,
            _ => Dialect::V7,
        }
    }
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

/// Octal text, or base-256 when the first bit is set (two's complement in the other bits).
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        return octal(field);
    }
    let negative = first & 0x40 != 0;
    let mut value: i64 = if negative { -1 } else { 0 };
    for (at, byte) in field.iter().enumerate() {
        let byte = if at == 0 { if negative { byte | 0x80 } else { byte & 0x7f } } else { *byte };
        let shifted = value.checked_mul(256)?;
        value = shifted | i64::from(byte);
    }
    Some(value)
}

pub(super) fn octal(field: &[u8]) -> Option<i64> {
    let start = field.iter().position(|b| !matches!(b, b' ' | 0)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(|b| matches!(b, b' ' | 0)).unwrap_or(digits.len());
    if digits[end..].iter().any(|b| !matches!(b, b' ' | 0)) {
        // Go stops at the first NUL; anything after it is not looked at.
        let nul = digits.iter().position(|b| *b == 0)?;
        if digits[..nul].iter().skip(end).any(|b| *b != b' ') {
            return None;
        }
    }
    digits[..end].iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"", None),
            (b"0000648\0", None),
            (b"12 3", None),
            (b"12\x003", Some(0o12)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
