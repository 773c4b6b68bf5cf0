//! A daemon of its own for tests: own data root, run directory, bridge, subnet and cgroup, all removed at the end.
//!
//! The client is `naru`, or what `NARU_E2E_CLI` names (`docker`): the same tests must pass with both. A shell watches a
//! pipe of the test process and cleans up when it closes, so that a crashed or killed test leaves nothing either.

pub mod registry;
pub mod wire;

use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long anything may take before a test calls it hung. Generous: machines of tests are slow and shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The name of the busybox image in every daemon.
pub const BOX: &str = "box:1";

/// A daemon and the means to talk to it.
pub struct Daemon {
    /// Everything of it.
    pub root: PathBuf,
    number: u32,
    flags: Vec<String>,
    keeper: Option<(Child, ChildStdin)>,
    process: Mutex<Option<Child>>,
}

/// What a client run gave.
#[derive(Debug)]
pub struct Done {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

fn done(output: &Output) -> Done {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Done { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

/// The program under test: `NARU_BIN`, or the one built beside the tests.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("NARU_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().expect("a test knows its own program");
    let folder = own.parent().and_then(Path::parent).expect("tests lie in <profile>/deps");
    let path = folder.join("naru");
    assert!(path.exists(), "{} is not built; run `cargo build -p naru` first", path.display());
    path
}

/// The client's program and whether it is Naru's own.
pub fn client() -> (PathBuf, bool) {
    match std::env::var_os("NARU_E2E_CLI") {
        Some(path) if !path.is_empty() && path != "naru" => (path.into(), false),
        _ => (program(), true),
    }
}

/// A root file system with busybox and the usual files, as a tar archive.
pub fn busybox_archive() -> &'static [u8] {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let busybox = std::fs::read("/bin/busybox").expect("busybox is missing: apt-get install -y busybox-static");
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind: tar::EntryType, mode: u32, data: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_size(data.len() as u64);
            header.set_cksum();
            archive.append_data(&mut header, path, data).expect("memory takes it");
        };
        for folder in ["bin", "etc", "tmp", "root", "home", "var"] {
            let mode = if folder == "tmp" { 0o1777 } else { 0o755 };
            add(folder, tar::EntryType::Directory, mode, b"");
        }
        add("bin/busybox", tar::EntryType::Regular, 0o755, &busybox);
        add("etc/passwd", tar::EntryType::Regular, 0o644, b"root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n");
        add("etc/group", tar::EntryType::Regular, 0o644, b"root:x:0:\nbob:x:1000:\nextra:x:2000:bob\n");
        let names = Command::new("/bin/busybox").arg("--list").output().expect("busybox lists its programs");
        for name in String::from_utf8_lossy(&names.stdout).lines().filter(|name| *name != "busybox") {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            archive.append_link(&mut header, format!("bin/{name}"), "busybox").expect("memory takes it");
        }
        archive.into_inner().expect("memory takes it")
    })
}

/// Cleans up after a daemon; `$1` is its root, `$2` its bridge, `$3` its cgroup, `$4` the program.
const KEEPER: &str = r#"
read -r line
export DOCKER_HOST="unix://$1/s"
ids=$("$4" ps -aq 2>/dev/null)
[ -z "$ids" ] || "$4" rm -f $ids >/dev/null 2>&1
"$4" network prune -f >/dev/null 2>&1
kill "$(cat "$1/pid")" 2>/dev/null
while kill -0 "$(cat "$1/pid" 2>/dev/null)" 2>/dev/null; do sleep 0.05; done
for p in /sys/fs/cgroup/*/"$3" /sys/fs/cgroup/"$3"; do [ -d "$p" ] || continue
  for f in "$p"/*/cgroup.procs; do [ -e "$f" ] && kill -9 $(cat "$f") 2>/dev/null; done
  find "$p" -depth -type d -exec rmdir {} + 2>/dev/null; done
umount -l "$1/d" 2>/dev/null
nft delete table inet "naru-$2" 2>/dev/null
ip link del "$2" 2>/dev/null || busybox ip link del "$2" 2>/dev/null
rm -rf "$1"
"#;

/// Of one test program; there are subnets for 125 programs.
const MOST_DAEMONS: u32 = 128;

impl Daemon {
    /// Starts a daemon with the busybox image.
    pub fn start() -> Daemon {
        Daemon::with_flags(&[])
    }

