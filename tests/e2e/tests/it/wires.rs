//! Links of other kinds than bridges, and ports of other protocols, where the kernel has them.

use crate::networks::{Box, Net};
use naru_e2e::{BOX, Daemon, PATIENCE, host_has, shared};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

fn ip(args: &str) -> bool {
    Command::new("ip").args(args.split_whitespace()).output().expect("ip starts").status.success()
}

fn shown(link: &str) -> String {
    let output = Command::new("ip").args(["-d", "link", "show", link]).output().expect("ip starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The name of the link of the host with this index, a container's.
fn host_end(index: &str) -> String {
    let start = format!("{}: ", index.trim());
    let own = || {
        let output = Command::new("ip").args(["-o", "link"]).output().expect("ip starts");
        let links = String::from_utf8_lossy(&output.stdout).into_owned();
        links.lines().find_map(|line| line.strip_prefix(&start)?.split('@').next().map(str::to_owned))
    };
    // A list may lack links when others change while it is made.
    (0..100).find_map(|_| own()).expect("the host's end")
}

/// A link of the host that goes with its test. Made and removed, it tells whether the kernel has its kind.
struct Link(String);

impl Link {
    fn new(purpose: &str, kind: &str) -> Option<Link> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let link = format!("{purpose}{next}-{}", std::process::id() % 100_000);
        ip(&format!("link add {link} {}", kind.replace("SELF", &link))).then(|| {
            assert!(ip(&format!("link set {link} up")));
            Link(link)
        })
    }

    fn dummy() -> Link {
        Link::new("w", "type dummy").or_else(|| Link::new("w", "type ifb")).expect("the kernel has dummy links")
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        ip(&format!("link del {}", self.0));
    }
}

fn pings(from: &Box<'_>, address: &str) -> bool {
    !from.fails(&format!("ping -c 1 -W 3 {address}"))
}

/// Whether the kernel has links of a kind: one is made on a link, and goes.
fn has(kind: &str) -> bool {
    let parent = Link::dummy();
    Link::new("t", &format!("link {} type {kind}", parent.0)).is_some()
}

#[test]
fn links_of_the_host_s_own_stay() {
    let daemon = shared();
    let (bridge, other) = (Link::new("b", "type bridge").expect("the kernel has bridges"), Link::dummy());
    let named = |link: &str| format!("com.docker.network.bridge.name={link}");
    let told = daemon.fails(1, &["network", "create", "-o", &named(&other.0), "wire-x"]);
    assert!(told.contains("cannot use as a bridge"), "{told}");
    let default = daemon.bridge();
    for link in [&other.0, &bridge.0, &default] {
        drop(Net::new(daemon, &["--config-only", "-o", &named(link)]));
        assert!(!shown(link).is_empty(), "{link}");
    }
    // A link of the engine's own that is something else.
    let container = Box::new(daemon, &[]);
    let index = container.sh("cat /sys/class/net/eth0/iflink");
    let own = host_end(&index);
    daemon.fails(1, &["network", "create", "-o", &named(&own), "wire-x"]);
    assert!(!shown(&own).is_empty(), "{own}");
    drop(container);
    // A bridge that is there is used, and stays.
    let net = Net::new(daemon, &["-o", &named(&bridge.0)]);
    let (server, client) = (Box::new(daemon, &["--network", &net.1]), Box::new(daemon, &["--network", &net.1]));
    assert!(pings(&client, &server.address(&net.1)));
    drop((server, client));
    drop(net);
    assert!(shown(&bridge.0).contains("bridge"));
}

#[test]
fn a_bridge_that_others_destroy_comes_back_with_its_containers() {
    // One that is set down loses what it has of IPv6, but nothing of IPv4.
    for ipv6 in [true, false] {
        a_bridge_that_others_destroy_comes_back(&format!("--ipv6={ipv6}"));
    }
}

fn a_bridge_that_others_destroy_comes_back(flag: &str) {
    let mut daemon = Daemon::start();
    let name = "net";
    let bridge = format!("br-{}", &daemon.ok(&["network", "create", flag, name])[..12]);
    let of = |daemon: &Daemon, name: &str, flags: &[&str]| {
        daemon.ok(&[&["run", "-d", "--init", "--name", name], flags, &[BOX, "sleep", "1000"]].concat());
    };
    of(&daemon, "server", &["--network", name]);
    of(&daemon, "client", &["--network", name]);
    let gateway = daemon.ok(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", name]);
    let whole = |daemon: &Daemon, when: &str| {
        for address in ["server", &gateway] {
            let ping = ["exec", "client", "ping", "-c", "1", "-W", "1", address];
            daemon.until(&format!("{address} is reached when {when}"), || daemon.run(&ping).code == 0);
        }
    };
    whole(&daemon, "nothing has happened");
    for (when, command) in [
        ("the bridge was deleted", format!("link del {bridge}")),
        ("its addresses were", format!("addr flush dev {bridge}")),
        ("it was set down", format!("link set {bridge} down")),
        ("it was renamed", format!("link set {bridge} name {}x", &bridge[1..])),
    ] {
        // Kernels before 6.2 do not rename a link that is up.
        assert!(ip(&command) || command.contains(" name "), "{command}");
        daemon.until(&format!("the bridge is there when {when}"), || shown(&bridge).contains(",UP"));
        whole(&daemon, when);
    }
    assert!(shown(&format!("{}x", &bridge[1..])).is_empty());
    let end = host_end(&daemon.ok(&["exec", "server", "cat", "/sys/class/net/eth0/iflink"]));
    for change in ["down", "nomaster"] {
        assert!(ip(&format!("link set {end} {change}")));
        daemon.until(&format!("the link is back after {change}"), || {
            let shown = shown(&end);
            shown.contains(",UP") && shown.contains(&format!("master {bridge}"))
        });
        whole(&daemon, &format!("a container's link was set {change}"));
    }
    for (command, when) in
        [(format!("link del {bridge}"), "the bridge was deleted"), (format!("link set {end} down"), "a container's link was set down")]
    {
        daemon.kill();
        assert!(ip(&command));
        daemon.launch();
        whole(&daemon, &format!("{when} while nobody looked"));
    }
    daemon.ok(&["rm", "-f", "server", "client"]);
    daemon.ok(&["network", "rm", name]);
    assert!(shown(&bridge).is_empty());
}

#[test]
fn ipvlan_networks_of_every_mode() {
    if !host_has("ipvlan", has("ipvlan")) {
        return;
    }
    let daemon = shared();
    for (mode, flag, meet) in [
        ("l2", "bridge", true),
        ("l3", "bridge", true),
        ("l3s", "bridge", true),
        ("l2", "private", false),
        ("l3", "private", false),
        // What is sent by way of the switch outside does not come back from a link that leads nowhere.
        ("l2", "vepa", false),
    ] {
        let parent = Link::dummy();
        let (parent_option, mode_option, flag_option) =
            (format!("parent={}", parent.0), format!("ipvlan_mode={mode}"), format!("ipvlan_flag={flag}"));
        let options = ["-d", "ipvlan", "--subnet", "10.127.8.0/24", "-o", &parent_option, "-o", &mode_option, "-o", &flag_option];
        let net = Net::new(daemon, &options);
        let (one, two) = (Box::new(daemon, &["--network", &net.1]), Box::new(daemon, &["--network", &net.1]));
        assert_eq!(pings(&one, &two.address(&net.1)), meet, "{mode} {flag}");
        let mac = |container: &Box<'_>| container.sh("cat /sys/class/net/eth0/address");
        assert_eq!(mac(&one), mac(&two), "{mode} {flag}");
        assert!(shown(&parent.0).contains(&mac(&one)), "the parent's hardware address");
        let route = one.sh("ip route | grep default");
        let expected = if mode == "l2" { "default via 10.127.8.1 dev eth0" } else { "default dev eth0 scope link" };
        assert_eq!(route.trim_end(), expected, "{mode}");
        let gateway = &daemon.inspect(&one.1)["NetworkSettings"]["Networks"][&net.1]["Gateway"];
        assert_eq!(gateway, if mode == "l2" { "10.127.8.1" } else { "" }, "{mode}");
        assert_eq!(one.address(&net.1), if mode == "l2" { "10.127.8.2" } else { "10.127.8.1" }, "{mode}");
    }
}

/// Both ends of a wire with VLAN 10 on the far one, in the host's own namespace: packets between them must take the wire,
/// since the near end and its VLAN have no address of the host's.
#[test]
fn a_vlan_is_made_for_a_network_and_goes_with_it() {
    if !host_has("vlan", has("vlan id 10")) {
        return;
    }
    let daemon = shared();
    let near = Link::new("v", "type veth peer name fSELF").expect("the kernel has veth");
    let far = format!("f{}", near.0);
    assert!(ip(&format!("link set {far} up")));
    assert!(ip(&format!("link add link {far} name {far}x type vlan id 10")) && ip(&format!("link set {far}x up")));
    assert!(ip(&format!("addr add 10.127.9.2/24 dev {far}x")));
    let (vlan, other) = (format!("{}.10", near.0), format!("{}.11", near.0));
    let make =
        |driver: &str, parent: &str, subnet: &str| Net::new(daemon, &["-d", driver, "--subnet", subnet, "-o", &format!("parent={parent}")]);

    let net = make("macvlan", &vlan, "10.127.9.0/24");
    assert!(shown(&vlan).contains("802.1Q id 10"), "{}", shown(&vlan));
    let inside = Box::new(daemon, &["--network", &net.1, "--ip", "10.127.9.20"]);
    daemon.until("the far end answers on its VLAN", || pings(&inside, "10.127.9.2"));
    let apart = make("macvlan", &other, "10.127.10.0/24");
    let outside = Box::new(daemon, &["--network", &apart.1]);
    assert!(ip(&format!("addr add 10.127.10.200/24 dev {far}x")));
    assert!(!pings(&outside, "10.127.10.200"), "VLAN 11 is another wire");
    drop(inside);
    drop(net);
    assert!(shown(&vlan).is_empty() && !shown(&other).is_empty());
    drop((outside, apart));
    assert!(shown(&other).is_empty());

    // One that was there stays; one that two networks stand on goes with the last.
    assert!(ip(&format!("link add link {} name {vlan} type vlan id 10", near.0)));
    drop(make("macvlan", &vlan, "10.127.9.0/24"));
    assert!(shown(&vlan).contains("id 10"));
    assert!(ip(&format!("link del {vlan}")));
    let (first, second) = (make("macvlan", &vlan, "10.127.9.0/25"), make("macvlan", &vlan, "10.127.9.128/25"));
    drop(first);
    assert!(shown(&vlan).contains("id 10"));
    drop(second);
    assert!(shown(&vlan).is_empty());

    if host_has("ipvlan", has("ipvlan")) {
        let net = make("ipvlan", &vlan, "10.127.9.0/24");
        let inside = Box::new(daemon, &["--network", &net.1, "--ip", "10.127.9.30"]);
        daemon.until("the far end answers on its VLAN", || pings(&inside, "10.127.9.2"));
    }
}

/// An SCTP socket of the one-to-one style, which speaks as TCP's does.
fn sctp() -> Option<OwnedFd> {
    rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::SCTP)).ok()
}

