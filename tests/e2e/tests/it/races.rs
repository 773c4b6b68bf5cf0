//! Directories that become links while the engine works in them. Few rounds here; `NARU_E2E_ROUNDS=5000` for many.

use naru_e2e::{BOX, Daemon, Over, PATIENCE, name, rounds, shared};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A directory of the host that nobody may touch, and the lines of its mount table.
struct Canary {
    folder: tempfile::TempDir,
    mounts: usize,
}

fn mounts_below(folder: &std::path::Path) -> usize {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.contains(&folder.display().to_string())).count()
}

impl Canary {
    fn new() -> Canary {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("note"), "of the host").unwrap();
        Canary { mounts: mounts_below(folder.path()), folder }
    }

    fn path(&self) -> String {
        self.folder.path().display().to_string()
    }

    #[track_caller]
    fn check(&self) {
        let names: Vec<_> = std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["note"], "something was made on the host");
        assert_eq!(std::fs::read_to_string(self.folder.path().join("note")).unwrap(), "of the host");
        assert_eq!(mounts_below(self.folder.path()), self.mounts, "something was mounted on the host");
    }
}

/// Whether to go on: so many rounds, and more until one has met the directory and not the link.
fn go_on(turn: u32, least: u32, met: bool, begun: Instant) -> bool {
    turn < least || !met && begun.elapsed() < PATIENCE
}

/// Starts a container that swaps the directory `dir` of a volume for a link to the canary and back, for ever; what others make
/// in between in the place of one of them goes.
fn swapper(daemon: &Daemon, volume: &str, canary: &Canary) -> String {
    let swapper = name("swapper");
    let at = canary.path();
    let script = format!(
        "make() {{ rm -rf /v/dir /v/x /v/link; mkdir -p /v/dir/sub; echo inside > /v/dir/note; ln -s {at} /v/link; }}; make; echo ready; \
         while :; do mv /v/dir /v/x; mv /v/link /v/dir; mv /v/dir /v/link; mv /v/x /v/dir; [ -L /v/link ] && [ ! -e /v/x ] || make; done"
    );
    daemon.ok(&["run", "-d", "--name", &swapper, "-v", &format!("{volume}:/v"), BOX, "sh", "-c", &script]);
    daemon.until("it swaps", || daemon.ok(&["logs", &swapper]).contains("ready"));
    swapper
}

/// CVE-2021-30465, 2019-19921 and their like: mounts below a shared volume.
#[test]
fn mounts_below_a_directory_that_becomes_a_link_stay_inside() {
    let daemon = shared();
    let (volume, canary) = (name("shared"), Canary::new());
    let swapper = swapper(daemon, &volume, &canary);
    let (mut good, mut turn, begun) = (0, 0, Instant::now());
    while go_on(turn, rounds(60), good > 0, begun) {
        turn += 1;
        let (below, over) = (format!("{volume}:/v"), "/v/dir/sub");
        let flags = ["run", "--rm", "-v", &below, "--tmpfs", over, "--tmpfs", "/v/dir/made", BOX, "cat", "/proc/self/mountinfo"];
        let run = daemon.run(&flags);
        good += i32::from(run.code == 0);
        assert!(!run.out.lines().any(|line| line.contains(&format!(" {} ", canary.path()))), "{run:?}");
    }
    canary.check();
    daemon.ok(&["rm", "-f", &swapper]);
    daemon.ok(&["volume", "rm", &volume]);
    assert!(good > 0, "nothing was tried");
}

/// A part of a volume that becomes a link is no way to the host.
#[test]
fn a_volume_s_part_that_becomes_a_link_shows_nothing_of_the_host() {
    let daemon = shared();
    let (volume, canary) = (name("shared"), Canary::new());
    let swapper = swapper(daemon, &volume, &canary);
    let mount = format!("type=volume,src={volume},dst=/m,volume-subpath=dir");
    let (mut good, mut turn, begun) = (0, 0, Instant::now());
    while go_on(turn, rounds(60), good > 0, begun) {
        turn += 1;
        let run = daemon.run(&["run", "--rm", "--mount", &mount, BOX, "sh", "-c", "cat /m/note; touch /m/planted"]);
        assert!(!run.out.contains("of the host"), "{run:?}");
        good += i32::from(run.out == "inside\n");
    }
    canary.check();
    daemon.ok(&["rm", "-f", &swapper]);
    daemon.ok(&["volume", "rm", &volume]);
    assert!(good > 0, "nothing was tried");
}

/// CVE-2018-15664, 2026-41568: archives in and out of a directory, also one of a volume, that becomes a link.
#[test]
fn archives_of_a_directory_that_becomes_a_link_stay_inside() {
    let daemon = shared();
    let (volume, canary) = (name("shared"), Canary::new());
    let swapper = swapper(daemon, &volume, &canary);
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(7);
    header.set_mode(0o600);
    header.set_cksum();
    archive.append_data(&mut header, "planted", &b"planted"[..]).unwrap();
    let body = String::from_utf8(archive.into_inner().unwrap()).expect("an archive of text is text");
    let path = format!("/containers/{swapper}/archive?path=/v/dir");
    let put = format!(
        "PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let over = AtomicBool::new(false);
    let (mut read, written) = (0, AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                written.fetch_or(daemon.http(&put).starts_with("HTTP/1.1 200"), Ordering::Relaxed);
            }
        });
        let (mut turn, begun) = (0, Instant::now());
        while go_on(turn, rounds(300), read > 0 && written.load(Ordering::Relaxed), begun) {
            turn += 1;
            let (status, body) = daemon.api("GET", &format!("{path}/note"), None);
            assert!(!body.contains("of the host"), "{body}");
            read += i32::from(status == 200 && body.contains("inside"));
            daemon.api("HEAD", &path, None);
        }
    });
    canary.check();
    let tried = format!(
        "read {read} times, written: {}; {:?}",
        written.load(Ordering::Relaxed),
        daemon.run(&["exec", &swapper, "ls", "-lR", "/v"])
    );
    let answers = [daemon.http(&put), daemon.api("GET", &format!("{path}/note"), None).1];
    daemon.ok(&["rm", "-f", &swapper]);
    daemon.ok(&["volume", "rm", &volume]);
    assert!(read > 0 && written.load(Ordering::Relaxed), "{tried}\n{answers:?}");
}
