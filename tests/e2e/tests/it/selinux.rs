//! SELinux, where the kernel has it and a policy that knows container_t and container_file_t.

use naru_e2e::{BOX, Daemon, host_has, name, shared};
use std::path::Path;
use std::sync::OnceLock;

const OWN: &[&str] = &["cat", "/proc/self/attr/current"];

fn absent() -> bool {
    let label = std::fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    !host_has("selinux", Path::new("/sys/fs/selinux/enforce").exists() && label.contains(':'))
}

/// Labels are off unless a daemon is told: one that is.
fn labelling() -> &'static Daemon {
    static DAEMON: OnceLock<Daemon> = OnceLock::new();
    DAEMON.get_or_init(|| Daemon::with_flags(&["--selinux-enabled"]))
}

/// What the kernel gives ends with a zero byte, or not.
fn plain(label: &str) -> String {
    label.trim_end_matches(['\0', '\n']).to_owned()
}

/// Label of a process of a container with these flags.
fn label(flags: &[&str]) -> String {
    plain(&labelling().ok(&[&["run", "--rm"], flags, &[BOX], OWN].concat()))
}

/// Label of a file of the host.
fn label_of(path: impl AsRef<Path>) -> String {
    let mut value = [0; 256];
    let length = rustix::fs::lgetxattr(path.as_ref(), "security.selinux", &mut value[..]).unwrap();
    plain(std::str::from_utf8(&value[..length]).unwrap())
}

/// What `inspect` says of processes and of files.
fn inspected(daemon: &Daemon, container: &str) -> (String, String) {
    let found = daemon.inspect(container);
    let text = |key: &str| found[key].as_str().unwrap().to_owned();
    (text("ProcessLabel"), text("MountLabel"))
}

/// A container that sleeps; its name.
fn sleeper(flags: &[&str]) -> String {
    let name = name("label");
    labelling().ok(&[&["run", "-d", "--name", &name], flags, &[BOX, "sleep", "1000"]].concat());
    name
}

fn files_at(level: &str) -> String {
    format!("system_u:object_r:container_file_t:{level}")
}

#[test]
fn a_container_and_its_files_have_a_level_of_their_own() {
    if absent() {
        return;
    }
    let daemon = labelling();
    assert!(daemon.ok(&["info", "--format", "{{.SecurityOptions}}"]).contains("name=selinux"));
    let name = sleeper(&["--tmpfs", "/scratch", "--ipc", "shareable"]);
    let (process, files) = inspected(daemon, &name);
    let level = process.strip_prefix("system_u:system_r:container_t:").unwrap();
    let [low, high] = level.strip_prefix("s0:c").unwrap().split(",c").map(|part| part.parse::<u32>().unwrap()).collect::<Vec<_>>()[..]
    else {
        panic!("{level}");
    };
    assert!(low < high && high < 1024, "{level}");
    assert_eq!(files, files_at(level));
    let exec = |flags: &[&str], command: &[&str]| daemon.ok(&[&["exec"], flags, &[name.as_str()], command].concat());
    assert_eq!(plain(&exec(&[], &["cat", "/proc/1/attr/current"])), process);
    assert_eq!(plain(&exec(&[], OWN)), process);
    assert_eq!(plain(&exec(&["--privileged"], OWN)), process);
    let pid = daemon.inspect(&name)["State"]["Pid"].to_string();
    for path in [
        "/",
        "/bin/busybox",
        "/bin/sh",
        "/dev",
        "/dev/null",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/scratch",
        "/etc/hosts",
        "/etc/hostname",
        "/etc/resolv.conf",
        "/proc/acpi",
    ] {
        assert_eq!(label_of(format!("/proc/{pid}/root{path}")), files, "{path}");
    }
    exec(&[], &["sh", "-c", "echo x > /made; echo x > /scratch/made; echo x >> /etc/hosts"]);
    assert_eq!(label_of(format!("/proc/{pid}/root/made")), files);
    // Another start, another container.
    daemon.ok(&["restart", "-t", "0", &name]);
    assert_eq!(plain(&exec(&[], OWN)), process);
    assert_eq!(inspected(daemon, &name), (process.clone(), files));
    assert_ne!(label(&[]), process);
    daemon.ok(&["rm", "-f", &name]);
}

