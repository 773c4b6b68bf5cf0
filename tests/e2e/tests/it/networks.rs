//! Networks of the user's: objects, names, connections, isolation, survival.

use crate::outside::Place;
use naru_e2e::{BOX, Daemon, name, shared};
use serde_json::Value;
use std::net::UdpSocket;
use std::sync::Arc;

/// A network that goes with its test.
pub struct Net<'d>(pub &'d Daemon, pub String);

impl<'d> Net<'d> {
    pub fn new(daemon: &'d Daemon, flags: &[&str]) -> Net<'d> {
        let name = name("net");
        daemon.ok(&[&["network", "create"], flags, &[&name]].concat());
        Net(daemon, name)
    }

    pub fn inspect(&self) -> Value {
        let text = self.0.ok(&["network", "inspect", &self.1]);
        serde_json::from_str::<Value>(&text).expect("inspect answers JSON")[0].clone()
    }
}

impl Drop for Net<'_> {
    fn drop(&mut self) {
        self.0.run(&["network", "rm", &self.1]);
    }
}

/// A running container that goes with its test.
pub struct Box<'d>(pub &'d Daemon, pub String);

impl<'d> Box<'d> {
    pub fn new(daemon: &'d Daemon, flags: &[&str]) -> Box<'d> {
        Box::running(daemon, flags, &["sleep", "1000"])
    }

    fn running(daemon: &'d Daemon, flags: &[&str], command: &[&str]) -> Box<'d> {
        let name = name("box");
        daemon.ok(&[&["run", "-d", "--init", "--name", &name], flags, &[BOX], command].concat());
        Box(daemon, name)
    }

    pub fn sh(&self, script: &str) -> String {
        self.0.ok(&["exec", &self.1, "sh", "-c", script])
    }

    pub fn fails(&self, script: &str) -> bool {
        self.0.run(&["exec", &self.1, "sh", "-c", script]).code != 0
    }

    pub fn address(&self, network: &str) -> String {
        self.0.inspect(&self.1)["NetworkSettings"]["Networks"][network]["IPAddress"].as_str().unwrap_or_default().to_owned()
    }
}

impl Drop for Box<'_> {
    fn drop(&mut self) {
        self.0.run(&["rm", "-f", &self.1]);
    }
}

/// The addresses that a name has for a container, sorted.
fn resolve(container: &Box<'_>, name: &str) -> Vec<String> {
    let text = container.sh(&format!("nslookup -type=a {name} 127.0.0.11 2>&1; true"));
    // The first address is the server's.
    let mut found: Vec<String> = text
        .lines()
        .skip(2)
        .filter_map(|line| line.strip_prefix("Address"))
        .filter_map(|rest| rest.split(' ').next_back())
        .map(str::to_owned)
        .collect();
    found.sort();
    found
}

#[test]
fn networks_are_objects() {
    let daemon = shared();
    let net = Net::new(daemon, &["--label", "purpose=test", "-o", "com.docker.network.driver.mtu=1400"]);
    let object = net.inspect();
    assert_eq!(object["Driver"], "bridge");
    assert_eq!(object["Labels"]["purpose"], "test");
    assert_eq!(object["Options"]["com.docker.network.driver.mtu"], "1400");
    assert!(object["IPAM"]["Config"][0]["Gateway"].as_str().is_some_and(|gateway| gateway.ends_with(".1") || gateway.contains('.')));
    let id = object["Id"].as_str().unwrap();
    // By name, id, prefix, and filters.
    assert_eq!(daemon.ok(&["network", "inspect", "-f", "{{.Name}}", &id[..12]]), net.1);
    let listed = |filter: &str| daemon.ok(&["network", "ls", "-f", filter, "--format", "{{.Name}}"]).lines().any(|line| line == net.1);
    assert!(
        listed("label=purpose=test")
            && listed(&format!("name={}", net.1))
            && listed(&format!("id={}", &id[..12]))
            && listed("dangling=true")
    );
    assert!(listed("type=custom") && !listed("type=builtin") && !listed("driver=macvlan"));
    assert!(daemon.fails(1, &["network", "create", &net.1]).contains("already exists"));
    let container = Box::new(daemon, &["--network", &net.1]);
    assert!(container.sh("cat /sys/class/net/eth0/mtu") == "1400");
    let object = net.inspect();
    let members = object["Containers"].as_object().unwrap();
    assert_eq!(members.len(), 1);
    assert!(members.values().all(|member| member["Name"] == container.1.as_str() && member["IPv4Address"].as_str().unwrap().contains('/')));
    assert!(daemon.fails(1, &["network", "rm", &net.1]).contains("has active endpoints"));
    assert!(!listed("dangling=true"));
    drop(container);
    daemon.ok(&["network", "rm", &net.1]);
    assert!(daemon.fails(1, &["network", "inspect", &net.1]).contains("not found"));
}

#[test]
fn what_networks_cannot_be() {
    let daemon = shared();
    let cases: &[(&[&str], &str)] = &[
        (&["-d", "nosuch", "x"], "\"nosuch\" not found"),
        (&["-d", "overlay", "x"], "not a swarm manager"),
        (&["-d", "host", "x"], "only one instance of \"host\" network is allowed"),
        (&["bridge"], "operation is not permitted on predefined bridge network"),
        (&["--subnet", "10.1.2.3/24", "x"], "it should be 10.1.2.0/24"),
        (&["--subnet", "10.1.2.0/24", "--subnet", "10.1.2.0/25", "x"], "overlap"),
        (&["-o", "com.docker.network.bridge.enable_icc=maybe", "x"], "enable_icc"),
        (&["-o", "com.docker.network.bridge.colour=red", "x"], "is not known"),
        (&["-o", "com.docker.network.bridge.name=a/b", "x"], "a name for an interface"),
    ];
    for (flags, text) in cases {
        let answer = daemon.run(&[&["network", "create"], *flags].concat());
        assert!(answer.code == 1 && answer.err.contains(text), "{flags:?}: {answer:?}");
    }
    assert!(daemon.fails(1, &["network", "rm", "bridge"]).contains("pre-defined network"));
    assert!(daemon.fails(125, &["run", "--rm", "--network", "nosuch-net", BOX, "true"]).contains("network nosuch-net not found"));
}

#[test]
fn containers_find_each_other_by_name() {
    let daemon = shared();
    let net = Net::new(daemon, &[]);
    let alias = name("alias");
    let one = Box::new(daemon, &["--network", &net.1, "--network-alias", &alias, "--hostname", "other"]);
    let two = Box::new(daemon, &["--network", &net.1, "--network-alias", &alias]);
    let (first, second) = (one.address(&net.1), two.address(&net.1));
    for known in [
        one.1.clone(),
        one.1.to_uppercase(),
        format!("{}.{}", one.1, net.1),
        daemon.inspect(&one.1)["Id"].as_str().unwrap()[..12].to_owned(),
    ] {
        assert_eq!(resolve(&two, &known), std::slice::from_ref(&first), "{known}");
    }
    let mut both = vec![first.clone(), second.clone()];
    both.sort();
    assert_eq!(resolve(&two, &alias), both);
    assert!(two.sh(&format!("nslookup {first} 127.0.0.11")).contains(&one.1));
    assert!(two.sh("cat /etc/resolv.conf").contains("nameserver 127.0.0.11"));
    two.sh(&format!("ping -c 1 -W 5 {}", one.1));
    // A container outside hears nothing of them.
    let outside = Net::new(daemon, &[]);
    let third = Box::new(daemon, &["--network", &outside.1]);
    assert!(resolve(&third, &one.1).is_empty());
    // A new name is known at once, the old one no more.
    let renamed = name("renamed");
    daemon.ok(&["rename", &one.1, &renamed]);
    assert_eq!(resolve(&two, &renamed), [first]);
    assert!(resolve(&two, &one.1).is_empty());
    daemon.ok(&["rename", &renamed, &one.1]);
}

#[test]
fn a_container_s_own_server_on_port_53_is_its_own() {
    let daemon = shared();
    let net = Net::new(daemon, &[]);
    let server = Box::running(daemon, &["--network", &net.1], &["nc", "-ll", "-p", "53", "-e", "echo", "own"]);
    daemon.until("it listens", || !server.fails("nc -w 2 127.0.0.1 53 </dev/null | grep -q own"));
    assert_eq!(resolve(&server, &server.1).len(), 1);
}

#[test]
fn running_containers_are_connected_and_taken_off() {
    let daemon = shared();
    let (first, second) = (Net::new(daemon, &["--subnet", "10.127.1.0/24"]), Net::new(daemon, &["--subnet", "10.127.2.0/24"]));
    let peer = Box::new(daemon, &["--network", &second.1]);
    let container = Box::new(daemon, &["--network", &first.1]);
    assert!(container.fails(&format!("ping -c 1 -W 1 {}", peer.address(&second.1))), "networks are apart");
    daemon.ok(&["network", "connect", "--ip", "10.127.2.77", "--alias", "seventy", &second.1, &container.1]);
    assert!(container.sh("ip addr show eth1").contains("10.127.2.77/24"));
    assert!(container.sh("cat /etc/hosts").contains("10.127.2.77"));
    container.sh(&format!("ping -c 1 -W 5 {}", peer.1));
    assert_eq!(resolve(&peer, "seventy"), ["10.127.2.77"]);
    assert!(daemon.fails(1, &["network", "connect", &second.1, &container.1]).contains("already exists in network"));
    // It keeps its networks over a restart.
    daemon.ok(&["restart", "-t", "0", &container.1]);
    assert_eq!(container.address(&second.1), "10.127.2.77");
    daemon.ok(&["network", "disconnect", &second.1, &container.1]);
    assert!(container.fails("ip addr show eth1"));
    assert!(!container.sh("cat /etc/hosts").contains("10.127.2.77"));
    assert!(resolve(&peer, "seventy").is_empty());
    assert!(daemon.fails(1, &["network", "disconnect", &second.1, &container.1]).contains("is not connected to network"));
    // Off its last network it has a loopback only, and can be connected again.
    daemon.ok(&["network", "disconnect", &first.1, &container.1]);
    assert_eq!(container.sh("ls /sys/class/net"), "lo");
    daemon.ok(&["network", "connect", &first.1, &container.1]);
    assert!(container.sh("ip route").contains("default via 10.127.1.1"));
}

#[test]
fn connections_that_cannot_be() {
    let daemon = shared();
    let (chosen, free) = (Net::new(daemon, &["--subnet", "10.127.3.0/24"]), Net::new(daemon, &[]));
    let container = Box::new(daemon, &["--network", &chosen.1, "--ip", "10.127.3.9"]);
    let host = Box::new(daemon, &["--network", "host"]);
    let none = Box::new(daemon, &["--network", "none"]);
    let connect = |flags: &[&str]| daemon.fails(1, &[&["network", "connect"], flags].concat());
    assert!(connect(&["nosuch-net", &container.1]).contains("network nosuch-net not found"));
    assert!(connect(&[&free.1, "nosuch-box"]).contains("No such container: nosuch-box"));
    assert!(connect(&["host", &container.1]).contains("cannot connect container to host network"));
    assert!(connect(&["none", &container.1]).contains("private (none) mode"));
    assert!(connect(&[&free.1, &none.1]).contains("private (none) mode"));
    assert!(connect(&[&free.1, &host.1]).contains("host"));
    assert!(connect(&["--ip", "10.127.3.10", &free.1, &container.1]).contains("user configured subnets"));
    let run = |flags: &[&str]| daemon.fails(125, &[&["run", "--rm"], flags, &[BOX, "true"]].concat());
    assert!(run(&["--network", &chosen.1, "--ip", "10.127.3.9"]).contains("Address already in use"));
    assert!(
        run(&["--network", &chosen.1, "--ip", "10.9.9.9"]).contains("no configured subnet or ip-range contain the IP address 10.9.9.9")
    );
    assert!(run(&["--ip", "10.9.9.9"]).contains("user specified IP address is supported on user defined networks only"));
    assert!(run(&["--network-alias", "x"]).contains("network-scoped alias"));
}

#[test]
fn several_networks_from_the_start() {
    let daemon = shared();
    // In alphabetical order, so that the first leads out.
    let (a, b) = (name("net-a"), name("net-b"));
    daemon.ok(&["network", "create", "--subnet", "10.127.4.0/24", &a]);
    daemon.ok(&["network", "create", "--subnet", "10.127.5.0/24", &b]);
    let (_a, _b) = (Net(daemon, a.clone()), Net(daemon, b.clone()));
    let container = Box::new(daemon, &["--network", &b, "--network", &format!("name={a},ip=10.127.4.44,alias=four")]);
    assert!(container.sh("ip route").contains("default via 10.127.4.1"));
    assert!(container.sh("ip addr").contains("10.127.4.44/24"));
    let preferred = Box::new(daemon, &["--network", &a, "--network", &format!("name={b},gw-priority=10")]);
    assert!(preferred.sh("ip route").contains("default via 10.127.5.1"));
    assert_eq!(resolve(&preferred, "four"), ["10.127.4.44"]);
    daemon.ok(&["network", "disconnect", &b, &preferred.1]);
    assert!(preferred.sh("ip route").contains("default via 10.127.4.1"), "the other network leads out now");
}

#[test]
fn options_of_an_endpoint() {
    let daemon = shared();
    let net = Net::new(daemon, &[]);
    let options = format!(
        "name={},mac-address=02:42:00:00:be:ef,\"driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1\",driver-opt=com.docker.network.endpoint.ifname=up0",
        net.1
    );
    let container = Box::new(daemon, &["--network", &options]);
    assert_eq!(container.sh("cat /sys/class/net/up0/address"), "02:42:00:00:be:ef");
    assert_eq!(container.sh("cat /proc/sys/net/ipv4/conf/up0/log_martians"), "1");
    let refused = daemon.fails(125, &["run", "--rm", "--network", &format!("name={},driver-opt=colour=red", net.1), BOX, "true"]);
    assert!(refused.contains("colour"), "{refused}");
    // The same of one that runs.
    let second = Net::new(daemon, &[]);
    let sysctls = |text: &str| format!("com.docker.network.endpoint.sysctls={text}");
    let connect = |text: &str| daemon.run(&["network", "connect", "--driver-opt", &sysctls(text), &second.1, &container.1]);
    for bad in ["net.ipv4.conf.IFNAME.no_such_parameter=1", "net.ipv4.conf.IFNAME.x/../../../../kernel/panic=1", "kernel.panic=1"] {
        let refused = connect(bad);
        assert_ne!(refused.code, 0, "{bad}");
        assert!(!container.sh("ls /sys/class/net").contains("eth"), "{bad}: the connection is taken back");
    }
    let connected = connect("net.ipv4.conf.IFNAME.log_martians=1");
    assert_eq!(connected.code, 0, "{connected:?}");
    assert_eq!(container.sh("cat /proc/sys/net/ipv4/conf/eth0/log_martians"), "1");
}

#[test]
fn networks_are_apart_and_internal_ones_closed() {
    let daemon = shared();
    let (one, two) = (Net::new(daemon, &[]), Net::new(daemon, &[]));
    let inner = Net::new(daemon, &["--internal"]);
    let server = |flags: &[&str]| Box::running(daemon, flags, &["httpd", "-f", "-p", "80"]);
    let (a, b) = (server(&["--network", &one.1]), server(&["--network", &two.1]));
    let peer = Box::new(daemon, &["--network", &one.1]);
    let get = |address: &str| format!("printf 'GET /etc/hostname HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} 80 | grep -q '200 OK'");
    daemon.until("the server answers its neighbour", || !peer.fails(&get(&a.address(&one.1))));
    assert!(peer.fails(&get(&b.address(&two.1))), "another network's container is out of reach");
    let (x, y) = (server(&["--network", &inner.1]), Box::new(daemon, &["--network", &inner.1]));
    daemon.until("internal containers reach each other", || !y.fails(&get(&x.1)));
    assert!(!y.sh("ip route").contains("default"));
    assert!(y.fails(&get(&a.address(&one.1))));
    assert!(y.fails("nslookup example.org 127.0.0.11"));
    let quiet = Net::new(daemon, &["-o", "com.docker.network.bridge.enable_icc=false"]);
    let (p, q) = (server(&["--network", &quiet.1]), Box::new(daemon, &["--network", &quiet.1]));
    daemon.until("the server answers itself", || !p.fails(&get("127.0.0.1")));
    assert!(q.fails(&get(&p.address(&quiet.1))), "containers of this network do not reach each other");
}

/// Answers every question with 192.0.2.7, until it is dropped.
struct NameServer(Arc<UdpSocket>);

impl NameServer {
    fn of(daemon: &Daemon, container: &'static str) -> NameServer {
        let socket = Arc::new(Place::of(daemon, container).run(|| UdpSocket::bind("0.0.0.0:53").unwrap()));
        let server = socket.clone();
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length @ 17.., client)) = server.recv_from(&mut query) {
                // One answer to the question; its name is that of the question.
                let counts = [0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
                let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 7];
                server.send_to(&[&query[..2], &counts, &query[12..length], &record].concat(), client).ok();
            }
        });
        NameServer(socket)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        // Not connected, which is an error, but wakes the reader.
        rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Both).ok();
    }
}

