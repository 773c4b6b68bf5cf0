//! What other machines reach, and what containers reach of them.
//!
//! The "host" of these tests is a network namespace in which the daemon runs, the other machine another one, with a cable
//! between them and a route to the containers' subnets: rules of the real host (another engine's `FORWARD` policy) do not
//! disturb, and nothing stays. Answers are compared by the address that the server saw. The tables hold for Docker 28 too,
//! except where a line says so.

use naru_e2e::{BOX, Daemon, PATIENCE};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The host's end of the cable.
pub(crate) const HOST: [&str; 2] = ["10.90.0.1", "fd00:90::1"];
/// The other machine's end.
pub(crate) const OTHER: [&str; 2] = ["10.90.0.2", "fd00:90::2"];

/// Runs a program where this thread is; it must succeed.
#[track_caller]
pub(crate) fn program(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().expect("these tests need iproute2, util-linux and nftables");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A network namespace.
pub(crate) struct Place {
    name: &'static str,
    file: File,
    /// Keeps it; ends when its input does, also when this process is killed.
    keeper: Option<Child>,
}

impl Place {
    pub(crate) fn new(name: &'static str) -> Place {
        let mut keeper = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up; echo; read -r line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let file = File::open(format!("/proc/{}/ns/net", keeper.id())).unwrap();
        Place { name, file, keeper: Some(keeper) }
    }

    pub(crate) fn of(daemon: &Daemon, container: &'static str) -> Place {
        let pid = daemon.inspect(container)["State"]["Pid"].as_i64().unwrap();
        Place { name: container, file: File::open(format!("/proc/{pid}/ns/net")).unwrap(), keeper: None }
    }

    /// Runs something there, in a thread of its own.
    pub(crate) fn run<R: Send>(&self, action: impl FnOnce() -> R + Send) -> R {
        let there = || {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            action()
        };
        std::thread::scope(|scope| scope.spawn(there).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Serves ports there: each client, by TCP or UDP, is told its address.
    pub(crate) fn serve(&self, ports: &[u16]) -> Vec<Server> {
        self.run(|| ports.iter().map(|port| Server::new(*port)).collect())
    }

    /// What a server told this place of itself.
    pub(crate) fn ask(&self, question: &str, patience: Duration) -> Option<IpAddr> {
        let (kind, address) = question.split_once(' ').unwrap();
        let address: SocketAddr = address.parse().unwrap();
        self.run(|| {
            let mut answer = String::new();
            if kind == "udp" {
                let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).ok()?;
                socket.set_read_timeout(Some(patience)).ok()?;
                // Connected: an answer from another address than the one asked is none.
                socket.connect(address).ok()?;
                socket.send(b"?").ok()?;
                let mut buffer = [0; 100];
                let length = socket.recv(&mut buffer).ok()?;
                answer.push_str(std::str::from_utf8(&buffer[..length]).ok()?);
            } else {
                let mut stream = TcpStream::connect_timeout(&address, patience).ok()?;
                stream.set_read_timeout(Some(patience)).ok()?;
                stream.read_to_string(&mut answer).ok()?;
            }
            answer.parse().ok()
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            // It ends by itself.
            keeper.wait().ok();
        }
    }
}

/// A server of a port; ends with this value.
pub(crate) struct Server(Arc<TcpListener>, Arc<UdpSocket>);

impl Server {
    fn new(port: u16) -> Server {
        let listener = Arc::new(TcpListener::bind(("::", port)).unwrap());
        let socket = Arc::new(UdpSocket::bind(("::", port)).unwrap());
        let (tcp, udp) = (listener.clone(), socket.clone());
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = tcp.accept() {
                // A client that went is no concern of the server.
                stream.write_all(peer.ip().to_canonical().to_string().as_bytes()).ok();
            }
        });
        std::thread::spawn(move || {
            // Empty: it was shut down.
            while let Ok((1.., peer)) = udp.recv_from(&mut [0; 16]) {
                udp.send_to(peer.ip().to_canonical().to_string().as_bytes(), peer).ok();
            }
        });
        Server(listener, socket)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Both).ok();
        // Not connected, which is an error, but wakes the reader.
        rustix::net::shutdown(&*self.1, rustix::net::Shutdown::Both).ok();
    }
}