#[test]
fn options() {
    if absent() {
        return;
    }
    let daemon = labelling();
    let with = |option: &str| label(&["--security-opt", option]);
    assert_eq!(with("label=level:s0:c100,c200"), "system_u:system_r:container_t:s0:c100,c200");
    assert!(with("label=type:spc_t").starts_with("system_u:system_r:spc_t:s0:c"));
    let host = plain(&std::fs::read_to_string("/proc/self/attr/current").unwrap());
    for flags in [&["--security-opt", "label=disable"][..], &["--privileged"], &["--pid", "host"], &["--ipc", "host"]] {
        assert_eq!(label(flags), host, "{flags:?}");
    }
    for bad in ["label=colour:red", "label=type", "label=level:", "label=type:a b"] {
        let refused = daemon.fails(125, &["run", "--rm", "--security-opt", bad, BOX, "true"]);
        assert!(refused.contains("bad label option"), "{bad}: {refused}");
    }
    let unknown = daemon.run(&["run", "--rm", "--security-opt", "label=type:no_such_t", BOX, "true"]);
    assert!(unknown.code != 0 && unknown.err.contains("no_such_t"), "{unknown:?}");
    let name = sleeper(&["--privileged"]);
    let found = daemon.inspect(&name);
    assert_eq!(found["HostConfig"]["SecurityOpt"], serde_json::json!(["label=disable"]));
    assert_eq!(inspected(daemon, &name), (String::new(), files_at("s0:c1022,c1023")));
    daemon.ok(&["rm", "-f", &name]);
    let one = sleeper(&["--ipc", "shareable", "--security-opt", "label=filetype:container_ro_file_t"]);
    let (process, files) = inspected(daemon, &one);
    assert!(files.starts_with("system_u:object_r:container_ro_file_t:s0:c"), "{files}");
    for mode in ["--pid", "--ipc"] {
        assert_eq!(label(&[mode, &format!("container:{one}")]), process, "{mode}");
    }
    let other = sleeper(&["--ipc", "shareable"]);
    let both = ["--pid", &format!("container:{one}"), "--ipc", &format!("container:{other}")];
    let refused = daemon.fails(125, &[&["run", "--rm"], &both[..], &[BOX, "true"]].concat());
    assert!(refused.contains("--ipc and --pid containers SELinux labels aren't the same"), "{refused}");
    daemon.ok(&["rm", "-f", &one, &other]);
}

#[test]
fn sources_of_mounts_are_labelled_where_asked() {
    if absent() {
        return;
    }
    let daemon = labelling();
    let folder = daemon.root.join("given");
    std::fs::create_dir_all(folder.join("below/deep")).unwrap();
    std::fs::write(folder.join("below/file"), "content\n").unwrap();
    std::fs::write(daemon.root.join("outside"), "").unwrap();
    std::os::unix::fs::symlink(daemon.root.join("outside"), folder.join("link")).unwrap();
    let (before, outside) = (label_of(folder.join("below/file")), label_of(daemon.root.join("outside")));
    assert!(!before.contains("container_file_t"), "{before}");
    let given = |mode: &str| format!("{}:/x{mode}", folder.display());
    let read = |container: &str| daemon.run(&["exec", container, "cat", "/x/below/file"]);
    let enforcing = std::fs::read_to_string("/sys/fs/selinux/enforce").unwrap().trim() == "1";
    let refused = |container: &str| {
        let done = read(container);
        assert!(!enforcing || (done.code == 1 && done.err.contains("Permission denied")), "{done:?}");
    };

    let plain = sleeper(&["-v", &given("")]);
    assert_eq!(label_of(folder.join("below/file")), before);
    refused(&plain);
    let private = sleeper(&["-v", &given(":Z")]);
    let (_, own) = inspected(daemon, &private);
    for path in ["", "below", "below/deep", "below/file", "link"] {
        assert_eq!(label_of(folder.join(path)), own, "{path}");
    }
    assert_eq!(label_of(daemon.root.join("outside")), outside);
    assert_eq!(read(&private).out, "content\n");
    refused(&plain);
    assert_eq!(daemon.inspect(&private)["Mounts"][0]["Mode"], "Z");
    let shared = sleeper(&["-v", &given(":ro,z")]);
    for path in ["", "below/file", "link"] {
        assert_eq!(label_of(folder.join(path)), files_at("s0"), "{path}");
    }
    for container in [&shared, &private, &plain] {
        assert_eq!(read(container).out, "content\n", "{container}");
    }
    daemon.ok(&["rm", "-f", &plain, &private, &shared]);

    // What the host needs as it is.
    for path in ["/etc", "/usr/", "/"] {
        let refused = daemon.run(&["run", "--rm", "-v", &format!("{path}:/x:z"), BOX, "true"]);
        assert!(
            refused.code != 0 && refused.err.contains("is not allowed") && refused.err.contains("SELinux relabeling of /"),
            "{refused:?}"
        );
    }
}

