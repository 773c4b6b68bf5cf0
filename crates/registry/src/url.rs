//! Addresses of requests: `http` and `https` only, parsed strictly, joined as `Location` and `Link` headers need it.

use crate::error::{Error, Result, printable};
use std::fmt;

/// An absolute address without a fragment.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Url {
    https: bool,
    /// Lower case; IPv6 addresses in brackets.
    pub host: String,
    port: Option<u16>,
    /// Starts with `/`.
    pub path_and_query: String,
    /// `user:password` where the address has one (mirrors and proxies).
    pub userinfo: Option<String>,
}

/// The longest address taken from a registry.
const MAX_URL: usize = 16 << 10;

impl Url {
    pub fn new(https: bool, authority: &str, path_and_query: &str) -> Result<Url> {
        Url::parse(&format!("{}://{authority}{path_and_query}", if https { "https" } else { "http" }))
    }

    /// Parses an absolute address; other schemes than http and https are refused.
    pub fn parse(text: &str) -> Result<Url> {
        let bad = |reason: &str| Error::invalid(format!("address {:?}", printable(text, 200)), reason);
        if text.len() > MAX_URL {
            return Err(bad("it is longer than 16 KiB"));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("expected http:// or https://"))?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(bad("expected http:// or https://")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (userinfo, authority) = match authority.rsplit_once('@') {
            Some((userinfo, authority)) => (Some(userinfo.to_owned()), authority),
            None => (None, authority),
        };
        let (host, port) = match authority.rfind(']') {
            Some(close) => (&authority[..=close], &authority[close + 1..]),
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some("") => None,
            Some(port) => Some(port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(|| bad("its port is not a number"))?),
            None if port.is_empty() => None,
            None => return Err(bad("its host is not valid")),
        };
        let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let valid = match in_brackets {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => (1..=253).contains(&host.len()) && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')),
        };
        if !valid {
            return Err(bad("its host is not valid"));
        }
        let path_and_query = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if path_and_query.bytes().any(|b| !(0x21..=0x7e).contains(&b)) {
            return Err(bad("it has characters that must be escaped"));
        }
        Ok(Url { https, host: host.to_ascii_lowercase(), port, path_and_query, userinfo })
    }

    pub fn is_https(&self) -> bool {
        self.https
    }

    pub fn port(&self) -> u16 {
        self.port.unwrap_or(if self.https { 443 } else { 80 })
    }

    /// `host` or `host:port`; the usual port is left out.
    pub fn authority(&self) -> String {
        match self.port {
            Some(port) if port != if self.https { 443 } else { 80 } => format!("{}:{port}", self.host),
            _ => self.host.clone(),
        }
    }

    /// Scheme, host and port: what credentials are bound to.
    pub fn same_origin(&self, other: &Url) -> bool {
        self.https == other.https && self.host == other.host && self.port() == other.port()
    }

    /// Resolves a reference as it stands in `Location` or `Link`, relative to this address.
    pub fn join(&self, reference: &str) -> Result<Url> {
        let scheme_end =
            reference.find("://").filter(|end| reference[..*end].bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)));
        if scheme_end.is_some() {
            return Url::parse(reference);
        }
        let scheme = if self.https { "https" } else { "http" };
        if let Some(rest) = reference.strip_prefix("//") {
            return Url::parse(&format!("{scheme}://{rest}"));
        }
        let reference = reference.split('#').next().unwrap_or_default();
        let path = self.path_and_query.split('?').next().unwrap_or("/");
        let joined = match reference.as_bytes().first() {
            None => self.path_and_query.clone(),
            Some(b'/') => reference.to_owned(),
            Some(b'?') => format!("{path}{reference}"),
            Some(_) if reference.split(['/', '?']).next().is_some_and(|first| first.contains(':')) => {
                return Err(Error::invalid(format!("address {:?}", printable(reference, 200)), "expected http:// or https://"));
            }
            Some(_) => format!("{}{reference}", &path[..path.rfind('/').map_or(0, |at| at + 1)]),
        };
        Url::parse(&format!("{scheme}://{}{joined}", self.authority()))
    }

    /// The same address with one more parameter; the value is escaped.
    pub fn with_parameter(&self, name: &str, value: &str) -> Url {
        let separator = if self.path_and_query.contains('?') { '&' } else { '?' };
        Url { path_and_query: format!("{}{separator}{name}={}", self.path_and_query, escape(value)), ..self.clone() }
    }
}

/// Everything but unreserved characters as `%XX`.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// `%XX` back to bytes; what is not valid stays as it is.
pub(crate) fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 3;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// Without the secrets that a user part or a signed query carries.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path_and_query.split('?').next().unwrap_or("/");
        write!(f, "{}://{}{path}", if self.https { "https" } else { "http" }, self.authority())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full(url: &Url) -> String {
        format!("{}://{}{}", if url.is_https() { "https" } else { "http" }, url.authority(), url.path_and_query)
    }

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("https://Reg.Example", "https://reg.example/"),
            ("http://a:5000/v2/?n=1#x", "http://a:5000/v2/?n=1"),
            ("https://a:443/x", "https://a/x"),
            ("https://[::1]:5000/", "https://[::1]:5000/"),
            ("https://a?x=1", "https://a/?x=1"),
        ] {
            assert_eq!(full(&Url::parse(text).unwrap()), shown);
        }
        for bad in [
            "",
            "a",
            "//a",
            "file:///etc/passwd",
            "ftp://a/",
            "http://",
            "http:///x",
            "http://a:x/",
            "http://a:0/",
            "http://a:70000/",
            "http://[::1/",
            "http://[x]/",
            "http://a b/",
            "http://a/ b",
            "http://a/\r\nX: y",
            "http://ä/",
            "http://a/ä",
            "gopher://a",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn references() {
        let base = Url::parse("https://a:5000/v2/x/blobs/uploads/?y=1").unwrap();
        for (reference, joined) in [
            ("https://b/z", "https://b/z"),
            ("//b/z", "https://b/z"),
            ("/z?q=//x", "https://a:5000/z?q=//x"),
            ("z", "https://a:5000/v2/x/blobs/uploads/z"),
            ("?n=2", "https://a:5000/v2/x/blobs/uploads/?n=2"),
            ("/redirect?to=http://b/", "https://a:5000/redirect?to=http://b/"),
        ] {
            assert_eq!(full(&base.join(reference).unwrap()), joined, "{reference}");
        }
        for bad in ["file:///etc/passwd", "javascript:alert(1)", "data:x", "/a b", "http://"] {
            assert!(base.join(bad).is_err(), "{bad:?}");
        }
        assert_eq!(full(&base.with_parameter("digest", "sha256:0 &")), "https://a:5000/v2/x/blobs/uploads/?y=1&digest=sha256%3A0%20%26");
    }

    #[test]
    fn secrets_are_not_printed() {
        let url = Url::parse("https://user:secret@a/x?signature=secret").unwrap();
        assert_eq!(format!("{url} {url:?}"), "https://a/x https://a/x");
        assert_eq!(url.userinfo.as_deref(), Some("user:secret"));
        assert_eq!(unescape("a%40b%"), "a@b%");
    }

    proptest! {
        #[test]
        fn never_panics(base in "https?://[a-z]{1,3}(/.{0,10})?", text in ".{0,40}") {
            let _ = Url::parse(&text);
            if let Ok(base) = Url::parse(&base) {
                let _ = base.join(&text);
                prop_assert!(base.with_parameter("x", &text).path_and_query.is_ascii());
            }
        }
    }
}