/// A daemon on a host of its own with a cable to another machine.
pub(crate) struct World {
    pub daemon: Daemon,
    pub host: Place,
    pub other: Place,
}

impl World {
    /// Runs a test in a world; its thread is on the host.
    pub(crate) fn with(flags: &[&str], test: impl FnOnce(&mut World) + Send) {
        let (host, other) = (Place::new("host"), Place::new("other"));
        let (here, there) = (host.file.try_clone().unwrap(), other.keeper.as_ref().unwrap().id());
        Place { name: "host", file: here, keeper: None }.run(move || {
            program(&format!("ip link add up0 type veth peer name eth0 netns {there}"));
            let far = |line: &str| other.run(|| program(&format!("ip {line}")));
            for (near, address) in HOST.iter().zip(OTHER) {
                let length = if near.contains(':') { "64 nodad" } else { "24" };
                program(&format!("ip addr add {near}/{length} dev up0"));
                far(&format!("addr add {address}/{length} dev eth0"));
            }
            program("ip link set up0 up");
            far("link set eth0 up");
            for near in HOST {
                far(&format!("route add default via {near}"));
            }
            let daemon = Daemon::with_flags(flags);
            test(&mut World { daemon, host, other });
        });
    }

    /// A network with the subnets 10.90.<number>.0/24 and fd00:90:<number>::/64.
    pub(crate) fn network(&self, name: &str, number: u8, flags: &[&str]) {
        let subnets = [format!("10.90.{number}.0/24"), format!("fd00:90:{number}::/64")];
        let words = ["network", "create", "--ipv6", "--subnet", &subnets[0], "--subnet", &subnets[1]];
        self.daemon.ok(&[&words[..], flags, &[name]].concat());
    }

    /// A container with the addresses 10.90.<number>.9 and fd00:90:<number>::9 that serves ports 80 and 81.
    pub(crate) fn container(&self, name: &'static str, network: &str, number: u8, flags: &[&str]) -> (Place, Vec<Server>) {
        let addresses = [format!("10.90.{number}.9"), format!("fd00:90:{number}::9")];
        let words = ["run", "-d", "--init", "--name", name, "--network", network, "--ip", &addresses[0], "--ip6", &addresses[1]];
        self.daemon.ok(&[&words[..], flags, &[BOX, "sleep", "1000"]].concat());
        let place = Place::of(&self.daemon, name);
        let servers = place.serve(&[80, 81]);
        (place, servers)
    }
}

/// Who asks whom, and from which address the server saw the question; none: no answer.
pub(crate) type Case<'p> = (&'p Place, &'p str, Option<&'p str>);

