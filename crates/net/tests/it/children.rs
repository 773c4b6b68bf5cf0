//! macvlan and ipvlan links, their parents; several links of one namespace; rates.

use crate::support::*;
use naru_net::{ChildKind, ChildPlan, Error, IpvlanFlag, IpvlanMode, LinkName, Links, MacAddress, MacvlanMode, Rate};
use std::os::fd::AsFd;
use std::time::Duration;

fn child(parent: u32, kind: ChildKind, address: &str) -> ChildPlan {
    ChildPlan {
        kind,
        parent,
        container_name: name("eth0"),
        mac: Some(MacAddress::random()),
        addresses: vec![net(address)],
        gateways: vec![],
        mtu: None,
        rate: None,
    }
}

fn attach(host: &Host, plan: &ChildPlan) -> Namespace {
    let namespace = Namespace::new();
    host.links.attach_child(plan, namespace.0.as_fd(), namespace.route_socket().as_fd()).unwrap();
    plan.addresses.iter().for_each(|own| namespace.hears_of(own.address()));
    namespace
}

#[test]
fn macvlan_on_the_wire_outside() {
    let host = Host::new();
    let parent = host.links.ensure_parent("wire").unwrap();
    assert!(!parent.made);
    let plan =
        |address: &str, mode| ChildPlan { gateways: vec![], mtu: Some(1400), ..child(parent.index, ChildKind::Macvlan(mode), address) };
    let mut with_gateway = plan("10.9.0.50/24", MacvlanMode::Bridge);
    with_gateway.addresses.push(net("fd09::50/64"));
    with_gateway.gateways = vec![address(OUTSIDE), address("fd09::2")];
    let one = attach(&host, &with_gateway);
    let two = attach(&host, &plan("10.9.0.51/24", MacvlanMode::Bridge));
    host.outside.serve("0.0.0.0:90");
    host.outside.serve("[::]:91");
    two.serve("0.0.0.0:80");
    assert_eq!(one.ask("10.9.0.2:90").as_deref(), Some("10.9.0.50"), "a machine of the network outside");
    assert_eq!(one.ask("[fd09::2]:91").as_deref(), Some("fd09::50"), "at once, without duplicate detection");
    assert_eq!(one.ask("10.9.0.51:80").as_deref(), Some("10.9.0.50"));
    assert!(one.output("ip route show default").contains("via 10.9.0.2"));
    let link = one.run(|| Links::open("x").unwrap().find(&name("eth0")).unwrap().unwrap());
    assert_eq!((link.mac, link.mtu, link.kind.as_str()), (with_gateway.mac, 1400, "macvlan"));
    Links::remove_in(one.route_socket().as_fd(), &name("eth0")).unwrap();
    Links::remove_in(one.route_socket().as_fd(), &name("eth0")).unwrap();
    assert_eq!(one.ask("10.9.0.2:90"), None);
    // Private ones do not see each other, the machine outside they do.
    let three = attach(&host, &plan("10.9.0.52/24", MacvlanMode::Private));
    assert_eq!(three.ask("10.9.0.51:80"), None);
    assert!(three.ask("10.9.0.2:90").is_some());
}

#[test]
fn a_network_without_an_outside_hangs_on_a_dummy() {
    let host = Host::new();
    let dummy = host.links.ensure_dummy(&name("dm-0123456789ab")).unwrap();
    assert!(dummy.made);
    let again = host.links.ensure_dummy(&name("dm-0123456789ab")).unwrap();
    assert_eq!((again.index, again.made), (dummy.index, false));
    let (one, two) = (
        attach(&host, &child(dummy.index, ChildKind::Macvlan(MacvlanMode::Bridge), "172.30.0.2/24")),
        attach(&host, &child(dummy.index, ChildKind::Macvlan(MacvlanMode::Bridge), "172.30.0.3/24")),
    );
    two.serve("0.0.0.0:80");
    assert_eq!(one.ask("172.30.0.3:80").as_deref(), Some("172.30.0.2"));
    host.links.remove(&name("dm-0123456789ab")).unwrap();
    assert_eq!(one.ask("172.30.0.3:80"), None);
}

#[test]
fn parents_that_cannot_be() {
    let host = Host::new();
    let links = host.links.list().unwrap().len();
    assert!(matches!(host.links.ensure_parent("eth9.5"), Err(Error::NoParent { name }) if name == "eth9"));
    for bad in ["eth9", "wire.0", "wire.4095", "wire.x", "wire.", "a-name-too-long-for-a-link.5"] {
        assert!(matches!(host.links.ensure_parent(bad), Err(Error::BadParent { name }) if name == bad), "{bad}");
    }
    // Either a sub-interface, or the word that this kernel has none.
    match host.links.ensure_parent("wire.50") {
        Ok(parent) => {
            assert!(parent.made && !host.links.ensure_parent("wire.50").unwrap().made);
            assert!(host.host.output("ip -d link show wire.50").contains("id 50"));
            host.links.remove(&name("wire.50")).unwrap();
        }
        Err(error) => assert!(error.to_string().contains("lacks 8021q links"), "{error}"),
    }
    let parent = host.links.ensure_parent("wire").unwrap().index;
    let kind = ChildKind::Ipvlan { mode: IpvlanMode::L3, flag: IpvlanFlag::Private };
    let namespace = Namespace::new();
    let plan = ChildPlan { gateways: vec![address("0.0.0.0")], ..child(parent, kind, "10.9.0.60/24") };
    match host.links.attach_child(&plan, namespace.0.as_fd(), namespace.route_socket().as_fd()) {
        Ok(()) => {
            let route = namespace.output("ip route show default");
            assert!(route.contains("default dev eth0 proto static scope link"), "{route}");
        }
        Err(error) => assert!(error.to_string().contains("lacks ipvlan links"), "{error}"),
    }
    assert_eq!(host.links.list().unwrap().len(), links);
}

