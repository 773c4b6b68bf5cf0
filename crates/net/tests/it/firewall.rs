//! What passes and what does not.

use crate::support::*;
use naru_net::{BridgeRules, Firewall, FirewallConfig, PortMap, Protocol};

pub fn map(protocol: Protocol, host: &str, container: &str) -> PortMap {
    let (host, container): (std::net::SocketAddr, std::net::SocketAddr) = (host.parse().unwrap(), container.parse().unwrap());
    PortMap { protocol, host_ip: host.ip(), host_port: host.port(), container_ip: container.ip(), container_port: container.port() }
}

#[test]
fn published_ports_are_reached_from_everywhere() {
    for filtered in [true, false] {
        let host = Host::new();
        if host.filter_bridges(filtered) || !filtered {
            published_ports(&host);
        }
    }
}

fn published_ports(host: &Host) {
    let bridge = host.bridge("br-a", "172.30.0.0/24");
    let (server, neighbour) = (host.container(bridge, "172.30.0.2/24"), host.container(bridge, "172.30.0.3/24"));
    server.serve("0.0.0.0:80");
    server.serve_udp("0.0.0.0:53");
    let ports = [
        map(Protocol::Tcp, "0.0.0.0:8080", "172.30.0.2:80"),
        map(Protocol::Tcp, "10.9.0.1:8081", "172.30.0.2:80"),
        map(Protocol::Udp, "0.0.0.0:8080", "172.30.0.2:53"),
    ];
    assert_eq!(host.outside.ask("10.9.0.1:8080"), None);
    host.firewall.publish(&ports).unwrap();
    host.firewall.publish(&ports).unwrap();
    assert_eq!(host.outside.ask("10.9.0.1:8080").as_deref(), Some(OUTSIDE), "the client's address is kept");
    assert_eq!(host.outside.ask("10.9.0.1:8081").as_deref(), Some(OUTSIDE));
    assert_eq!(host.outside.ask_udp("10.9.0.1:8080").as_deref(), Some(OUTSIDE));
    assert!(host.host.ask("10.9.0.1:8080").is_some(), "from the host itself");
    assert!(host.host.ask("172.30.0.1:8080").is_some(), "by the gateway's address");
    assert_eq!(host.host.ask("172.30.0.1:8081"), None, "published on another address only");
    assert!(neighbour.ask("10.9.0.1:8080").is_some(), "from a neighbour");
    assert!(server.ask("10.9.0.1:8080").is_some(), "from the container itself");
    assert!(server.ask("172.30.0.1:8080").is_some());
    host.firewall.unpublish(&ports[..1]).unwrap();
    host.firewall.unpublish(&ports[..1]).unwrap();
    assert_eq!(host.outside.ask("10.9.0.1:8080"), None);
    assert!(host.outside.ask("10.9.0.1:8081").is_some());
}

#[test]
fn what_is_not_published_is_not_reached() {
    let host = Host::new();
    let bridge = host.bridge("br-a", "172.30.0.0/24");
    let container = host.container(bridge, "172.30.0.2/24");
    container.serve("0.0.0.0:80");
    container.serve("0.0.0.0:81");
    host.firewall.publish(&[map(Protocol::Tcp, "0.0.0.0:8080", "172.30.0.2:80")]).unwrap();
    // A machine of the same wire that routes to the container by the host.
    host.outside.ip("route add 172.30.0.0/24 via 10.9.0.1");
    for port in [80, 81] {
        assert_eq!(host.outside.ask(&format!("172.30.0.2:{port}")), None, "port {port} at the container's own address");
    }
    assert!(host.outside.ask("10.9.0.1:8080").is_some());
    // A port published on the loopback address is no one else's.
    host.firewall.publish(&[map(Protocol::Tcp, "127.0.0.1:8081", "172.30.0.2:81")]).unwrap();
    assert_eq!(host.outside.ask("10.9.0.1:8081"), None);
    host.outside.ip("route add 127.0.0.2/32 via 10.9.0.1");
    assert_eq!(host.outside.ask("127.0.0.2:8081"), None);
}

