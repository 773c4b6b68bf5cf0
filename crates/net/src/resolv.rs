//! `/etc/resolv.conf` of a container, made of the host's and of what the user asked for.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

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
    let options = if options.is_empty() { host.options } else { words_of(options) };
    let mut text = String::new();
    for server in servers.iter().take(MAX_SERVERS) {
        writeln!(text, "nameserver {server}").expect("writing to a String does not fail");
    }
    for (keyword, words) in [("search", search), ("options", options)] {
        let words: Vec<String> = words.into_iter().filter(|word| is_word(word)).collect();
        if !words.is_empty() {
            writeln!(text, "{keyword} {}", words.join(" ")).expect("writing to a String does not fail");
        }
    }
    text
}

/// A container's file that names the engine's own resolver, and whom that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForResolver {
    /// The text of the file.
    pub text: String,
    /// The servers to forward to, as [`crate::dns::Zone::upstream`] has them.
    pub upstream: Vec<SocketAddr>,
}

/// The text of the host's file as it is: a resolver that asks from the host reaches the servers it names, also
/// systemd-resolved's stub and others on a loopback address.
pub fn host_text_as_it_is() -> String {
    let bytes = std::fs::read("/etc/resolv.conf").unwrap_or_default();
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_BYTES)]).into_owned()
}

/// The file of a container in a network with names: only the engine's resolver is in it. What the user gave replaces the
/// host's, kind by kind. The lines and the comments after them are Docker's; tools read them.
pub fn render_for_resolver(host_text: &str, dns: &[IpAddr], search: &[String], options: &[String]) -> ForResolver {
    let host = ResolvConf::parse(host_text);
    let servers: Vec<IpAddr> = if dns.is_empty() { host.servers } else { dns.to_vec() }.into_iter().take(MAX_SERVERS).collect();
    let is_ndots = |option: &String| option.starts_with("ndots:");
    let clean = |words: Vec<String>| words.into_iter().filter(|word| is_word(word)).collect::<Vec<_>>();
    let search_words = clean(if search.is_empty() { host.search } else { search.to_vec() });
    let mut option_words = clean(if options.is_empty() { host.options } else { words_of(options) });
    let ndots = match (option_words.iter().any(is_ndots), options.is_empty()) {
        (true, false) => "override",
        (true, true) => "host",
        (false, _) => {
            option_words.push("ndots:0".to_owned());
            "internal"
        }
    };
    let mut text = format!(
        "# Generated by Naru.\n# This file can be edited; Naru will not make further changes once it\n# has been modified.\n\nnameserver {}\n",
        crate::dns::ADDRESS
    );
    if !search_words.is_empty() {
        text.push_str(&format!("search {}\n", search_words.join(" ")));
    }
    text.push_str(&format!("options {}\n\n# Based on host file: '/etc/resolv.conf' (internal resolver)\n", option_words.join(" ")));
    let named: Vec<String> =
        servers.iter().map(|server| if dns.is_empty() { format!("host({server})") } else { server.to_string() }).collect();
    text.push_str(&match named.is_empty() {
        true => "# NO EXTERNAL NAMESERVERS DEFINED\n".to_owned(),
        false => format!("# ExtServers: [{}]\n", named.join(" ")),
    });
    let given = [("nameservers", dns.is_empty()), ("search", search.is_empty()), ("options", options.is_empty())];
    let overrides: Vec<&str> = given.iter().filter(|(_, is_empty)| !is_empty).map(|(kind, _)| *kind).collect();
    text.push_str(&format!("# Overrides: [{}]\n# Option ndots from: {ndots}\n", overrides.join(" ")));
    ForResolver { text, upstream: servers.into_iter().map(|server| SocketAddr::new(server, 53)).collect() }
}

/// An option may come with its argument, as `--dns-opt 'timeout:1 rotate'`.
fn words_of(options: &[String]) -> Vec<String> {
    options.iter().flat_map(|option| option.split_whitespace()).map(str::to_owned).collect()
}

/// White space would start another word, a newline another line.
fn is_word(word: &str) -> bool {
    !word.is_empty() && word != "." && word.bytes().all(|byte| byte.is_ascii_graphic())
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

    #[test]
    fn for_the_engines_resolver() {
        let made = render_for_resolver(HOST, &[], &[], &[]);
        assert_eq!(
            made.text,
            "# Generated by Naru.\n# This file can be edited; Naru will not make further changes once it\n# has been modified.\n\n\
             nameserver 127.0.0.11\nsearch a.example b.example\noptions edns0 trust-ad ndots:0\n\n\
             # Based on host file: '/etc/resolv.conf' (internal resolver)\n# ExtServers: [host(127.0.0.53) host(10.0.0.2)]\n\
             # Overrides: []\n# Option ndots from: internal\n"
        );
        assert_eq!(made.upstream, ["127.0.0.53:53".parse().unwrap(), "10.0.0.2:53".parse().unwrap()]);
        let own = ["1.1.1.1".parse().unwrap(), "2001::1".parse().unwrap()];
        let made = render_for_resolver(HOST, &own, &["foo".into(), "x\ny".into()], &["ndots:3".into(), "timeout:2".into()]);
        assert!(made.text.contains("\nnameserver 127.0.0.11\nsearch foo\noptions ndots:3 timeout:2\n\n"), "{}", made.text);
        assert!(
            made.text
                .contains("# ExtServers: [1.1.1.1 2001::1]\n# Overrides: [nameservers search options]\n# Option ndots from: override\n")
        );
        assert_eq!(made.upstream[1].to_string(), "[2001::1]:53");
        let own = ["127.0.0.1".parse().unwrap()];
        let made = render_for_resolver(HOST, &own, &[], &["timeout:1 rotate".into(), "ndots:1\nx".into()]);
        assert!(made.text.contains("\noptions timeout:1 rotate ndots:1 x\n\n"), "{}", made.text);
        assert!(made.text.contains("# ExtServers: [127.0.0.1]\n"), "the container's own loopback, not the host's: {}", made.text);
        let none = render_for_resolver("options ndots:2\n", &[], &[".".into()], &[]);
        assert!(none.text.contains("# NO EXTERNAL NAMESERVERS DEFINED\n# Overrides: [search]\n# Option ndots from: host\n"));
        assert!(!none.text.contains("\nsearch") && none.upstream.is_empty());
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
