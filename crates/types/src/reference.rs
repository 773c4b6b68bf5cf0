//! Image references: `[domain/]path[:tag][@digest]` (distribution/reference grammar).
//!
//! `debian`, `docker.io/debian`, `index.docker.io/library/debian` and `library/debian:latest` are one image: parsing
//! makes them one value, [`ImageRef::familiar`] prints the shortest form, as Docker does.

use crate::{Digest, ParseError, serde_as_text};
use std::fmt;
use std::str::FromStr;

const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL_PREFIX: &str = "library/";

/// A normalised reference to an image. A name without tag and digest means `latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef {
    /// The registry, e.g. `docker.io` or `localhost:5000`.
    pub domain: String,
    /// The repository within it, e.g. `library/debian`.
    pub path: String,
    /// The tag; absent only when a digest is given.
    pub tag: Option<String>,
    /// The digest.
    pub digest: Option<Digest>,
}

impl ImageRef {
    /// The longest `domain/path`.
    pub const MAX_NAME: usize = 255;

    /// Parses and normalises; see [`FromStr`].
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        text.parse()
    }

    /// True for a name that has neither tag nor digest; the port of a registry is no tag.
    pub fn is_bare(text: &str) -> bool {
        let last = text.rsplit('/').next().unwrap_or_default();
        !text.contains('@') && !last.contains(':')
    }

    /// The short text that Docker prints: without `docker.io/library/`, with the tag.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// The short repository name without tag and digest.
    pub fn familiar_name(&self) -> String {
        if self.domain == DEFAULT_DOMAIN {
            self.path.strip_prefix(OFFICIAL_PREFIX).unwrap_or(&self.path).to_owned()
        } else {
            format!("{}/{}", self.domain, self.path)
        }
    }

    /// The full text with domain, path, tag and digest.
    pub fn canonical(&self) -> String {
        self.with_suffix(format!("{}/{}", self.domain, self.path))
    }

    /// The same repository and tag without the digest; `latest` when there is no tag.
    pub fn tagged(&self) -> ImageRef {
        ImageRef { tag: Some(self.tag.clone().unwrap_or_else(|| "latest".into())), digest: None, ..self.clone() }
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

/// A path component: lower-case letters and digits, joined by one `.`, one or two `_`, or any number of `-`.
fn is_component(component: &str) -> bool {
    let mut rest = component.as_bytes();
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    loop {
        let word = rest.iter().take_while(|b| alphanumeric(**b)).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        let separator = match rest {
            [] => return true,
            [b'.', ..] => 1,
            [b'_', b'_', ..] => 2,
            [b'_', ..] => 1,
            [b'-', ..] => rest.iter().take_while(|b| **b == b'-').count(),
            _ => return false,
        };
        rest = &rest[separator..];
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("", port)
        }
        None => match domain.split_once(':') {
            Some((host, _)) => (host, &domain[host.len()..]),
            None => (domain, ""),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let port_ok = port.is_empty()
        || port.strip_prefix(':').is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok());
    port_ok && (domain.starts_with('[') || host.split('.').all(label))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !tag.is_empty() && tag.len() <= 128 && word(tag.as_bytes()[0]) && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

/// What follows `https://`. On its way in a path one of its slashes may have been taken for one too many.
fn without_scheme(text: &str) -> Option<&str> {
    let strip =
        |text| ["https:/", "http:/"].iter().find_map(|scheme| str::strip_prefix(text, scheme)).map(|rest| rest.trim_start_matches('/'));
    let mut address = strip(text)?;
    while let Some(rest) = strip(address) {
        address = rest;
    }
    Some(address)
}

impl FromStr for ImageRef {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason: &str| ParseError { what: "reference", input: text.chars().take(128).collect(), reason: reason.to_owned() };
        if let Some(address) = without_scheme(text) {
            let right = ["hub.docker.com/_/", "hub.docker.com/r/"].iter().find_map(|page| address.strip_prefix(page)).unwrap_or(address);
            let hint = if ImageRef::parse(right).is_ok() { format!(", use {right:?}") } else { String::new() };
            return Err(bad(&format!("invalid reference format: a reference has no scheme{hint}")));
        }
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad("invalid reference format: 64 hex digits are an image's id"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse::<Digest>().map_err(|e| bad(&format!("invalid reference format: {}", e.reason)))?))
            }
            None => (text, None),
        };
        // A colon after the last slash starts the tag; one before it belongs to a port.
        let slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest[slash..].find(':') {
            Some(colon) => (&rest[..slash + colon], Some(&rest[slash + colon + 1..])),
            None => (rest, None),
        };
        let (domain, path) = match name.split_once('/') {
            Some((first, remainder))
                if first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase()) =>
            {
                (first, remainder)
            }
            _ => (DEFAULT_DOMAIN, name),
        };
        let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') { format!("{OFFICIAL_PREFIX}{path}") } else { path.to_owned() };
        if !is_domain(domain) {
            return Err(bad("invalid reference format"));
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            let (name, right) = (if domain == DEFAULT_DOMAIN { path } else { name.to_owned() }, text.to_ascii_lowercase());
            return Err(bad(&format!("invalid reference format: repository name ({name}) must be lowercase, use {right:?}")));
        }
        if !path.split('/').all(is_component) || tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad("invalid reference format"));
        }
        if domain.len() + 1 + path.len() > Self::MAX_NAME {
            return Err(bad("repository name must not be more than 255 characters"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some("latest".to_owned()),
            (None, Some(_)) => None,
        };
        Ok(ImageRef { domain: domain.to_owned(), path, tag, digest })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical())
    }
}