#[test]
fn a_second_network_for_a_running_container() {
    let host = Host::new();
    let (a, b) = (host.bridge("br-a", "172.30.0.0/24"), host.bridge("br-b", "172.31.0.0/24"));
    host.outside.serve("0.0.0.0:90");
    let container = host.container(a, "172.30.0.2/24");
    let route = container.route_socket();
    let second = naru_net::VethPlan {
        bridge: b,
        host_name: LinkName::random_veth(),
        container_name: name("eth1"),
        mac: MacAddress::random(),
        addresses: vec![net("172.31.0.2/24"), net("fd31::2/64")],
        gateways: vec![],
        mtu: None,
        isolated: false,
        rate: None,
    };
    host.links.attach(&second, container.0.as_fd(), route.as_fd()).unwrap();
    let default = || container.output("ip route show default");
    assert!(default().contains("via 172.30.0.1 dev eth0"));
    Links::set_default_routes(route.as_fd(), &[(address("172.31.0.1"), name("eth1")), (address("fd31::1"), name("eth1"))]).unwrap();
    assert_eq!(default().lines().count(), 1);
    assert!(default().contains("via 172.31.0.1 dev eth1"), "{}", default());
    assert!(container.output("ip -6 route show default").contains("via fd31::1 dev eth1"));
    assert!(container.ask("10.9.0.2:90").is_some());
    // A route somebody made in the container is not the engine's to remove.
    container.ip("route add default via 172.30.0.9 dev eth0 metric 500 proto boot");
    Links::set_default_routes(route.as_fd(), &[(address("0.0.0.0"), name("eth0"))]).unwrap();
    assert!(default().contains("default dev eth0 proto static scope link"), "{}", default());
    assert_eq!(default().lines().count(), 2, "{}", default());
    assert_eq!(container.output("ip -6 route show default"), "");
    Links::set_default_routes(route.as_fd(), &[]).unwrap();
    assert_eq!(default().lines().count(), 1);
    assert!(Links::set_default_routes(route.as_fd(), &[(address("172.31.0.1"), name("eth7"))]).is_err());
    // The name is taken: what is there stays, nothing else is left.
    let links = host.links.list().unwrap().len();
    let taken = naru_net::VethPlan { host_name: LinkName::random_veth(), ..second.clone() };
    assert!(host.links.attach(&taken, container.0.as_fd(), route.as_fd()).is_err());
    assert_eq!(host.links.list().unwrap().len(), links);
    host.links.remove(&second.host_name).unwrap();
    assert!(!container.output("ip link").contains("eth1"));
}