/// Asks all at once and compares.
#[track_caller]
pub(crate) fn check(cases: &[Case<'_>]) {
    let judge = |(place, question, expected): &Case<'_>| {
        let expected = expected.map(|address| address.parse::<IpAddr>().unwrap());
        let start = Instant::now();
        loop {
            // What shall not be answered is refused or dropped: no long wait makes that surer.
            let answer = place.ask(question, if expected.is_some() { Duration::from_secs(5) } else { Duration::from_millis(700) });
            if answer == expected {
                return None;
            }
            if expected.is_none() || answer.is_some() || start.elapsed() > PATIENCE / 4 {
                return Some(format!("{} asks {question}: seen as {answer:?}, not {expected:?}", place.name));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = cases.iter().map(|case| scope.spawn(move || judge(case))).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn published_ports_are_reached_and_nothing_else() {
    World::with(&[], |world| {
        let (other, host) = (&world.other, &world.host);
        let _far = other.serve(&[9000]);
        world.network("one", 1, &[]);
        world.network("two", 2, &[]);
        let ports = ["8001:80", "8001:80/udp", "10.90.0.1:8002:80", "[fd00:90::1]:8002:80", "127.0.0.1:8003:80", "[::1]:8003:80"];
        let flags: Vec<&str> = ports.iter().flat_map(|port| ["-p", port]).collect();
        let (one, _one) = world.container("one", "one", 1, &flags);
        let (two, _two) = world.container("two", "two", 2, &[]);
        world.daemon.ok(&["run", "-d", "--init", "--name", "peer", "--network", "one", BOX, "sleep", "1000"]);
        let peer = Place::of(&world.daemon, "peer");
        check(&[
            // What is not published is out of reach, also for who has a route.
            (other, "tcp 10.90.1.9:80", None),
            (other, "tcp [fd00:90:1::9]:80", None),
            (other, "udp 10.90.1.9:80", None),
            (other, "tcp 10.90.1.9:81", None),
            (other, "tcp [fd00:90:2::9]:80", None),
            // What is published is reached by the host's address, and the container sees who asks.
            (other, "tcp 10.90.0.1:8001", Some(OTHER[0])),
            (other, "tcp [fd00:90::1]:8001", Some(OTHER[1])),
            (other, "udp 10.90.0.1:8001", Some(OTHER[0])),
            (other, "udp [fd00:90::1]:8001", Some(OTHER[1])),
            (other, "tcp 10.90.0.1:8002", Some(OTHER[0])),
            (other, "tcp [fd00:90::1]:8002", Some(OTHER[1])),
            (other, "tcp 10.90.0.1:8003", None),
            (other, "tcp [fd00:90::1]:8003", None),
            // The host reaches all of it.
            (host, "tcp 127.0.0.1:8001", Some("10.90.1.1")),
            (host, "tcp [::1]:8001", Some("fd00:90:1::1")),
            (host, "tcp 10.90.0.1:8001", Some(HOST[0])),
            (host, "tcp [fd00:90::1]:8001", Some(HOST[1])),
            (host, "udp 10.90.0.1:8001", Some(HOST[0])),
            (host, "tcp 127.0.0.1:8003", Some("10.90.1.1")),
            (host, "tcp [::1]:8003", Some("fd00:90:1::1")),
            (host, "tcp 10.90.1.9:81", Some("10.90.1.1")),
            (host, "tcp [fd00:90:1::9]:81", Some("fd00:90:1::1")),
            // Containers go out under the host's address,
            (&one, "tcp 10.90.0.2:9000", Some(HOST[0])),
            (&one, "tcp [fd00:90::2]:9000", Some(HOST[1])),
            (&one, "udp 10.90.0.2:9000", Some(HOST[0])),
            // reach published ports by it: their own, a neighbour's, another network's,
            (&one, "tcp 10.90.0.1:8001", Some("10.90.1.1")),
            (&one, "tcp [fd00:90::1]:8001", Some("fd00:90:1::1")),
            (&one, "udp 10.90.0.1:8001", Some("10.90.1.1")),
            (&peer, "tcp 10.90.0.1:8001", Some("10.90.1.1")),
            (&peer, "tcp [fd00:90::1]:8001", Some("fd00:90:1::1")),
            (&peer, "udp 10.90.0.1:8001", Some("10.90.1.1")),
            (&peer, "tcp 10.90.1.1:8001", Some("10.90.1.1")),
            (&two, "tcp 10.90.0.1:8001", Some("10.90.1.1")),
            (&two, "tcp [fd00:90::1]:8001", Some("fd00:90:1::1")),
            (&two, "tcp 10.90.1.1:8001", Some("10.90.1.1")),
            (&two, "tcp 10.90.0.1:8003", None),
            // and nothing else of another network.
            (&two, "tcp 10.90.1.9:80", None),
            (&two, "tcp [fd00:90:1::9]:80", None),
            (&one, "udp 10.90.2.9:80", None),
        ]);
        // What was published goes with the container.
        world.daemon.ok(&["rm", "-f", "one"]);
        check(&[(other, "tcp 10.90.0.1:8001", None), (other, "tcp [fd00:90::1]:8002", None), (host, "tcp 127.0.0.1:8003", None)]);
    });
}

#[test]
fn an_internal_network_has_no_outside() {
    World::with(&[], |world| {
        let (other, host) = (&world.other, &world.host);
        let _far = other.serve(&[9000]);
        world.network("open", 1, &[]);
        world.network("inner", 3, &["--internal"]);
        let (open, _open) = world.container("open", "open", 1, &["-p", "8001:80"]);
        let (inner, _inner) = world.container("inner", "inner", 3, &["-p", "8011:80"]);
        let silent = [
            (other, "tcp 10.90.3.9:80", None),
            (other, "tcp [fd00:90:3::9]:80", None),
            (other, "tcp 10.90.0.1:8011", None),
            (other, "tcp [fd00:90::1]:8011", None),
            (host, "tcp 10.90.0.1:8011", None),
            (&open, "tcp 10.90.3.9:80", None),
            (&inner, "tcp 10.90.0.2:9000", None),
            (&inner, "tcp [fd00:90::2]:9000", None),
            (&inner, "tcp 10.90.0.1:8001", None),
            (&inner, "tcp 10.90.1.9:80", None),
        ];
        check(&silent);
        check(&[(host, "tcp 10.90.3.9:80", Some("10.90.3.1")), (&open, "tcp 10.90.0.2:9000", Some(HOST[0]))]);
        // Who makes a route for himself gets no further.
        inner.run(|| {
            program("ip route add 10.90.0.2/32 via 10.90.3.1");
            program("ip route add 10.90.1.0/24 via 10.90.3.1");
            program("ip -6 route add fd00:90::2/128 via fd00:90:3::1");
        });
        check(&silent);
    });
}

#[test]
fn gateway_modes_decide_what_is_reached() {
    World::with(&[], |world| {
        let other = &world.other;
        let _far = other.serve(&[9000]);
        let mode = |mode: &str| ["ipv4", "ipv6"].map(|family| format!("com.docker.network.bridge.gateway_mode_{family}={mode}"));
        let [routed, unprotected] = [mode("routed"), mode("nat-unprotected")];
        world.network("nat", 1, &[]);
        world.network("routed", 4, &["-o", &routed[0], "-o", &routed[1]]);
        world.network("wide", 5, &["-o", &unprotected[0], "-o", &unprotected[1]]);
        world.network("bare", 6, &["-o", "com.docker.network.bridge.enable_ip_masquerade=false"]);
        let (nat, _nat) = world.container("nat", "nat", 1, &[]);
        let (routed, _routed) = world.container("routed", "routed", 4, &["-p", "80"]);
        let (wide, _wide) = world.container("wide", "wide", 5, &["-p", "8031:80"]);
        let (bare, _bare) = world.container("bare", "bare", 6, &[]);
        check(&[
            // Routed: by the container's own address in both directions, published ports only.
            (other, "tcp 10.90.4.9:80", Some(OTHER[0])),
            (other, "tcp [fd00:90:4::9]:80", Some(OTHER[1])),
            (other, "tcp 10.90.4.9:81", None),
            (other, "tcp [fd00:90:4::9]:81", None),
            (&routed, "tcp 10.90.0.2:9000", Some("10.90.4.9")),
            (&routed, "tcp [fd00:90::2]:9000", Some("fd00:90:4::9")),
            // Docker gives a container of another network the bridge's address here.
            (&nat, "tcp 10.90.4.9:80", Some("10.90.1.9")),
            (&nat, "tcp 10.90.4.9:81", None),
            // Not protected: everything by the own address, published ports by the host's, out under the host's.
            (other, "tcp 10.90.5.9:81", Some(OTHER[0])),
            (other, "tcp [fd00:90:5::9]:81", Some(OTHER[1])),
            (other, "tcp 10.90.0.1:8031", Some(OTHER[0])),
            (&wide, "tcp 10.90.0.2:9000", Some(HOST[0])),
            (&wide, "tcp [fd00:90::2]:9000", Some(HOST[1])),
            (&nat, "tcp 10.90.5.9:81", None),
            // Without masquerade: out under the own address; Docker 28 drops the answers.
            (&bare, "tcp 10.90.0.2:9000", Some("10.90.6.9")),
            (&bare, "tcp [fd00:90::2]:9000", Some("fd00:90:6::9")),
            (other, "tcp 10.90.6.9:80", None),
        ]);
        let pings = |address: &str| {
            other.run(|| Command::new("busybox").args(["ping", "-c", "1", "-W", "1", address]).output().unwrap().status.success())
        };
        assert!(pings("10.90.4.9") && pings("fd00:90:4::9"), "a routed container answers pings");
        assert!(!pings("10.90.1.9") && !pings("fd00:90:1::9"), "one behind NAT is not reached by them");
    });
}

/// Docker: a host port is not used there, so that two containers may wish for the same.
#[test]
fn no_port_of_the_host_leads_into_a_routed_network() {
    World::with(&[], |world| {
        let (other, host) = (&world.other, &world.host);
        let routed = |family: &str| format!("com.docker.network.bridge.gateway_mode_{family}=routed");
        world.network("routed", 1, &["-o", &routed("ipv4"), "-o", &routed("ipv6")]);
        world.network("half", 2, &["-o", &routed("ipv4")]);
        world.network("nat", 3, &[]);
        let (_one, _first) = world.container("one", "routed", 1, &["-p", "8001:80", "-p", "127.0.0.1:8002:81"]);
        world.daemon.ok(&["run", "-d", "--init", "--name", "two", "--network", "routed", "-p", "8001:80", BOX, "sleep", "1000"]);
        let (_half, _second) = world.container("half", "half", 2, &["-p", "8001:80"]);
        let ports = |of: &str| world.daemon.ok(&["port", of]).lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
        assert_eq!(ports("one"), ["80/tcp -> 0.0.0.0:", "80/tcp -> [::]:", "81/tcp -> 0.0.0.0:"]);
        assert_eq!(ports("half"), ["80/tcp -> 0.0.0.0:", "80/tcp -> [::]:8001"]);
        check(&[
            (other, "tcp 10.90.1.9:80", Some(OTHER[0])),
            (other, "tcp [fd00:90:1::9]:80", Some(OTHER[1])),
            (other, "tcp 10.90.1.9:81", Some(OTHER[0])),
            (other, "tcp [fd00:90:1::9]:81", None),
            (other, "tcp 10.90.0.1:8001", None),
            (host, "tcp 127.0.0.1:8001", None),
            (other, "tcp 10.90.2.9:80", Some(OTHER[0])),
            (other, "tcp [fd00:90:2::9]:80", None),
            (other, "tcp [fd00:90::1]:8001", Some(OTHER[1])),
        ]);
        // Ports of the host come and go with the network that leads out.
        world.daemon.ok(&["rm", "-f", "half"]);
        world.daemon.ok(&["network", "connect", "--gw-priority", "1", "--ip", "10.90.3.9", "nat", "one"]);
        assert_eq!(ports("one"), ["80/tcp -> 0.0.0.0:8001", "80/tcp -> [::]:8001", "81/tcp -> 127.0.0.1:8002"]);
        world.daemon.ok(&["network", "disconnect", "nat", "one"]);
        assert_eq!(ports("one").first().map(String::as_str), Some("80/tcp -> 0.0.0.0:"));
        world.daemon.ok(&["network", "disconnect", "routed", "one"]);
        assert_eq!(ports("one"), [""; 0]);
    });
}

#[test]
fn a_trusted_interface_reaches_what_is_published_by_its_own_address() {
    World::with(&[], |world| {
        let (other, host) = (&world.other, &world.host);
        let trust = |interfaces: &str| format!("com.docker.network.bridge.trusted_host_interfaces={interfaces}");
        world.network("open", 1, &["-o", &trust("nothere:up0")]);
        world.network("shut", 2, &["-o", &trust("nothere")]);
        let bridge = format!("br-{}", &world.daemon.ok(&["network", "inspect", "-f", "{{.Id}}", "open"])[..12]);
        world.network("beside", 3, &["-o", &trust(&bridge)]);
        world.network("inner", 4, &["--internal", "-o", &trust("up0")]);
        let (open, _open) = world.container("open", "open", 1, &["-p", "8001:80", "-p", "8002:80", "-p", "127.0.0.1:8003:80/udp"]);
        let (_shut, _closed) = world.container("shut", "shut", 2, &["-p", "8011:80"]);
        let (_beside, _third) = world.container("beside", "beside", 3, &["-p", "8021:80"]);
        let (_inner, _fourth) = world.container("inner", "inner", 4, &["-p", "8031:80"]);
        let all = || {
            check(&[
                (other, "tcp 10.90.1.9:80", Some(OTHER[0])),
                (other, "tcp [fd00:90:1::9]:80", Some(OTHER[1])),
                // Published for the host alone, but published.
                (other, "udp 10.90.1.9:80", Some(OTHER[0])),
                (other, "udp [fd00:90:1::9]:80", None),
                (other, "tcp 10.90.1.9:81", None),
                (other, "tcp [fd00:90:1::9]:81", None),
                (other, "tcp 10.90.2.9:80", None),
                (other, "tcp [fd00:90:2::9]:80", None),
                (other, "tcp 10.90.4.9:80", None),
                // Networks do not reach each other so.
                (&open, "tcp 10.90.3.9:80", None),
                (&open, "tcp [fd00:90:3::9]:80", None),
                (other, "tcp 10.90.0.1:8001", Some(OTHER[0])),
                (host, "tcp 127.0.0.1:8001", Some("10.90.1.1")),
            ]);
        };
        all();
        program("nft flush ruleset");
        let table = format!("naru-{}", world.daemon.bridge());
        let is_back = || Command::new("nft").args(["list", "table", "inet", &table]).output().unwrap().status.success();
        world.daemon.until("the rules are back", is_back);
        all();
        // The same end by two ports of the host: one that goes leaves the other's.
        world.daemon.ok(&["rm", "-f", "open"]);
        check(&[(other, "tcp 10.90.1.9:80", None)]);
    });
}

#[test]
fn direct_routing_reaches_what_is_published() {
    World::with(&["--allow-direct-routing"], |world| {
        let (other, host) = (&world.other, &world.host);
        world.network("one", 1, &[]);
        world.network("two", 2, &[]);
        world.network("inner", 3, &["--internal"]);
        let (one, _one) = world.container("one", "one", 1, &["-p", "8001:80", "-p", "127.0.0.1:8003:80/udp"]);
        let (two, _two) = world.container("two", "two", 2, &[]);
        let (_inner, _third) = world.container("inner", "inner", 3, &["-p", "8031:80"]);
        check(&[
            (other, "tcp 10.90.1.9:80", Some(OTHER[0])),
            (other, "tcp [fd00:90:1::9]:80", Some(OTHER[1])),
            // Published for the host alone, but published.
            (other, "udp 10.90.1.9:80", Some(OTHER[0])),
            (other, "udp [fd00:90:1::9]:80", None),
            (other, "tcp 10.90.1.9:81", None),
            (other, "tcp [fd00:90:1::9]:81", None),
            (other, "tcp 10.90.2.9:80", None),
            (other, "tcp 10.90.3.9:80", None),
            // Networks do not reach each other so.
            (&two, "tcp 10.90.1.9:80", None),
            (&two, "tcp 10.90.0.1:8001", Some("10.90.1.1")),
            (other, "tcp 10.90.0.1:8001", Some(OTHER[0])),
            (host, "tcp 127.0.0.1:8001", Some("10.90.1.1")),
            (&one, "tcp 10.90.1.9:80", Some("10.90.1.9")),
        ]);
        world.daemon.ok(&["rm", "-f", "one"]);
        check(&[(other, "tcp 10.90.1.9:80", None)]);
    });
}

#[test]
fn containers_that_shall_not_talk_still_publish() {
    World::with(&[], |world| {
        let other = &world.other;
        let _far = other.serve(&[9000]);
        world.network("quiet", 7, &["-o", "com.docker.network.bridge.enable_icc=false"]);
        let (one, _one) = world.container("one", "quiet", 7, &["-p", "8041:80", "-p", "8041:80/udp"]);
        world.daemon.ok(&["run", "-d", "--init", "--name", "two", "--network", "quiet", BOX, "sleep", "1000"]);
        let two = Place::of(&world.daemon, "two");
        check(&[
            (&two, "tcp 10.90.7.9:80", None),
            (&two, "tcp [fd00:90:7::9]:80", None),
            (&two, "udp 10.90.7.9:80", None),
            (&two, "tcp 10.90.0.1:8041", Some("10.90.7.1")),
            (&two, "tcp [fd00:90::1]:8041", Some("fd00:90:7::1")),
            (&two, "udp 10.90.0.1:8041", Some("10.90.7.1")),
            (&two, "udp [fd00:90::1]:8041", Some("fd00:90:7::1")),
            (&one, "tcp 10.90.0.1:8041", Some("10.90.7.1")),
            (&two, "tcp 10.90.0.2:9000", Some(HOST[0])),
            (other, "tcp 10.90.0.1:8041", Some(OTHER[0])),
        ]);
    });
}

#[test]
fn a_rule_of_the_host_s_own_decides_when_it_shall() {
    let rules = "add table inet own\nadd chain inet own input { type filter hook input priority 0; }\n\
                 add rule inet own input iifname up0 tcp dport { 8001, 8002 } drop\n";
    let deny = || {
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success());
    };
    let questions = ["tcp 10.90.0.1:8001", "tcp [fd00:90::1]:8001", "tcp 10.90.0.1:8002"];
    for (flags, seen, denied) in [
        // Packets are rewritten before the rule sees them, as Docker does it.
        (&[][..], [Some(OTHER[0]), Some(OTHER[1]), Some(OTHER[0])], [Some(OTHER[0]), Some(OTHER[1]), Some(OTHER[0])]),
        (&["--firewall-mode", "respect-host"], [Some("10.90.1.1"), Some("fd00:90:1::1"), Some("10.90.1.1")], [None; 3]),
    ] {
        World::with(flags, |world| {
            world.network("one", 1, &[]);
            let (_one, _servers) = world.container("one", "one", 1, &["-p", "8001:80", "-p", "10.90.0.1:8002:80", "-p", "8003:80"]);
            let ask = |answers: [Option<&'static str>; 3]| -> Vec<Case<'_>> {
                questions.iter().zip(answers).map(|(question, answer)| (&world.other, *question, answer)).collect()
            };
            check(&ask(seen));
            deny();
            check(&ask(denied));
            check(&[(&world.other, "tcp 10.90.0.1:8003", seen[0]), (&world.other, "tcp 10.90.1.9:80", None)]);
        });
    }
}

/// Elements of a set of the daemon's table, sorted.
fn elements(daemon: &Daemon, kind: &str, set: &str) -> Vec<String> {
    let text = program(&format!("nft -j list {kind} inet naru-{} {set}", daemon.bridge()));
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    let found = list["nftables"].as_array().unwrap().iter().find_map(|entry| entry[kind]["elem"].as_array().cloned()).unwrap_or_default();
    let mut found: Vec<String> = found.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect();
    found.sort();
    found
}

/// Names of this place's links of a kind, sorted.
fn links(kind: &str) -> Vec<String> {
    let text = program(&format!("ip -o link show type {kind}"));
    let mut names: Vec<String> = text.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next()).map(str::to_owned).collect();
    names.sort();
    names
}

/// What links and rules tell beside what the daemon lists; empty when both agree. Nothing else makes links here.
fn disagreement(daemon: &Daemon) -> Vec<String> {
    let lines = |args: &[&str]| -> Vec<String> { daemon.ok(args).lines().map(str::to_owned).collect() };
    let mut bridges: Vec<String> = lines(&["network", "ls", "-q", "--no-trunc", "--filter", "driver=bridge", "--filter", "type=custom"])
        .iter()
        .map(|id| format!("br-{}", &id[..12]))
        .collect();
    bridges.push(daemon.bridge());
    bridges.sort();
    let (mut ends, mut ports) = (0, 0);
    for id in lines(&["ps", "-q"]) {
        let settings = daemon.inspect(&id)["NetworkSettings"].clone();
        ends += settings["Networks"].as_object().map_or(0, serde_json::Map::len);
        ports += settings["Ports"].as_object().map_or(0, |ports| ports.values().filter(|port| !port.is_null()).count());
    }
    let mut found = Vec::new();
    let mut same = |what: &str, listed: String, real: String| {
        if listed != real {
            found.push(format!("{what}: {listed} by the daemon, {real} in the kernel"));
        }
    };
    same("bridges", format!("{bridges:?}"), format!("{:?}", links("bridge")));
    same("bridges in rules", format!("{bridges:?}"), format!("{:?}", elements(daemon, "set", "bridges")));
    same("ends", ends.to_string(), links("veth").len().to_string());
    same("ports", ports.to_string(), elements(daemon, "map", "any4").len().to_string());
    found
}

/// Waits until daemon and kernel agree and nothing else is wrong.
#[track_caller]
fn agree(daemon: &Daemon, when: &str, more: impl Fn() -> Vec<String>) {
    let start = Instant::now();
    loop {
        let mut found = disagreement(daemon);
        found.extend(more());
        if found.is_empty() {
            return;
        }
        assert!(start.elapsed() < PATIENCE / 4, "{when}: {found:#?}\n{}", daemon.tail());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_daemon_killed_amid_changes_leaves_nothing_without_an_owner() {
    killed_amid(&[0, 1, 2, 6, 2]);
}

#[test]
fn a_daemon_killed_amid_a_connection_leaves_it_whole_or_not_at_all() {
    killed_amid(&[4, 5]);
}

/// `NARU_E2E_ROUNDS` makes it more rounds.
fn killed_amid(changes: &[usize]) {
    let rounds = std::env::var("NARU_E2E_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(24);
    Place::new("host").run(|| {
        let mut daemon = Daemon::start();
        // Five addresses for containers: one that is lost for good would be missed at the end. By its name the network leads
        // out for who is on it, so that routes and ports move with each change.
        daemon.ok(&["network", "create", "--subnet", "10.90.8.0/29", "a-net"]);
        daemon.ok(&["run", "-d", "--init", "--name", "kept", "-p", "8090:80", BOX, "sleep", "1000"]);
        let kept = Place::of(&daemon, "kept");
        let server = kept.serve(&[80]);
        let host = Place { name: "host", file: File::open("/proc/thread-self/ns/net").unwrap(), keeper: None };
        let change = |daemon: &Daemon, kind: usize| match kind {
            0 => vec!["network", "create", "made"],
            1 => {
                daemon.ok(&["network", "create", "made"]);
                vec!["network", "rm", "made"]
            }
            2 => vec!["run", "-d", "--init", "--name", "new", "--network", "a-net", "-p", "8091:80", BOX, "sleep", "1000"],
            4 => vec!["network", "connect", "a-net", "kept"],
            5 => {
                daemon.ok(&["network", "connect", "a-net", "kept"]);
                vec!["network", "disconnect", "a-net", "kept"]
            }
            _ => {
                daemon.ok(&["run", "-d", "--init", "--name", "new", "--network", "a-net", "-p", "8091:80", BOX, "sleep", "1000"]);
                vec!["rm", "-f", "new"]
            }
        };
        for round in 0..rounds {
            let words = change(&daemon, changes[round % changes.len()]);
            let mut client = daemon.command(&words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            // Any moment of a change, and a while after it.
            let noise = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
            let moment = Duration::from_micros(u64::from(noise / 1000 % 120_000));
            std::thread::sleep(moment);
            daemon.kill();
            client.wait().unwrap();
            daemon.launch();
            agree(&daemon, &format!("round {round}, {words:?} killed after {moment:?}"), || {
                let mut found = Vec::new();
                if host.ask("tcp 127.0.0.1:8090", Duration::from_secs(5)).is_none() {
                    found.push("the port of a running container is lost".into());
                }
                if !kept.run(|| program("ip route")).contains("default via") {
                    found.push("a running container has no way out any more".into());
                }
                found
            });
            // Each may be there or not, depending on the moment; what is there can be removed.
            for name in daemon.ok(&["ps", "-a", "--format", "{{.Names}}"]).lines().filter(|name| *name != "kept") {
                daemon.ok(&["rm", "-f", name]);
            }
            if daemon.ok(&["network", "ls", "--format", "{{.Name}}"]).lines().any(|name| name == "made") {
                daemon.ok(&["network", "rm", "made"]);
            }
            if daemon.inspect("kept")["NetworkSettings"]["Networks"]["a-net"].is_object() {
                daemon.ok(&["network", "disconnect", "a-net", "kept"]);
            }
            agree(&daemon, &format!("round {round}, {words:?} killed after {moment:?}, all removed"), Vec::new);
        }
        let names: Vec<String> = (0..5).map(|number| format!("last{number}")).collect();
        for name in &names {
            let ports: &[&str] = if name == "last0" { &["-p", "8091:80"] } else { &[] };
            daemon.ok(&[&["run", "-d", "--init", "--name", name, "--network", "a-net"], ports, &[BOX, "sleep", "1000"]].concat());
        }
        daemon.ok(&["exec", "last4", "ping", "-c", "1", "-W", "5", "last0"]);
        daemon.ok(&["exec", "last4", "ping", "-c", "1", "-W", "5", "last3"]);
        assert!(daemon.run(&["exec", "last4", "nslookup", "new", "127.0.0.11"]).code != 0, "a removed container has no name");
        // Who holds a namespace keeps its links.
        drop((server, kept));
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        daemon.ok(&[&["rm", "-f", "kept"], &all[..]].concat());
        daemon.ok(&["network", "rm", "a-net"]);
        agree(&daemon, "all removed", Vec::new);
        daemon.until_clean();
    });
}
