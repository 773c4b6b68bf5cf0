//! Parsers of the response headers that the protocol counts on. All of it comes from outside: nothing panics, everything
//! has a bound.

use std::time::Duration;

/// The most challenges and parameters that are looked at.
const MAX_ITEMS: usize = 32;

/// One challenge of `WWW-Authenticate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// `bearer`, `basic`, ... in lower case.
    pub scheme: String,
    /// Parameters; names in lower case.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The first parameter of this name.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

struct Scanner<'a>(&'a [u8]);

impl<'a> Scanner<'a> {
    fn skip(&mut self, skipped: impl Fn(u8) -> bool) {
        let count = self.0.iter().take_while(|b| skipped(**b)).count();
        self.0 = &self.0[count..];
    }

    fn spaces(&mut self) {
        self.skip(|b| matches!(b, b' ' | b'\t'));
    }

    /// RFC 9110 `token`, widened by what token68 may hold.
    fn word(&mut self) -> Option<&'a str> {
        let is_word = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/:".contains(b);
        let count = self.0.iter().take_while(|b| is_word(b)).count();
        let (word, rest) = self.0.split_at(count);
        self.0 = rest;
        std::str::from_utf8(word).ok().filter(|word| !word.is_empty())
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.0.first() == Some(&byte);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    /// The rest of a quoted string, after its opening quote; an unclosed one ends with the header.
    fn quoted(&mut self) -> String {
        let mut value = Vec::new();
        while let Some((byte, rest)) = self.0.split_first() {
            self.0 = rest;
            match byte {
                b'"' => break,
                b'\\' => {
                    if let Some((escaped, rest)) = self.0.split_first() {
                        value.push(*escaped);
                        self.0 = rest;
                    }
                }
                byte => value.push(*byte),
            }
        }
        String::from_utf8_lossy(&value).into_owned()
    }
}

/// Reads one `WWW-Authenticate` header, which may hold several challenges.
pub fn challenges(header: &str) -> Vec<Challenge> {
    let mut scanner = Scanner(header.as_bytes());
    let mut found: Vec<Challenge> = Vec::new();
    loop {
        scanner.skip(|b| matches!(b, b' ' | b'\t' | b','));
        let Some(word) = scanner.word() else { return found };
        scanner.spaces();
        if scanner.take(b'=') {
            scanner.spaces();
            let value = if scanner.take(b'"') { scanner.quoted() } else { scanner.word().unwrap_or_default().to_owned() };
            // A parameter belongs to the challenge before it; `=` at the end of a token68 has none.
            if let Some(challenge) = found.last_mut().filter(|challenge| challenge.parameters.len() < MAX_ITEMS) {
                challenge.parameters.push((word.to_ascii_lowercase(), value));
            }
            scanner.skip(|b| b == b'=');
        } else if found.len() < MAX_ITEMS {
            found.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
        } else {
            return found;
        }
    }
}

/// `Content-Range: bytes 5-9/10`: first byte, last byte, size if it is known.
pub fn content_range(header: &str) -> Option<(u64, u64, Option<u64>)> {
    let rest = header.trim().strip_prefix("bytes")?.trim_start().trim_start_matches('=');
    let (range, size) = rest.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (digits(first)?, digits(last)?);
    let size = if size.trim() == "*" { None } else { Some(digits(size)?) };
    (first <= last && size.is_none_or(|size| last < size)).then_some((first, last, size))
}

/// `Range` of an upload's status, `0-41` or `bytes=0-41`: how many bytes the registry has.
pub fn upload_range(header: &str) -> Option<u64> {
    let (first, last) = header.trim().trim_start_matches("bytes=").split_once('-')?;
    let (first, last) = (digits(first)?, digits(last)?);
    // An empty upload is `0-0`, as one of one byte is; asking for the byte again is refused, sending it twice would be.
    (first == 0).then(|| if last == 0 { Some(0) } else { last.checked_add(1) }).flatten()
}

