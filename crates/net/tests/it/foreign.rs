//! Beside other programs' rules: nothing of theirs is touched, and what they destroy of ours comes back.

use crate::firewall::map;
use crate::support::*;
use naru_net::{Changed, Firewall, Links, Protocol, Watch};
use std::cell::RefCell;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A host with a published port, and what its watch tells.
fn watched() -> (Host, Namespace, Receiver<()>) {
    let host = Host::new();
    let bridge = host.bridge("br-a", "172.30.0.0/24");
    let container = host.container(bridge, "172.30.0.2/24");
    container.serve("0.0.0.0:80");
    let mut watch: Watch = host.host.run(|| host.firewall.watch().unwrap());
    host.firewall.publish(&[map(Protocol::Tcp, "0.0.0.0:8080", "172.30.0.2:80")]).unwrap();
    let (told, tells) = channel();
    std::thread::spawn(move || while watch.wait(None).is_ok() && told.send(()).is_ok() {});
    (host, container, tells)
}

fn open_passages(host: &Host) -> Vec<String> {
    host.host.run(|| host.firewall.open_passages().unwrap())
}

#[test]
fn who_drops_what_is_forwarded_is_known() {
    let (host, container, _tells) = watched();
    assert_eq!(open_passages(&host), Vec::<String>::new());
    host.outside.serve("0.0.0.0:90");
    let Some(()) = host.host.nft("add table ip mine; add chain ip mine FORWARD { type filter hook forward priority 0; policy drop; }")
    else {
        eprintln!("there is no nft here: other programs' policies are not tried");
        return;
    };
    host.host.nft("add table inet mine; add chain inet mine input { type filter hook input priority 0; policy drop; }").unwrap();
    assert_eq!(open_passages(&host), ["ip mine FORWARD"]);
    assert_eq!(container.ask("10.9.0.2:90"), None);
}

/// The engine's first act may be to watch: then already its own changes are none.
#[test]
fn a_watch_that_comes_first_knows_its_own() {
    let host = Namespace::new();
    let firewall = host.run(|| Firewall::open("naru-test", naru_net::FirewallConfig::default()).unwrap());
    let mut watch = host.run(|| firewall.watch().unwrap());
    firewall.ensure().unwrap();
    assert!(!watch.poll().unwrap());
    host.run(|| Firewall::open("naru-test", naru_net::FirewallConfig::default()).unwrap().ensure().unwrap());
    assert!(watch.poll().unwrap() && !watch.poll().unwrap());
}

#[test]
fn a_watch_hears_of_bridges_and_of_links_that_are_taken_off_by_hand() {
    let host = Namespace::new();
    let firewall = host.run(|| Firewall::open("naru-test", naru_net::FirewallConfig::default()).unwrap());
    let mut watch = host.run(|| firewall.watch().unwrap());
    let mut told = |commands: &[&str]| {
        commands.iter().for_each(|command| host.ip(command));
        let mut all = Changed::default();
        loop {
            let more = watch.wait(Some(Duration::from_millis(200))).unwrap();
            if more.bridges.is_empty() && more.bereft.is_empty() && more.strayed.is_empty() {
                return all;
            }
            all.bridges.extend(more.bridges);
            all.bereft.extend(more.bereft);
            all.strayed.extend(more.strayed);
        }
    };
    let made = told(&["link add br-x up type bridge"]);
    let (index, bridge) = made.bridges.iter().next().unwrap();
    assert!(made.bereft.is_empty() && bridge.name == "br-x", "{made:?}");
    // What is told of a container's pair wakes nobody.
    let pair = told(&["link add v0 type veth peer name v1", "link set v0 mtu 1400 name v2", "link set v2 up master br-x", "link del v2"]);
    assert!(pair.bridges.values().all(|link| link.name == "br-x") && pair.bereft.is_empty() && pair.strayed.is_empty(), "{pair:?}");
    // Nor that it goes with the container's namespace.
    let inside = Namespace::new();
    host.ip("link add v0 up master br-x type veth peer name wire2");
    assert!(move_link(&host, &inside));
    drop(inside);
    let links = host.run(|| Links::open("x").unwrap());
    while links.find(&name("v0")).unwrap().is_some() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let gone = told(&[]);
    assert!(gone.bereft.is_empty() && gone.strayed.is_empty(), "{gone:?}");
    told(&["link add v0 up master br-x type veth peer name v1", "link set v1 up"]);
    for (change, back) in [("down", "up"), ("nomaster", "master br-x")] {
        let strayed = told(&[&format!("link set v0 {change}")]).strayed;
        assert!(strayed.len() == 1 && strayed.contains("v0"), "{change}: {strayed:?}");
        assert!(told(&[&format!("link set v0 {back}")]).strayed.is_empty(), "{back}");
    }
    assert!(!told(&["link set br-x down"]).bridges[index].up);
    assert_eq!(told(&["link set br-x name br-y"]).bridges[index].name, "br-y");
    told(&["link set br-y up", "addr add 10.7.0.1/24 dev br-y"]);
    assert!(told(&["addr flush dev br-y"]).bereft.contains(index));
    assert!(told(&["link del br-y"]).bereft.contains(index));
}