#[test]
fn name_servers_that_are_chosen_are_asked_from_the_container() {
    let daemon = Daemon::start();
    daemon.ok(&["network", "create", "--internal", "--subnet", "10.127.53.0/24", "inner"]);
    let run = |name: &str, flags: &[&str]| {
        daemon.ok(&[&["run", "-d", "--init", "--network", "inner", "--name", name], flags, &[BOX, "sleep", "1000"]].concat());
    };
    run("server", &["--ip", "10.127.53.9"]);
    run("own", &["--dns", "127.0.0.1"]);
    let _servers = ["server", "own"].map(|name| NameServer::of(&daemon, name));
    // A neighbour that has no outside, and one's own.
    run("client", &["--dns", "10.127.53.9"]);
    for name in ["client", "own"] {
        let asked = daemon.ok(&["exec", name, "nslookup", "-type=a", "somewhere.example", "127.0.0.11"]);
        assert!(asked.contains("192.0.2.7"), "{name}: {asked}");
    }
    // The host's servers are no way out.
    run("plain", &[]);
    assert_ne!(daemon.run(&["exec", "plain", "nslookup", "-type=a", "somewhere.example", "127.0.0.11"]).code, 0);
    daemon.ok(&["rm", "-f", "server", "own", "client", "plain"]);
    daemon.until_clean();
}

