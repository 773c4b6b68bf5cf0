//! PAX extended headers: `length key=value\n` records, and the sparse maps in them.

use super::Extent;
use super::header::until_nul;

/// More extents than this are refused: a map is held in memory.
const MAX_EXTENTS: usize = 1 << 16;

/// Records of one extended header, the last of a key counts; sparse 0.0 repeats its keys in order.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Sparse,
}

/// GNU's sparse records.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub name: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub map: Vec<u64>,
    pub present: bool,
}

impl Records {
    pub fn parse(data: &[u8]) -> Result<Records, &'static str> {
        let mut records = Records::default();
        let mut rest = data;
        while !rest.is_empty() {
            let bad = "malformed PAX record";
            let space = rest.iter().take(20).position(|b| *b == b' ').ok_or(bad)?;
            let length = decimal(&rest[..space]).ok_or(bad)?;
            let length = usize::try_from(length).map_err(|_| bad)?;
            if length <= space + 1 || length > rest.len() || rest[length - 1] != b'\n' {
                return Err(bad);
            }
            let record = &rest[space + 1..length - 1];
            rest = &rest[length..];
            let equals = record.iter().position(|b| *b == b'=').ok_or(bad)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            // A NUL would make one archive mean two things to two readers.
            let is_text = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname" | b"GNU.sparse.name");
            if key.is_empty() || key.contains(&0) || (is_text && value.contains(&0)) {
                return Err(bad);
            }
            records.take(key, value)?;
        }
        Ok(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let text = || Some(value.to_vec()).filter(|v| !v.is_empty());
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            // An empty value takes an earlier record back.
            b"size" => self.size = optional(value, decimal, "size")?,
            b"uid" => self.uid = optional(value, signed, "uid")?,
            b"gid" => self.gid = optional(value, signed, "gid")?,
            b"mtime" => self.mtime = optional(value, time, "mtime")?,
            b"GNU.sparse.major" => self.sparse.major = Some(small(value)?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(small(value)?),
            b"GNU.sparse.name" => self.sparse.name = text(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.size = Some(decimal(value).ok_or("malformed sparse size")?);
                self.sparse.present = true;
            }
            b"GNU.sparse.numblocks" => self.sparse.present = true,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let expected = if key == b"GNU.sparse.offset" { 0 } else { 1 };
                if self.sparse.map.len() % 2 != expected || self.sparse.map.len() >= 2 * MAX_EXTENTS {
                    return Err("malformed sparse map");
                }
                self.sparse.map.push(decimal(value).ok_or("malformed sparse map")?);
                self.sparse.present = true;
            }
            b"GNU.sparse.map" => {
                self.sparse.present = true;
                self.sparse.map.clear();
                for number in value.split(|b| *b == b',').filter(|n| !n.is_empty()) {
                    if self.sparse.map.len() >= 2 * MAX_EXTENTS {
                        return Err("sparse map has too many parts");
                    }
                    self.sparse.map.push(decimal(number).ok_or("malformed sparse map")?);
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.retain(|(old, _)| old != name);
                    if !value.is_empty() || !name.is_empty() {
                        self.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Sparse {
    /// True when the map stands before the data (version 1.0).
    pub fn map_in_data(&self) -> bool {
        self.major == Some(1) && self.minor == Some(0)
    }
}

/// Pairs of offset and length, checked: ordered, not overlapping, within `size`; the lengths must add up to `data`.
pub(super) fn extents(numbers: &[u64], size: u64, data: u64) -> Result<Vec<Extent>, &'static str> {
    let bad = "sparse map does not fit the file";
    if !numbers.len().is_multiple_of(2) || numbers.len() > 2 * MAX_EXTENTS {
        return Err(bad);
    }
    let (mut extents, mut end, mut sum) = (Vec::new(), 0u64, 0u64);
    for pair in numbers.chunks_exact(2) {
        let (offset, length) = (pair[0], pair[1]);
        let next = offset.checked_add(length).ok_or(bad)?;
        if offset < end || next > size {
            return Err(bad);
        }
        end = next;
        sum += length;
        if length > 0 {
            extents.push(Extent { offset, length });
        }
    }
    if sum == data { Ok(extents) } else { Err(bad) }
}

/// The map of version 1.0 at the start of the data: numbers in lines, filled up to a block.
/// `line` yields the next line of at most 20 digits.
pub(super) fn map_of_lines(
    mut line: impl FnMut() -> Result<u64, crate::Error>,
    refuse: impl Fn(&str) -> crate::Error,
) -> Result<Vec<u64>, crate::Error> {
    let count = line()?;
    if count > MAX_EXTENTS as u64 {
        return Err(refuse("sparse map has too many parts"));
    }
    (0..count * 2).map(|_| line()).collect()
}

fn optional<T>(value: &[u8], parse: impl Fn(&[u8]) -> Option<T>, what: &'static str) -> Result<Option<T>, &'static str> {
    if value.is_empty() {
        return Ok(None);
    }
    parse(value).map(Some).ok_or(match what {
        "size" => "malformed size",
        "mtime" => "malformed mtime",
        _ => "malformed owner",
    })
}

fn small(value: &[u8]) -> Result<u32, &'static str> {
    decimal(value).and_then(|n| u32::try_from(n).ok()).ok_or("malformed sparse version")
}

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(until_nul(text)).ok()?.parse().ok()
}

fn signed(text: &[u8]) -> Option<i64> {
    match text.strip_prefix(b"-") {
        Some(rest) => i64::try_from(decimal(rest)?).ok().map(|n| -n),
        None => i64::try_from(decimal(text)?).ok(),
    }
}

/// `[-]seconds[.fraction]`.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &b""[..]),
    };
    let seconds = signed(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0u32, |value, at| value * 10 + fraction.get(at).map_or(0, |digit| u32::from(digit - b'0')));
    if whole.starts_with(b"-") && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let records = Records::parse(b"12 path=a/b\n20 SCHILY.xattr.a=b\n14 mtime=1.25\n").unwrap();
        assert_eq!(records.path.unwrap(), b"a/b");
        assert_eq!(records.mtime, Some((1, 250_000_000)));
        assert_eq!(records.xattrs, [(b"a".to_vec(), b"b".to_vec())]);
        for bad in
            [&b"4 a=\n"[..], b"99 path=a\n", b"x path=a\n", b"12 path=a/b ", b"7 path\n\n", b"11 path=a\0\n", b"10 size=-1\n", b"0 \n"]
        {
            assert!(Records::parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn times() {
        assert_eq!(time(b"-1.5"), Some((-2, 500_000_000)));
        assert_eq!(time(b"1.123456789999"), Some((1, 123_456_789)));
        assert_eq!(time(b"1.x"), None);
    }

    #[test]
    fn maps() {
        assert!(extents(&[0, 5, 10, 5], 20, 10).is_ok());
        for (map, size, data) in [(&[0, 5, 4, 1][..], 20, 6), (&[0, 30], 20, 30), (&[0, 5], 20, 6), (&[u64::MAX, 1], 20, 1), (&[0], 20, 0)]
        {
            assert!(extents(map, size, data).is_err(), "{map:?}");
        }
    }
}
