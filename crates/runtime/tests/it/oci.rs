//! `naru oci` as an engine uses it.

use crate::rig::{cgroup_parent, directory, rootfs};
use naru_runtime::selinux;
use naru_types::ContainerId;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

struct Bundle {
    path: PathBuf,
    state: PathBuf,
    id: String,
}

impl Bundle {
    fn new(args: &[&str], change: impl FnOnce(&mut naru_runtime::spec::Spec)) -> Bundle {
        let path = directory("bundle");
        let id = ContainerId::random().short().to_owned();
        let mut spec = naru_runtime::defaults::spec();
        spec.root.as_mut().unwrap().path = rootfs().display().to_string();
        spec.process.as_mut().unwrap().args = args.iter().map(|&arg| arg.to_owned()).collect();
        spec.linux_mut().cgroups_path = format!("{}/{id}", cgroup_parent());
        spec.annotations.insert("note".into(), "kept".into());
        change(&mut spec);
        std::fs::write(path.join("config.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
        Bundle { path, state: directory("oci"), id }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["oci", "--root", self.state.to_str().unwrap(), "--log", self.path.join("log").to_str().unwrap(), "--log-format", "json"])
            .args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn status(&self) -> String {
        serde_json::from_str::<serde_json::Value>(&self.ok(&["state", &self.id])).unwrap()["status"].as_str().unwrap().to_owned()
    }
}

pub fn life_of_a_container() {
    let bundle = Bundle::new(&["sh", "-c", "echo started; while :; do sleep 0.05; done"], |_| {});
    let out = bundle.path.join("out");
    let pid_file = bundle.path.join("pid");
    let created = bundle
        .command(&["create", "--bundle", bundle.path.to_str().unwrap(), "--pid-file", pid_file.to_str().unwrap(), &bundle.id])
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&out).unwrap())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(created.success(), "{}", std::fs::read_to_string(bundle.path.join("log")).unwrap_or_default());
    assert_eq!(bundle.status(), "created");
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "");
    assert!(!bundle.run(&["create", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]).status.success());
    bundle.ok(&["start", &bundle.id]);
    assert_eq!(bundle.status(), "running");
    let state: serde_json::Value = serde_json::from_str(&bundle.ok(&["state", &bundle.id])).unwrap();
    assert_eq!(state["annotations"]["note"], "kept");
    assert_eq!(state["pid"].to_string(), std::fs::read_to_string(&pid_file).unwrap());
    assert!(!bundle.run(&["start", &bundle.id]).status.success());
    assert!(!bundle.run(&["delete", &bundle.id]).status.success());
    bundle.ok(&["pause", &bundle.id]);
    assert_eq!(bundle.status(), "paused");
    bundle.ok(&["resume", &bundle.id]);
    assert!(bundle.ok(&["list"]).contains(&bundle.id));
    assert!(bundle.ok(&["ps", "-f", "json", &bundle.id]).contains(&state["pid"].to_string()));
    bundle.ok(&["update", "--pids-limit", "50", &bundle.id]);
    assert!(bundle.ok(&["events", "--stats", &bundle.id]).contains("\"limit\":50"));
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    while bundle.status() != "stopped" {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    bundle.ok(&["delete", &bundle.id]);
    assert!(!bundle.run(&["state", &bundle.id]).status.success());
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "started\n");
    assert!(bundle.ok(&["--version"]).contains("spec: 1."));
    assert!(serde_json::from_str::<serde_json::Value>(&bundle.ok(&["features"])).is_ok());
}

