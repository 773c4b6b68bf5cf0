//! `/etc/hosts` of a container.

use std::fmt::Write;
use std::net::IpAddr;

/// Names for an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEntry {
    /// The address.
    pub address: IpAddr,
    /// Its names, at least one.
    pub names: Vec<String>,
}

/// What every container has first, as Docker writes it.
const FIRST: [(&str, &str); 6] = [
    ("127.0.0.1", "localhost"),
    ("::1", "localhost ip6-localhost ip6-loopback"),
    ("fe00::", "ip6-localnet"),
    ("ff00::", "ip6-mcastprefix"),
    ("ff02::1", "ip6-allnodes"),
    ("ff02::2", "ip6-allrouters"),
];

/// The file: the fixed part, `--add-host` entries, then the container's own addresses with its names.
pub fn render(extra: &[HostEntry], own: &[HostEntry]) -> String {
    let mut text = String::new();
    for (address, names) in FIRST {
        writeln!(text, "{address}\t{names}").expect("writing to a String does not fail");
    }
    for entry in extra.iter().chain(own) {
        // White space would start another name, a newline another entry.
        let names: Vec<&str> = entry.names.iter().map(String::as_str).filter(|name| is_name(name)).collect();
        if !names.is_empty() {
            writeln!(text, "{}\t{}", entry.address, names.join(" ")).expect("writing to a String does not fail");
        }
    }
    text
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file() {
        let entry = |address: &str, names: &[&str]| HostEntry {
            address: address.parse().unwrap(),
            names: names.iter().map(|n| (*n).to_owned()).collect(),
        };
        let text = render(&[entry("10.0.0.1", &["db"])], &[entry("172.17.0.2", &["web.example", "web"])]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"));
        assert!(text.ends_with("10.0.0.1\tdb\n172.17.0.2\tweb.example web\n"));
        let hostile = render(&[entry("10.0.0.1", &["a\n6.6.6.6 bank.example", "b c", "#d", ""])], &[]);
        assert_eq!(hostile, render(&[], &[]));
    }
}