serde_as_text!(ImageRef);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normal_forms() {
        let debian = "docker.io/library/debian:latest";
        let hex = "0".repeat(64);
        for (text, canonical, familiar) in [
            ("debian", debian, "debian:latest"),
            ("docker.io/debian", debian, "debian:latest"),
            ("index.docker.io/library/debian", debian, "debian:latest"),
            ("library/debian:latest", debian, "debian:latest"),
            ("naru/hello", "docker.io/naru/hello:latest", "naru/hello:latest"),
            ("localhost/a:b", "localhost/a:b", "localhost/a:b"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest", "localhost:5000/a/b:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("gcr.io/a__b-c.d", "gcr.io/a__b-c.d:latest", "gcr.io/a__b-c.d:latest"),
            (&format!("a@sha256:{hex}"), &format!("docker.io/library/a@sha256:{hex}"), &format!("a@sha256:{hex}")),
            (&format!("a:1@sha256:{hex}"), &format!("docker.io/library/a:1@sha256:{hex}"), &format!("a:1@sha256:{hex}")),
        ] {
            let reference = ImageRef::parse(text).unwrap();
            assert_eq!(reference.canonical(), canonical, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
        }
    }

    #[test]
    fn refused() {
        let long = "a".repeat(256);
        for text in [
            "",
            ":",
            "a:",
            "a/",
            "/a",
            "a//b",
            "../a",
            "a/../b",
            "a b",
            "a:b:c",
            "A",
            "docker.io/A",
            "a@sha256:1",
            "-a",
            "a-",
            "a___b",
            "a..b",
            "a:-x",
            "https://gcr.io/x",
            "x.y:99999/a",
            &long,
            &"0".repeat(64),
            "a\0b",
            "ä",
        ] {
            assert!(ImageRef::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_right_form_is_told() {
        for (text, right) in [
            ("https://docker.io/library/debian:13", "docker.io/library/debian:13"),
            ("http:/127.0.0.1:5000/a", "127.0.0.1:5000/a"),
            ("https://hub.docker.com/_/debian", "debian"),
            ("https://hub.docker.com/r/bitnami/git", "bitnami/git"),
            ("https://http://a", "a"),
            ("Debian", "debian"),
        ] {
            let reason = ImageRef::parse(text).unwrap_err().reason;
            assert!(reason.starts_with("invalid reference format: ") && reason.ends_with(&format!(", use {right:?}")), "{text}: {reason}");
        }
        let nothing = ImageRef::parse(&"https://".repeat(100_000)).unwrap_err().reason;
        assert_eq!(nothing, "invalid reference format: a reference has no scheme");
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,80}") {
            let _ = ImageRef::parse(&text);
        }

        #[test]
        fn what_is_printed_parses_to_the_same(text in "([a-z]{1,5}(\\.[a-z]{2})?(:[0-9]{2})?/)?[a-z0-9]{1,5}(/[a-z0-9]{1,4})?(:[a-z0-9.]{1,4})?") {
            if let Ok(reference) = ImageRef::parse(&text) {
                prop_assert_eq!(ImageRef::parse(&reference.canonical()).unwrap(), reference.clone());
                prop_assert_eq!(ImageRef::parse(&reference.familiar()).unwrap(), reference);
            }
        }
    }
}