#[test]
fn volumes_are_for_all_or_for_one() {
    if absent() {
        return;
    }
    let daemon = labelling();
    let volume = name("volume");
    let data = daemon.data().join("volumes").join(&volume).join("_data");
    let mount = format!("{volume}:/x");
    let first = sleeper(&["-v", &mount]);
    assert_eq!(label_of(&data), files_at("s0"));
    daemon.ok(&["exec", &first, "sh", "-c", "echo content > /x/file"]);
    // A file has the level of the process that made it; the next start of a container gives it to all.
    let second = sleeper(&["-v", &mount]);
    assert_eq!(label_of(data.join("file")), files_at("s0"));
    assert_eq!(daemon.ok(&["exec", &second, "cat", "/x/file"]), "content");
    let third = sleeper(&["-v", &format!("{mount}:Z")]);
    assert_eq!(label_of(data.join("file")), inspected(daemon, &third).1);
    // Its guest takes nothing from it.
    let guest = sleeper(&["--volumes-from", &third]);
    assert_eq!(label_of(data.join("file")), inspected(daemon, &third).1);
    daemon.ok(&["rm", "-f", &first, &second, &third, &guest]);
    daemon.ok(&["volume", "rm", &volume]);
}

#[test]
fn labels_outlive_the_daemon() {
    if absent() {
        return;
    }
    let mut daemon = Daemon::with_flags(&["--selinux-enabled"]);
    daemon.ok(&["run", "-d", "--name", "kept", BOX, "sleep", "1000"]);
    let (process, files) = inspected(&daemon, "kept");
    daemon.kill();
    daemon.launch();
    assert_eq!(inspected(&daemon, "kept"), (process.clone(), files));
    assert_eq!(plain(&daemon.ok(&[&["exec", "kept"], OWN].concat())), process);
    daemon.ok(&["restart", "-t", "0", "kept"]);
    assert_eq!(plain(&daemon.ok(&[&["exec", "kept"], OWN].concat())), process);
}

#[test]
fn a_copied_root_is_labelled_file_by_file() {
    if absent() {
        return;
    }
    let daemon = Daemon::with_flags(&["--selinux-enabled", "--storage-driver", "vfs"]);
    daemon.ok(&["run", "-d", "--name", "copied", BOX, "sleep", "1000"]);
    let (process, files) = inspected(&daemon, "copied");
    assert_eq!(plain(&daemon.ok(&[&["exec", "copied"], OWN].concat())), process);
    let pid = daemon.inspect("copied")["State"]["Pid"].to_string();
    for path in ["/", "/bin/busybox", "/bin/sh", "/etc/passwd"] {
        assert_eq!(label_of(format!("/proc/{pid}/root{path}")), files, "{path}");
    }
    // No change of content: labels are the host's business.
    assert_eq!(daemon.ok(&["diff", "copied"]), "");
}

#[test]
fn without_the_flag_nothing_is_labelled() {
    if absent() {
        return;
    }
    let daemon = shared();
    assert!(!daemon.ok(&["info", "--format", "{{.SecurityOptions}}"]).contains("selinux"));
    let name = name("unlabelled");
    let created = daemon.run(&["create", "--name", &name, "--security-opt", "label=type:spc_t", BOX, "sleep", "1000"]);
    assert!(created.code == 0 && created.err.contains("labels are discarded") && created.err.contains("--selinux-enabled"), "{created:?}");
    assert_eq!(inspected(daemon, &name), (String::new(), String::new()));
    daemon.ok(&["rm", &name]);
    let silent = daemon.run(&["run", "--rm", "--security-opt", "label=disable", BOX, OWN[0], OWN[1]]);
    let host = std::fs::read_to_string("/proc/self/attr/current").unwrap();
    assert_eq!((silent.code, silent.err.as_str(), plain(&silent.out)), (0, "", plain(&host)), "{silent:?}");
}
