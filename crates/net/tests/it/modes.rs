//! Who reaches what, by gateway mode and family; the firewall that respects the host's own rules.

use crate::firewall::map;
use crate::support::*;
use naru_net::ports::Ports;
use naru_net::{FirewallConfig, FirewallMode, GatewayMode, PortMap, Protocol, proxy};
use std::net::{IpAddr, SocketAddr};

const SUBNETS: [&str; 2] = ["172.30.0.0/24", "fd30::/64"];
const CONTAINER: [&str; 2] = ["172.30.0.2/24", "fd30::2/64"];

/// What a machine outside, a container of another network and the host reach: the published port of the host, the
/// container's own address by its published port, by another, and by ping.
#[derive(Debug, PartialEq, Eq)]
struct Reached {
    by_host: bool,
    published: bool,
    unpublished: bool,
    ping: bool,
}

fn reached(from: &Namespace, host: &str, container: &str) -> Reached {
    Reached {
        by_host: from.ask(&format!("{host}:8080")).is_some(),
        published: from.ask(&format!("{container}:80")).is_some(),
        unpublished: from.ask(&format!("{container}:81")).is_some(),
        ping: from.ping(container.trim_matches(['[', ']'])),
    }
}

fn publish(host: &Host) -> Vec<PortMap> {
    let ports = vec![map(Protocol::Tcp, "0.0.0.0:8080", "172.30.0.2:80"), map(Protocol::Tcp, "[::]:8080", "[fd30::2]:80")];
    host.firewall.publish(&ports).unwrap();
    ports
}

#[test]
fn who_reaches_what() {
    // mode, internal, direct routing; outside: by_host published unpublished ping; the same from another network
    let table = [
        (GatewayMode::Nat, false, false, [true, false, false, false], [true, false, false, false]),
        (GatewayMode::Nat, false, true, [true, true, false, false], [true, false, false, false]),
        (GatewayMode::Routed, false, false, [false, true, false, true], [false, true, false, true]),
        (GatewayMode::NatUnprotected, false, false, [true, true, true, true], [true, false, false, false]),
        (GatewayMode::Nat, true, true, [true, false, false, false], [true, false, false, false]),
    ];
    // Most of the time is spent waiting for what does not come.
    std::thread::scope(|scope| {
        for (mode, internal, direct_routing, outside, other) in table {
            scope.spawn(move || who_reaches(mode, internal, direct_routing, outside, other));
        }
    });
}

fn who_reaches(mode: GatewayMode, internal: bool, direct_routing: bool, outside: [bool; 4], other: [bool; 4]) {
    let host = Host::with(FirewallConfig { direct_routing, ..FirewallConfig::default() });
    let bridge = host.dual("br-a", SUBNETS, |rules| {
        (rules.mode_v4, rules.mode_v6) = (mode, mode);
        rules.internal = internal;
    });
    let elsewhere = host.dual("br-b", ["172.31.0.0/24", "fd31::/64"], |_| {});
    let container = host.dual_container(bridge, CONTAINER);
    let neighbour = host.dual_container(bridge, ["172.30.0.3/24", "fd30::3/64"]);
    let stranger = host.dual_container(elsewhere, ["172.31.0.2/24", "fd31::2/64"]);
    host.outside.ip("route add 172.30.0.0/24 via 10.9.0.1");
    host.outside.ip("route add fd30::/64 via fd09::1");
    host.outside.serve("0.0.0.0:90");
    host.outside.serve("[::]:90");
    // An internal network's ports are not published by an engine; nothing of the kind is tried here.
    let ports = if internal { vec![] } else { publish(&host) };
    for (family, at, own) in [("v4", HOST, "172.30.0.2"), ("v6", "[fd09::1]", "[fd30::2]")] {
        let said = |list: [bool; 4]| Reached { by_host: list[0] && !internal, published: list[1], unpublished: list[2], ping: list[3] };
        assert_eq!(reached(&host.outside, at, own), said(outside), "{mode:?} internal {internal} {family} from outside");
        assert_eq!(reached(&stranger, at, own), said(other), "{mode:?} internal {internal} {family} from another network");
        assert!(neighbour.ask(&format!("{own}:81")).is_some(), "{mode:?} {family} neighbour");
        assert!(host.host.ask(&format!("{own}:81")).is_some(), "{mode:?} {family} host");
        let (there, own) = if family == "v4" { (OUTSIDE, "172.30.0.2") } else { ("[fd09::2]", "fd30::2") };
        let seen = container.ask(&format!("{there}:90"));
        let as_host = if family == "v4" { HOST } else { "fd09::1" };
        let expected = match (internal, mode) {
            (true, _) => None,
            (_, GatewayMode::Routed) => Some(own),
            _ => Some(as_host),
        };
        assert_eq!(seen.as_deref(), expected, "{mode:?} internal {internal} {family} what the outside sees");
    }
    host.firewall.unpublish(&ports).unwrap();
    let left = reached(&host.outside, HOST, "172.30.0.2");
    assert!(!left.by_host && left.published == (mode == GatewayMode::NatUnprotected), "{mode:?} {left:?}");
}

