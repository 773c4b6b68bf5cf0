//! Beside a firewalld that owns its table, where nobody else may put a rule: it is asked by D-Bus.
//!
//! The host's firewalld runs in the "host" of [`World`], with a bus of its own, and owns its table: by itself where it knows
//! how to (since 2.2), else its library's connection to the kernel makes the table with the owner's flag. `NARU_E2E_FIREWALLD`
//! names a root file system whose firewalld is tried instead.

#![expect(clippy::print_stderr, reason = "a test that cannot run here says why")]

use crate::outside::{Case, HOST, OTHER, Place, World, check, program};
use naru_e2e::{Daemon, PATIENCE};
use std::io::{BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs firewalld's program. One that cannot own its table by itself has it made by the same connection, which then owns it.
const OWNER: &str = r#"
import runpy, sys
import firewall.core.nftables as backend

class Owner(backend.Nftables):
    def json_cmd(self, commands):
        done, part = [], []
        def run():
            code, output, error = super(Owner, self).json_cmd({"nftables": part}) if part else (0, None, "")
            done.extend((output or {}).get("nftables", list(part)))
            part.clear()
            return code, error
        for command in commands["nftables"]:
            if command.get("add", {}).get("table", {}).get("name") != "firewalld":
                part.append(command)
                continue
            code, error = run()
            if code == 0:
                code, _, error = self.cmd("add table inet firewalld { flags owner; }")
            if code != 0:
                return code, None, error
            done.append(command)
        code, error = run()
        return code, {"nftables": done}, error

if "supports_table_owner" not in open(backend.__file__).read():
    backend.Nftables = Owner
sys.argv = ["/usr/sbin/firewalld", "--nofork", "--nopid"]
runpy.run_path(sys.argv[0], run_name="__main__")
"#;

/// Holds a table as firewalld does, and answers nobody.
const SILENT: &str = r#"
import nftables, sys
nft = nftables.Nftables()
nft.cmd("add table inet firewalld { flags owner; }")
nft.cmd("add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; }")
code, _, error = nft.cmd("add rule inet firewalld filter_FORWARD drop")
print(code, error, flush=True)
sys.stdin.read()
"#;

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

/// A bus, and firewalld on it.
struct Firewalld {
    root: Option<String>,
    address: String,
    _bus: Running,
    process: Option<Running>,
}

impl Firewalld {
    /// None where there is none.
    fn start(daemon: &Daemon) -> Option<Firewalld> {
        let root = std::env::var("NARU_E2E_FIREWALLD").ok();
        if !std::path::Path::new(&format!("{}/usr/sbin/firewalld", root.as_deref().unwrap_or_default())).exists() {
            eprintln!("there is no firewalld here");
            return None;
        }
        let address = daemon.bus();
        let kinds = ["method_call", "method_return", "signal", "error"];
        let rules = kinds.map(|kind| format!("<allow send_type=\"{kind}\"/><allow receive_type=\"{kind}\"/>")).concat();
        let config = format!(
            "<busconfig><type>system</type><listen>{address}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow own=\"*\"/><allow user=\"*\"/>{rules}</policy></busconfig>"
        );
        let file = daemon.root.join("bus.conf");
        std::fs::write(&file, config).unwrap();
        let mut bus = Command::new("dbus-daemon");
        bus.arg("--nofork").arg("--config-file").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let mut firewalld = Firewalld { root, address, _bus: Running(bus.spawn().unwrap()), process: None };
        firewalld.begin();
        Some(firewalld)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = match &self.root {
            Some(root) => {
                let mut command = Command::new("chroot");
                command.args([root, program]);
                command
            }
            None => Command::new(program),
        };
        command.env("DBUS_SYSTEM_BUS_ADDRESS", &self.address);
        command
    }

    /// Starts it and waits until it has its rules.
    fn begin(&mut self) {
        let mut command = self.command("/usr/bin/python3");
        command.args(["-c", OWNER]).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(Running(command.spawn().unwrap()));
        let start = Instant::now();
        while !self.command("firewall-cmd").arg("--state").output().unwrap().status.success() {
            assert!(start.elapsed() < PATIENCE, "firewalld does not come up");
            std::thread::sleep(Duration::from_millis(100));
        }
        let refused = Command::new("nft").args(["insert", "rule", "inet", "firewalld", "filter_FORWARD", "accept"]).output().unwrap();
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(error.contains("Operation not permitted"), "the table has no owner: {error}");
    }

    /// Ends it as a service is ended, or all of a sudden.
    fn end(&mut self, suddenly: bool) {
        let mut process = self.process.take().unwrap();
        if !suddenly {
            let pid = rustix::process::Pid::from_child(&process.0);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            process.0.wait().unwrap();
        }
    }

    #[track_caller]
    fn ask(&self, words: &[&str]) -> String {
        let output = self.command("firewall-cmd").args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Interfaces of a zone, sorted.
    fn interfaces(&self, zone: &str) -> Vec<String> {
        let mut list: Vec<String> = self.ask(&["--zone", zone, "--list-interfaces"]).split_whitespace().map(str::to_owned).collect();
        list.sort();
        list
    }
}

/// What a container of network `number`, whose port 80 is published as `port`, reaches, and who reaches it.
fn cases<'p>(world: &'p World, container: &'p Place, number: u8, port: u16) -> Vec<(&'p Place, String, Option<&'static str>)> {
    let other = &world.other;
    vec![
        (container, "tcp 10.90.0.2:9000".into(), Some(HOST[0])),
        (container, "udp 10.90.0.2:9000".into(), Some(HOST[0])),
        (container, "tcp [fd00:90::2]:9000".into(), Some(HOST[1])),
        (other, format!("tcp 10.90.0.1:{port}"), Some(OTHER[0])),
        (other, format!("tcp [fd00:90::1]:{port}"), Some(OTHER[1])),
        // Nothing more is open than without firewalld.
        (other, format!("tcp 10.90.{number}.9:80"), None),
        (other, format!("tcp [fd00:90:{number}::9]:80"), None),
        (other, format!("tcp 10.90.{number}.9:81"), None),
        (other, format!("udp 10.90.{number}.9:80"), None),
    ]
}

#[track_caller]
fn passes(cases: &[(&Place, String, Option<&'static str>)]) {
    let cases: Vec<Case<'_>> = cases.iter().map(|(place, question, answer)| (*place, question.as_str(), *answer)).collect();
    check(&cases);
}

fn bridge(world: &World, network: &str) -> String {
    format!("br-{}", &world.daemon.ok(&["network", "inspect", "-f", "{{.Id}}", network]).trim()[..12])
}

/// Whether `info` says that firewalld drops packets.
fn warned(world: &World) -> bool {
    world.daemon.ok(&["info", "-f", "{{.Warnings}}"]).contains("inet firewalld filter_FORWARD of the host's firewall drops")
}

#[test]
fn containers_pass_a_firewalld_that_owns_its_table() {
    World::with(&[], |world| {
        let (_far, _near) = (world.other.serve(&[9000]), world.host.serve(&[7000]));
        world.network("one", 1, &[]);
        let (one, _one) = world.container("one", "one", 1, &["-p", "8001:80", "-p", "8001:80/udp"]);
        let Some(mut firewalld) = Firewalld::start(&world.daemon) else { return };
        let of_one = |world: &World| passes(&cases(world, &one, 1, 8001));
        of_one(world);
        // firewalld keeps the host's own ports closed, and containers of one network from those of another we do.
        check(&[(&world.other, "tcp 10.90.0.1:7000", None)]);
        let (default, bridge_one) = (world.daemon.bridge(), bridge(world, "one"));
        let trusted = |firewalld: &Firewalld| firewalld.interfaces("trusted");
        let mut both = vec![bridge_one.clone(), default];
        both.sort();
        world.daemon.until("both bridges are trusted", || trusted(&firewalld) == both);
        assert!(!warned(world));

        // It is that which lets them pass; who takes it back has it so, until firewalld loads its rules again.
        firewalld.ask(&["--zone", "trusted", "--remove-interface", &bridge_one]);
        check(&[(&one, "tcp 10.90.0.2:9000", None)]);
        for reload in ["--reload", "--complete-reload"] {
            firewalld.ask(&[reload]);
            of_one(world);
        }
        assert_eq!(firewalld.ask(&["--permanent", "--zone", "trusted", "--list-interfaces"]), "", "nothing is kept on its disk");

        // A network is trusted when it has been made, and not when it is gone; one that is in a zone stays there.
        world.network("two", 2, &[]);
        assert!(trusted(&firewalld).contains(&bridge(world, "two")));
        let (two, servers) = world.container("two", "two", 2, &["-p", "8002:80"]);
        passes(&cases(world, &two, 2, 8002));
        check(&[(&two, "tcp 10.90.1.9:80", None), (&one, "tcp [fd00:90:2::9]:80", None), (&two, "tcp 10.90.0.1:8001", Some("10.90.1.1"))]);
        drop((two, servers));
        world.daemon.ok(&["rm", "-f", "two"]);
        world.daemon.ok(&["network", "rm", "two"]);
        assert_eq!(trusted(&firewalld), both);
        firewalld.ask(&["--zone", "work", "--add-interface", "br-own"]);
        world.network("own", 3, &["-o", "com.docker.network.bridge.name=br-own"]);
        world.daemon.ok(&["network", "rm", "own"]);
        assert_eq!(firewalld.interfaces("work"), ["br-own"]);

        for suddenly in [false, true] {
            firewalld.end(suddenly);
            of_one(world);
            firewalld.begin();
            of_one(world);
        }
        world.daemon.kill();
        firewalld.ask(&["--reload"]);
        world.daemon.launch();
        of_one(world);
        world.daemon.until("both bridges are trusted again", || trusted(&firewalld) == both);

        // With the last container's daemon it is undone.
        drop(one);
        world.daemon.ok(&["rm", "-f", "one"]);
        world.daemon.terminate();
        assert_eq!(trusted(&firewalld), Vec::<String>::new());
        world.daemon.launch();
    });
}

#[test]
fn a_firewalld_that_does_not_answer_is_named_and_holds_up_nothing() {
    World::with(&[], |world| {
        let mut owner = Command::new("/usr/bin/python3");
        let mut owner =
            Running(owner.args(["-c", SILENT]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(owner.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.trim() != "0" {
            eprintln!("tables cannot be owned here: {line}");
            return;
        }
        // There is no bus.
        assert!(warned(world));
        // One that takes connections and says nothing.
        let name = world.daemon.bus();
        let name = SocketAddr::from_abstract_name(name.strip_prefix("unix:abstract=").unwrap()).unwrap();
        let silent = UnixListener::bind_addr(&name).unwrap();
        let start = Instant::now();
        world.network("one", 1, &[]);
        assert!(start.elapsed() < PATIENCE / 4, "a network waits for firewalld: {:?}", start.elapsed());
        assert!(warned(world));
        world.daemon.kill();
        let start = Instant::now();
        world.daemon.launch();
        let with = start.elapsed();
        drop(silent);
        world.daemon.kill();
        let start = Instant::now();
        world.daemon.launch();
        let without = start.elapsed();
        assert!(with < without + Duration::from_secs(2), "a start takes {with:?} with a bus that hangs, {without:?} without");
        // The owner is gone, and with it the table.
        owner.0.stdin.take().unwrap().flush().unwrap();
        owner.0.wait().unwrap();
        program("nft list tables");
        assert!(!warned(world));
    });
}
