//! A host, an outside and containers, each a network namespace that only a descriptor holds.

use naru_net::{
    Bridge, BridgeRules, Firewall, FirewallConfig, FirewallMode, IpNet, LinkName, Links, MacAddress, VethPlan, enable_forwarding,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

pub struct Namespace(pub File);

impl Namespace {
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            #[expect(deprecated, reason = "CLONE_NEWNET alone does not touch the descriptors of other threads")]
            rustix::thread::unshare(UnshareFlags::NEWNET).unwrap();
            ip(&["link", "set", "lo", "up"]);
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Namespace(made.join().unwrap())
    }

    /// Runs something in the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Waits until neighbours can ask for an IPv6 address. The kernel joins the group for it some time after it has taken
    /// the address, and who asks before asks again after a second.
    pub fn hears_of(&self, own: IpAddr) {
        let IpAddr::V6(own) = own else { return };
        let [.., a, b, c] = own.octets();
        let group = format!("ff0200000000000000000001ff{a:02x}{b:02x}{c:02x}");
        for _ in 0..1000 {
            if self.run(|| std::fs::read_to_string("/proc/thread-self/net/igmp6").unwrap().contains(&group)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("nobody hears of {own}");
    }

    /// Tells all neighbours of a link that here is a router (RFC 4861, 4.2).
    pub fn advertise(&self, link: &str) {
        const ROUTER_ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
        self.run(|| {
            let socket = rustix::net::socket(AddressFamily::INET6, SocketType::RAW, Some(rustix::net::ipproto::ICMPV6)).unwrap();
            rustix::net::sockopt::set_ipv6_multicast_hops(&socket, 255).unwrap();
            let index = rustix::net::netdevice::name_to_index(&socket, link).unwrap();
            let all_nodes = std::net::SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
            rustix::net::sendto(&socket, &ROUTER_ADVERTISEMENT, rustix::net::SendFlags::empty(), &all_nodes).unwrap();
        });
    }

    pub fn route_socket(&self) -> OwnedFd {
        self.run(|| rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap())
    }

    /// Answers every connection to a port with the peer's address, until the test ends.
    pub fn serve(&self, address: &str) {
        let listener = self.run(|| bind(address.parse().unwrap()));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip().to_string();
                stream.write_all(peer.as_bytes()).ok();
            }
        });
    }

    /// The same with UDP.
    pub fn serve_udp(&self, address: &str) {
        let socket = self.run(|| UdpSocket::bind(address).unwrap());
        std::thread::spawn(move || {
            while let Ok((_, from)) = socket.recv_from(&mut [0; 100]) {
                socket.send_to(from.ip().to_string().as_bytes(), from).ok();
            }
        });
    }

    /// Answers every datagram with a word, from the address it came to.
    pub fn answer_udp(&self, address: &str, word: &'static str) {
        let address: SocketAddr = address.parse().unwrap();
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = self.run(|| rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None).unwrap());
        if address.is_ipv6() {
            rustix::net::sockopt::set_ipv6_v6only(&socket, true).unwrap();
        }
        rustix::net::bind(&socket, &address).unwrap();
        let socket = UdpSocket::from(socket);
        std::thread::spawn(move || {
            while let Ok((_, from)) = socket.recv_from(&mut [0; 100]) {
                socket.send_to(word.as_bytes(), from).ok();
            }
        });
    }

    /// A socket that talks to one address.
    pub fn udp_client(&self, to: &str) -> UdpSocket {
        let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = self.run(|| UdpSocket::bind(any).unwrap());
        self.run(|| socket.connect(to).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket
    }

    /// What a server answers, if it can be reached.
    pub fn ask(&self, address: &str) -> Option<String> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(700)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer)
        })
    }

    /// As [`Namespace::ask`], for links whose IPv6 becomes ready up to a second after their first packet.
    pub fn ask_soon(&self, address: &str) -> Option<String> {
        (0..8).find_map(|_| self.ask(address))
    }

    pub fn ask_udp(&self, address: &str) -> Option<String> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
            socket.connect(address).unwrap();
            socket.send(b"?").ok()?;
            let mut buffer = [0; 100];
            let length = socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
    }

    /// True when an echo request is answered.
    pub fn ping(&self, to: &str) -> bool {
        let to: IpAddr = to.parse().unwrap();
        let (family, protocol, request, answer) = match to {
            IpAddr::V4(_) => (AddressFamily::INET, rustix::net::ipproto::ICMP, 8, 0),
            IpAddr::V6(_) => (AddressFamily::INET6, rustix::net::ipproto::ICMPV6, 128, 129),
        };
        let socket = self.run(|| rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol)).unwrap());
        rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(Duration::from_millis(700))).unwrap();
        // Type and code, checksum (which the kernel writes with IPv6), identifier, number.
        let sum = !((u16::from(request) << 8) + 0x1234 + 1);
        let packet = [&[request, 0][..], &sum.to_be_bytes(), &[0x12, 0x34, 0, 1]].concat();
        let sent = rustix::net::sendto(&socket, &packet, rustix::net::SendFlags::empty(), &SocketAddr::new(to, 0));
        let mut buffer = [0; 200];
        while let (Ok(_), Ok((got, _))) = (sent, rustix::net::recv(&socket, &mut buffer, rustix::net::RecvFlags::empty())) {
            let message = if to.is_ipv4() { &buffer[20..got] } else { &buffer[..got] };
            if message[0] == answer && message[4..6] == [0x12, 0x34] {
                return true;
            }
        }
        false
    }

    /// What a program of the host's administrator prints, run in the namespace; none where it is not installed.
    /// `NARU_TEST_ROOT` may name a tree that has it.
    pub fn tool(&self, program: &str, arguments: &[&str]) -> Option<String> {
        let mut command = match std::env::var_os("NARU_TEST_ROOT") {
            Some(root) => {
                let mut command = Command::new("chroot");
                command.arg(root).arg(program);
                command
            }
            None => Command::new(program),
        };
        match self.run(|| command.args(arguments).output()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            output => {
                let output = output.unwrap();
                assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
                Some(String::from_utf8_lossy(&output.stdout).into_owned())
            }
        }
    }

    /// Has nft carry out commands; none where it is not installed.
    pub fn nft(&self, commands: &str) -> Option<()> {
        self.tool("nft", &[commands]).map(drop)
    }

    /// What `ip` or `tc` prints in the namespace.
    pub fn output(&self, command: &str) -> String {
        let words: Vec<&str> = command.split_whitespace().collect();
        let output = self.run(|| Command::new(words[0]).args(&words[1..]).output().unwrap());
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// How long it takes until `bytes` have arrived at a sink of the namespace `to`.
    pub fn send(&self, to: &Namespace, address: &str, bytes: usize) -> Duration {
        self.send_to(to, address, address, bytes)
    }

    /// The same, by another address than the sink's own.
    pub fn send_to(&self, to: &Namespace, sink: &str, address: &str, bytes: usize) -> Duration {
        let listener = to.run(|| TcpListener::bind(sink).unwrap());
        let sink = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
        });
        let start = Instant::now();
        let mut stream = self.run(|| TcpStream::connect(address).unwrap());
        let block = vec![0; bytes.min(1 << 20)];
        let mut left = bytes;
        while left > 0 {
            stream.write_all(&block[..left.min(block.len())]).unwrap();
            left = left.saturating_sub(block.len());
        }
        drop(stream);
        assert_eq!(usize::try_from(sink.join().unwrap()).unwrap(), bytes);
        start.elapsed()
    }

    pub fn ip(&self, arguments: &str) {
        self.run(|| ip(&arguments.split_whitespace().collect::<Vec<_>>()));
    }
}