#[test]
fn ports_lead_in_wherever_the_container_is() {
    let daemon = shared();
    let net = Net::new(daemon, &[]);
    let server = Box::running(daemon, &["--network", &net.1, "-p", "127.0.0.1::80"], &["httpd", "-f", "-p", "80", "-h", "/etc"]);
    let port =
        || daemon.ok(&["port", &server.1, "80"]).lines().next().and_then(|line| line.rsplit(':').next()?.parse::<u16>().ok()).unwrap();
    let fetch = |port: u16| {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).ok()?;
        stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.contains("200 OK").then_some(())
    };
    let first = port();
    daemon.until("the port answers", || fetch(first).is_some());
    // Another network leads out now: the port follows.
    let ahead = name("a-net");
    daemon.ok(&["network", "create", &ahead]);
    let _ahead = Net(daemon, ahead.clone());
    daemon.ok(&["network", "connect", "--gw-priority", "5", &ahead, &server.1]);
    assert_eq!(port(), first);
    daemon.until("the port answers by the other network", || fetch(first).is_some());
    daemon.ok(&["network", "disconnect", &net.1, &server.1]);
    daemon.until("the port answers by the network left", || fetch(first).is_some());
    let taken = daemon.fails(125, &["run", "--rm", "-p", &format!("127.0.0.1:{first}:80"), BOX, "true"]);
    assert!(taken.contains("port is already allocated") && taken.contains(&server.1), "{taken}");
}