/// `Retry-After`: seconds, or a date.
pub fn retry_after(header: &str, now: jiff::Timestamp) -> Option<Duration> {
    if let Some(seconds) = digits(header) {
        return Some(Duration::from_secs(seconds));
    }
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(header.trim()).ok()?;
    let seconds = time.as_second().saturating_sub(now.as_second()).max(0);
    Some(Duration::from_secs(seconds.unsigned_abs()))
}

/// The target of `rel="next"` in a `Link` header.
pub fn next_link(header: &str) -> Option<&str> {
    let mut rest = header;
    for _ in 0..MAX_ITEMS {
        let (_, after) = rest.split_once('<')?;
        let (target, after) = after.split_once('>')?;
        let (parameters, next) = after.split_once('<').map_or((after, ""), |(parameters, _)| (parameters, &after[parameters.len()..]));
        let is_next = parameters.split([';', ',']).any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
        });
        if is_next {
            return Some(target);
        }
        rest = next;
    }
    None
}

/// A number written in digits only: `+1`, ` 1x` and numbers above 2^64 are none.
fn digits(text: &str) -> Option<u64> {
    let text = text.trim();
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges_of_real_registries() {
        let hub =
            challenges(r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#);
        assert_eq!(hub.len(), 1);
        assert_eq!(hub[0].scheme, "bearer");
        assert_eq!(hub[0].parameter("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(hub[0].parameter("scope"), Some("repository:a/b:pull,push"));
        let two = challenges(r#"Basic realm="a \"b\"", BEARER Realm = https://x/t , error="insufficient_scope""#);
        assert_eq!(two.len(), 2);
        assert_eq!(two[0].parameter("realm"), Some("a \"b\""));
        assert_eq!(two[1].parameter("realm"), Some("https://x/t"));
        assert_eq!(two[1].parameter("error"), Some("insufficient_scope"));
        assert_eq!(challenges("Negotiate YWJj==, Basic").iter().map(|c| c.scheme.as_str()).collect::<Vec<_>>(), ["negotiate", "basic"]);
        assert_eq!(challenges(r#"Bearer realm="unclosed"#)[0].parameter("realm"), Some("unclosed"));
        assert!(challenges("").is_empty());
        assert!(challenges("=\"x\"").is_empty());
        assert!(challenges(&"a ".repeat(100_000)).len() <= MAX_ITEMS);
    }

    #[test]
    fn ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, 9, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, 9, None)));
        for bad in ["", "bytes */10", "bytes 5-9/9", "bytes 9-5/10", "bytes -5/10", "bytes 5-/10", "items 1-2/3", "bytes +1-2/3"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
        assert_eq!(upload_range("0-41"), Some(42));
        assert_eq!(upload_range("bytes=0-41"), Some(42));
        assert_eq!(upload_range("0-0"), Some(0));
        for bad in ["", "1-5", "0-", "0-x", "0-18446744073709551615"] {
            assert_eq!(upload_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn pauses() {
        let now: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Thu, 01 Jan 2026 00:00:09 GMT", now), Some(Duration::from_secs(9)));
        assert_eq!(retry_after("Thu, 01 Jan 2015 00:00:09 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("-7", now), None);
        assert_eq!(retry_after("soon", now), None);
    }

    #[test]
    fn links() {
        assert_eq!(next_link(r#"</v2/_catalog?last=a&n=1>; rel="next""#), Some("/v2/_catalog?last=a&n=1"));
        assert_eq!(next_link(r#"</a>; rel=prev, </b>; rel=next"#), Some("/b"));
        assert_eq!(next_link(r#"</a>; rel="prev""#), None);
        assert_eq!(next_link("<"), None);
        assert_eq!(next_link(&"<a>".repeat(100_000)), None);
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,60}") {
            challenges(&text);
            content_range(&text);
            upload_range(&text);
            retry_after(&text, jiff::Timestamp::UNIX_EPOCH);
            next_link(&text);
        }
    }
}