fn is_told(tells: &Receiver<()>) -> bool {
    tells.recv_timeout(Duration::from_secs(5)).is_ok()
}

#[test]
fn what_others_destroy_comes_back() {
    let (host, _container, tells) = watched();
    // Its own changes are none.
    host.firewall.publish(&[map(Protocol::Tcp, "0.0.0.0:8081", "172.30.0.2:80")]).unwrap();
    host.firewall.ensure().unwrap();
    assert!(tells.recv_timeout(Duration::from_millis(300)).is_err());
    assert!(!host.firewall.repair().unwrap());
    host.host.run(|| Firewall::open("naru-test", naru_net::FirewallConfig::default()).unwrap().remove().unwrap());
    assert!(is_told(&tells));
    assert!(host.firewall.repair().unwrap());
    assert!(host.outside.ask("10.9.0.1:8080").is_some() && host.outside.ask("10.9.0.1:8081").is_some());
    assert!(!host.firewall.repair().unwrap());
}

#[test]
fn others_rules_are_not_touched() {
    let (host, _container, tells) = watched();
    let Some(()) = host.host.nft(
        "add table ip mine; add chain ip mine in { type filter hook input priority 0; }; add rule ip mine in tcp dport 9999 drop; \
         add table inet naru-test-not; add set inet naru-test-not any4 { type ipv4_addr; }",
    ) else {
        eprintln!("there is no nft here: other programs' rules are not tried");
        return;
    };
    let of_others = || {
        let rules = host.host.tool("nft", &["list", "ruleset"]).unwrap();
        let tables = rules.split("table ").map(str::trim).filter(|table| !table.is_empty() && !table.starts_with("inet naru-test {"));
        tables.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = of_others();
    assert_eq!(before.len(), 2, "{before:?}");
    assert!(tells.recv_timeout(Duration::from_millis(300)).is_err(), "others' changes of others' tables are nothing to us");
    // One rule, one element, everything.
    for damage in ["flush chain inet naru-test forward", "flush map inet naru-test any4", "delete table inet naru-test"] {
        host.host.nft(damage).unwrap();
        assert!(is_told(&tells), "{damage}");
        assert!(host.firewall.repair().unwrap(), "{damage}");
        while tells.try_recv().is_ok() {}
        assert!(host.outside.ask("10.9.0.1:8080").is_some(), "{damage}");
        assert_eq!(of_others(), before, "{damage}");
    }
    host.host.nft("flush ruleset").unwrap();
    assert!(is_told(&tells));
    assert!(host.firewall.repair().unwrap());
    assert!(host.outside.ask("10.9.0.1:8080").is_some());
    assert_eq!(of_others().len(), 0);
}

#[test]
fn beside_iptables_of_either_kind() {
    for iptables in ["iptables-nft", "iptables-legacy"] {
        let (host, container, tells) = watched();
        let run = |arguments: &str| host.host.tool(iptables, &arguments.split(' ').collect::<Vec<_>>());
        if run("-N MINE").is_none() {
            eprintln!("there is no {iptables} here");
            continue;
        }
        host.outside.serve("0.0.0.0:90");
        for rule in ["-A MINE -s 10.0.0.9 -j DROP", "-A FORWARD -j MINE", "-t nat -A POSTROUTING -s 1.2.3.0/24 -j MASQUERADE"] {
            run(rule).unwrap();
        }
        let list = || [run("-S").unwrap(), run("-t nat -S").unwrap()].concat();
        // A chain that another leads to may refuse everything: that is looked at, and it does not.
        while tells.recv_timeout(Duration::from_millis(300)).is_ok() {}
        assert_eq!(open_passages(&host), Vec::<String>::new());
        let before = list();
        assert!(host.outside.ask("10.9.0.1:8080").is_some());
        assert_eq!(container.ask("10.9.0.2:90").as_deref(), Some(HOST));
        host.firewall.ensure().unwrap();
        assert_eq!(list(), before);
        run("-F").unwrap();
        run("-t nat -F").unwrap();
        assert!(tells.recv_timeout(Duration::from_millis(300)).is_err(), "{iptables} -F is not about us");
        assert!(!host.firewall.repair().unwrap());
        assert!(host.outside.ask("10.9.0.1:8080").is_some());
    }
}

/// A host whose containers reach the outside and are reached from there, and find each other on one bridge as on two,
/// whatever `refuse` makes the host drop.
fn passes_through(refuse: impl FnOnce(&Namespace) -> Option<()>, again: impl FnOnce(&Namespace)) {
    let (host, container, tells) = watched();
    let neighbour = host.container(index_of(&host, "br-a"), "172.30.0.3/24");
    neighbour.serve("0.0.0.0:80");
    host.outside.serve("0.0.0.0:90");
    host.filter_bridges(true);
    if refuse(&host.host).is_none() {
        return;
    }
    let reaches =
        || (container.ask("10.9.0.2:90").is_some(), container.ask("172.30.0.3:80").is_some(), host.outside.ask("10.9.0.1:8080").is_some());
    assert_ne!(reaches(), (true, true, true), "the host refuses nothing: the test shows nothing");
    assert!(is_told(&tells), "somebody refuses what is forwarded");
    assert!(!host.firewall.repair().unwrap());
    assert_eq!(open_passages(&host), Vec::<String>::new());
    assert_eq!(reaches(), (true, true, true));
    // Nothing more is open than before.
    assert_eq!(host.outside.ask("172.30.0.2:80"), None);
    while tells.recv_timeout(Duration::from_millis(300)).is_ok() {}
    again(&host.host);
    assert!(is_told(&tells), "the rule was lost");
    assert_eq!(open_passages(&host), Vec::<String>::new());
    assert_eq!(reaches(), (true, true, true));
    let rules = || host.host.tool("nft", &["list", "ruleset"]).unwrap();
    assert!(rules().contains("comment \"naru-test\""), "{}", rules());
    assert_eq!(open_passages(&host), Vec::<String>::new());
    let own = |rules: &str| rules.matches("comment \"naru-test\"").count();
    let before = own(&rules());
    open_passages(&host);
    assert_eq!(own(&rules()), before, "a rule is there once");
    host.host.run(|| host.firewall.close_passages().unwrap());
    assert_eq!(own(&rules()), 0);
}

fn index_of(host: &Host, link: &str) -> u32 {
    host.host
        .run(|| std::fs::read_to_string(format!("/proc/thread-self/net/dev_snmp6/{link}")).unwrap())
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn containers_pass_chains_of_iptables() {
    passes_through(
        |host| {
            let run = |arguments: &str| host.tool("iptables-nft", &arguments.split(' ').collect::<Vec<_>>());
            if run("-P FORWARD DROP").is_none() {
                eprintln!("there is no iptables-nft here");
                return None;
            }
            Some(())
        },
        |host| {
            let run = |arguments: &str| host.tool("iptables-nft", &arguments.split(' ').collect::<Vec<_>>());
            // iptables understands the rule, and what it saves and restores is the same.
            assert!(run("-S FORWARD").unwrap().contains("--mark 0x20000000/0x20000000"), "{:?}", run("-S FORWARD"));
            host.tool("sh", &["-c", "iptables-nft-save | iptables-nft-restore"]).unwrap();
            assert!(run("-S FORWARD").unwrap().contains("--mark 0x20000000/0x20000000"));
            run("-F FORWARD").unwrap();
        },
    );
}

#[test]
fn containers_pass_a_refusal_at_the_end_of_a_chain() {
    let run = |host: &Namespace, arguments: &str| host.tool("iptables-nft", &arguments.split(' ').collect::<Vec<_>>());
    let refuse = "-A FORWARD -m comment --comment all -j REJECT --reject-with icmp-host-prohibited";
    passes_through(
        |host| {
            if run(host, "-A FORWARD -m conntrack --ctstate INVALID -j DROP").is_none() {
                eprintln!("there is no iptables-nft here");
                return None;
            }
            run(host, refuse).map(drop)
        },
        |host| {
            run(host, "-F FORWARD").unwrap();
            run(host, refuse).unwrap();
        },
    );
}

/// The refusal is not in the base chain itself: it may come to be there by the jump, by the rule, or by the loss of what
/// stood before it.
#[test]
fn containers_pass_a_refusal_in_a_chain_that_is_led_to() {
    let run = |host: &Namespace, arguments: &str| host.tool("iptables-nft", &arguments.split(' ').collect::<Vec<_>>());
    let all = |host: &Namespace, commands: &[&str]| commands.iter().try_for_each(|command| run(host, command).map(drop));
    let chains = ["-N INNER", "-A INNER -s 10.0.0.9 -j ACCEPT", "-A INNER -j REJECT", "-N OUTER", "-A OUTER -d 10.0.0.9 -j DROP"];
    let by_jump = ["-A OUTER -j INNER", "-A FORWARD -j OUTER"];
    let by_goto = ["-A FORWARD -j OUTER", "-A OUTER -g INNER"];
    let by_loss = ["-A OUTER -j RETURN", "-A OUTER -j INNER", "-A FORWARD -j OUTER", "-D OUTER -j RETURN"];
    for how in [&by_jump[..], &by_goto, &by_loss] {
        passes_through(
            |host| {
                if all(host, &chains).is_none() {
                    eprintln!("there is no iptables-nft here");
                    return None;
                }
                assert!(all(host, how).is_some(), "{how:?}");
                Some(())
            },
            |host| all(host, &["-F FORWARD", "-A FORWARD -m comment --comment all -j OUTER"]).unwrap(),
        );
    }
}

#[test]
fn containers_pass_ufw() {
    // In a mount namespace of its own, so that the host's ufw keeps its files.
    let ufw = |host: &Namespace, then: &str| {
        let script = format!(
            "d=$(mktemp -d) && cp -a /etc/ufw $d && cp -a /etc/default $d && mount --bind $d/ufw /etc/ufw && mount --bind $d/default /etc/default && {then}; s=$?; umount /etc/ufw /etc/default; rm -rf $d; exit $s"
        );
        host.tool("unshare", &["-m", "sh", "-c", &script])
    };
    passes_through(
        |host| {
            if !std::path::Path::new("/usr/sbin/ufw").exists() {
                eprintln!("there is no ufw here");
                return None;
            }
            ufw(host, "ufw default deny incoming && ufw --force enable").unwrap();
            Some(())
        },
        |host| drop(ufw(host, "ufw --force enable && ufw reload").unwrap()),
    );
}

#[test]
fn containers_pass_firewalld() {
    if !std::path::Path::new("/usr/sbin/firewalld").exists() {
        eprintln!("there is no firewalld here");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("bus");
    let listen = format!("unix:path={}", socket.display());
    let kinds = ["method_call", "method_return", "signal", "error"];
    let rules = kinds.map(|kind| format!("<allow send_type=\"{kind}\"/><allow receive_type=\"{kind}\"/>")).concat();
    let config = format!(
        "<busconfig><type>system</type><listen>{listen}</listen><auth>EXTERNAL</auth><policy context=\"default\"><allow own=\"*\"/><allow user=\"*\"/>{rules}</policy></busconfig>"
    );
    let file = home.path().join("bus.conf");
    std::fs::write(&file, config).unwrap();
    let bus = Running::default();
    let daemon = Running::default();
    let program = |host: &Namespace, words: &[&str]| {
        host.run(|| {
            Command::new(words[0])
                .args(&words[1..])
                .env("DBUS_SYSTEM_BUS_ADDRESS", &listen)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
        })
        .unwrap()
    };
    let command = |host: &Namespace, word: &str| program(host, &["firewall-cmd", word]).wait().unwrap().success();
    passes_through(
        |host| {
            bus.hold(program(host, &["dbus-daemon", "--nofork", "--config-file", file.to_str().unwrap()]));
            daemon.hold(program(host, &["firewalld", "--nofork", "--nopid"]));
            let is_up = (0..100).any(|_| {
                std::thread::sleep(Duration::from_millis(100));
                command(host, "--state")
            });
            assert!(is_up, "firewalld does not come up");
            Some(())
        },
        |host| assert!(command(host, "--complete-reload")),
    );
}

/// A program that ends with the test.
#[derive(Default)]
struct Running(RefCell<Option<Child>>);

impl Running {
    fn hold(&self, child: Child) {
        self.0.replace(Some(child));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().and_then(|()| child.wait()).ok();
        }
    }
}
