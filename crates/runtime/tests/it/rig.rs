//! What the tests build containers with.

use naru_runtime::monitor::{self, Event, ExecRequest, ExitRecord, LogFile, Request, Response};
use naru_runtime::spawner::{AttachStream, Loaded, Preparation, Rootfs, RuntimeKind, Spawner, StartRequest};
use naru_runtime::spec::{Mount, Spec};
use naru_runtime::{FailureReason, defaults, seccomp};
use naru_types::ContainerId;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

static SPAWNER: OnceLock<Spawner> = OnceLock::new();
static DIRECTORIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Shared by all tests, as by all containers of a daemon.
pub fn spawner() -> &'static Spawner {
    SPAWNER.get_or_init(|| Spawner::launch().unwrap())
}

pub fn clean_up() {
    for directory in DIRECTORIES.lock().unwrap().drain(..) {
        let _ = std::fs::remove_dir_all(directory);
    }
    let _ = naru_runtime::cgroup::Cgroup::new(&cgroup_parent()).unwrap().remove();
}

/// A cgroup of this run of the tests.
pub fn cgroup_parent() -> String {
    format!("/naru-it-{}", std::process::id())
}

/// A directory that goes with the run.
pub fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("naru-it-{}-{name}-{}", std::process::id(), &ContainerId::random().as_str()[..8]));
    std::fs::create_dir_all(&path).unwrap();
    DIRECTORIES.lock().unwrap().push(path.clone());
    path
}

const APPLETS: &str = "sh true false cat ls id echo mount ps env sleep kill tty stty head yes dd grep wc readlink stat mkdir touch ln rm hostname \
                       chmod test seq pwd umount mknod sync trap ip df awk sort printf nproc cp mv dirname fallocate";