    /// The same with further flags.
    pub fn with_flags(flags: &[&str]) -> Daemon {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Processes of parallel test binaries differ in their pid; threads of one in the counter.
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(next < MOST_DAEMONS, "more daemons than there are numbers: the next would be one that lives");
        let number = (std::process::id() % 125) * MOST_DAEMONS + next;
        let root = PathBuf::from(format!("/tmp/ne-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&root).expect("/tmp takes directories");
        let mut keeper = Command::new("/bin/sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&root)
            .args([format!("ne{number}"), format!("ne{number}")])
            .arg(program())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let pipe = keeper.stdin.take().expect("it was asked for");
        let mut daemon = Daemon {
            root,
            number,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            keeper: Some((keeper, pipe)),
            process: Mutex::default(),
        };
        daemon.launch();
        let image = daemon.feed(&["import", "-c", "CMD [\"sh\"]", "-", BOX], busybox_archive());
        assert_eq!(image.code, 0, "{image:?}");
        daemon
    }

    /// Starts the daemon's process and waits until it answers.
    pub fn launch(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.root.join("log")).expect("the log opens");
        // Above the subnets that tests name themselves.
        let (second, third) = (130 + self.number / 250, self.number % 250);
        let process = Command::new(program())
            .arg("daemon")
            .args(["-H", &self.host(), "--debug"])
            .args(["--config-file", "/dev/null"])
            .arg("--data-root")
            .arg(self.root.join("d"))
            .arg("--exec-root")
            .arg(self.root.join("e"))
            .arg("--pidfile")
            .arg(self.root.join("pid"))
            .args(["--bridge", &self.bridge(), "--bip", &format!("10.{second}.{third}.1/24")])
            .args(["--cgroup-parent", &format!("/ne{}", self.number)])
            .args(["--default-address-pool", &self.pool()])
            .args(&self.flags)
            // Nothing of the host's is asked to do anything for a test.
            .env("DBUS_SYSTEM_BUS_ADDRESS", self.bus())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        *self.process.lock().expect("no test panics with it") = Some(process);
        self.until("the daemon answers", || self.run(&["version"]).code == 0);
    }

    /// `DOCKER_HOST` of the daemon.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join("s")
    }

    /// The daemon's bridge.
    pub fn bridge(&self) -> String {
        format!("ne{}", self.number)
    }

    /// Addresses for its networks that no other daemon of the tests uses: 256 of the carriers' block, in subnets of 8.
    fn pool(&self) -> String {
        let base = std::net::Ipv4Addr::from(u32::from(std::net::Ipv4Addr::new(100, 64, 0, 0)) + self.number * 256);
        format!("base={base}/24,size=29")
    }

    /// Where it looks for a system bus: a name in its network namespace, which nobody has unless a test takes it.
    pub fn bus(&self) -> String {
        format!("unix:abstract={}", self.root.display())
    }

    /// The daemon's data root.
    pub fn data(&self) -> PathBuf {
        self.root.join("d")
    }

    /// Pid of the daemon.
    pub fn pid(&self) -> i32 {
        std::fs::read_to_string(self.root.join("pid")).expect("the daemon has a pid file").trim().parse().expect("a number")
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.root.join("log")).unwrap_or_default()
    }

    /// Kills the daemon with SIGKILL and waits until it is gone.
    pub fn kill(&self) {
        let mut process = self.process.lock().expect("no test panics with it").take().expect("the daemon was launched");
        process.kill().expect("the daemon lives");
        process.wait().expect("it is a child");
    }

