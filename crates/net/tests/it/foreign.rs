//! Beside other programs' rules: nothing of theirs is touched, and what they destroy of ours comes back.

use crate::firewall::map;
use crate::support::*;
use naru_net::{Firewall, Protocol, Watch};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A host with a published port, and what its watch tells.
fn watched() -> (Host, Namespace, Receiver<()>) {
    let host = Host::new();
    let bridge = host.bridge("br-a", "172.30.0.0/24");
    let container = host.container(bridge, "172.30.0.2/24");
    container.serve("0.0.0.0:80");
    let mut watch: Watch = host.host.run(|| host.firewall.watch().unwrap());
    host.firewall.publish(&[map(Protocol::Tcp, "0.0.0.0:8080", "172.30.0.2:80")]).unwrap();
    let (told, tells) = channel();
    std::thread::spawn(move || while watch.wait().is_ok() && told.send(()).is_ok() {});
    (host, container, tells)
}

#[test]
fn who_drops_what_is_forwarded_is_known() {
    let (host, container, _tells) = watched();
    assert_eq!(host.firewall.obstacles().unwrap(), Vec::<String>::new());
    host.outside.serve("0.0.0.0:90");
    let Some(()) = host.host.nft("add table ip mine; add chain ip mine FORWARD { type filter hook forward priority 0; policy drop; }")
    else {
        eprintln!("there is no nft here: other programs' policies are not tried");
        return;
    };
    host.host.nft("add table inet mine; add chain inet mine input { type filter hook input priority 0; policy drop; }").unwrap();
    assert_eq!(host.firewall.obstacles().unwrap(), ["ip mine FORWARD"]);
    assert_eq!(container.ask("10.9.0.2:90"), None);
}

/// The engine's first act may be to watch: then already its own changes are none.
#[test]
fn a_watch_that_comes_first_knows_its_own() {
    let host = Namespace::new();
    let firewall = host.run(|| Firewall::open("naru-test", naru_net::FirewallMode::Open).unwrap());
    let mut watch = host.run(|| firewall.watch().unwrap());
    firewall.ensure().unwrap();
    assert!(!watch.poll().unwrap());
    host.run(|| Firewall::open("naru-test", naru_net::FirewallMode::Open).unwrap().ensure().unwrap());
    assert!(watch.poll().unwrap() && !watch.poll().unwrap());
}

fn is_told(tells: &Receiver<()>) -> bool {
    tells.recv_timeout(Duration::from_secs(5)).is_ok()
}

#[test]
fn what_others_destroy_comes_back() {
    let (host, _container, tells) = watched();
    // Its own changes are none.
    host.firewall.publish(&[map(Protocol::Tcp, "0.0.0.0:8081", "172.30.0.2:80")]).unwrap();
    host.firewall.ensure().unwrap();
    assert!(tells.recv_timeout(Duration::from_millis(300)).is_err());
    assert!(!host.firewall.repair().unwrap());
    host.host.run(|| Firewall::open("naru-test", naru_net::FirewallMode::Open).unwrap().remove().unwrap());
    assert!(is_told(&tells));
    assert!(host.firewall.repair().unwrap());
    assert!(host.outside.ask("10.9.0.1:8080").is_some() && host.outside.ask("10.9.0.1:8081").is_some());
    assert!(!host.firewall.repair().unwrap());
}

#[test]
fn others_rules_are_not_touched() {
    let (host, _container, tells) = watched();
    let Some(()) = host.host.nft(
        "add table ip mine; add chain ip mine in { type filter hook input priority 0; }; add rule ip mine in tcp dport 9999 drop; \
         add table inet naru-test-not; add set inet naru-test-not any4 { type ipv4_addr; }",
    ) else {
        eprintln!("there is no nft here: other programs' rules are not tried");
        return;
    };
    let of_others = || {
        let rules = host.host.tool("nft", &["list", "ruleset"]).unwrap();
        let tables = rules.split("table ").map(str::trim).filter(|table| !table.is_empty() && !table.starts_with("inet naru-test {"));
        tables.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = of_others();
    assert_eq!(before.len(), 2, "{before:?}");
    assert!(tells.recv_timeout(Duration::from_millis(300)).is_err(), "others' changes of others' tables are nothing to us");
    // One rule, one element, everything.
    for damage in ["flush chain inet naru-test forward", "flush map inet naru-test any4", "delete table inet naru-test"] {
        host.host.nft(damage).unwrap();
        assert!(is_told(&tells), "{damage}");
        assert!(host.firewall.repair().unwrap(), "{damage}");
        while tells.try_recv().is_ok() {}
        assert!(host.outside.ask("10.9.0.1:8080").is_some(), "{damage}");
        assert_eq!(of_others(), before, "{damage}");
    }
    host.host.nft("flush ruleset").unwrap();
    assert!(is_told(&tells));
    assert!(host.firewall.repair().unwrap());
    assert!(host.outside.ask("10.9.0.1:8080").is_some());
    assert_eq!(of_others().len(), 0);
}

#[test]
fn beside_iptables_of_either_kind() {
    for iptables in ["iptables-nft", "iptables-legacy"] {
        let (host, container, tells) = watched();
        let run = |arguments: &str| host.host.tool(iptables, &arguments.split(' ').collect::<Vec<_>>());
        if run("-N MINE").is_none() {
            eprintln!("there is no {iptables} here");
            continue;
        }
        host.outside.serve("0.0.0.0:90");
        for rule in ["-A MINE -s 10.0.0.9 -j DROP", "-A FORWARD -j MINE", "-t nat -A POSTROUTING -s 1.2.3.0/24 -j MASQUERADE"] {
            run(rule).unwrap();
        }
        let list = || [run("-S").unwrap(), run("-t nat -S").unwrap()].concat();
        let before = list();
        assert!(host.outside.ask("10.9.0.1:8080").is_some());
        assert_eq!(container.ask("10.9.0.2:90").as_deref(), Some(HOST));
        host.firewall.ensure().unwrap();
        assert_eq!(list(), before);
        run("-F").unwrap();
        run("-t nat -F").unwrap();
        assert!(tells.recv_timeout(Duration::from_millis(300)).is_err(), "{iptables} -F is not about us");
        assert!(!host.firewall.repair().unwrap());
        assert!(host.outside.ask("10.9.0.1:8080").is_some());
    }
}