#[test]
fn containers_reach_the_outside_by_the_hosts_address() {
    let host = Host::new();
    host.outside.serve("0.0.0.0:90");
    let bridge = host.bridge("br-a", "172.30.0.0/24");
    let container = host.container(bridge, "172.30.0.2/24");
    assert_eq!(container.ask("10.9.0.2:90").as_deref(), Some(HOST));
    let plain = host.bridge_with("br-b", "172.31.0.0/24", |rules| rules.masquerade_v4 = false);
    let container = host.container(plain, "172.31.0.2/24");
    assert_eq!(container.ask("10.9.0.2:90"), None, "without a route back there is no answer");
    host.outside.ip("route add 172.31.0.0/24 via 10.9.0.1");
    assert_eq!(container.ask("10.9.0.2:90").as_deref(), Some("172.31.0.2"));
}

#[test]
fn networks_are_apart() {
    let host = Host::new();
    let (a, b) = (host.bridge("br-a", "172.30.0.0/24"), host.bridge("br-b", "172.31.0.0/24"));
    let (one, two) = (host.container(a, "172.30.0.2/24"), host.container(b, "172.31.0.2/24"));
    two.serve("0.0.0.0:80");
    two.serve("0.0.0.0:81");
    assert_eq!(one.ask("172.31.0.2:80"), None);
    host.firewall.publish(&[map(Protocol::Tcp, "0.0.0.0:8080", "172.31.0.2:80")]).unwrap();
    assert!(one.ask("10.9.0.1:8080").is_some(), "a published port is for all");
    assert_eq!(one.ask("172.31.0.2:80"), None);
    assert_eq!(one.ask("172.31.0.2:81"), None);
}

#[test]
fn an_internal_network_has_no_outside() {
    let host = Host::new();
    host.outside.serve("0.0.0.0:90");
    let bridge = host.bridge_with("br-a", "172.30.0.0/24", |rules| rules.internal = true);
    let other = host.bridge("br-b", "172.31.0.0/24");
    let (one, two, far) =
        (host.container(bridge, "172.30.0.2/24"), host.container(bridge, "172.30.0.3/24"), host.container(other, "172.31.0.2/24"));
    two.serve("0.0.0.0:80");
    far.serve("0.0.0.0:80");
    assert!(one.ask("172.30.0.3:80").is_some());
    host.outside.ip("route add 172.30.0.0/24 via 10.9.0.1");
    assert_eq!(one.ask("10.9.0.2:90"), None);
    assert_eq!(one.ask("172.31.0.2:80"), None);
    assert_eq!(far.ask("172.30.0.3:80"), None);
    assert_eq!(host.outside.ask("172.30.0.3:80"), None);
}

#[test]
fn without_icc_neighbours_are_apart() {
    for filtered in [true, false] {
        let host = Host::new();
        if host.filter_bridges(filtered) || !filtered {
            without_icc(&host);
        }
    }
}

fn without_icc(host: &Host) {
    host.outside.serve("0.0.0.0:90");
    let bridge = host.bridge_with("br-a", "172.30.0.0/24", |rules| rules.icc = false);
    let isolated = |ip: &str| host.container_with(bridge, ip, |plan| plan.isolated = true);
    let (one, two) = (isolated("172.30.0.2/24"), isolated("172.30.0.3/24"));
    two.serve("0.0.0.0:80");
    assert_eq!(one.ask("172.30.0.3:80"), None);
    // Not around by the gateway either.
    one.ip("route add 172.30.0.3/32 via 172.30.0.1");
    assert_eq!(one.ask("172.30.0.3:80"), None);
    assert!(one.ask("10.9.0.2:90").is_some());
    host.firewall.publish(&[map(Protocol::Tcp, "0.0.0.0:8080", "172.30.0.3:80")]).unwrap();
    assert!(host.outside.ask("10.9.0.1:8080").is_some(), "what is published is for all");
    // From the network itself nothing is rewritten: with br_netfilter the packet would stay within the bridge, which keeps
    // isolated ports apart. The socket that holds the port serves it, and here is none.
    assert_eq!(one.ask("10.9.0.1:8080"), None);
}