/// A link where the network has no IPv6 has none; one where it has takes no router advertisements. What the container makes
/// itself is its own business.
#[test]
fn links_have_ipv6_where_their_network_has() {
    let daemon = shared();
    let net = Net::new(daemon, &["--ipv6"]);
    let said = |network: &str| {
        let script = "cd /proc/sys/net/ipv6/conf; for i in eth0 default lo; do cat $i/disable_ipv6; done; cat eth0/accept_ra";
        daemon.ok(&["run", "--rm", "--network", network, BOX, "sh", "-c", script]).replace('\n', " ")
    };
    assert!(said("bridge").starts_with("1 0 0 "), "{}", said("bridge"));
    assert_eq!(said(&net.1), "0 0 0 0");
}

#[test]
fn ipv6_works_out_of_the_box() {
    let daemon = shared();
    let net = Net::new(daemon, &["--ipv6"]);
    assert_eq!(net.inspect()["EnableIPv6"], true);
    let (one, two) = (Box::new(daemon, &["--network", &net.1]), Box::new(daemon, &["--network", &net.1]));
    let address = daemon.inspect(&one.1)["NetworkSettings"]["Networks"][&net.1]["GlobalIPv6Address"].as_str().unwrap().to_owned();
    assert!(address.starts_with("fd"), "{address}");
    two.sh(&format!("ping -6 -c 1 -W 5 {address}"));
    assert!(two.sh(&format!("nslookup -type=aaaa {} 127.0.0.11", one.1)).contains(&address));
    assert!(two.sh("ip -6 route").contains("default via fd"));
    let only = Net::new(daemon, &["--ipv4=false", "--ipv6"]);
    let six = Box::new(daemon, &["--network", &only.1]);
    assert!(six.address(&only.1).is_empty() && six.sh("ip -6 addr show eth0").contains("fd"));
}

