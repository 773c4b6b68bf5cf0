//! Nothing is left of what comes and goes; and what one of each costs.

use crate::firewall::map;
use crate::support::*;
use naru_net::dns::redirect;
use naru_net::ports::Ports;
use naru_net::{BridgeRules, ChildKind, ChildPlan, LinkName, MacAddress, MacvlanMode, PortMap, Protocol, Rate, VethPlan};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// `NARU_CYCLES=1000` for a long run.
fn cycles() -> usize {
    std::env::var("NARU_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(30)
}

/// What could be left: links of the host, its rules and elements.
fn left(host: &Host) -> (Vec<String>, Option<String>) {
    let mut links: Vec<String> = host.links.list().unwrap().into_iter().map(|link| link.name).collect();
    links.sort();
    (links, host.host.tool("nft", &["list", "table", "inet", "naru-test"]))
}

fn plan(bridge: u32, n: usize) -> VethPlan {
    VethPlan {
        bridge,
        host_name: LinkName::random_veth(),
        container_name: name("eth0"),
        mac: MacAddress::random(),
        addresses: vec![net(&format!("172.30.{}.{}/16", n / 250, 2 + n % 250)), net(&format!("fd30::{:x}/64", n + 2))],
        gateways: vec![address("172.30.0.1"), address("fd30::1")],
        mtu: None,
        isolated: false,
        rate: None,
    }
}

#[test]
fn nothing_is_left() {
    let host = Host::new();
    let bridge = host.dual("br-a", ["172.30.0.0/16", "fd30::/64"], |_| {});
    let container = Namespace::new();
    let (route, ports) = (container.route_socket(), Ports::new());
    let before = left(&host);
    for n in 0..cycles() {
        let mut plan = plan(bridge, n);
        plan.rate = (n % 10 == 0).then_some(Rate { ingress: Some(1_000_000), egress: Some(1_000_000) });
        host.links.attach(&plan, container.0.as_fd(), route.as_fd()).unwrap();
        let held = host.host.run(|| ports.reserve(Protocol::Tcp, &[address("0.0.0.0"), address("::")], (0, 0), "one").unwrap());
        let maps: Vec<PortMap> = held
            .iter()
            .map(|held| {
                map(Protocol::Tcp, &held.address.to_string(), if held.address.is_ipv4() { "172.30.0.2:80" } else { "[fd30::2]:80" })
            })
            .collect();
        host.firewall.publish(&maps).unwrap();
        host.firewall.unpublish(&maps).unwrap();
        host.links.remove(&plan.host_name).unwrap();
        let rules = BridgeRules { host_ip_v4: Some(address("10.9.0.1")), ..BridgeRules::new(name("br-b"), vec![net("172.31.0.0/16")]) };
        host.firewall.add_bridge(rules).unwrap();
        host.firewall.remove_bridge(&name("br-b")).unwrap();
        // Nothing of the kind is open between two rounds.
        let own = std::fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
        assert!(!own.into_iter().any(|to| to.to_string_lossy().contains("accept_ra")));
        drop(held);
        for at in maps.iter().map(PortMap::host) {
            assert_eq!(ports.owner(Protocol::Tcp, at), None);
        }
    }
    assert_eq!(left(&host), before);
    let inside = container.run(|| naru_net::Links::open("x").unwrap().list().unwrap().len());
    assert_eq!(inside, 1, "the loopback interface alone");
}

/// Best and median of some.
#[expect(clippy::print_stderr, reason = "a measurement is told")]
fn price(what: &str, count: usize, mut work: impl FnMut(usize) -> Duration) {
    let mut times: Vec<Duration> = (0..count).map(&mut work).collect();
    times.sort();
    eprintln!("{what:44} best {:>6} µs, median {:>6} µs", times[0].as_micros(), times[count / 2].as_micros());
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

#[test]
#[ignore = "measures; run it alone, with --release"]
fn prices() {
    const COUNT: usize = 100;
    let host = Host::new();
    let bridge = host.dual("br-a", ["172.30.0.0/16", "fd30::/64"], |_| {});
    let mut kept = Vec::new();
    for (what, change) in [
        ("endpoint, IPv4", (|plan: &mut VethPlan| plan.addresses.truncate(1)) as fn(&mut VethPlan)),
        ("endpoint, IPv4 and IPv6", |_| {}),
        ("endpoint, IPv4, both rates", |plan| {
            plan.addresses.truncate(1);
            plan.rate = Some(Rate { ingress: Some(1 << 30), egress: Some(1 << 30) });
        }),
    ] {
        price(what, COUNT, |n| {
            let container = Namespace::new();
            let mut plan = plan(bridge, n);
            change(&mut plan);
            plan.gateways.truncate(plan.addresses.len());
            let route = container.route_socket();
            let (took, result) = timed(|| host.links.attach(&plan, container.0.as_fd(), route.as_fd()));
            result.unwrap();
            kept.push((container, plan.host_name));
            took
        });
    }
    price("endpoint removed by its host's end", COUNT, |n| {
        let (took, result) = timed(|| host.links.remove(&kept[n].1));
        result.unwrap();
        took
    });
    kept.clear();
    let parent = host.links.ensure_parent("wire").unwrap().index;
    let mut containers = Vec::new();
    price("macvlan, IPv4", COUNT, |n| {
        let container = Namespace::new();
        let plan = ChildPlan {
            kind: ChildKind::Macvlan(MacvlanMode::Bridge),
            parent,
            container_name: name("eth0"),
            mac: None,
            addresses: vec![net(&format!("10.9.0.{}/24", 100 + n))],
            gateways: vec![],
            mtu: None,
            rate: None,
        };
        let route = container.route_socket();
        let (took, result) = timed(|| host.links.attach_child(&plan, container.0.as_fd(), route.as_fd()));
        result.unwrap();
        containers.push(container);
        took
    });
    price("resolver's rules in a namespace", COUNT, |n| {
        let nft = containers[n].run(|| {
            let netfilter = Some(rustix::net::netlink::NETFILTER);
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, netfilter).unwrap()
        });
        let (took, result) = timed(|| redirect(nft, 1000, 1001));
        result.unwrap();
        took
    });
    let ports = Ports::new();
    let mut held = Vec::new();
    price("port held, both families", COUNT, |_| {
        let (took, result) = timed(|| ports.reserve(Protocol::Tcp, &[address("0.0.0.0"), address("::")], (0, 0), "one"));
        held.extend(result.unwrap());
        took
    });
    let maps = |n: usize| {
        let port = 20_000 + n;
        [map(Protocol::Tcp, &format!("0.0.0.0:{port}"), "172.30.0.2:80"), map(Protocol::Tcp, &format!("[::]:{port}"), "[fd30::2]:80")]
    };
    price("port published, both families", COUNT, |n| {
        let (took, result) = timed(|| host.firewall.publish(&maps(n)));
        result.unwrap();
        took
    });
    price("port unpublished, both families", COUNT, |n| {
        let (took, result) = timed(|| host.firewall.unpublish(&maps(n)));
        result.unwrap();
        took
    });
    price("network's rules", COUNT, |n| {
        let rules = BridgeRules::new(name(&format!("br-{n}")), vec![net(&format!("10.50.{n}.0/24")), net(&format!("fd50:{n}::/64"))]);
        let (took, result) = timed(|| host.firewall.add_bridge(rules));
        result.unwrap();
        took
    });
    price("network's rules removed", COUNT, |n| {
        let (took, result) = timed(|| host.firewall.remove_bridge(&name(&format!("br-{n}"))));
        result.unwrap();
        took
    });
    price("everything anew", COUNT, |_| {
        let (took, result) = timed(|| host.firewall.ensure());
        result.unwrap();
        took
    });
}