#[test]
fn ipv6_ports() {
    let host = Host::new();
    let index = host.dual("br-a", ["172.30.0.0/24", "fd30::/64"], |_| {});
    let container = host.container_with(index, "172.30.0.2/24", |plan| {
        plan.addresses.push(net("fd30::2/64"));
        plan.gateways.push(address("fd30::1"));
    });
    container.serve("[::]:80");
    host.outside.serve("[::]:90");
    host.firewall
        .publish(&[map(Protocol::Tcp, "[::]:8080", "[fd30::2]:80"), map(Protocol::Tcp, "[fd09::1]:8081", "[fd30::2]:80")])
        .unwrap();
    assert_eq!(host.outside.ask_soon("[fd09::1]:8080").as_deref(), Some("fd09::2"));
    assert_eq!(host.outside.ask("[fd09::1]:8081").as_deref(), Some("fd09::2"));
    assert_eq!(container.ask("[fd09::2]:90").as_deref(), Some("fd09::1"));
    host.outside.ip("route add fd30::/64 via fd09::1");
    assert_eq!(host.outside.ask("[fd30::2]:80"), None);
}

#[test]
fn a_lost_table_is_made_anew() {
    let host = Host::new();
    let bridge = host.bridge("br-a", "172.30.0.0/24");
    let container = host.container(bridge, "172.30.0.2/24");
    container.serve("0.0.0.0:80");
    host.firewall.publish(&[map(Protocol::Tcp, "0.0.0.0:8080", "172.30.0.2:80")]).unwrap();
    assert!(!host.firewall.repair().unwrap());
    let wreck = || host.host.run(|| Firewall::open("naru-test", FirewallConfig::default()).unwrap().remove().unwrap());
    wreck();
    assert_eq!(host.outside.ask("10.9.0.1:8080"), None);
    assert!(host.firewall.repair().unwrap());
    assert!(host.outside.ask("10.9.0.1:8080").is_some());
    // A change finds it out by itself.
    wreck();
    host.firewall.publish(&[map(Protocol::Tcp, "0.0.0.0:8081", "172.30.0.2:80")]).unwrap();
    assert!(host.outside.ask("10.9.0.1:8080").is_some() && host.outside.ask("10.9.0.1:8081").is_some());
    wreck();
    host.firewall.unpublish(&[map(Protocol::Tcp, "0.0.0.0:8081", "172.30.0.2:80")]).unwrap();
    assert!(host.outside.ask("10.9.0.1:8080").is_some() && host.outside.ask("10.9.0.1:8081").is_none());
}

#[test]
fn a_new_engine_takes_over() {
    let host = Host::new();
    let bridge = host.bridge("br-a", "172.30.0.0/24");
    let container = host.container(bridge, "172.30.0.2/24");
    container.serve("0.0.0.0:80");
    let port = map(Protocol::Tcp, "0.0.0.0:8080", "172.30.0.2:80");
    let stale = map(Protocol::Tcp, "0.0.0.0:8081", "172.30.0.2:80");
    host.firewall.publish(&[port, stale]).unwrap();
    let firewall = host.host.run(|| Firewall::open("naru-test", FirewallConfig::default()).unwrap());
    let rules = BridgeRules::new(name("br-a"), vec![net("172.30.0.0/24")]);
    firewall.restore(vec![rules.clone()], vec![port]).unwrap();
    assert!(host.outside.ask("10.9.0.1:8080").is_some());
    assert_eq!(host.outside.ask("10.9.0.1:8081"), None);
    // Rules of a bridge can change, and go.
    firewall.add_bridge(BridgeRules { masquerade_v4: false, ..rules }).unwrap();
    firewall.remove_bridge(&name("br-a")).unwrap();
    firewall.remove_bridge(&name("br-a")).unwrap();
    firewall.remove().unwrap();
    firewall.remove().unwrap();
}

