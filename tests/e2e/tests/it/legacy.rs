//! The rules of `iptables-legacy`, which the kernel asks beside nftables: containers pass them, and they stay as they were.

use crate::outside::{HOST, OTHER, Place, World, check, program};
use naru_e2e::{BOX, Daemon, host_has};
use std::io::Write;
use std::process::{Command, Stdio};

/// Rules of another program with chains, jumps in both directions, and counters, as `iptables-legacy-save -c` tells them.
fn legacy_rules(network: &str, by: Refusal) -> String {
    let (policy, last, chain, stop) = match by {
        Refusal::Policy => ("DROP", "", "", ""),
        Refusal::Rule => ("ACCEPT", "[9:540] -A FORWARD -j REJECT\n", "", ""),
        Refusal::Chain => ("ACCEPT", "[9:540] -A FORWARD -j STOP\n", ":STOP - [0:0]\n", "[9:540] -A STOP -j REJECT\n"),
    };
    format!(
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD {policy} [5:500]\n:OUTPUT ACCEPT [0:0]\n:LAST - [0:0]\n:MINE - [0:0]\n{chain}\
         [1:60] -A INPUT -s {network} -j MINE\n\
         [2:120] -A FORWARD -s {network} -m limit --limit 5/min -j MINE\n\
         [3:180] -A FORWARD -d {network} -p tcp -m tcp --dport 22 -m comment --comment \"of another\" -j LAST\n{last}\
         [4:240] -A OUTPUT -d {network} -g LAST\n\
         [7:420] -A LAST -p udp -m udp --dport 9 -j DROP\n\
         [8:480] -A LAST -m mark --mark 0x1 -j ACCEPT\n\
         [5:300] -A MINE -d {network} -j RETURN\n\
         [6:360] -A MINE -j LAST\n{stop}COMMIT\n"
    )
}

/// How `FORWARD` refuses what it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Policy,
    /// Its last rule is for all packets.
    Rule,
    /// So is that of a chain which it leads to.
    Chain,
}

/// The programs of both families, and a network of each that nobody uses.
const LEGACY: [(&str, &str); 2] = [("iptables-legacy", "192.0.2.0/24"), ("ip6tables-legacy", "2001:db8::/32")];

/// What was saved, line by line: without times, and without counters of what counts the host's own packets, and those that
/// come while the way is not open yet.
fn lines_of(saved: &str) -> Vec<String> {
    let counts = |line: &str| {
        [":INPUT", ":OUTPUT", ":FORWARD DROP"].iter().any(|start| line.starts_with(start))
            || ["FORWARD -j REJECT", "FORWARD -j STOP", "STOP -j REJECT"].iter().any(|rule| line.contains(rule))
    };
    let plain = |line: &str| match (line.split_once('['), line.split_once(']')) {
        (Some((before, _)), Some((_, after))) if counts(line) => {
            format!("{before}[]{}", after.split(" --reject").next().unwrap_or_default())
        }
        _ => line.to_owned(),
    };
    saved.lines().filter(|line| !line.starts_with('#')).map(plain).collect()
}

/// What a program has saved, the daemon's rules apart.
fn saved(tool: &str, daemon: &Daemon) -> (Vec<String>, Vec<String>) {
    let own = format!("--comment naru-{}", daemon.bridge());
    lines_of(&program(&format!("{tool}-save -c -t filter"))).into_iter().partition(|line| line.contains(&own))
}

fn restore_legacy(tool: &str, rules: &str) {
    let mut restore = Command::new(format!("{tool}-restore")).arg("-c").stdin(Stdio::piped()).spawn().unwrap();
    restore.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(restore.wait().unwrap().success());
}

/// The tables of `iptables-legacy` that this place has.
fn legacy_tables() -> String {
    let names = |file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    names("ip_tables_names") + &names("ip6_tables_names")
}

fn host_has_legacy() -> bool {
    let lists = |(tool, _): &(&str, &str)| Command::new(tool).args(["-S"]).output().is_ok_and(|output| output.status.success());
    let found = Place::new("trial").run(|| LEGACY.iter().all(lists) && legacy_tables().contains("filter"));
    host_has("iptables-legacy", found)
}