#[test]
fn no_advertisement_of_a_router_is_taken() {
    let host = Host::new();
    let bridge = host.bridge("br-a", "fd30::/64");
    let container = host.container(bridge, "fd30::2/64");
    let read = |file: &str| container.run(|| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/eth0/{file}")).unwrap());
    assert_eq!(read("accept_ra"), "0\n");
    let addresses = container.output("ip -6 addr show dev eth0");
    assert!(addresses.contains("fe80::") && !addresses.contains("tentative"), "{addresses}");
    // Nothing of IPv6 where the network has none.
    let bridge = host.bridge("br-b", "172.30.0.0/24");
    let container = host.container(bridge, "172.30.0.2/24");
    assert_eq!(container.output("ip -6 addr show dev eth0"), "");
    let disabled = container.run(|| std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/disable_ipv6").unwrap());
    assert_eq!(disabled, "1\n", "an advertisement would give it addresses and a router");
    assert_eq!(host.host.output("ip -6 addr show dev br-b"), "");
}

const SLOW: u64 = 8_000_000;
const BYTES: usize = 1_200_000;
/// What the rate allows at most: a second and more, but for the first burst and a slow clock.
const AT_LEAST: Duration = Duration::from_millis(600);

#[test]
fn rates_of_both_directions() {
    let host = Host::new();
    let bridge = host.bridge("br-a", "172.30.0.0/24");
    let end = LinkName::random_veth();
    let container = host.container_with(bridge, "172.30.0.2/24", |plan| {
        plan.host_name = end.clone();
        plan.rate = Some(Rate { ingress: Some(SLOW), egress: None });
    });
    let links = host.links.list().unwrap().len();
    assert!(host.host.send(&container, "172.30.0.2:70", BYTES) > AT_LEAST);
    host.links.set_rate(&end, &Rate { ingress: None, egress: Some(SLOW) }).unwrap();
    host.links.set_rate(&end, &Rate { ingress: None, egress: Some(SLOW) }).unwrap();
    assert!(container.send(&host.host, "172.30.0.1:70", BYTES) > AT_LEAST);
    assert!(!host.host.output(&format!("tc qdisc show dev {end}")).contains("tbf"));
    // The container has nothing of it that it could take away.
    assert!(container.output("tc qdisc show dev eth0").contains("noqueue"));
    assert_eq!(host.links.list().unwrap().len(), links + 1);
    assert_eq!(host.links.cleanup(&[name("br-a"), end.clone()].into()).unwrap(), Vec::<String>::new(), "the detour is kept with its link");
    host.links.set_rate(&end, &Rate::default()).unwrap();
    host.links.set_rate(&end, &Rate::default()).unwrap();
    assert_eq!(host.links.list().unwrap().len(), links);
    host.links.set_rate(&end, &Rate { ingress: Some(SLOW), egress: Some(SLOW) }).unwrap();
    host.links.remove(&end).unwrap();
    assert_eq!(host.links.list().unwrap().len(), links - 1, "the detour goes with the pair");
    assert!(host.links.set_rate(&end, &Rate::default()).is_err());
}

#[test]
fn a_detour_that_outlived_its_pair_goes_with_the_next_limit() {
    let host = Host::new();
    let bridge = host.bridge("br-a", "172.30.0.0/24");
    let limited = |ip: &str| host.container_with(bridge, ip, |plan| plan.rate = Some(Rate { ingress: None, egress: Some(SLOW) }));
    let detours = || host.links.list().unwrap().iter().filter(|link| link.kind == "ifb").count();
    let dummy = host.links.ensure_dummy(&name("dm-0123456789ab")).unwrap();
    let others = detours();
    let links = host.links.list().unwrap().len();
    let (kept, gone) = (limited("172.30.0.2/24"), limited("172.30.0.3/24"));
    assert_eq!(detours(), others + 2);
    drop(gone);
    // Its pair goes some time after the namespace was left.
    for _ in 0..200 {
        if host.links.list().unwrap().len() == links + 3 {
            break;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    let _next = limited("172.30.0.4/24");
    assert_eq!(detours(), others + 2);
    assert!(kept.send(&host.host, "172.30.0.1:70", BYTES) > AT_LEAST);
    assert_eq!(host.links.ensure_dummy(&name("dm-0123456789ab")).unwrap().index, dummy.index);
}

#[test]
fn rates_of_a_macvlan_link() {
    let host = Host::new();
    let parent = host.links.ensure_parent("wire").unwrap().index;
    let rate = Some(Rate { ingress: Some(SLOW), egress: Some(SLOW) });
    let container = attach(&host, &ChildPlan { rate, ..child(parent, ChildKind::Macvlan(MacvlanMode::Bridge), "10.9.0.50/24") });
    assert!(host.outside.send(&container, "10.9.0.50:70", BYTES) > AT_LEAST);
    assert!(container.send(&host.outside, "10.9.0.2:70", BYTES) > AT_LEAST);
    Links::remove_in(container.route_socket().as_fd(), &name("eth0")).unwrap();
    assert_eq!(container.output("ip -o link").lines().count(), 1, "the loopback interface alone");
}

#[test]
fn a_bridge_takes_new_addresses_in_the_place_of_old_ones() {
    let host = Host::new();
    let bridge =
        |addresses: &[&str]| naru_net::Bridge { name: name("br-a"), addresses: addresses.iter().map(|a| net(a)).collect(), mtu: None };
    let list = || {
        let text = host.host.output("ip -o addr show dev br-a");
        let mut found: Vec<String> = text.lines().map(|line| line.split_whitespace().nth(3).unwrap().to_owned()).collect();
        found.sort();
        found
    };
    host.links.ensure_bridge(&bridge(&["172.30.0.1/24"])).unwrap();
    assert_eq!(list(), ["172.30.0.1/24"]);
    for _ in 0..2 {
        host.links.ensure_bridge(&bridge(&["172.30.0.1/24", "fd30::1/64"])).unwrap();
        let now = list();
        assert!(now[0] == "172.30.0.1/24" && now[1] == "fd30::1/64" && now[2].starts_with("fe80::") && now.len() == 3, "{now:?}");
    }
    host.links.ensure_bridge(&bridge(&["172.31.0.1/24", "fe80::1/64", "fd31::1/64"])).unwrap();
    assert_eq!(list(), ["172.31.0.1/24", "fd31::1/64", "fe80::1/64"]);
    // Somebody else's bridge gets what is missing and loses nothing.
    host.host.ip("link add foreign type bridge");
    host.host.ip("addr add 10.77.0.1/24 dev foreign");
    let plan = naru_net::Bridge { name: name("foreign"), addresses: vec![net("10.78.0.1/24")], mtu: None };
    host.links.ensure_bridge(&plan).unwrap();
    let text = host.host.output("ip -4 -o addr show dev foreign");
    assert!(text.contains("10.77.0.1/24") && text.contains("10.78.0.1/24"), "{text}");
}