#[test]
fn many_ports_in_one_transaction() {
    let host = Host::new();
    let bridge = host.bridge("br-a", "172.30.0.0/24");
    let container = host.container(bridge, "172.30.0.2/24");
    container.serve("0.0.0.0:80");
    let ports: Vec<PortMap> = (20_000..23_000).map(|port| map(Protocol::Tcp, &format!("0.0.0.0:{port}"), "172.30.0.2:80")).collect();
    host.firewall.publish(&ports).unwrap();
    assert!(host.outside.ask("10.9.0.1:22999").is_some());
    let one = [map(Protocol::Tcp, "0.0.0.0:8080", "172.30.0.2:80")];
    host.firewall.publish(&one).unwrap();
    host.firewall.unpublish(&one).unwrap();
    assert!(host.outside.ask("10.9.0.1:22999").is_some());
    host.firewall.unpublish(&ports).unwrap();
    assert_eq!(host.outside.ask("10.9.0.1:22999"), None);
}

#[test]
fn a_client_that_keeps_sending_finds_the_new_container() {
    let host = Host::new();
    let bridge = host.dual("br-a", ["172.30.0.0/24", "fd30::/64"], |_| {});
    let (one, two) =
        (host.dual_container(bridge, ["172.30.0.2/24", "fd30::2/64"]), host.dual_container(bridge, ["172.30.0.3/24", "fd30::3/64"]));
    // Each answers with a word of its own.
    for (container, word) in [(&one, "one"), (&two, "two"), (&host.host, "host")] {
        for at in ["0.0.0.0:8053", "[::]:8053"] {
            container.answer_udp(at, word);
        }
    }
    for (at, containers) in
        [("10.9.0.1:8053", ["172.30.0.2:8053", "172.30.0.3:8053"]), ("[fd09::1]:8053", ["[fd30::2]:8053", "[fd30::3]:8053"])]
    {
        // The same socket all the while, so the same flow.
        let client = host.outside.udp_client(at);
        let ask = || {
            client.send(b"?").unwrap();
            let mut buffer = [0; 10];
            client.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        let any = if at.starts_with('[') { "[::]:8053" } else { "0.0.0.0:8053" };
        let maps = containers.map(|container| map(Protocol::Udp, any, container));
        assert_eq!(ask().as_deref(), Some("host"), "{at}");
        host.firewall.publish(&maps[..1]).unwrap();
        assert_eq!(ask().as_deref(), Some("one"), "{at}");
        host.firewall.unpublish(&maps[..1]).unwrap();
        host.firewall.publish(&maps[1..]).unwrap();
        assert_eq!(ask().as_deref(), Some("two"), "{at}");
        host.firewall.unpublish(&maps[1..]).unwrap();
        assert_eq!(ask().as_deref(), Some("host"), "{at}");
    }
}

/// Every packet of the host comes to a chain at these hooks: there is none before something needs it.
#[test]
fn chains_that_nothing_needs_are_not_there() {
    let host = Host::new();
    let bridge = host.bridge("br-a", "172.30.0.0/24");
    let container = host.container(bridge, "172.30.0.2/24");
    container.serve("0.0.0.0:80");
    let has = |chain: &str| {
        let listed = host.host.tool("nft", &["list", "table", "inet", "naru-test"]).expect("nft is installed");
        listed.contains(&format!("chain {chain} {{"))
    };
    host.firewall.publish(&[map(Protocol::Tcp, "0.0.0.0:8080", "172.30.0.2:80")]).unwrap();
    assert_eq!((has("raw"), has("input"), has("forward")), (false, false, true));
    let local = [map(Protocol::Tcp, "127.0.0.2:8081", "172.30.0.2:80")];
    host.firewall.publish(&local).unwrap();
    assert_eq!((has("raw"), has("input")), (true, false));
    // It does what it is for where the kernel does not: this needs a listener on the loopback address.
    host.host.serve("127.0.0.2:8081");
    host.host.serve("127.0.0.2:8082");
    for side in [&host.host, &host.outside] {
        side.run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap());
    }
    host.outside.ip("route del local 127.0.0.0/8 dev lo table local");
    host.outside.ip("route add 127.0.0.2/32 via 10.9.0.1");
    assert!(host.outside.ask("127.0.0.2:8082").is_some(), "what is not published is not ours");
    assert_eq!(host.outside.ask("127.0.0.2:8081"), None);
    assert!(host.host.ask("127.0.0.2:8081").is_some());
    host.bridge_with("br-b", "172.31.0.0/24", |rules| rules.mode_v4 = naru_net::GatewayMode::Isolated);
    assert_eq!((has("raw"), has("input")), (true, true));
    // A table that is written anew has what is needed then.
    host.firewall.unpublish(&local).unwrap();
    host.host.nft("flush ruleset").unwrap();
    assert!(host.firewall.repair().unwrap());
    assert_eq!((has("raw"), has("input")), (false, true));
    host.firewall.publish(&local).unwrap();
    assert!(has("raw"));
    assert_eq!(host.outside.ask("127.0.0.2:8081"), None);
    // One that somebody removed is there again with the next port that needs it.
    host.host.nft("delete table inet naru-test").unwrap();
    host.firewall.publish(&[map(Protocol::Tcp, "127.0.0.2:8083", "172.30.0.2:80")]).unwrap();
    assert_eq!((has("raw"), has("input")), (true, true));
}