#[test]
fn an_isolated_network_has_not_even_the_host() {
    let host = Host::new();
    let bridge = host.dual("br-a", SUBNETS, |rules| {
        (rules.mode_v4, rules.mode_v6, rules.internal) = (GatewayMode::Isolated, GatewayMode::Isolated, true);
    });
    let (one, two) = (host.dual_container(bridge, CONTAINER), host.dual_container(bridge, ["172.30.0.3/24", "fd30::3/64"]));
    host.host.serve("0.0.0.0:70");
    assert!(one.ask("172.30.0.3:80").is_some() && one.ask("[fd30::3]:80").is_some());
    // The engine gives such a bridge no address; should a container find another one, the door is shut.
    assert_eq!(one.ask("172.30.0.1:70"), None);
    assert_eq!(one.ask("10.9.0.1:70"), None);
    assert_eq!(two.ask("10.9.0.2:90"), None);
}

#[test]
fn open_is_counted_by_the_containers_port() {
    let host = Host::new();
    let bridge = host.dual("br-a", SUBNETS, |rules| rules.mode_v4 = GatewayMode::Routed);
    let _container = host.dual_container(bridge, CONTAINER);
    host.outside.ip("route add 172.30.0.0/24 via 10.9.0.1");
    let two = [map(Protocol::Tcp, "0.0.0.0:8080", "172.30.0.2:80"), map(Protocol::Tcp, "0.0.0.0:8081", "172.30.0.2:80")];
    host.firewall.publish(&two).unwrap();
    host.firewall.unpublish(&two[..1]).unwrap();
    assert!(host.outside.ask("172.30.0.2:80").is_some(), "the other still wants it");
    host.firewall.unpublish(&two[1..]).unwrap();
    assert_eq!(host.outside.ask("172.30.0.2:80"), None);
    // IPv6 of the same network is as usual, and a changed mode takes the ports along.
    host.firewall.publish(&two).unwrap();
    let mut rules = naru_net::BridgeRules::new(name("br-a"), SUBNETS.map(net).to_vec());
    host.firewall.add_bridge(rules.clone()).unwrap();
    assert_eq!(host.outside.ask("172.30.0.2:80"), None);
    assert!(host.outside.ask("10.9.0.1:8081").is_some());
    rules.mode_v4 = GatewayMode::Routed;
    host.firewall.add_bridge(rules).unwrap();
    assert!(host.outside.ask("172.30.0.2:80").is_some());
    host.firewall.unpublish(&two).unwrap();
    assert_eq!(host.outside.ask("172.30.0.2:80"), None);
}

#[test]
fn packets_to_the_outside_get_the_address_that_is_asked_for() {
    let host = Host::new();
    host.host.ip("addr add 10.9.0.77/24 dev wire");
    host.host.ip("addr add fd09::77/64 dev wire nodad preferred_lft 0");
    host.outside.serve("0.0.0.0:90");
    host.outside.serve("[::]:90");
    let bridge = host.dual("br-a", SUBNETS, |rules| {
        (rules.host_ip_v4, rules.host_ip_v6) = (Some(address("10.9.0.77")), Some(address("fd09::77")));
    });
    let plain = host.dual("br-b", ["172.31.0.0/24", "fd31::/64"], |_| {});
    let (one, two) = (host.dual_container(bridge, CONTAINER), host.dual_container(plain, ["172.31.0.2/24", "fd31::2/64"]));
    assert_eq!(one.ask("10.9.0.2:90").as_deref(), Some("10.9.0.77"));
    assert_eq!(one.ask("[fd09::2]:90").as_deref(), Some("fd09::77"));
    assert_eq!(two.ask("10.9.0.2:90").as_deref(), Some(HOST));
    host.firewall.remove_bridge(&name("br-a")).unwrap();
    assert_eq!(two.ask("[fd09::2]:90").as_deref(), Some("fd09::1"));
}

