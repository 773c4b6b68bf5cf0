//! Environment variables and labels, given one by one or in files.

use super::{Parsed, open_error};
use std::collections::hash_map::Entry;

/// `--env`: `NAME=value`, or a name whose value is taken from our own environment when it is there.
pub fn variable(text: &str) -> Parsed<String> {
    let (name, value) = match text.split_once('=') {
        Some((name, _)) => (name, Some(())),
        None => (text, None),
    };
    if name.is_empty() {
        return Err(format!("invalid environment variable: {text}"));
    }
    match (value, std::env::var(name)) {
        (None, Ok(value)) => Ok(format!("{name}={value}")),
        _ => Ok(text.to_owned()),
    }
}

/// All of `--env-file`, then `--env`.
pub fn variables(files: &[String], single: &[String]) -> Parsed<Vec<String>> {
    let mut out = Vec::new();
    for file in files {
        out.extend(read(file, |name| std::env::var(name).ok().map(|value| format!("{name}={value}")))?);
    }
    for text in single {
        out.push(variable(text)?);
    }
    Ok(last_of_each(out))
}

/// A name that comes again has its last value, at the first one's place.
fn last_of_each(all: Vec<String>) -> Vec<String> {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut out: Vec<String> = Vec::with_capacity(all.len());
    let mut places = std::collections::HashMap::new();
    for entry in all {
        match places.entry(name(&entry)) {
            Entry::Occupied(place) => out[*place.get()] = entry,
            Entry::Vacant(place) => {
                place.insert(out.len());
                out.push(entry);
            }
        }
    }
    out
}

/// All of `--label-file`, then `--label`.
pub fn labels(files: &[String], single: &[String]) -> Parsed<Vec<String>> {
    let mut out = Vec::new();
    for file in files {
        out.extend(read(file, |name| Some(name.to_owned()))?);
    }
    for text in single {
        out.push(super::label(text)?);
    }
    Ok(out)
}

/// Lines of `name=value`; blank lines and those that begin with `#` do not count.
fn read(path: &str, bare: impl Fn(&str) -> Option<String>) -> Parsed<Vec<String>> {
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::IsADirectory => format!("invalid env file ({path}): {}", open_error(path, &error)),
        _ => open_error(path, &error),
    })?;
    lines(path, &bytes, bare)
}

/// Docker's: of Go's bufio.Scanner.
const MAX_LINE_BYTES: usize = 64 << 10;

fn lines(path: &str, bytes: &[u8], bare: impl Fn(&str) -> Option<String>) -> Parsed<Vec<String>> {
    let mut out = Vec::new();
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.len() >= MAX_LINE_BYTES {
            return Err(format!("invalid env file ({path}): bufio.Scanner: token too long"));
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = std::str::from_utf8(line)
            .map_err(|_| {
                let numbers: Vec<String> = line.iter().map(u8::to_string).collect();
                format!("invalid env file ({path}): invalid utf8 bytes at line {}: [{}]", number + 1, numbers.join(" "))
            })?
            .trim_start();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        if name.is_empty() {
            return Err(format!("invalid env file ({path}): no variable name on line '{text}'"));
        }
        let name = name.trim_start();
        if name.contains([' ', '\t']) {
            return Err(format!("invalid env file ({path}): variable '{name}' contains whitespaces"));
        }
        match value {
            Some(value) => out.push(format!("{name}={value}")),
            None => out.extend(bare(name)),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_line_by_line() {
        let text = b"\xef\xbb\xbfA=1\r\n\n# comment\n  B=x y = z\nC\nPRESENT\nD=\n";
        let read = lines("f", text, |name| (name == "PRESENT").then(|| "PRESENT=1".to_owned()));
        assert_eq!(read, Ok(["A=1", "B=x y = z", "PRESENT=1", "D="].map(str::to_owned).to_vec()));
        for (text, error) in [
            (&b"=x"[..], "invalid env file (f): no variable name on line '=x'"),
            (b"a b=x", "invalid env file (f): variable 'a b' contains whitespaces"),
            (b"A=\xff1", "invalid env file (f): invalid utf8 bytes at line 1: [65 61 255 49]"),
            (&[b'a'; MAX_LINE_BYTES], "invalid env file (f): bufio.Scanner: token too long"),
        ] {
            assert_eq!(lines("f", text, |_| None).expect_err("refused"), error);
        }
    }

    #[test]
    fn what_comes_again_counts() {
        let all = ["A=1", "B=2", "A=3", "B"].map(str::to_owned).to_vec();
        assert_eq!(last_of_each(all), ["A=3", "B"]);
    }

    #[test]
    fn single_variables() {
        assert_eq!(variable("A=b=c"), Ok("A=b=c".to_owned()));
        assert_eq!(variable("NARU_SURELY_UNSET"), Ok("NARU_SURELY_UNSET".to_owned()));
        assert_eq!(variable("=x").expect_err("no name"), "invalid environment variable: =x");
        assert!(variable("PATH").expect("set").starts_with("PATH=/"));
    }
}