    /// Asks the daemon to end and waits until it is gone.
    pub fn terminate(&self) {
        let pid = self.pid();
        let process = rustix::process::Pid::from_raw(pid).expect("a pid is not 0");
        rustix::process::kill_process(process, rustix::process::Signal::TERM).expect("the daemon lives");
        self.until("the daemon is gone", || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        });
    }

    /// What is left of containers when none exists: processes, links, cgroups, directories, mounts.
    pub fn leftovers(&self) -> Vec<String> {
        let names = |path: PathBuf| -> Vec<PathBuf> {
            std::fs::read_dir(path).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
        };
        let mut found = Vec::new();
        for folder in ["e/containers", "d/containers", "d/logs", "d/staging", "d/trash"] {
            found.extend(names(self.root.join(folder)).iter().map(|path| format!("directory {}", path.display())));
        }
        // Hierarchies of version 1 and a hybrid's second one, and the only one of version 2.
        for controller in names("/sys/fs/cgroup".into()).into_iter().chain(["/sys/fs/cgroup".into()]) {
            let own = controller.join(format!("ne{}", self.number));
            found.extend(names(own).iter().filter(|path| path.is_dir()).map(|path| format!("cgroup {}", path.display())));
        }
        for link in names("/sys/class/net".into()) {
            if link.join("master").read_link().is_ok_and(|master| master.ends_with(self.bridge())) {
                found.push(format!("link {}", link.display()));
            }
        }
        let root = self.root.display().to_string();
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.pid())).unwrap_or_default();
        // The data root itself may be a mount of the test.
        let data = format!(" {root}/d ");
        found.extend(mounts.lines().filter(|line| line.contains(&root) && !line.contains(&data)).map(|line| format!("mount {line}")));
        for process in names("/proc".into()) {
            let comm = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
            let holds = || names(process.join("fd")).iter().any(|fd| fd.read_link().is_ok_and(|path| path.starts_with(&self.root)));
            if comm.trim() == "naru-monitor" && holds() {
                found.push(format!("process {}", process.display()));
            }
        }
        found
    }

    /// Waits until nothing is left of any container.
    #[track_caller]
    pub fn until_clean(&self) {
        let start = Instant::now();
        loop {
            let left = self.leftovers();
            if left.is_empty() {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "still there: {left:#?}\n{}", self.tail());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A client command, not started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(client().0);
        command.args(args).env("DOCKER_HOST", self.host()).env("NO_COLOR", "1").env("DOCKER_CONFIG", self.root.join("config"));
        command
    }

    /// Runs the client without input.
    pub fn run(&self, args: &[&str]) -> Done {
        done(&self.command(args).stdin(Stdio::null()).output().expect("the client starts"))
    }

    /// Runs the client with input.
    pub fn feed(&self, args: &[&str], input: &[u8]) -> Done {
        let mut child =
            self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the client starts");
        let mut pipe = child.stdin.take().expect("it was asked for");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // A client that ends early does not read all of it.
            pipe.write_all(&input).ok();
        });
        let output = child.wait_with_output().expect("the client ends");
        writer.join().expect("the writer does not panic");
        done(&output)
    }

    /// Runs the client, which must succeed; its standard output without the last newline.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let result = self.run(args);
        assert_eq!(result.code, 0, "{args:?}: {result:?}\n{}", self.tail());
        result.out.trim_end_matches('\n').to_owned()
    }

    /// Runs the client, which must fail with that code; its standard error.
    #[track_caller]
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let result = self.run(args);
        assert_eq!(result.code, code, "{args:?}: {result:?}\n{}", self.tail());
        result.err
    }

    /// The last lines of the daemon's log, for messages.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// `inspect` as JSON.
    #[track_caller]
    pub fn inspect(&self, name: &str) -> Value {
        let text = self.ok(&["inspect", name]);
        let list: Value = serde_json::from_str(&text).expect("inspect prints JSON");
        list[0].clone()
    }

    /// Waits until `condition` holds.
    #[track_caller]
    pub fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < PATIENCE, "waited in vain until {what}\n{}", self.tail());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The stream that a request becomes, of which nothing but the head of the answer was read.
    #[track_caller]
    pub fn upgraded(&self, path: &str, body: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).expect("the daemon listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout is set");
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("the daemon reads");
        let (mut head, mut byte) = (vec![], [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("the daemon answers");
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        stream
    }

    /// A raw HTTP request on the daemon's socket: the whole answer, headers included.
    pub fn http(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).expect("the daemon listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout is set");
        // A server may answer, and close, before it has read all of a bad request.
        stream.write_all(request.as_bytes()).ok();
        let mut answer = Vec::new();
        // A connection that the server resets after its answer is answered all the same.
        stream.read_to_end(&mut answer).ok();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// An API call without a body (or with a JSON one): status and body.
    pub fn api(&self, method: &str, path: &str, body: Option<&str>) -> (u16, String) {
        let body = body.unwrap_or_default();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let answer = self.http(&format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some((mut keeper, pipe)) = self.keeper.take() {
            drop(pipe);
            // It ends by itself; a failure to wait changes nothing.
            keeper.wait().ok();
        }
    }
}

/// The daemon that tests share when they do not hurt it. Its keeper cleans up when the process ends.
pub fn shared() -> &'static Daemon {
    static SHARED: OnceLock<Daemon> = OnceLock::new();
    SHARED.get_or_init(Daemon::start)
}

/// Tells threads to end when it goes, also by a failure: a scope would wait for them for ever.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether the host has a feature, by its name and what was found. `NARU_E2E_REQUIRE` lists names, with commas, of
/// features whose tests must not be left out; `tests/vm/run` has a host with all of them.
#[track_caller]
pub fn host_has(feature: &str, found: bool) -> bool {
    let required = std::env::var("NARU_E2E_REQUIRE").unwrap_or_default();
    assert!(found || !required.split(',').any(|name| name == feature), "this host lacks {feature}");
    found
}

/// How often a test tries what may go wrong once in a thousand times: `usual`, or what `NARU_E2E_ROUNDS` says.
pub fn rounds(usual: u32) -> u32 {
    std::env::var("NARU_E2E_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Pid of the parent of a process: of a container's process it is the monitor.
pub fn parent(pid: i64) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).and_then(|pid| pid.trim().parse().ok()).unwrap_or(0)
}

/// A container name that no other test uses.
pub fn name(purpose: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{purpose}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