#[test]
fn a_loopback_port_stays_here_although_loopback_is_routed() {
    let host = Host::new();
    let bridge = host.bridge("br-a", "172.30.0.0/24");
    let container = host.container(bridge, "172.30.0.2/24");
    container.serve("0.0.0.0:80");
    host.host.serve("127.0.0.1:8080");
    host.host.serve("127.0.0.1:8081");
    host.host.run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap());
    host.outside.run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap());
    host.outside.ip("addr del 127.0.0.1/8 dev lo");
    host.outside.ip("route add 127.0.0.1/32 via 10.9.0.1 src 10.9.0.2");
    assert!(host.outside.ask("127.0.0.1:8081").is_some(), "this is how open such a host is");
    host.firewall.publish(&[map(Protocol::Tcp, "127.0.0.1:8080", "172.30.0.2:80")]).unwrap();
    assert_eq!(host.outside.ask("127.0.0.1:8080"), None);
    assert!(host.host.ask("127.0.0.1:8080").is_some());
}

/// The engine in the host's namespace: sockets that hold ports, and what serves from them.
struct Server {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.take().map(|stop| stop.send(()));
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve_ports(host: &Host, ports: &[(Protocol, &str, &str)]) -> Server {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    use std::os::fd::AsFd;
    let namespace = host.host.0.try_clone().unwrap();
    let ports: Vec<(Protocol, SocketAddr, SocketAddr)> =
        ports.iter().map(|(protocol, host, container)| (*protocol, host.parse().unwrap(), container.parse().unwrap())).collect();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let (all, mut kept) = (Ports::new(), Vec::new());
            for (protocol, host, container) in ports {
                let range = (host.port(), host.port());
                for mut held in all.reserve(protocol, &[host.ip()], range, "test").unwrap() {
                    let socket = std::sync::Arc::new(held.take_socket().unwrap());
                    let proxy = proxy::serve(vec![proxy::Served { protocol, socket, target: container }]).unwrap();
                    kept.push((held, proxy));
                }
            }
            ready.send(()).unwrap();
            stopped.await.ok();
            drop(kept);
        });
    });
    is_ready.recv().unwrap();
    Server { stop: Some(stop), thread: Some(thread) }
}

#[test]
fn the_hosts_own_rules_decide_over_published_ports() {
    for mode in [FirewallMode::Open, FirewallMode::RespectHost] {
        let host = Host::with_mode(mode);
        let bridge = host.dual("br-a", SUBNETS, |_| {});
        let container = host.dual_container(bridge, CONTAINER);
        container.serve_udp("0.0.0.0:53");
        let ports = [
            (Protocol::Tcp, "0.0.0.0:8080", "172.30.0.2:80"),
            (Protocol::Tcp, "[::]:8080", "[fd30::2]:80"),
            (Protocol::Udp, "0.0.0.0:8053", "172.30.0.2:53"),
        ];
        let maps: Vec<PortMap> = ports.iter().map(|(protocol, at, to)| map(*protocol, at, to)).collect();
        host.firewall.publish(&maps).unwrap();
        let _server = serve_ports(&host, &ports);
        let gateway = |address: IpAddr| {
            if mode == FirewallMode::Open { address } else { net(SUBNETS[usize::from(address.is_ipv6())]).nth(1).unwrap() }
        };
        let asked = |at: &str| host.outside.ask(at).map(|seen| seen.parse::<IpAddr>().unwrap());
        assert_eq!(asked("10.9.0.1:8080"), Some(gateway(address(OUTSIDE))));
        assert_eq!(asked("[fd09::1]:8080"), Some(gateway(address("fd09::2"))));
        assert!(host.outside.ask_udp("10.9.0.1:8053").is_some());
        assert!(host.host.ask("127.0.0.1:8080").is_some() && host.host.ask("[::1]:8080").is_some());
        assert!(container.ask("10.9.0.1:8080").is_some(), "the container by the host");
        // The host's own rules: nothing new from the wire.
        let Some(()) = host.host.nft("add table inet mine; add chain inet mine in { type filter hook input priority 0; }; add rule inet mine in iifname wire ct state new drop") else {
            eprintln!("there is no nft here: the host's rules are not tried");
            return;
        };
        let open = mode == FirewallMode::Open;
        assert_eq!(host.outside.ask("10.9.0.1:8080").is_some(), open, "{mode:?}");
        assert_eq!(host.outside.ask("[fd09::1]:8080").is_some(), open, "{mode:?}");
        assert_eq!(host.outside.ask_udp("10.9.0.1:8053").is_some(), open, "{mode:?}");
        host.host.nft("insert rule inet mine in tcp dport 8080 accept").unwrap();
        assert!(host.outside.ask("10.9.0.1:8080").is_some() && host.outside.ask("[fd09::1]:8080").is_some());
    }
}