#[test]
fn interfaces_on_a_parent() {
    let daemon = shared();
    // Without a parent the network leads nowhere, but its containers reach each other.
    let net = Net::new(daemon, &["-d", "macvlan", "--subnet", "10.127.6.0/24"]);
    let (one, two) = (Box::new(daemon, &["--network", &net.1]), Box::new(daemon, &["--network", &net.1, "--ip", "10.127.6.60"]));
    // Nothing leads out, so that no address is a gateway's.
    assert_eq!((one.address(&net.1).as_str(), one.sh("ip route | grep default || true").as_str()), ("10.127.6.1", ""));
    let config = |net: &Net<'_>| net.inspect()["IPAM"]["Config"][0]["Gateway"].clone();
    assert_eq!(config(&net), Value::Null);
    one.sh("ping -c 1 -W 5 10.127.6.60");
    one.sh(&format!("ping -c 1 -W 5 {}", two.1));
    assert!(daemon.fails(1, &["network", "create", "-d", "macvlan", "-o", "macvlan_mode=tree", "macvlan-x"]).contains("tree"));
    let missing = daemon.run(&["network", "create", "-d", "macvlan", "-o", "parent=nosuch0", "macvlan-x"]);
    assert!(missing.code == 1 && missing.err.contains("nosuch0"), "{missing:?}");
}

