//! Platforms as `os/architecture[/variant]` (OCI image-spec, image-index.md).

use crate::{ParseError, serde_as_text};
use std::fmt;
use std::str::FromStr;

/// An operating system and processor architecture, in Go's names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm`, ...
    pub architecture: String,
    /// `v8`, `v7`, ... where the architecture has them.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform this program was built for.
    pub fn host() -> Self {
        let (architecture, variant) = normalise(std::env::consts::ARCH, None);
        Platform { os: "linux".into(), architecture, variant }
    }

    /// True when an image of platform `image` runs on `self` without emulation.
    pub fn runs(&self, image: &Platform) -> bool {
        let family = |architecture: &str| match architecture {
            "386" | "amd64" => 1,
            "arm" | "arm64" => 2,
            _ => 0,
        };
        self.os == image.os
            && (self.architecture == image.architecture
                || (matches!(self.architecture.as_str(), "amd64" | "arm64")
                    && family(&self.architecture) != 0
                    && family(&self.architecture) == family(&image.architecture)
                    && matches!(image.architecture.as_str(), "386" | "arm")))
    }
}

/// Operating systems and architectures of Go: a word alone is one of them, anything else is a slip of the hand.
const SYSTEMS: [&str; 16] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
];
const ARCHITECTURES: [&str; 17] = [
    "386", "amd64", "arm", "armbe", "arm64", "arm64be", "loong64", "mips", "mipsle", "mips64", "mips64le", "ppc64", "ppc64le", "riscv",
    "riscv64", "s390x", "wasm",
];

/// Docker's spellings of one architecture made one (containerd platforms, `normalizeArch`).
fn normalise(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let (architecture, variant) = match (architecture, variant) {
        ("x86_64" | "x86-64" | "amd64", v) => ("amd64", v.filter(|v| *v != "v1")),
        ("i386" | "i486" | "i586" | "i686" | "x86" | "386", _) => ("386", None),
        ("aarch64" | "arm64", v) => ("arm64", v.filter(|v| !matches!(*v, "v8" | "8"))),
        ("armhf", _) => ("arm", Some("v7")),
        ("armel", _) => ("arm", Some("v6")),
        ("powerpc64le", v) => ("ppc64le", v),
        (a, v) => (a, v),
    };
    (architecture.to_owned(), variant.map(str::to_owned))
}

impl FromStr for Platform {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > 3 || !parts.iter().all(|part| word(part)) {
            return Err(ParseError::new("platform", text, "expected os[/arch[/variant]]"));
        }
        let lower: Vec<String> = parts.iter().map(|part| part.to_ascii_lowercase()).collect();
        Ok(match lower.as_slice() {
            [one] if SYSTEMS.contains(&one.as_str()) => Platform { os: one.clone(), ..Platform::host() },
            [one] => {
                let (architecture, variant) = normalise(one, None);
                if !ARCHITECTURES.contains(&architecture.as_str()) {
                    return Err(ParseError::new("platform", text, "unknown operating system or architecture"));
                }
                Platform { os: "linux".into(), architecture, variant }
            }
            [os, rest @ ..] => {
                let (architecture, variant) = normalise(&rest[0], rest.get(1).map(String::as_str));
                Platform { os: os.clone(), architecture, variant }
            }
            [] => unreachable!("split yields at least one part"),
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

serde_as_text!(Platform);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_become_one() {
        for (text, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("aarch64", "linux/arm64"),
            ("riscv64", "linux/riscv64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm/v7", "linux/arm/v7"),
            ("LINUX/ARMHF", "linux/arm/v7"),
        ] {
            assert_eq!(text.parse::<Platform>().map(|p| p.to_string()), Ok(shown.to_owned()));
        }
        for bad in ["", "a/b/c/d", "linux//", "linux/a b", "bogus"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_64_bit_host_runs_its_32_bit_images() {
        let host: Platform = "linux/amd64".parse().unwrap();
        assert!(host.runs(&"linux/386".parse().unwrap()));
        assert!(!host.runs(&"linux/arm64".parse().unwrap()));
        assert!(!host.runs(&"windows/amd64".parse().unwrap()));
    }
}
