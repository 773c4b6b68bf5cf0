//! What one container sends to another passes the bridge only while somebody could notice.

use crate::support::*;
use naru_net::{Filtering, LinkName, MacAddress, Shortcuts, Way};
use std::io::Read;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

const A: &str = "172.30.0.2/24";
const B: &str = "172.30.0.3/24";

/// Loads `r0 = drop; exit` and attaches it until its input ends; what bpf(2) takes is written out, for no common program does
/// this. Fails where the kernel has no such way, or another number for the call.
const ATTACH: &str = "
import ctypes, os, platform, socket, struct, sys
if platform.machine() != 'x86_64': sys.exit(1)
call = ctypes.CDLL(None, use_errno=True).syscall
def bpf(command, fields):
    fields = ctypes.create_string_buffer(fields.ljust(128, b'\\0'))
    done = call(321, command, fields, 128)
    if done < 0: sys.exit(1)
    return done
kind, drop, attach, flags = {'xdp': (6, 1, 37, 4), 'xdp-link': (6, 1, 37, 4), 'tcx': (3, 2, 47, 0), 'tcx-link': (3, 2, 47, 0)}[how]
code = ctypes.create_string_buffer(struct.pack('<BBhiBBhi', 0xb7, 0, 0, drop, 0x95, 0, 0, 0))
name = ctypes.create_string_buffer(b'GPL')
program = bpf(5, struct.pack('<IIQQIIQII16sII', kind, 2, ctypes.addressof(code), ctypes.addressof(name), 0, 0, 0, 0, 0, b'', 0, attach))
index = socket.if_nametoindex(link)
if how == 'xdp':
    def attributes(fd):
        inner = struct.pack('<HHi', 8, 1, fd) + struct.pack('<HHI', 8, 3, flags)
        return struct.pack('<HH', 4 + len(inner), 43 | 0x8000) + inner
    route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    def change(fd):
        body = struct.pack('<BxHiII', 0, 0, index, 0, 0) + attributes(fd)
        route.send(struct.pack('<IHHII', 16 + len(body), 19, 5, 1, 0) + body)
        if struct.unpack('<i', route.recv(4096)[16:20])[0]: sys.exit(1)
    change(program)
elif how == 'tcx':
    bpf(8, struct.pack('<IIII', index, program, attach, 0))
else:
    held = bpf(28, struct.pack('<IIII', program, index, attach, flags))
print(flush=True)
sys.stdin.read()
if how == 'xdp': change(-1)
if how == 'tcx': bpf(9, struct.pack('<IIII', index, program, attach, 0))
";

/// Two containers on a bridge, with a shortcut between them.
struct Pair {
    host: Host,
    bridge: u32,
    a: Namespace,
    b: Namespace,
    shortcuts: Shortcuts,
    ends: [(LinkName, MacAddress); 2],
}

impl Pair {
    /// None where the kernel has no such programs: before 6.2, and without a description of its types.
    fn new() -> Option<Pair> {
        let types = std::fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
        let name = b"\0bpf_rdonly_cast\0";
        if !types.windows(name.len()).any(|window| window == name) {
            return None;
        }
        let host = Host::new();
        host.filter_bridges(false);
        host.host.run(|| {
            for switch in ["ip6tables", "arptables"] {
                // A kernel without br_netfilter has none.
                std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{switch}"), "0").ok();
            }
        });
        let bridge = host.bridge("br-a", "172.30.0.0/24");
        let ends = [A, B].map(|_| (LinkName::random_veth(), MacAddress::random()));
        let [a, b] = [(A, &ends[0]), (B, &ends[1])]
            .map(|(address, (link, mac))| host.container_with(bridge, address, |plan| (plan.host_name, plan.mac) = (link.clone(), *mac)));
        for container in [&a, &b] {
            container.serve("0.0.0.0:80");
        }
        let pair = Pair { host, bridge, a, b, shortcuts: Shortcuts::load().unwrap(), ends };
        pair.open();
        Some(pair)
    }