#[test]
fn chains_of_iptables_legacy_are_passed_and_else_kept() {
    if !host_has_legacy() {
        return;
    }
    for by in [Refusal::Policy, Refusal::Rule, Refusal::Chain] {
        World::with(&[], |world| {
            let (daemon, other) = (&world.daemon, &world.other);
            let _far = other.serve(&[9000]);
            world.network("one", 1, &[]);
            let (one, _one) = world.container("one", "one", 1, &["-p", "8001:80"]);
            let reached = [
                (&one, "tcp 10.90.0.2:9000", Some(HOST[0])),
                (&one, "tcp [fd00:90::2]:9000", Some(HOST[1])),
                (other, "tcp 10.90.0.1:8001", Some(OTHER[0])),
                (other, "tcp [fd00:90::1]:8001", Some(OTHER[1])),
                (other, "tcp 10.90.1.9:81", None),
            ];
            check(&reached);
            assert_eq!(legacy_tables(), "", "a host without iptables-legacy stays without");
            for (tool, network) in LEGACY {
                restore_legacy(tool, &legacy_rules(network, by));
            }
            let others = |network| lines_of(&legacy_rules(network, by));
            let is_open = || LEGACY.iter().all(|(tool, _)| saved(tool, daemon).0.len() == 1);
            let same = |when: &str| {
                for (tool, network) in LEGACY {
                    assert_eq!(saved(tool, daemon).1, others(network), "{tool} {when}");
                }
            };
            daemon.until("the way is open", is_open);
            check(&reached);
            same("with the daemon's rule");
            // It is there once, first, and says whose it is.
            let rule = format!("-A FORWARD -m mark --mark 0x20000000/0x20000000 -m comment --comment naru-{} -j ACCEPT", daemon.bridge());
            for (tool, _) in LEGACY {
                assert_eq!(program(&format!("{tool} -S FORWARD")).lines().nth(1), Some(rule.as_str()));
            }
            // What is saved and restored with it keeps it.
            for (tool, _) in LEGACY {
                restore_legacy(tool, &program(&format!("{tool}-save -c")));
            }
            daemon.ok(&["run", "--rm", "--network", "one", BOX, "true"]);
            assert!(is_open());
            same("after it was restored");
            daemon.ok(&["rm", "-f", "one"]);
            daemon.terminate();
            for (tool, network) in LEGACY {
                assert_eq!(saved(tool, daemon), (vec![], others(network)), "{tool} without the daemon");
            }
        });
    }
}

#[test]
fn a_way_through_iptables_legacy_returns() {
    if !host_has_legacy() {
        return;
    }
    World::with(&[], |world| {
        let (daemon, other) = (&world.daemon, &world.other);
        let _far = other.serve(&[9000]);
        world.network("one", 1, &[]);
        let (one, _one) = world.container("one", "one", 1, &[]);
        let reached = [(&one, "tcp 10.90.0.2:9000", Some(HOST[0])), (&one, "tcp [fd00:90::2]:9000", Some(HOST[1]))];
        let is_open = || LEGACY.iter().all(|(tool, _)| saved(tool, daemon).0.len() == 1);
        for change in ["-P FORWARD DROP", "-F FORWARD", "-F"] {
            for (tool, _) in LEGACY {
                program(&format!("{tool} {change}"));
            }
            // A container that starts has its way at once,
            daemon.ok(&["run", "--rm", "--network", "one", BOX, "true"]);
            assert!(is_open(), "{change}");
            check(&reached);
            // and one that runs, soon.
            for (tool, _) in LEGACY {
                program(&format!("{tool} {change}"));
            }
            daemon.until("the way is open again", is_open);
            check(&reached);
        }
        assert!(!daemon.ok(&["info"]).contains("firewall drops"));
        // Where nothing is refused, nothing is written.
        for (tool, _) in LEGACY {
            program(&format!("{tool} -P FORWARD ACCEPT"));
            program(&format!("{tool} -F"));
        }
        daemon.ok(&["run", "--rm", "--network", "one", BOX, "true"]);
        assert!(LEGACY.iter().all(|(tool, _)| saved(tool, daemon).0.is_empty()));
        check(&reached);
    });
}
