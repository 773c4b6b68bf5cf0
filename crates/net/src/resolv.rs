//! `/etc/resolv.conf` of a container, made of the host's and of what the user asked for.

use std::fmt::Write;
use std::net::IpAddr;

/// Used when the host has no name server a container could reach; Docker's choice.
const FALLBACK: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// Name servers a resolver looks at (resolv.h, MAXNS).
const MAX_SERVERS: usize = 3;

/// Longest file that is read: the host's has some lines.
const MAX_BYTES: usize = 1 << 20;

/// The parts of a resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Addresses of name servers.
    pub servers: Vec<IpAddr>,
    /// Domains to try names in.
    pub search: Vec<String>,
    /// Options like `ndots:2`.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads a file; lines that mean nothing are passed over. Zones of link-local addresses mean nothing in a container.
    pub fn parse(text: &str) -> Self {
        let mut conf = ResolvConf::default();
        let text = text.get(..MAX_BYTES).unwrap_or(text);
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok())),
                // The last line counts.
                Some("search" | "domain") => conf.search = words.map(str::to_owned).collect(),
                Some("options") => conf.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        conf
    }
}

/// True when the host's file only points to systemd-resolved's stub, which containers cannot reach: then
/// [`RESOLVED_CONF`] has the real servers.
pub fn is_stub(text: &str) -> bool {
    ResolvConf::parse(text).servers == [IpAddr::from([127, 0, 0, 53])]
}

/// Where systemd-resolved keeps the real servers.
pub const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// The text of the host's file: that of systemd-resolved where the usual one is a stub.
pub fn host_text() -> String {
    let read = |path| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_BYTES)]).into_owned());
    let text = read("/etc/resolv.conf").unwrap_or_default();
    if is_stub(&text) { read(RESOLVED_CONF).unwrap_or(text) } else { text }
}

/// The container's file: what the user gave replaces the host's, kind by kind; `search` of `.` alone means none.
/// Loopback servers of the host are left out; without any other, public ones stand in.
pub fn render(host_text: &str, dns: &[IpAddr], search: &[String], options: &[String]) -> String {
    let host = ResolvConf::parse(host_text);
    let mut servers = if dns.is_empty() { host.servers.into_iter().filter(|server| !server.is_loopback()).collect() } else { dns.to_vec() };
    if servers.is_empty() {
        servers = FALLBACK.iter().map(|server| server.parse().expect("the text is an address")).collect();
    }
    let search = if search.is_empty() { host.search } else { search.to_vec() };
    let options = if options.is_empty() { host.options } else { options.to_vec() };
    let mut text = String::new();
    for server in servers.iter().take(MAX_SERVERS) {
        writeln!(text, "nameserver {server}").expect("writing to a String does not fail");
    }
    for (keyword, words) in [("search", search), ("options", options)] {
        // White space would start another word, a newline another line.
        let words: Vec<String> =
            words.into_iter().filter(|word| !word.is_empty() && word != "." && word.bytes().all(|b| b.is_ascii_graphic())).collect();
        if !words.is_empty() {
            writeln!(text, "{keyword} {}", words.join(" ")).expect("writing to a String does not fail");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOST: &str = "# comment\nnameserver 127.0.0.53\nnameserver 10.0.0.2 # inner\nnameserver fe80::1%eth0\nsearch a.example b.example\noptions edns0 trust-ad\n";

    #[test]
    fn the_hosts_without_loopback() {
        assert_eq!(render(HOST, &[], &[], &[]), "nameserver 10.0.0.2\nsearch a.example b.example\noptions edns0 trust-ad\n");
        assert_eq!(render("nameserver 127.0.0.1\nnameserver ::1\n", &[], &[], &[]), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        assert_eq!(render("", &[], &[], &[]), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        assert!(is_stub("nameserver 127.0.0.53\n") && !is_stub(HOST));
    }

    #[test]
    fn the_users_replaces_kind_by_kind() {
        let dns = ["1.1.1.1".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(render(HOST, &dns, &[".".into()], &["ndots:2".into()]), "nameserver 1.1.1.1\nnameserver ::1\noptions ndots:2\n");
        assert_eq!(
            render(HOST, &[], &["x\nnameserver 6.6.6.6".into(), "c".into()], &[]),
            "nameserver 10.0.0.2\nsearch c\noptions edns0 trust-ad\n"
        );
        let many: Vec<IpAddr> = (1..=5).map(|n| IpAddr::from([1, 1, 1, n])).collect();
        assert_eq!(render("", &many, &[], &[]).lines().count(), 3);
    }

    proptest! {
        #[test]
        fn any_text_gives_a_file_with_servers(text in "\\PC*|([ -~]*\n){0,20}") {
            let rendered = render(&text, &[], &[], &[]);
            let conf = ResolvConf::parse(&rendered);
            prop_assert!((1..=3).contains(&conf.servers.len()));
            prop_assert!(conf.servers.iter().all(|server| !server.is_loopback()));
        }
    }
}