/// A listener of one family only: `[::]` leaves `0.0.0.0` to another.
fn bind(address: SocketAddr) -> TcpListener {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true).unwrap();
    }
    rustix::net::bind(&socket, &address).unwrap();
    rustix::net::listen(&socket, 64).unwrap();
    socket.into()
}

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().unwrap().success(), "ip {arguments:?}");
}

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A host with links and firewall of an engine, and a machine outside that knows nothing of containers.
pub struct Host {
    pub host: Namespace,
    pub outside: Namespace,
    pub links: Links,
    pub firewall: Firewall,
}

pub const HOST: &str = "10.9.0.1";
pub const OUTSIDE: &str = "10.9.0.2";

impl Host {
    pub fn new() -> Self {
        Self::with(FirewallConfig::default())
    }

    pub fn with_mode(mode: FirewallMode) -> Self {
        Self::with(FirewallConfig { mode, ..FirewallConfig::default() })
    }

    pub fn with(config: FirewallConfig) -> Self {
        let (host, outside) = (Namespace::new(), Namespace::new());
        let (links, firewall) = host.run(|| {
            enable_forwarding(true).unwrap();
            (Links::open("test").unwrap(), Firewall::open("naru-test", config).unwrap())
        });
        firewall.ensure().unwrap();
        // The wire between host and outside.
        let (sender, receiver) = channel();
        host.run(|| {
            ip(&["link", "add", "wire", "type", "veth", "peer", "name", "wire2"]);
            sender.send(()).unwrap();
        });
        receiver.recv().unwrap();
        let wire2 = move_link(&host, &outside);
        assert!(wire2);
        for (namespace, link, ipv4, ipv6) in [(&host, "wire", HOST, "fd09::1"), (&outside, "wire2", OUTSIDE, "fd09::2")] {
            namespace.ip(&format!("addr add {ipv4}/24 dev {link}"));
            namespace.ip(&format!("link set {link} addrgenmode none"));
            namespace.ip(&format!("addr add {ipv6}/64 dev {link} nodad"));
            namespace.ip(&format!("link set {link} up"));
        }
        host.hears_of(address("fd09::1"));
        outside.hears_of(address("fd09::2"));
        // Asking for a link has its carrier seen to, without which the first packet may be lost.
        for (namespace, link) in [(&host, "wire"), (&outside, "wire2")] {
            namespace.run(|| Links::open("x").unwrap().find(&name(link)).unwrap().unwrap());
        }
        Host { host, outside, links, firewall }
    }

