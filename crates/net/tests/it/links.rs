//! Bridges and pairs.

use crate::support::*;
use naru_net::{Bridge, LinkName, Links, MacAddress, VethPlan};
use std::collections::HashSet;
use std::os::fd::AsFd;
use std::time::Instant;

#[test]
fn two_containers_talk() {
    let host = Host::new();
    let bridge = host.bridge("br-a", "172.30.0.0/24");
    let (a, b) = (host.container(bridge, "172.30.0.2/24"), host.container(bridge, "172.30.0.3/24"));
    b.serve("0.0.0.0:80");
    assert_eq!(a.ask("172.30.0.3:80").as_deref(), Some("172.30.0.2"));
    // The host reaches them, and they the host.
    assert_eq!(host.host.ask("172.30.0.3:80").as_deref(), Some("172.30.0.1"));
    host.host.serve("0.0.0.0:81");
    assert_eq!(a.ask("172.30.0.1:81").as_deref(), Some("172.30.0.2"));
}

#[test]
fn ipv6_and_mtu_and_hardware_address() {
    let host = Host::new();
    let bridge = Bridge { name: name("br-a"), addresses: vec![net("172.30.0.1/24"), net("fd30::1/64")], mtu: Some(1400) };
    let index = host.links.ensure_bridge(&bridge).unwrap();
    assert_eq!(host.links.ensure_bridge(&bridge).unwrap(), index, "a second time nothing changes");
    let mac: MacAddress = "02:42:ac:1e:00:02".parse().unwrap();
    let container = host.container_with(index, "172.30.0.2/24", |plan| {
        plan.addresses.push(net("fd30::2/64"));
        plan.gateways.push(address("fd30::1"));
        plan.mtu = Some(1400);
        plan.mac = mac;
    });
    let link = container.run(|| Links::open("x").unwrap().find(&name("eth0")).unwrap().unwrap());
    assert_eq!((link.mac, link.mtu, link.up, link.kind.as_str()), (Some(mac), 1400, true, "veth"));
    container.serve("[::]:80");
    assert_eq!(host.host.ask_soon("[fd30::2]:80").as_deref(), Some("fd30::1"));
    let bridge = host.links.find(&name("br-a")).unwrap().unwrap();
    assert_eq!((bridge.kind.as_str(), bridge.mtu, bridge.up), ("bridge", 1400, true));
    // Routes of both families are seen by whoever looks for a free subnet.
    let routed = host.links.foreign_networks(|_| false).unwrap();
    assert!(routed.contains(&net("172.30.0.0/24")) && routed.contains(&net("fd30::/64")), "{routed:?}");
}

#[test]
fn a_failed_attach_leaves_nothing() {
    let host = Host::new();
    let bridge = host.bridge("br-a", "172.30.0.0/24");
    let before = host.links.list().unwrap().len();
    let namespace = Namespace::new();
    let mut plan = VethPlan {
        bridge,
        host_name: name("veth-x"),
        container_name: name("eth0"),
        mac: MacAddress::random(),
        addresses: vec![net("172.30.0.2/24")],
        // Not reachable by the address: the kernel refuses the route.
        gateways: vec![address("10.1.1.1")],
        mtu: None,
        isolated: false,
        rate: None,
    };
    let error = host.links.attach(&plan, namespace.0.as_fd(), namespace.route_socket().as_fd()).unwrap_err();
    assert!(error.to_string().contains("add default route by 10.1.1.1"), "{error}");
    assert_eq!(host.links.list().unwrap().len(), before);
    plan.gateways.clear();
    plan.bridge = 9999;
    assert!(host.links.attach(&plan, namespace.0.as_fd(), namespace.route_socket().as_fd()).is_err());
    assert_eq!(host.links.list().unwrap().len(), before);
    // A name that is taken is another's link: it stays.
    plan.bridge = bridge;
    host.links.attach(&plan, namespace.0.as_fd(), namespace.route_socket().as_fd()).unwrap();
    let other = Namespace::new();
    assert!(host.links.attach(&plan, other.0.as_fd(), other.route_socket().as_fd()).is_err());
    assert!(host.links.find(&plan.host_name).unwrap().is_some());
    assert!(
        host.links
            .ensure_bridge(&Bridge { name: name("veth-x"), addresses: vec![], mtu: None })
            .unwrap_err()
            .to_string()
            .contains("use as a bridge")
    );
}