/// A root file system with busybox.
pub fn rootfs() -> PathBuf {
    let root = directory("root");
    for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "root"] {
        std::fs::create_dir(root.join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in APPLETS.split_whitespace() {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n").unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\napp:x:1001:\naudio:x:29:app\n").unwrap();
    std::fs::set_permissions(root.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    root
}

/// A container to be started.
pub struct Builder {
    pub id: ContainerId,
    pub spec: Spec,
    pub rootfs: PathBuf,
    pub directory: PathBuf,
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    pub init: bool,
    pub log: Option<LogFile>,
    pub network: Option<std::os::fd::OwnedFd>,
    pub attach: bool,
    pub throwaway: bool,
    pub runtime: RuntimeKind,
}

/// A shell script as container.
pub fn shell(script: &str) -> Builder {
    command(&["sh", "-c", script])
}

pub fn command(args: &[&str]) -> Builder {
    let id = ContainerId::random();
    let mut spec = defaults::spec();
    let names: Vec<String> = defaults::CAPABILITIES.iter().map(|&name| name.to_owned()).collect();
    let process = spec.process.as_mut().unwrap();
    process.args = args.iter().map(|&arg| arg.to_owned()).collect();
    let linux = spec.linux_mut();
    linux.seccomp = Some(seccomp::default_profile(&names));
    linux.cgroups_path = format!("{}/{id}", cgroup_parent());
    Builder {
        directory: directory("state"),
        rootfs: rootfs(),
        id,
        spec,
        tty: false,
        stdin: false,
        stdin_once: true,
        init: false,
        log: None,
        network: None,
        attach: true,
        throwaway: false,
        runtime: RuntimeKind::Native,
    }
}

impl Builder {
    pub fn mount(mut self, destination: &str, kind: &str, source: &str, options: &[&str]) -> Self {
        self.spec.mounts.push(Mount {
            destination: destination.into(),
            kind: kind.into(),
            source: source.into(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            ..Mount::default()
        });
        self
    }

    pub fn bind(self, source: &Path, destination: &str, options: &[&str]) -> Self {
        let mut all = vec!["rbind"];
        all.extend(options);
        self.mount(destination, "bind", source.to_str().unwrap(), &all)
    }

    /// This test program at `/probe`.
    pub fn with_probe(self) -> Self {
        let own = std::fs::read_link("/proc/self/exe").unwrap();
        self.bind(&own, "/probe", &["ro"])
    }

    pub fn with(mut self, change: impl FnOnce(&mut Builder)) -> Self {
        change(&mut self);
        self
    }

    /// Makes it but for its program.
    pub fn load(&mut self) -> Loaded {
        let linux = self.spec.linux.clone().unwrap_or_default();
        let own = self.runtime == RuntimeKind::Native;
        let preparation = Preparation {
            directory: self.directory.clone(),
            log: self.log.take(),
            cgroup: own.then(|| (linux.cgroups_path, linux.resources.unwrap_or_default())),
            throwaway: self.throwaway,
        };
        let request = StartRequest {
            id: self.id.clone(),
            spec: self.spec.clone(),
            rootfs: Rootfs::Path(self.rootfs.clone()),
            network_namespace: self.network.take(),
            tty: self.tty,
            open_stdin: self.stdin,
            stdin_once: self.stdin_once,
            init: self.init,
            runtime: self.runtime.clone(),
        };
        spawner().load(spawner().prepare(preparation).unwrap(), request).unwrap()
    }

    /// Starts it; the first event has not been looked at.
    pub fn launch(mut self) -> Running {
        let loaded = self.load();
        self.launch_loaded(loaded)
    }

    /// Starts what was loaded.
    pub fn launch_loaded(self, loaded: Loaded) -> Running {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let attach = AttachStream { socket: theirs.into(), stdin: self.stdin, stdout: true, stderr: true };
        let watch = loaded.start(if self.attach { vec![attach] } else { Vec::new() }).unwrap();
        let cgroup = naru_runtime::cgroup::Cgroup::new(&format!("{}/{}", cgroup_parent(), self.id)).unwrap();
        Running {
            _guard: Guard(cgroup),
            id: self.id,
            directory: self.directory,
            rootfs: self.rootfs,
            watch,
            stream: ours,
            tty: self.tty,
            pid: 0,
        }
    }

    /// Starts it and expects it to run.
    pub fn start(self) -> Running {
        let mut running = self.launch();
        match running.event() {
            Some(Event::Started { pid, .. }) => running.pid = pid,
            other => panic!("not started: {other:?}"),
        }
        running
    }

    /// Runs it to its end.
    pub fn run(self) -> Output {
        self.start().finish()
    }

    /// Expects it not to start.
    pub fn fail(self) -> (FailureReason, String) {
        let path = format!("{}/{}", cgroup_parent(), self.id);
        let mut running = self.launch();
        let failure = match running.event() {
            Some(Event::StartFailed { reason, message }) => (reason, message),
            other => panic!("expected a failed start, got {other:?}"),
        };
        assert_eq!(running.event(), None);
        assert!(!naru_runtime::cgroup::Cgroup::new(&path).unwrap().exists(), "the cgroup is left behind");
        failure
    }
}

/// A container that was started.
pub struct Running {
    pub id: ContainerId,
    pub directory: PathBuf,
    pub rootfs: PathBuf,
    pub watch: UnixStream,
    pub stream: UnixStream,
    pub tty: bool,
    pub pid: i32,
    _guard: Guard,
}

/// A test that fails leaves nothing running.
pub struct Guard(naru_runtime::cgroup::Cgroup);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.kill();
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub record: ExitRecord,
}

impl Running {
    pub fn event(&mut self) -> Option<Event> {
        monitor::receive_event(&mut self.watch).unwrap()
    }

    pub fn cgroup(&self) -> naru_runtime::cgroup::Cgroup {
        naru_runtime::cgroup::Cgroup::new(&format!("{}/{}", cgroup_parent(), self.id)).unwrap()
    }

    pub fn finish(mut self) -> Output {
        let (stdout, stderr) = read_streams(&mut self.stream, self.tty);
        loop {
            match self.event() {
                Some(Event::Exited(record)) => {
                    assert!(!self.cgroup().exists(), "the cgroup is left behind");
                    assert_eq!(monitor::read_exit_record(&self.directory).unwrap(), Some(record.clone()));
                    return Output { code: record.code, stdout, stderr, record };
                }
                Some(_) => {}
                None => panic!("the monitor ended without an exit record; stderr: {stderr}"),
            }
        }
    }

    pub fn connect(&self) -> UnixStream {
        monitor::connect(&self.directory).unwrap()
    }

    pub fn ask(&self, request: &Request) -> Response {
        let mut connection = self.connect();
        monitor::send_request(&mut connection, request).unwrap();
        monitor::receive_response(&mut connection).unwrap()
    }

    pub fn kill(&self, signal: i32) {
        assert_eq!(self.ask(&Request::Signal { signal }), Response::Ok);
    }

    /// An exec's request for a command.
    pub fn exec_request(id: &str, args: &[&str]) -> ExecRequest {
        let mut process = defaults::spec().process.unwrap();
        process.args = args.iter().map(|&arg| arg.to_owned()).collect();
        ExecRequest { id: id.into(), process, stdout: true, stderr: true, ..ExecRequest::default() }
    }

    /// Begins an exec; the stream and the response.
    pub fn exec(&self, request: ExecRequest) -> (UnixStream, Response) {
        let mut connection = self.connect();
        monitor::send_request(&mut connection, &Request::Exec(Box::new(request))).unwrap();
        let response = monitor::receive_response(&mut connection).unwrap();
        (connection, response)
    }

    /// Runs an exec to its end; output and exit code.
    pub fn exec_run(&mut self, args: &[&str]) -> (String, String, i32) {
        let id = ContainerId::random().to_string();
        let (mut stream, response) = self.exec(Self::exec_request(&id, args));
        assert!(matches!(response, Response::ExecStarted { .. }), "{response:?}");
        let (stdout, stderr) = read_streams(&mut stream, false);
        loop {
            match self.event() {
                Some(Event::ExecExited { id: ended, code }) if ended == id => return (stdout, stderr, code),
                Some(_) => {}
                None => panic!("the monitor ended"),
            }
        }
    }

    pub fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    pub fn end_input(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Reads raw or framed output until it contains `text`.
    pub fn read_until(&mut self, text: &str) -> String {
        read_until(&mut self.stream, text)
    }
}

pub fn read_until(stream: &mut UnixStream, text: &str) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    while !String::from_utf8_lossy(&all).contains(text) {
        let count = stream
            .read(&mut buffer)
            .unwrap_or_else(|error| panic!("{error} while waiting for {text:?}: {:?}", String::from_utf8_lossy(&all)));
        assert_ne!(count, 0, "{text:?} never came: {:?}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&buffer[..count]);
    }
    stream.set_read_timeout(None).unwrap();
    String::from_utf8_lossy(&all).into_owned()
}

/// All output of a stream: raw, or frames taken apart.
pub fn read_streams(stream: &mut UnixStream, raw: bool) -> (String, String) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    if raw {
        return (String::from_utf8_lossy(&bytes).into_owned(), String::new());
    }
    let mut streams = [Vec::new(), Vec::new()];
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[4..8].try_into().unwrap()) as usize;
        streams[usize::from(rest[0]) - 1].extend_from_slice(&rest[8..8 + length]);
        rest = &rest[8 + length..];
    }
    let [stdout, stderr] = streams.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (stdout, stderr)
}