#[test]
fn sctp_ports_are_published() {
    if !host_has("sctp", sctp().is_some()) {
        return;
    }
    let daemon = shared();
    let server = Box::new(daemon, &["-p", "7000/sctp"]);
    let port = daemon.ok(&["port", &server.1, "7000/sctp"]);
    let port: u16 = port.lines().next().and_then(|line| line.rsplit_once(':')).expect("address:port").1.parse().unwrap();
    let pid = daemon.inspect(&server.1)["State"]["Pid"].as_i64().unwrap();
    // The image has no program that speaks it: the server is a thread that has gone into the container's network.
    let listener = std::thread::spawn(move || {
        let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(rustix::thread::LinkNameSpaceType::Network)).unwrap();
        let socket = sctp().unwrap();
        rustix::net::bind(&socket, &SocketAddr::from(([0, 0, 0, 0], 7000))).unwrap();
        rustix::net::listen(&socket, 8).unwrap();
        TcpListener::from(socket)
    })
    .join()
    .unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut word = [0; 5];
            connection.read_exact(&mut word).unwrap();
            connection.write_all(&word.map(|letter| letter.to_ascii_uppercase())).unwrap();
        }
    });
    let gateway = server.sh("ip route show default").split_whitespace().nth(2).unwrap().to_owned();
    for host in ["127.0.0.1", &gateway] {
        let socket = sctp().unwrap();
        rustix::net::connect(&socket, &SocketAddr::new(host.parse().unwrap(), port)).unwrap_or_else(|errno| panic!("{host}: {errno}"));
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap_or_else(|error| panic!("{host}: {error}"));
        assert_eq!(&answer, b"HELLO", "{host}");
    }
    let taken = daemon.fails(125, &["run", "--rm", "-p", &format!("{port}:1/sctp"), naru_e2e::BOX, "true"]);
    assert!(taken.contains("already") || taken.contains(&server.1), "{taken}");
}