#[test]
fn cleanup_takes_only_the_engines_own() {
    let host = Host::new();
    let bridge = host.bridge("br-a", "172.30.0.0/24");
    host.bridge("br-b", "172.31.0.0/24");
    let _container = host.container_with(bridge, "172.30.0.2/24", |plan| plan.host_name = name("veth-keep"));
    let _other = host.container_with(bridge, "172.30.0.3/24", |plan| plan.host_name = name("veth-go"));
    host.host.ip("link add stranger type bridge");
    let foreign = host.host.run(|| Links::open("another engine").unwrap());
    foreign.ensure_bridge(&Bridge { name: name("br-foreign"), addresses: vec![], mtu: None }).unwrap();
    // A new engine of the same name finds them by their mark.
    let links = host.host.run(|| Links::open("test").unwrap());
    let keep: HashSet<LinkName> = [name("br-a"), name("veth-keep")].into();
    let mut removed = links.cleanup(&keep).unwrap();
    removed.sort();
    assert_eq!(removed, ["br-b", "veth-go"]);
    let left: Vec<String> = links.list().unwrap().into_iter().map(|link| link.name).collect();
    for name in ["br-a", "veth-keep", "stranger", "br-foreign", "wire", "lo"] {
        assert!(left.iter().any(|l| l == name), "{name} of {left:?}");
    }
    links.remove(&name("br-b")).unwrap();
}

#[test]
fn a_link_goes_with_its_namespace() {
    let host = Host::new();
    let bridge = host.bridge("br-a", "172.30.0.0/24");
    let container = host.container_with(bridge, "172.30.0.2/24", |plan| plan.host_name = name("veth-x"));
    drop(container);
    for _ in 0..100 {
        if host.links.find(&name("veth-x")).unwrap().is_none() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("the pair is still there");
}

#[test]
fn attaching_is_fast() {
    let host = Host::new();
    let bridge = host.bridge("br-a", "172.30.0.0/24");
    let mut times = Vec::new();
    let mut kept = Vec::new();
    for n in 2..42 {
        let namespace = Namespace::new();
        let route = namespace.route_socket();
        let plan = VethPlan {
            bridge,
            host_name: LinkName::random_veth(),
            container_name: name("eth0"),
            mac: MacAddress::random(),
            addresses: vec![net(&format!("172.30.0.{n}/24"))],
            gateways: vec![address("172.30.0.1")],
            mtu: None,
            isolated: false,
            rate: None,
        };
        let start = Instant::now();
        host.links.attach(&plan, namespace.0.as_fd(), route.as_fd()).unwrap();
        times.push(start.elapsed());
        kept.push(namespace);
    }
    times.sort();
    eprintln!("attach: best {:?}, median {:?}", times[0], times[20]);
    // Moving a link between namespaces in a message of its own takes 14 ms at best.
    assert!(times[0].as_millis() < 10, "{:?}", times[0]);
}

#[test]
#[ignore = "looks for packets that are lost at the beginning; run it beside other work"]
fn the_first_packet_arrives() {
    let host = Host::new();
    let mut late = Vec::new();
    for round in 0..60 {
        let bridge = host.dual(&format!("br-{round}"), [&format!("172.30.{round}.0/24"), &format!("fd30:{round}::/64")], |_| {});
        let one = host.dual_container(bridge, [&format!("172.30.{round}.2/24"), &format!("fd30:{round}::2/64")]);
        let two = host.dual_container(bridge, [&format!("172.30.{round}.3/24"), &format!("fd30:{round}::3/64")]);
        for (what, from, to) in [
            ("L2 v4", &one, format!("172.30.{round}.3:80")),
            ("L2 v6", &one, format!("[fd30:{round}::3]:80")),
            ("host v4", &host.host, format!("172.30.{round}.2:80")),
            ("host v6", &host.host, format!("[fd30:{round}::2]:80")),
        ] {
            let start = Instant::now();
            let answered = from.ask(&to).is_some();
            if !answered || start.elapsed().as_millis() > 200 {
                late.push(format!("{round} {what}: {answered} {:?}", start.elapsed()));
            }
        }
        drop(two);
    }
    assert!(late.is_empty(), "{late:#?}");
}
