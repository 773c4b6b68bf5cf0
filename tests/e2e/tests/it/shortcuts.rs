//! Containers of one network send to each other past the bridge, and nothing about it is noticed but the speed.

use super::outside::{Place, World, check, program};
use naru_e2e::{BOX, PATIENCE, host_has};
use std::time::{Duration, Instant};

/// Packets the bridge has sent to a container, by the counter of the host's end of its pair.
fn bridged(world: &World, to: &Place) -> u64 {
    let inside = to.run(|| program("ip -o link show eth0"));
    let index = inside.split_once("eth0@if").unwrap().1.split_once(':').unwrap().0.to_owned();
    world.host.run(move || {
        // A list may lack links when others change while it is made.
        let mut lists = (0..100).map(|_| program("ip -o -s link"));
        let own = lists.find_map(|list| list.lines().find(|line| line.starts_with(&format!("{index}: "))).map(str::to_owned)).unwrap();
        own.split_once("TX:").unwrap().1.split('\\').nth(1).unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
    })
}

/// Whether the packets of some connections pass the bridge.
fn passes(world: &World, from: &Place, to: &Place, address: &str) -> bool {
    let before = bridged(world, to);
    for _ in 0..10 {
        assert!(from.ask(&format!("tcp {address}"), Duration::from_secs(5)).is_some(), "{address} answers");
    }
    // Each has more than three; who is at an address may be asked, too.
    bridged(world, to) - before > 30
}

/// Waits until they go one way or the other.
#[track_caller]
fn until(world: &World, from: &Place, to: &Place, address: &str, by_bridge: bool) {
    let start = Instant::now();
    while passes(world, from, to, address) != by_bridge {
        assert!(start.elapsed() < PATIENCE, "packets to {address} take the other way");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Kernels before 6.2 cannot, nor those that do not describe their types.
fn kernel_can() -> bool {
    let types = std::fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
    let name = b"\0bpf_rdonly_cast\0";
    host_has("eBPF programs that read the kernel's structures", types.windows(name.len()).any(|window| window == name))
}

fn without_filter() {
    for switch in ["iptables", "ip6tables", "arptables"] {
        // A kernel without br_netfilter has none.
        std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{switch}"), "0").ok();
    }
}

#[test]
fn neighbours_send_to_each_other_directly_whatever_happens() {
    if !kernel_can() {
        return;
    }
    World::with(&[], |world| {
        without_filter();
        world.network("one", 1, &[]);
        let (a, _a) = world.container("a1", "one", 1, &[]);
        let other = ["--network", "one", "--ip", "10.90.1.8", "--ip6", "fd00:90:1::8"];
        let start = |world: &World, name: &'static str| {
            world.daemon.ok(&[&["run", "-d", "--init", "--name", name], &other[..], &[BOX, "sleep", "1000"]].concat());
            let place = Place::of(&world.daemon, name);
            let servers = place.serve(&[80]);
            (place, servers)
        };
        let (b, servers) = start(world, "b1");
        until(world, &b, &a, "10.90.1.9:80", false);
        until(world, &b, &a, "[fd00:90:1::9]:80", false);
        until(world, &a, &b, "10.90.1.8:80", false);

        // Another container with the same addresses is reached at once.
        world.daemon.ok(&["rm", "-f", "b1"]);
        drop((b, servers));
        let (b, _b) = start(world, "b2");
        check(&[(&a, "tcp 10.90.1.8:80", Some("10.90.1.9")), (&b, "tcp [fd00:90:1::9]:80", Some("fd00:90:1::8"))]);
        until(world, &a, &b, "10.90.1.8:80", false);

        // Without the daemon, and with the next one.
        world.daemon.kill();
        assert!(!passes(world, &a, &b, "10.90.1.8:80"));
        world.daemon.launch();
        until(world, &a, &b, "10.90.1.8:80", false);
        until(world, &b, &a, "10.90.1.9:80", false);

        // A bridge that is made again.
        let id = world.daemon.ok(&["network", "inspect", "-f", "{{.Id}}", "one"]);
        program(&format!("ip link del br-{}", &id[..12]));
        until(world, &a, &b, "10.90.1.8:80", false);

        // Somebody wants to see bridged packets in iptables, and then no more.
        if std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "1").is_ok() {
            until(world, &a, &b, "10.90.1.8:80", true);
            without_filter();
            until(world, &a, &b, "10.90.1.8:80", false);
        }

        world.daemon.ok(&["network", "disconnect", "one", "b2"]);
        check(&[(&a, "tcp 10.90.1.8:80", None)]);
        world.daemon.ok(&["network", "connect", "--ip", "10.90.1.8", "one", "b2"]);
        check(&[(&a, "tcp 10.90.1.8:80", Some("10.90.1.9"))]);
        until(world, &a, &b, "10.90.1.8:80", false);
    });
}