#[test]
fn a_subnet_without_a_gateway_is_the_containers_own() {
    let daemon = shared();
    let mode = |family: u8| format!("com.docker.network.bridge.gateway_mode_ipv{family}=isolated");
    let isolated = ["--internal", "--ipv6", "-o", &mode(4), "-o", &mode(6), "--subnet", "10.127.12.0/24", "--subnet", "fd00:127:12::/64"];
    let addresses = |container: &Box<'_>| container.sh("ip -o addr show eth0 scope global | awk '{print $4}' | sort");
    let net = Net::new(daemon, &isolated);
    let (one, two) = (Box::new(daemon, &["--network", &net.1]), Box::new(daemon, &["--network", &net.1]));
    assert_eq!(
        addresses(&one),
        "10.127.12.1/24
fd00:127:12::1/64"
    );
    two.sh("ping -c 1 -W 5 10.127.12.1");
    let bridge = format!("br-{}", &net.inspect()["Id"].as_str().unwrap()[..12]);
    let host = std::process::Command::new("ip").args(["-o", "addr", "show", "dev", &bridge, "scope", "global"]).output().unwrap();
    assert!(host.status.success() && host.stdout.is_empty(), "{host:?}");
    drop((one, two));
    drop(net);
    for (flags, first) in [
        (vec!["--internal", "-o", &mode(4), "--subnet", "10.127.12.0/24", "--gateway", "10.127.12.1"], "10.127.12.2"),
        (vec!["--internal", "-o", "com.docker.network.bridge.inhibit_ipv4=true", "--subnet", "10.127.12.0/24"], "10.127.12.1"),
        (vec!["--internal", "--subnet", "10.127.12.0/24"], "10.127.12.2"),
        (vec!["-d", "macvlan", "--internal", "--subnet", "10.127.12.0/24", "--gateway", "10.127.12.7"], "10.127.12.1"),
    ] {
        let net = Net::new(daemon, &flags);
        let container = Box::new(daemon, &["--network", &net.1]);
        assert_eq!(container.address(&net.1), first, "{flags:?}");
    }
}

#[test]
fn links_of_old() {
    let daemon = shared();
    let target = Box::new(daemon, &["--expose", "5432", "-e", "SECRET=x"]);
    let client = Box::new(daemon, &["--link", &format!("{}:db", target.1)]);
    assert!(client.sh("cat /etc/hosts").contains(&format!("{}\tdb ", target.address("bridge"))));
    // It is the container that is meant, not who has its name.
    let (old, renamed) = (target.1.clone(), name("renamed"));
    daemon.ok(&["rename", &old, &renamed]);
    let other = daemon.ok(&["run", "-d", "--name", &old, BOX, "sleep", "1000"]);
    daemon.ok(&["restart", "-t", "0", &client.1]);
    assert!(
        client
            .sh("cat /etc/hosts")
            .contains(&format!("{}\tdb ", daemon.inspect(&renamed)["NetworkSettings"]["IPAddress"].as_str().unwrap()))
    );
    assert_eq!(daemon.inspect(&client.1)["HostConfig"]["Links"][0], format!("/{renamed}:/{}/db", client.1));
    daemon.ok(&["rm", "-f", &other]);
    daemon.ok(&["rename", &renamed, &old]);
    let env = client.sh("env");
    assert!(env.contains("DB_PORT_5432_TCP_PORT=5432") && env.contains("DB_ENV_SECRET=x"), "{env}");
    let net = Net::new(daemon, &[]);
    let named = Box::new(daemon, &["--network", &net.1]);
    let linked = Box::new(daemon, &["--network", &net.1, "--link", &format!("{}:store", named.1)]);
    assert_eq!(resolve(&linked, "store"), [named.address(&net.1)]);
    assert_eq!(resolve(&linked, &format!("Store.{}", net.1)), [named.address(&net.1)]);
    assert!(resolve(&named, "store").is_empty(), "the alias is its container's own");
}

#[test]
fn the_host_has_a_name() {
    let daemon = shared();
    let net = Net::new(daemon, &[]);
    let user = Box::new(daemon, &["--network", &net.1]);
    assert_eq!(resolve(&user, "host.docker.internal").len(), 1);
    let six = Net::new(daemon, &["--ipv6", "--ipv4=false"]);
    Box::new(daemon, &["--network", &six.1]).sh("ping -c 1 -W 5 host.docker.internal");
    let default = Box::new(daemon, &["--add-host", "gate:host-gateway"]);
    let hosts = default.sh("cat /etc/hosts");
    assert!(hosts.contains("host.docker.internal") && hosts.lines().any(|line| line.ends_with("\tgate")), "{hosts}");
}

