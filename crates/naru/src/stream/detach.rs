//! The keys that leave a container running behind: by default ctrl-p, ctrl-q.

/// What a watcher says about input.
#[derive(Debug, PartialEq, Eq)]
pub enum Watched {
    /// Bytes to pass on.
    Pass(Vec<u8>),
    /// The whole sequence was typed; the bytes before it are to be passed on.
    Detach(Vec<u8>),
}

/// Watches input for a sequence of bytes that may arrive in pieces.
#[derive(Debug)]
pub struct Watcher {
    keys: Vec<u8>,
    matched: usize,
}

/// The default sequence.
const DEFAULT: &[u8] = &[16, 17];

/// Parses a comma-separated list of characters and `ctrl-<key>`.
pub fn parse(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for key in text.split(',') {
        let byte = match key.as_bytes() {
            [byte] => *byte,
            _ => match key.to_lowercase().strip_prefix("ctrl-").map(str::as_bytes) {
                Some([letter @ b'a'..=b'z']) => letter - b'a' + 1,
                Some(b"@") => 0,
                Some(b"[") => 27,
                Some(b"\\") => 28,
                Some(b"]") => 29,
                Some(b"^") => 30,
                Some(b"_") => 31,
                _ => return Err(format!("invalid detach keys ({text}): Unknown character: '{key}'")),
            },
        };
        out.push(byte);
    }
    Ok(out)
}

impl Watcher {
    /// A watcher for the given notation, or for the default keys when it is empty.
    pub fn new(text: &str) -> Result<Self, String> {
        let keys = if text.is_empty() { DEFAULT.to_vec() } else { parse(text)? };
        Ok(Self { keys, matched: 0 })
    }

    /// Looks at input. A partly typed sequence is held back until it is complete or broken.
    pub fn feed(&mut self, input: &[u8]) -> Watched {
        let mut out = Vec::with_capacity(input.len());
        for &byte in input {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return Watched::Detach(out);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if byte == self.keys[0] && self.keys.len() > 1 {
                self.matched = 1;
            } else {
                out.push(byte);
            }
        }
        Watched::Pass(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notation() {
        assert_eq!(parse("ctrl-p,ctrl-q"), Ok(vec![16, 17]));
        assert_eq!(parse("a,ctrl-@,ctrl-_"), Ok(vec![b'a', 0, 31]));
        assert!(parse("ctrl-").is_err() && parse("ab").is_err() && parse("").is_err());
    }

    #[test]
    fn the_sequence_may_arrive_in_pieces() {
        let mut watcher = Watcher::new("").expect("default");
        assert_eq!(watcher.feed(b"ab"), Watched::Pass(b"ab".to_vec()));
        assert_eq!(watcher.feed(&[b'x', 16]), Watched::Pass(vec![b'x']));
        assert_eq!(watcher.feed(b"y"), Watched::Pass(vec![16, b'y']));
        assert_eq!(watcher.feed(&[16]), Watched::Pass(vec![]));
        assert_eq!(watcher.feed(&[16]), Watched::Pass(vec![16]));
        assert_eq!(watcher.feed(&[17, b'z']), Watched::Detach(vec![]));
    }
}
