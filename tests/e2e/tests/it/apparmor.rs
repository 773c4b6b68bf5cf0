//! AppArmor, where the kernel has it.

use naru_e2e::{BOX, host_has, name, shared};
use std::io::Write;
use std::process::{Command, Stdio};

const FOLDER: &str = "/sys/kernel/security/apparmor";
const LABEL: &[&str] = &["cat", "/proc/self/attr/apparmor/current"];

fn absent() -> bool {
    !host_has("apparmor", std::path::Path::new(FOLDER).exists())
}

/// Label of a process of a container with these flags.
fn label(flags: &[&str]) -> String {
    shared().ok(&[&["run", "--rm"], flags, &[BOX], LABEL].concat())
}

#[test]
fn the_default_profile_confines() {
    if absent() {
        return;
    }
    let daemon = shared();
    assert!(daemon.ok(&["info", "--format", "{{.SecurityOptions}}"]).contains("name=apparmor"));
    let name = name("confined");
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        &name,
        "--cap-add",
        "ALL",
        "--security-opt",
        "seccomp=unconfined",
        "--security-opt",
        "systempaths=unconfined",
        BOX,
        "sleep",
        "1000",
    ]);
    assert_eq!(daemon.inspect(&name)["AppArmorProfile"], "naru-default");
    let exec = |flags: &[&str], command: &[&str]| daemon.run(&[&["exec"], flags, &[name.as_str()], command].concat());
    assert_eq!(exec(&[], &["cat", "/proc/1/attr/apparmor/current"]).out, "naru-default (enforce)\n");
    assert_eq!(exec(&[], LABEL).out, "naru-default (enforce)\n");
    assert_eq!(exec(&["--privileged"], LABEL).out, "naru-default (enforce)\n");
    // Capabilities, system calls and paths are there; it is the profile that refuses.
    for refused in ["mount -t tmpfs x /tmp", "echo 60 > /proc/sys/vm/swappiness", "echo x > /proc/sysrq-trigger"] {
        let done = exec(&["--privileged"], &["sh", "-c", refused]);
        assert!(done.code != 0 && done.err.contains("ermission denied"), "{refused}: {done:?}");
    }
    for allowed in ["echo x > /tmp/file", "sleep 100 & kill $!", "umount /dev/mqueue"] {
        assert_eq!(exec(&["--privileged"], &["sh", "-c", allowed]).code, 0, "{allowed}");
    }
    daemon.ok(&["stop", "-t", "0", &name]);
    daemon.ok(&["rm", &name]);
    let unconfined = ["--cap-add", "ALL", "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"];
    daemon.ok(&[&["run", "--rm"], &unconfined[..], &[BOX, "mount", "-t", "tmpfs", "x", "/tmp"]].concat());
    assert_eq!(label(&["--security-opt", "apparmor=unconfined"]), "unconfined");
    assert_eq!(label(&["--privileged"]), "unconfined");
    assert_eq!(label(&["--security-opt", "no-new-privileges"]), "naru-default (enforce)");
    // Somebody has removed it: it comes back with the next container.
    std::fs::write(format!("{FOLDER}/.remove"), "naru-default").unwrap();
    assert_eq!(label(&[]), "naru-default (enforce)");
}

#[test]
fn a_profile_of_one_s_own() {
    if absent() {
        return;
    }
    let daemon = shared();
    let own = name("naru-test");
    let option = format!("apparmor={own}");
    let refused = daemon.fails(125, &["run", "--rm", "--security-opt", &option, BOX, "true"]);
    assert!(refused.contains(&own) && refused.contains("not loaded") && refused.contains("apparmor_parser"), "{refused}");
    let profile = format!("profile {own} flags=(attach_disconnected) {{\n file,\n capability,\n network,\n deny /etc/group r,\n}}\n");
    let mut parser = Command::new("apparmor_parser")
        .args(["--replace", "--skip-cache", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("apparmor_parser is missing: apt-get install -y apparmor");
    parser.stdin.take().unwrap().write_all(profile.as_bytes()).unwrap();
    assert!(parser.wait().unwrap().success());
    assert_eq!(label(&["--security-opt", &option]), format!("{own} (enforce)"));
    assert_eq!(label(&["--privileged", "--security-opt", &option]), format!("{own} (enforce)"));
    let denied = daemon.run(&["run", "--rm", "--security-opt", &option, BOX, "cat", "/etc/passwd", "/etc/group"]);
    assert!(denied.out.contains("bob:x:1000:1000") && denied.err.contains("Permission denied"), "{denied:?}");
    std::fs::write(format!("{FOLDER}/.remove"), own).unwrap();
}