    /// Whether packets that stay within a bridge pass the firewall (br_netfilter); false when the kernel lacks it.
    pub fn filter_bridges(&self, on: bool) -> bool {
        self.host.run(|| std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", if on { "1" } else { "0" }).is_ok())
    }

    pub fn bridge(&self, bridge: &str, subnet: &str) -> u32 {
        self.bridge_with(bridge, subnet, |_| {})
    }

    pub fn bridge_with(&self, bridge: &str, subnet: &str, change: impl FnOnce(&mut BridgeRules)) -> u32 {
        let subnet = net(subnet);
        let gateway = IpNet::new(subnet.nth(1).unwrap(), subnet.prefix()).unwrap();
        let index = self.links.ensure_bridge(&Bridge { name: name(bridge), addresses: vec![gateway], mtu: None }).unwrap();
        let mut rules = BridgeRules::new(name(bridge), vec![subnet]);
        change(&mut rules);
        self.firewall.add_bridge(rules).unwrap();
        index
    }

    /// A bridge of both families.
    pub fn dual(&self, bridge: &str, subnets: [&str; 2], change: impl FnOnce(&mut BridgeRules)) -> u32 {
        let subnets = subnets.map(net);
        let addresses = subnets.map(|subnet| IpNet::new(subnet.nth(1).unwrap(), subnet.prefix()).unwrap());
        let index = self.links.ensure_bridge(&Bridge { name: name(bridge), addresses: addresses.to_vec(), mtu: None }).unwrap();
        let mut rules = BridgeRules::new(name(bridge), subnets.to_vec());
        change(&mut rules);
        self.firewall.add_bridge(rules).unwrap();
        index
    }

    /// A container of both families, which serves ports 80 and 81 of each, and UDP port 53.
    pub fn dual_container(&self, bridge: u32, addresses: [&str; 2]) -> Namespace {
        let addresses = addresses.map(net);
        let container = self.container_with(bridge, &addresses[0].to_string(), |plan| {
            plan.addresses = addresses.to_vec();
            plan.gateways = addresses.map(|own| own.network().nth(1).unwrap()).to_vec();
        });
        for port in ["0.0.0.0:80", "0.0.0.0:81", "[::]:80", "[::]:81"] {
            container.serve(port);
        }
        container
    }

    pub fn container(&self, bridge: u32, ip: &str) -> Namespace {
        self.container_with(bridge, ip, |_| {})
    }

    pub fn container_with(&self, bridge: u32, ip: &str, change: impl FnOnce(&mut VethPlan)) -> Namespace {
        let namespace = Namespace::new();
        let own = net(ip);
        let gateway = own.network().nth(1).unwrap();
        let mut plan = VethPlan {
            bridge,
            host_name: LinkName::random_veth(),
            container_name: name("eth0"),
            mac: MacAddress::random(),
            addresses: vec![own],
            gateways: vec![gateway],
            mtu: None,
            isolated: false,
            rate: None,
        };
        change(&mut plan);
        let route = namespace.route_socket();
        self.host.run(|| self.links.attach(&plan, namespace.0.as_fd(), route.as_fd()).unwrap());
        plan.addresses.iter().for_each(|own| namespace.hears_of(own.address()));
        namespace
    }
}

/// `ip link set netns` wants a pid or a path: the thread's own namespace has one while it lives.
pub fn move_link(from: &Namespace, to: &Namespace) -> bool {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/{}/fd/{}", std::process::id(), to.0.as_raw_fd());
    from.run(|| Command::new("ip").args(["link", "set", "wire2", "netns", &path]).status().unwrap().success())
}