#[test]
fn networks_survive_the_daemon() {
    let mut daemon = Daemon::start();
    let net = name("net");
    daemon.ok(&["network", "create", "--subnet", "10.127.7.0/24", "--label", "kept=yes", &net]);
    daemon.ok(&["run", "-d", "--init", "--name", "one", "--network", &net, "-p", "127.0.0.1::80", BOX, "httpd", "-f", "-p", "80"]);
    daemon.ok(&["run", "-d", "--init", "--name", "two", "--network", &net, BOX, "sleep", "1000"]);
    daemon.ok(&["network", "connect", "bridge", "two"]);
    let before = |daemon: &Daemon| (daemon.inspect("one")["NetworkSettings"].clone(), daemon.inspect("two")["NetworkSettings"].clone());
    let known = before(&daemon);
    daemon.kill();
    daemon.launch();
    assert_eq!(before(&daemon), known);
    assert_eq!(daemon.ok(&["network", "inspect", "-f", "{{.Labels.kept}}", &net]), "yes");
    daemon.ok(&["exec", "two", "ping", "-c", "1", "-W", "5", "one"]);
    // Addresses stay taken, names stay known, new containers come beside.
    daemon.ok(&["run", "--rm", "--network", &net, BOX, "ping", "-c", "1", "-W", "5", "two"]);
    let taken = daemon
        .fails(125, &["run", "--rm", "--network", &net, "--ip", known.0["Networks"][&net]["IPAddress"].as_str().unwrap(), BOX, "true"]);
    assert!(taken.contains("Address already in use"), "{taken}");
    daemon.ok(&["network", "disconnect", &net, "two"]);
    daemon.ok(&["rm", "-f", "one", "two"]);
    daemon.ok(&["network", "rm", &net]);
    daemon.until_clean();
}

#[test]
fn who_starts_and_ends_all_the_time_is_connected() {
    let daemon = Daemon::start();
    for net in ["first", "second"] {
        daemon.ok(&["network", "create", net]);
    }
    daemon.ok(&["run", "-d", "--restart", "always", "--name", "box", "--network", "first", BOX, "sh", "-c", "sleep 0.05; exit 1"]);
    for _ in 0..20 {
        daemon.ok(&["network", "connect", "second", "box"]);
        daemon.ok(&["network", "disconnect", "second", "box"]);
    }
    daemon.ok(&["rm", "-f", "box"]);
    daemon.ok(&["network", "rm", "first", "second"]);
    daemon.until_clean();
}

#[test]
fn coming_and_going_leaves_nothing() {
    let daemon = Daemon::start();
    let count = |daemon: &Daemon| {
        let entries = |path: &str| std::fs::read_dir(path).map(Iterator::count).unwrap_or_default();
        entries(&format!("/proc/{}/fd", daemon.pid()))
    };
    daemon.ok(&["network", "create", "cycle"]);
    daemon.ok(&["run", "-d", "--init", "--name", "box", "-p", "127.0.0.1::80", BOX, "sleep", "1000"]);
    let cycle = || {
        daemon.ok(&["network", "connect", "cycle", "box"]);
        daemon.ok(&["network", "disconnect", "cycle", "box"]);
    };
    cycle();
    let before = count(&daemon);
    for _ in 0..25 {
        cycle();
    }
    // Network namespaces kept ready hold two descriptors each, and were perhaps not all made at first.
    daemon.until("descriptors are as before", || count(&daemon) <= before + 12);
    assert_eq!(daemon.ok(&["exec", "box", "ls", "/sys/class/net"]), "eth0\nlo");
    daemon.ok(&["rm", "-f", "box"]);
    // A set of options for other networks is not in use, and stays.
    daemon.ok(&["network", "create", "--config-only", "options"]);
    assert_eq!(daemon.ok(&["network", "prune", "-f"]), "Deleted Networks:\ncycle");
    daemon.ok(&["network", "rm", "options"]);
    daemon.until_clean();
}

#[test]
fn events_tell_of_networks() {
    let daemon = Daemon::start();
    daemon.ok(&["network", "create", "told"]);
    daemon.ok(&["run", "--rm", "--network", "told", BOX, "true"]);
    daemon.ok(&["network", "rm", "told"]);
    let events = || {
        daemon.ok(&[
            "events",
            "--since",
            "1m",
            "--until",
            "0s",
            "--filter",
            "type=network",
            "--format",
            "{{.Action}} {{index .Actor.Attributes \"name\"}}",
        ])
    };
    daemon.until("all are told", || events().lines().count() == 4);
    assert_eq!(events(), "create told\nconnect told\ndisconnect told\ndestroy told");
    for predefined in ["none", "host"] {
        daemon.ok(&["run", "--rm", "--network", predefined, BOX, "true"]);
    }
    daemon.until("all are told", || events().lines().count() == 8);
    assert!(events().ends_with("connect none\ndisconnect none\nconnect host\ndisconnect host"), "{}", events());
}

#[test]
fn a_container_leaves_none_and_comes_back() {
    let daemon = Daemon::start();
    daemon.ok(&["network", "create", "net"]);
    daemon.ok(&["run", "-d", "--init", "--name", "alone", "--network", "none", BOX, "sleep", "1000"]);
    let on = || daemon.ok(&["inspect", "-f", "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}", "alone"]);
    assert_eq!(on().trim(), "none");
    daemon.ok(&["network", "disconnect", "none", "alone"]);
    daemon.ok(&["network", "connect", "net", "alone"]);
    assert_eq!(on().trim(), "net");
    assert!(daemon.ok(&["exec", "alone", "ip", "-o", "address"]).contains("eth0"));
    assert!(daemon.fails(1, &["network", "connect", "none", "alone"]).contains("private (none) mode"));
    daemon.ok(&["restart", "-t", "0", "alone"]);
    assert!(daemon.ok(&["exec", "alone", "ip", "-o", "address"]).contains("eth0"));
    daemon.ok(&["network", "disconnect", "net", "alone"]);
    daemon.ok(&["network", "connect", "none", "alone"]);
    assert_eq!(on().trim(), "none");
}