/// Resident memory of this process, in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "measures; run it alone, with --release"]
fn a_thousand_published_ports() {
    let host = Host::new();
    let bridge = host.dual("br-a", SUBNETS, |_| {});
    let container = host.dual_container(bridge, CONTAINER);
    for (protocol, name) in [(Protocol::Tcp, "tcp"), (Protocol::Udp, "udp")] {
        let ports: Vec<(Protocol, String, String)> = (0..1000)
            .flat_map(|n| {
                let port = 20_000 + n;
                [(protocol, format!("0.0.0.0:{port}"), "172.30.0.2:80".into()), (protocol, format!("[::]:{port}"), "[fd30::2]:80".into())]
            })
            .collect();
        let borrowed: Vec<(Protocol, &str, &str)> = ports.iter().map(|(p, host, to)| (*p, host.as_str(), to.as_str())).collect();
        let (before, start) = (resident(), std::time::Instant::now());
        let server = serve_ports(&host, &borrowed);
        let (took, held) = (start.elapsed(), resident() - before);
        let maps: Vec<PortMap> = borrowed.iter().map(|(protocol, at, to)| map(*protocol, at, to)).collect();
        let start = std::time::Instant::now();
        host.firewall.publish(&maps).unwrap();
        let rules = start.elapsed();
        eprintln!("1000 {name} ports of both families: {held} KiB, sockets and proxies {took:?}, rules in one change {rules:?}");
        assert!(held < 4096, "{held} KiB");
        if protocol == Protocol::Tcp {
            assert!(host.outside.ask("10.9.0.1:20999").is_some() && host.host.ask("127.0.0.1:20999").is_some());
        }
        host.firewall.unpublish(&maps).unwrap();
        drop(server);
    }
    drop(container);
}

#[test]
#[ignore = "measures; run it alone, with --release"]
fn what_respect_costs() {
    for mode in [FirewallMode::Open, FirewallMode::RespectHost] {
        let host = Host::with_mode(mode);
        let bridge = host.dual("br-a", SUBNETS, |_| {});
        let container = host.dual_container(bridge, CONTAINER);
        let ports = [(Protocol::Tcp, "0.0.0.0:8080", "172.30.0.2:80"), (Protocol::Tcp, "0.0.0.0:8070", "172.30.0.2:70")];
        let maps: Vec<PortMap> = ports.iter().map(|(protocol, at, to)| map(*protocol, at, to)).collect();
        host.firewall.publish(&maps).unwrap();
        let _server = serve_ports(&host, &ports);
        let bytes = 1 << 30;
        let took = host.outside.send_to(&container, "172.30.0.2:70", "10.9.0.1:8070", bytes);
        let mut times: Vec<_> = (0..500)
            .map(|_| {
                let start = std::time::Instant::now();
                assert!(host.outside.ask("10.9.0.1:8080").is_some());
                start.elapsed()
            })
            .collect();
        times.sort();
        eprintln!("{mode:?}: {:.2} GB/s, a connection with an answer {:?}", bytes as f64 / took.as_secs_f64() / 1e9, times[250]);
    }
}