    fn open(&self) {
        let filtering = self.host.host.run(Filtering::now).of(&self.host.links, self.bridge).unwrap();
        for (number, (link, _)) in self.ends.iter().enumerate() {
            self.shortcuts.open(&self.host.links, link, self.way(number), filtering).unwrap();
        }
    }

    fn way(&self, number: usize) -> Way {
        Way { bridge: self.bridge, mac: self.ends[number].1 }
    }

    /// Packets that the bridge has sent to a container.
    fn bridged_to(&self, number: usize) -> u64 {
        let link = self.ends[number].0.as_str();
        let text = self.host.host.output(&format!("ip -s link show {link}"));
        text.lines().last().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Whether packets of a connection from one to the other pass the bridge; all of them do, or none.
    fn is_bridged(&self) -> bool {
        assert_eq!(self.a.ask("172.30.0.3:80").as_deref(), Some("172.30.0.2"), "the neighbours are known");
        let before = [0, 1].map(|number| self.bridged_to(number));
        let big = 4 << 20;
        self.a.send(&self.b, "172.30.0.3:90", big);
        self.b.send(&self.a, "172.30.0.2:90", big);
        let passed = [0, 1].map(|number| self.bridged_to(number) - before[number]);
        // Beside data and acknowledgements a neighbour may be asked for.
        assert!(passed.iter().all(|count| *count > 20) || passed.iter().all(|count| *count < 5), "{passed:?}");
        passed[0] > 20
    }

    /// Whether something holds while a program of eBPF that drops all is attached to a link; none where the kernel cannot.
    fn dropped(&self, place: &Namespace, link: &str, how: &str, holds: impl FnOnce() -> bool) -> Option<bool> {
        let script = format!("link, how = '{link}', '{how}'\n{ATTACH}");
        let mut python =
            place.run(|| Command::new("python3").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()).ok()?;
        let is_attached = python.stdout.as_mut().unwrap().read(&mut [0; 10]).unwrap() == 1;
        let answer = is_attached.then(holds);
        drop(python.stdin.take());
        assert_eq!(python.wait().unwrap().success(), is_attached);
        answer
    }

    /// Runs something while packets of a link are captured, as tcpdump does it; not where there is nothing to do it by.
    fn captured(&self, link: &str, work: impl FnOnce()) {
        let script = format!(
            "import socket,sys; s=socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3); s.bind(('{link}', 3)); print(flush=True); sys.stdin.read()"
        );
        let python = || Command::new("python3").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut python) = self.host.host.run(python) else { return };
        assert_eq!(python.stdout.as_mut().unwrap().read(&mut [0; 10]).unwrap(), 1, "it captures");
        work();
        drop(python.stdin.take());
        assert!(python.wait().unwrap().success());
    }
}

#[test]
fn containers_send_to_each_other_directly_unless_somebody_looks() {
    let Some(pair) = Pair::new() else { return };
    assert!(!pair.is_bridged());
    // The host, and others by it, as before.
    assert_eq!(pair.host.host.ask("172.30.0.3:80").as_deref(), Some("172.30.0.1"));

    pair.captured("br-a", || assert!(pair.is_bridged(), "the capture sees packets"));
    assert!(!pair.is_bridged());

    if pair.host.host.nft("add table bridge t; add chain bridge t c { type filter hook forward priority 0; }").is_some() {
        assert!(pair.is_bridged());
        pair.host.host.nft("add rule bridge t c ip daddr 172.30.0.3 drop");
        assert_eq!(pair.a.ask("172.30.0.3:80"), None);
        pair.host.host.nft("delete table bridge t");
        assert!(!pair.is_bridged());
        let link = pair.ends[0].0.as_str();
        pair.host.host.nft(&format!(
            "add table netdev t; add chain netdev t c {{ type filter hook ingress device {link} priority 0; policy drop; }}"
        ));
        assert_eq!(pair.a.ask("172.30.0.3:80"), None);
        pair.host.host.nft("delete table netdev t");
        assert!(!pair.is_bridged());
    }

    pair.host.host.ip("link set br-a down");
    assert_eq!(pair.a.ask("172.30.0.3:80"), None);
    pair.host.host.ip("link set br-a up");
    assert!(!pair.is_bridged());
}

