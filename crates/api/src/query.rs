//! Query strings: Docker's booleans and percent encoding.

/// Docker's reading of a boolean: empty, `0`, `no`, `false`, `none` (any case, blanks trimmed) are false, the rest true.
pub fn boolean(value: &str) -> bool {
    !matches!(value.trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
}

/// Percent-encodes what is not unreserved.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

/// Decodes `%XX` and, as in forms, `+`. Broken escapes stay as they are; bytes that are no UTF-8 become U+FFFD.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|&b| char::from(b).to_digit(16));
        match (bytes[i], hex(i + 1), hex(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).expect("two hex digits fit a byte"));
                i += 3;
            }
            (b'+', ..) => {
                out.push(b' ');
                i += 1;
            }
            (byte, ..) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A parsed query string: pairs in order, keys may repeat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// An empty query, to be filled by [`Query::push`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads `a=1&b=2`.
    pub fn parse(text: &str) -> Self {
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(key), decode(value))
        };
        Self(text.split('&').filter(|part| !part.is_empty()).map(pair).collect())
    }

    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// All values of a key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Docker's boolean of a key; absent is false.
    pub fn boolean(&self, key: &str) -> bool {
        self.get(key).is_some_and(boolean)
    }

    /// Docker's boolean of a key with a default when the key is absent (an empty value is false).
    pub fn boolean_or(&self, key: &str, default: bool) -> bool {
        self.get(key).map_or(default, boolean)
    }

    /// Adds a pair.
    pub fn push(&mut self, key: &str, value: impl Into<String>) -> &mut Self {
        self.0.push((key.to_owned(), value.into()));
        self
    }

    /// Adds `key=1` when the flag is set.
    pub fn flag(&mut self, key: &str, set: bool) -> &mut Self {
        if set {
            self.push(key, "1");
        }
        self
    }

    /// Adds a pair unless the value is empty.
    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        if !value.is_empty() {
            self.push(key, value);
        }
        self
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, (key, value)) in self.0.iter().enumerate() {
            write!(f, "{}{}={}", if i == 0 { "" } else { "&" }, encode(key), encode(value))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_as_docker_reads_them() {
        for no in ["", " ", "0", "no", "No", "FALSE", " none "] {
            assert!(!boolean(no), "{no:?}");
        }
        for yes in ["1", "true", "yes", "2", "x"] {
            assert!(boolean(yes), "{yes:?}");
        }
        let query = Query::parse("a&b=0&c=1");
        assert!(!query.boolean("a") && !query.boolean("b") && query.boolean("c") && !query.boolean("d"));
        assert!(query.boolean_or("d", true) && !query.boolean_or("a", true));
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_back(pairs in proptest::collection::vec((".+", ".*"), 0..5)) {
            let mut query = Query::new();
            for (key, value) in &pairs {
                query.push(key, value.clone());
            }
            proptest::prop_assert_eq!(Query::parse(&query.to_string()), query);
        }
        #[test]
        fn decoding_never_panics(text in ".*") {
            decode(&text);
        }
    }
}