#[test]
fn a_container_does_not_become_a_router_of_the_host() {
    let host = Host::new();
    // Of a network without IPv6: the container makes itself an address, and tells the bridge's neighbours by it.
    let bridge = host.bridge("br-a", "172.30.0.0/24");
    let container = host.container(bridge, "172.30.0.2/24");
    container.run(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0").unwrap());
    container.ip("addr add fe80::bad/64 dev eth0 nodad");
    let file = |name: &str| format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
    host.host.run(|| naru_net::enable_forwarding(true).unwrap());
    let routes = || host.host.tool("ip", &["-6", "route", "show", "table", "all"]).unwrap();
    let is_router = || routes().contains("default via fe80::bad");
    for _ in 0..10 {
        container.advertise("eth0");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(!is_router(), "{}", routes());
    // A host that listens would have believed it.
    host.host.run(|| std::fs::write(file("br-a"), "2").unwrap());
    let mut patience = 100..;
    while !is_router() {
        assert!(patience.next().is_some_and(|turn| turn < 300), "nobody hears of the router: the test shows nothing");
        container.advertise("eth0");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // Another engine that takes the bridge over listens no more.
    host.bridge("br-a", "172.30.0.0/24");
    assert_eq!(host.host.run(|| std::fs::read_to_string(file("br-a")).unwrap()), "0\n");
}

#[test]
fn a_host_that_takes_routes_from_advertisements_still_does() {
    let host = Namespace::new();
    host.ip("link add wan type veth peer name lan");
    let file = |name: &str| host.run(|| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}")).unwrap());
    host.run(|| std::fs::write("/proc/sys/net/ipv6/conf/lan/accept_ra", "0").unwrap());
    let before = file("wan/accept_ra");
    host.run(|| naru_net::enable_forwarding(false).unwrap());
    assert_eq!((file("all/forwarding"), file("wan/accept_ra")), ("0\n".to_owned(), before));
    host.run(|| std::fs::write("/proc/sys/net/ipv6/conf/wan/accept_ra", "1").unwrap());
    for _ in 0..2 {
        host.run(|| naru_net::enable_forwarding(true).unwrap());
        assert_eq!((file("all/forwarding"), file("wan/accept_ra"), file("lan/accept_ra")), ("1\n".into(), "2\n".into(), "0\n".into()));
    }
}