#[test]
fn br_netfilter_is_obeyed() {
    let Some(pair) = Pair::new() else { return };
    if !pair.host.filter_bridges(true) {
        return;
    }
    assert_eq!(pair.host.host.run(Filtering::now), Filtering::Awake);
    pair.open();
    assert!(pair.is_bridged());
    pair.host.filter_bridges(false);
    assert_eq!(pair.host.host.run(Filtering::now), Filtering::Asleep);
    pair.open();
    assert!(!pair.is_bridged());
    // For one bridge alone.
    pair.host.host.ip("link set br-a type bridge nf_call_iptables 1");
    pair.open();
    assert!(pair.is_bridged());
}

#[test]
fn a_shortcut_is_closed_and_those_of_a_dead_engine_are_replaced() {
    let Some(mut pair) = Pair::new() else { return };
    pair.shortcuts.close(pair.way(0)).unwrap();
    pair.shortcuts.close(pair.way(0)).unwrap();
    pair.shortcuts.close(pair.way(1)).unwrap();
    assert!(pair.is_bridged());
    pair.open();
    assert!(!pair.is_bridged());
    // The kernel keeps program and table.
    let former = std::mem::replace(&mut pair.shortcuts, Shortcuts::load().unwrap());
    drop(former);
    assert!(!pair.is_bridged());
    pair.host.links.close_shortcuts(&pair.host.links.list().unwrap()).unwrap();
    assert!(pair.is_bridged());
    pair.host.links.close_shortcuts(&pair.host.links.list().unwrap()).unwrap();
    pair.open();
    assert!(!pair.is_bridged());
}

#[test]
fn who_is_gone_leaves_nothing_in_the_way() {
    let Some(pair) = Pair::new() else { return };
    // The address moves to another container, as addresses and with them hardware addresses do.
    let (address, mac) = (B, pair.ends[1].1);
    let Pair { host, bridge, a, b, shortcuts, .. } = pair;
    drop(b);
    shortcuts.close(Way { bridge, mac }).unwrap();
    let b = host.container_with(bridge, address, |plan| plan.mac = mac);
    b.serve("0.0.0.0:80");
    assert_eq!(a.ask_soon("172.30.0.3:80").as_deref(), Some("172.30.0.2"));
}

/// Whether datagrams from the first reach the second, that one answers or not.
fn arrives(pair: &Pair) -> bool {
    let mac = pair.ends[1].1;
    pair.a.ip(&format!("neigh replace 172.30.0.3 lladdr {mac} dev eth0 nud permanent"));
    let receiver = pair.b.run(|| UdpSocket::bind("172.30.0.3:99").unwrap());
    receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    pair.a.run(|| UdpSocket::bind("172.30.0.2:0").unwrap()).send_to(b"?", "172.30.0.3:99").unwrap();
    receiver.recv(&mut [0; 8]).is_ok()
}

#[test]
fn the_receivers_end_is_on_the_bridge_and_nobody_looks_there() {
    let Some(pair) = Pair::new() else { return };
    assert!(!pair.is_bridged() && arrives(&pair));
    let [a, b] = [0, 1].map(|number| pair.ends[number].0.as_str());

    pair.host.bridge("br-b", "172.30.1.0/24");
    for (leave, return_) in [
        (format!("link set {b} nomaster"), format!("link set {b} master br-a")),
        (format!("link set {b} master br-b"), format!("link set {b} master br-a")),
        (format!("link set {b} down"), format!("link set {b} up")),
        (
            format!("link set {a} type bridge_slave isolated on;link set {b} type bridge_slave isolated on"),
            format!("link set {a} type bridge_slave isolated off;link set {b} type bridge_slave isolated off"),
        ),
    ] {
        leave.split(';').for_each(|change| pair.host.host.ip(change));
        assert!(!arrives(&pair), "{leave}");
        return_.split(';').for_each(|change| pair.host.host.ip(change));
        // The container's end follows a moment later.
        assert!(pair.a.ask_soon("172.30.0.3:80").is_some());
        assert!(!pair.is_bridged() && arrives(&pair), "{return_}");
    }
    // Ports that are on no VLAN; not every kernel has them.
    let vlans = |given: &str| {
        let ip = || Command::new("ip").args("link set br-a type bridge".split(' ')).args(given.split(' ')).output();
        pair.host.host.run(ip).unwrap().status.success()
    };
    if vlans("vlan_filtering 1 vlan_default_pvid 0") {
        assert!(!arrives(&pair), "without a VLAN");
        assert!(vlans("vlan_filtering 0"));
        assert!(!pair.is_bridged() && arrives(&pair));
    }

    pair.captured(a, || pair.captured(b, || assert!(pair.is_bridged(), "the captures see packets")));
    assert!(!pair.is_bridged());
    let egress = format!("add chain netdev t c {{ type filter hook egress device {b} priority 0; policy drop; }}");
    if pair.host.host.nft(&format!("add table netdev t; {egress}")).is_some() {
        assert!(!arrives(&pair), "a rule at the receiver's end");
        pair.host.host.nft("delete table netdev t");
    }
    assert!(!pair.is_bridged());
}