/// Names of the tables of a daemon, as `family name`.
fn tables(daemon: &Daemon) -> Vec<String> {
    let output = std::process::Command::new("nft").args(["list", "tables"]).output().expect("these tests need Debian's package nftables");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let own = format!("naru-{}", daemon.bridge());
    text.lines().filter_map(|line| line.strip_prefix("table ")).filter(|table| table.ends_with(&own)).map(str::to_owned).collect()
}

#[test]
fn rules_that_others_delete_return() {
    let daemon = Daemon::start();
    daemon.ok(&["network", "create", "net"]);
    daemon.ok(&["run", "-d", "--init", "--name", "one", "--network", "net", "-p", "127.0.0.1::80", BOX, "sleep", "1000"]);
    let before = tables(&daemon);
    assert!(!before.is_empty(), "the daemon has a table of its own");
    let rules = |table: &str| {
        let words: Vec<&str> = table.split(' ').collect();
        let output = std::process::Command::new("nft").args(["list", "table"]).args(words).output().expect("nft starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let known: Vec<String> = before.iter().map(|table| rules(table)).collect();
    for table in &before {
        let words: Vec<&str> = table.split(' ').collect();
        std::process::Command::new("nft").args(["delete", "table"]).args(words).status().expect("nft starts");
    }
    daemon.until("the rules are back", || before.iter().zip(&known).all(|(table, known)| sorted(&rules(table)) == sorted(known)));
    daemon.ok(&["rm", "-f", "one"]);
    daemon.ok(&["network", "rm", "net"]);
}

/// Lines without counters, in an order of their own: sets list their elements as they please.
fn sorted(rules: &str) -> Vec<String> {
    let mut words: Vec<String> = rules.split([' ', ',', '\n', '\t']).filter(|word| !word.is_empty()).map(str::to_owned).collect();
    words.sort();
    words
}

#[test]
fn the_host_s_own_rules_can_decide() {
    let daemon = Daemon::with_flags(&["--firewall-mode", "respect-host"]);
    daemon.ok(&["run", "-d", "--init", "--name", "server", "-p", "127.0.0.1::80", BOX, "httpd", "-f", "-p", "80", "-h", "/etc"]);
    let address = daemon.ok(&["port", "server", "80"]).lines().next().expect("a port").to_owned();
    daemon.until("the port answers", || {
        use std::io::{Read, Write};
        let Ok(mut stream) = std::net::TcpStream::connect(&address) else { return false };
        let mut answer = String::new();
        stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n").is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.contains("200 OK")
    });
    daemon.ok(&["rm", "-f", "server"]);
    let refused = std::process::Command::new(naru_e2e::program())
        .args(["daemon", "--validate", "--firewall-mode", "wide"])
        .output()
        .expect("it starts");
    assert!(!refused.status.success());
}

#[test]
fn a_thousand_ports_cost_no_process_and_come_back() {
    let daemon = Daemon::start();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).map(Iterator::count).unwrap_or_default();
    let threads = || std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).map(Iterator::count).unwrap_or_default();
    daemon.ok(&["run", "--rm", BOX, "true"]);
    let (before, tasks) = (descriptors(), threads());
    daemon.ok(&["run", "-d", "--init", "--name", "many", "-p", "127.0.0.1:21000-21999:21000-21999", BOX, "sleep", "1000"]);
    assert_eq!(daemon.ok(&["port", "many"]).lines().count(), 1000);
    // The daemon may have more descriptors for it than it was started with; its containers have not.
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.expect("a limit").to_string();
    assert_eq!(daemon.ok(&["exec", "many", "sh", "-c", "ulimit -n"]), own);
    assert!(threads() < tasks + 50, "ports are no threads");
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", daemon.pid())).unwrap_or_default();
    assert!(children.split_whitespace().count() < 5, "ports are no processes: {children}");
    let taken = daemon.fails(125, &["run", "--rm", "-p", "127.0.0.1:21500:1", BOX, "true"]);
    assert!(taken.contains("port is already allocated") && taken.contains("many"), "{taken}");
    daemon.ok(&["rm", "-f", "many"]);
    // Network namespaces kept ready hold two descriptors each, and were perhaps not all made at first.
    daemon.until("descriptors are as before", || descriptors() <= before + 12);
    daemon.ok(&["run", "--rm", "-p", "127.0.0.1:21500:1", BOX, "true"]);
}