#[test]
fn who_must_not_be_passed_by_is_not() {
    if !kernel_can() {
        return;
    }
    World::with(&[], |world| {
        without_filter();
        world.network("plain", 1, &["-o", "naru.network.shortcut=false"]);
        world.network("apart", 2, &["-o", "com.docker.network.bridge.enable_icc=false"]);
        world.network("one", 3, &[]);
        let (a, _a) = world.container("a1", "plain", 1, &[]);
        let (apart, _apart) = world.container("a2", "apart", 2, &[]);
        let (slow, _slow) = world.container("a3", "one", 3, &[]);
        let other = |name: &'static str, network: &str, flags: &[&str]| {
            world.daemon.ok(&[&["run", "-d", "--init", "--name", name, "--network", network], flags, &[BOX, "sleep", "1000"]].concat());
            Place::of(&world.daemon, name)
        };
        let b = other("b1", "plain", &[]);
        let other_apart = other("b2", "apart", &[]);
        let limits = format!("name=one,driver-opt={}=1gbit", "naru.network.rate.out");
        let limited = other("b3", &limits, &[]);
        let c = other("c3", "one", &[]);
        // Shortcuts of all networks are opened together.
        until(world, &c, &slow, "10.90.3.9:80", false);
        assert!(passes(world, &b, &a, "10.90.1.9:80"));
        assert!(passes(world, &limited, &slow, "10.90.3.9:80"));
        check(&[(&other_apart, "tcp 10.90.2.9:80", None), (&apart, "tcp 10.90.1.9:80", None)]);
        assert!(world.daemon.run(&["network", "create", "-o", "naru.network.shortcut=maybe", "wrong"]).code != 0);
    });
}

#[test]
fn two_with_one_hardware_address_have_the_bridge_decide() {
    if !kernel_can() {
        return;
    }
    World::with(&[], |world| {
        without_filter();
        // Without IPv6 nobody sends by itself.
        world.daemon.ok(&["network", "create", "--subnet", "10.90.1.0/24", "one"]);
        let start = |name: &'static str, address: &str, flags: &[&str]| {
            let words = ["run", "-d", "--init", "--name", name, "--network", "one", "--ip", address];
            world.daemon.ok(&[&words[..], flags, &[BOX, "sleep", "1000"]].concat());
            Place::of(&world.daemon, name)
        };
        let same = ["--mac-address", "02:42:0a:5a:01:77"];
        let (asking, a) = (start("c1", "10.90.1.7", &[]), start("a1", "10.90.1.9", &same));
        let _servers = (a.serve(&[80]), asking.serve(&[80]));
        until(world, &asking, &a, "10.90.1.9:80", false);
        let b = start("b1", "10.90.1.8", &same);
        until(world, &b, &asking, "10.90.1.7:80", true);
        // Of the two that one was heard last.
        assert!(a.ask("tcp 10.90.1.7:80", Duration::from_secs(5)).is_some());
        assert!(passes(world, &asking, &a, "10.90.1.9:80"));
        world.daemon.ok(&["rm", "-f", "b1"]);
        start("d1", "10.90.1.6", &[]);
        until(world, &asking, &a, "10.90.1.9:80", false);
    });
}