pub fn exec_and_failures() {
    let bundle = Bundle::new(&["sleep", "1000"], |_| {});
    let path = bundle.path.to_str().unwrap();
    let created =
        bundle.command(&["run", "-d", "-b", path, &bundle.id]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(created.unwrap().success());
    let output =
        bundle.run(&["exec", "-e", "A=b", "--cwd", "/tmp", "-u", "5:6", &bundle.id, "sh", "-c", "echo $A; pwd; id -u; id -g; exit 7"]);
    assert_eq!((output.status.code(), String::from_utf8(output.stdout).unwrap().as_str()), (Some(7), "b\n/tmp\n5\n6\n"));
    assert!(!bundle.run(&["exec", &bundle.id, "nothing"]).status.success());
    let log = std::fs::read_to_string(bundle.path.join("log")).unwrap();
    assert!(log.contains("exec: \\\"nothing\\\": executable file not found in $PATH"), "{log}");
    bundle.ok(&["delete", "--force", &bundle.id]);
    // In the foreground: the exit code; and a failed create leaves nothing.
    let bundle = Bundle::new(&["sh", "-c", "echo hi; exit 5"], |_| {});
    let output = bundle.run(&["run", "-b", bundle.path.to_str().unwrap(), &bundle.id]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(5), &b"hi\n"[..]));
    let bundle = Bundle::new(&["nothing"], |_| {});
    assert!(!bundle.run(&["create", "-b", bundle.path.to_str().unwrap(), &bundle.id]).status.success());
    assert_eq!(std::fs::read_dir(&bundle.state).unwrap().count(), 0);
}

pub fn state_is_refused_when_unknown() {
    let bundle = Bundle::new(&["true"], |_| {});
    let directory = bundle.state.join("x");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("state.json"), r#"{"version":99}"#).unwrap();
    assert!(!bundle.run(&["state", "x"]).status.success());
    for bad in ["..", "a/b", ""] {
        assert!(!bundle.run(&["state", bad]).status.success());
    }
    assert!(!bundle.run(&["--systemd-cgroup", "state", "x"]).status.success());
}

pub fn selinux_labels() {
    let (process, files) = ("system_u:system_r:container_t:s0:c3,c4", "system_u:object_r:container_file_t:s0:c3,c4");
    let labelled = |process: &str, files: &str| {
        Bundle::new(&["sleep", "1000"], |spec| {
            process.clone_into(&mut spec.process.as_mut().unwrap().selinux_label);
            files.clone_into(&mut spec.linux_mut().mount_label);
        })
    };
    if !selinux::enabled() {
        for (process, files) in [(process, ""), ("", files)] {
            let bundle = labelled(process, files);
            assert!(!bundle.run(&["run", "-b", bundle.path.to_str().unwrap(), &bundle.id]).status.success());
            let log = std::fs::read_to_string(bundle.path.join("log")).unwrap();
            assert!(log.contains("cannot apply the SELinux label") && log.contains("has no SELinux"), "{log}");
        }
        return;
    }
    let bundle = labelled(process, files);
    let config = std::fs::read_to_string(bundle.path.join("config.json")).unwrap();
    let root = serde_json::from_str::<naru_runtime::spec::Spec>(&config).unwrap().root.unwrap().path;
    selinux::relabel(root.as_ref(), files).unwrap();
    let pid_file = bundle.path.join("pid");
    let (path, pid_path) = (bundle.path.to_str().unwrap(), pid_file.to_str().unwrap());
    let mut started = bundle.command(&["run", "-d", "-b", path, "--pid-file", pid_path, &bundle.id]);
    let started = started.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(started.success(), "{}", std::fs::read_to_string(bundle.path.join("log")).unwrap_or_default());
    let exec = |args: &[&str]| bundle.ok(&[&["exec"], args, &[&*bundle.id, "cat", "/proc/self/attr/current"]].concat());
    let plain = |label: &str| label.trim_end_matches(['\0', '\n']).to_owned();
    assert_eq!(plain(&exec(&[])), process);
    assert_eq!(plain(&exec(&["--process-label", "system_u:system_r:spc_t:s0"])), "system_u:system_r:spc_t:s0");
    assert_eq!(
        plain(&std::fs::read_to_string(format!("/proc/{}/attr/current", std::fs::read_to_string(pid_file).unwrap())).unwrap()),
        process
    );
    for mount in ["dev", "dev/shm", "dev/mqueue"] {
        let path = format!("/proc/{}/root/{mount}", std::fs::read_to_string(bundle.path.join("pid")).unwrap());
        let mut value = [0; 256];
        let length = rustix::fs::getxattr(&path, "security.selinux", &mut value[..]).unwrap();
        assert_eq!(plain(std::str::from_utf8(&value[..length]).unwrap()), files, "{mount}");
    }
    bundle.ok(&["delete", "--force", &bundle.id]);
}