#[test]
fn what_others_have_at_the_receivers_ends_is_not_passed_by() {
    let Some(pair) = Pair::new() else { return };
    assert!(!pair.is_bridged() && arrives(&pair));
    let b = pair.ends[1].0.as_str();
    for how in ["tcx", "tcx-link"] {
        assert_ne!(pair.dropped(&pair.host.host, b, how, || arrives(&pair)), Some(true), "{how}");
        assert!(!pair.is_bridged() && arrives(&pair), "{how}");
    }
    for how in ["xdp", "xdp-link"] {
        assert_ne!(pair.dropped(&pair.b, "eth0", how, || arrives(&pair)), Some(true), "{how}");
        assert!(!pair.is_bridged() && arrives(&pair), "{how}");
    }
    // For both, so that packets of both directions take one way. The kernel may lack the kinds.
    let tc = |line: &str| {
        pair.ends.iter().all(|(link, _)| {
            let line = line.replace("LINK", link.as_str());
            let tc = || Command::new("tc").args(line.split(' ').map(|word| word.replace('_', " "))).output();
            pair.host.host.run(tc).is_ok_and(|output| output.status.success())
        })
    };
    if tc("qdisc add dev LINK root pfifo limit 1000") {
        assert!(pair.is_bridged(), "packets wait in the queue");
        assert!(tc("qdisc del dev LINK root"));
        assert!(!pair.is_bridged());
    }
    // In classic BPF: no packet is meant.
    if tc("filter add dev LINK egress prio 7 bpf bytecode 1,6_0_0_0") {
        assert!(pair.is_bridged(), "packets pass the filter");
        assert!(tc("filter del dev LINK egress prio 7"));
        assert!(!pair.is_bridged());
    }
}

#[test]
fn a_bridge_that_listens_to_all_sees_all() {
    let Some(pair) = Pair::new() else { return };
    assert!(!pair.is_bridged());
    // Who captures packets of one protocol only (a socket bound to it, rules at the bridge itself) has the bridge listen.
    pair.host.host.ip("link set br-a promisc on");
    assert!(pair.is_bridged());
    pair.host.host.ip("link set br-a promisc off");
    assert!(!pair.is_bridged());
}

#[test]
fn nothing_returns_to_its_sender() {
    let Some(pair) = Pair::new() else { return };
    assert!(!pair.is_bridged());
    let received = || -> u64 {
        let text = pair.a.output("ip -s link show eth0");
        let numbers = text.lines().skip_while(|line| !line.contains("RX:")).nth(1).unwrap();
        numbers.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // As a link of macvlan inside the container does it, which must not reach its parent.
    pair.a.ip(&format!("neigh replace 172.30.0.77 lladdr {} dev eth0 nud permanent", pair.ends[0].1));
    let (before, socket) = (received(), pair.a.run(|| UdpSocket::bind("172.30.0.2:0").unwrap()));
    (0..100).for_each(|_| drop(socket.send_to(b"?", "172.30.0.77:9")));
    assert!(received() - before < 50);
}
