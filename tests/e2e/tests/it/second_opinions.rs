//! What others say of the images that Naru writes, and what Naru says of theirs: skopeo, umoci, and podman where it is
//! installed.

use naru_e2e::registry::Registry;
use naru_e2e::{BOX, Daemon, name, shared};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::Command;

/// What an image is, whatever wrote its config.
const ABOUT: &str = "{{json .RootFS}} {{json .Config.Env}} {{json .Config.Cmd}} {{json .Config.Labels}} {{.Created}}";

/// Runs another program, which must succeed; its standard output.
#[track_caller]
fn other(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("these tests need Debian's package {program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text").trim_end().to_owned()
}

#[track_caller]
fn copy(args: &[&str]) {
    other("skopeo", &[&["--insecure-policy", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false"], args].concat());
}

/// An image with what layers differ in: links, modes, owners, capabilities, sparse files, removed and replaced directories.
fn make(daemon: &Daemon, reference: &str) {
    let steps = [
        "mkdir -p /d/sub /gone /empty; echo one > /d/f; ln /d/f /d/second; ln -s ../d/f /d/link; echo x > /gone/x; mkfifo /pipe",
        "rm -r /gone /d/sub /bin/wget; rm -r /empty; mkdir /empty; echo new > /empty/new; chmod 4751 /d/f; chown 12:3000000 /d/link; \
         truncate -s 9M /holes; echo end >> /holes",
    ];
    let mut base = BOX.to_owned();
    for step in steps {
        let container = name("opinion");
        daemon.ok(&["run", "--name", &container, &base, "sh", "-ec", step]);
        daemon.ok(&["commit", "-c", "ENV WHO=naru", "-c", "LABEL of=tests", "-c", "CMD [\"cat\", \"/empty/new\"]", &container, reference]);
        daemon.ok(&["rm", &container]);
        base = reference.to_owned();
    }
}

fn ask(daemon: &Daemon, format: &str, reference: &str) -> String {
    daemon.ok(&["image", "inspect", "-f", format, reference])
}

/// Kind, mode, owner, size and link of every file of an archive; what it is a hard link of counts, not its order.
fn files(archive: &mut dyn Read) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(archive);
    let mut found = BTreeMap::new();
    let mut links = Vec::new();
    for entry in archive.entries().expect("an archive") {
        let entry = entry.expect("an entry");
        let header = entry.header();
        let path = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_start_matches("./").trim_end_matches('/').to_owned();
        let name = path(&entry.path_bytes());
        let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
        if header.entry_type() == tar::EntryType::Link {
            links.push((name, path(link.unwrap_or_default().as_bytes())));
            continue;
        }
        let (mode, uid, gid) = (header.mode().expect("a mode") & 0o7777, header.uid().expect("an owner"), header.gid().expect("a group"));
        found.insert(name, format!("{:?} {mode:o} {uid}:{gid} {} {}", header.entry_type(), entry.size(), link.unwrap_or_default()));
    }
    for (name, target) in links {
        let same = found[&target].clone();
        found.insert(name, same);
    }
    // The root itself is the engine's in one and the unpacker's in the other; these three are mount points of an engine.
    found.retain(|name, _| {
        !["", ".", "dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf", ".dockerenv"].contains(&&**name)
    });
    found.retain(|name, _| !name.starts_with("dev/") && name != "etc/mtab");
    found
}

/// The files of an image as Naru has them.
fn files_of(daemon: &Daemon, reference: &str) -> BTreeMap<String, String> {
    let container = name("files");
    daemon.ok(&["create", "--name", &container, reference]);
    let archive = daemon.root.join(&container);
    daemon.ok(&["export", "-o", &archive.display().to_string(), &container]);
    daemon.ok(&["rm", &container]);
    files(&mut std::fs::File::open(archive).expect("it was exported"))
}

/// The files of an image of a layout as umoci unpacks them.
fn files_by_umoci(image: &str, directory: &Path) -> BTreeMap<String, String> {
    let bundle = directory.join("seen");
    other("umoci", &["unpack", "--image", image, &bundle.display().to_string()]);
    let mut child = Command::new("tar").arg("-C").arg(bundle.join("rootfs")).args(["-c", "."]).stdout(std::process::Stdio::piped()).spawn();
    let child = child.as_mut().expect("tar starts");
    let found = files(&mut child.stdout.take().expect("it was asked for"));
    assert!(child.wait().expect("it is a child").success());
    std::fs::remove_dir_all(bundle).expect("it is there");
    found
}

#[test]
fn what_is_saved_others_read() {
    let (daemon, directory) = (shared(), tempfile::tempdir().expect("a directory"));
    let at = |name: &str| directory.path().join(name).display().to_string();
    make(daemon, "opinion/saved:1");
    let archive = at("saved.tar");
    daemon.ok(&["save", "-o", &archive, "opinion/saved:1"]);
    let layers: Value = serde_json::from_str(&ask(daemon, "{{json .RootFS.Layers}}", "opinion/saved:1")).expect("JSON");
    let id = ask(daemon, "{{.Id}}", "opinion/saved:1");
    // The same file is a docker-archive and a layout.
    let docker = format!("docker-archive:{archive}:opinion/saved:1");
    for source in [&docker, &format!("oci-archive:{archive}:1")] {
        // A layer may be there compressed, from another image: what is in it is the same.
        let seen: Value = serde_json::from_str(&other("skopeo", &["inspect", "--config", source])).expect("JSON");
        assert_eq!((&seen["config"]["Labels"]["of"], &seen["rootfs"]["diff_ids"]), (&"tests".into(), &layers), "{seen}");
        let raw: Value = serde_json::from_str(&other("skopeo", &["inspect", "--raw", source])).expect("JSON");
        assert_eq!(raw["config"]["digest"], *id, "{raw}");
        // Reads, checks and writes every blob.
        copy(&[source, &format!("dir:{}", at("copy"))]);
    }
    let layout = directory.path().join("layout");
    std::fs::create_dir(&layout).expect("a directory");
    other("tar", &["-C", &layout.display().to_string(), "-xf", &archive]);
    let expected = files_of(daemon, "opinion/saved:1");
    assert!(!expected.contains_key("gone") && !expected.contains_key("bin/wget") && expected.contains_key("empty/new"));
    assert_eq!(files_by_umoci(&format!("{}:1", layout.display()), directory.path()), expected);
    daemon.ok(&["rmi", "opinion/saved:1"]);
}

#[test]
fn what_others_save_is_loaded() {
    let (daemon, directory) = (shared(), tempfile::tempdir().expect("a directory"));
    let at = |name: &str| directory.path().join(name).display().to_string();
    make(daemon, "opinion/loaded:1");
    daemon.ok(&["save", "-o", &at("naru.tar"), "opinion/loaded:1"]);
    let (id, about) = (ask(daemon, "{{.Id}}", "opinion/loaded:1"), ask(daemon, ABOUT, "opinion/loaded:1"));
    let expected = files_of(daemon, "opinion/loaded:1");
    let source = format!("docker-archive:{}", at("naru.tar"));
    copy(&[&source, &format!("docker-archive:{}:opinion/by-skopeo:1", at("docker.tar"))]);
    copy(&[&source, &format!("oci-archive:{}:opinion/by-skopeo:2", at("oci.tar"))]);
    copy(&["--dest-oci-accept-uncompressed-layers", &source, &format!("oci-archive:{}:opinion/by-skopeo:3", at("plain.tar"))]);
    copy(&[&source, &format!("oci:{}:edited", at("layout"))]);
    copy(&[
        "--dest-compress-format",
        "zstd",
        &format!("oci:{}:edited", at("layout")),
        &format!("oci-archive:{}:opinion/by-skopeo:4", at("zstd.tar")),
    ]);
    daemon.ok(&["rmi", "opinion/loaded:1"]);
    for (number, archive) in ["docker.tar", "oci.tar", "plain.tar", "zstd.tar"].iter().enumerate() {
        let reference = format!("opinion/by-skopeo:{}", number + 1);
        let loaded = daemon.ok(&["load", "-i", &at(archive)]);
        assert_eq!(loaded, format!("Loaded image: {reference}"), "{archive}");
        // The layers differ in their compression, what they hold does not; for OCI skopeo writes a config of its own.
        assert_eq!(ask(daemon, ABOUT, &reference), about, "{archive}");
        assert!(*archive != "docker.tar" || ask(daemon, "{{.Id}}", &reference) == id);
        assert_eq!(files_of(daemon, &reference), expected, "{archive}");
        daemon.ok(&["rmi", &reference]);
    }
    // Layers as umoci makes them: of a file put in, of a tree changed.
    let edited = format!("{}:edited", at("layout"));
    std::fs::write(at("note"), "inserted").expect("it is written");
    other("umoci", &["insert", "--image", &edited, &at("note"), "/d/note"]);
    other("umoci", &["unpack", "--image", &edited, &at("bundle")]);
    let root = directory.path().join("bundle/rootfs");
    std::fs::remove_file(root.join("d/f")).expect("it is there");
    std::fs::write(root.join("empty/newer"), "repacked").expect("it is written");
    other("umoci", &["repack", "--image", &edited, &at("bundle")]);
    other("umoci", &["config", "--image", &edited, "--config.cmd", "cat", "--config.cmd", "/d/note", "--config.cmd", "/empty/newer"]);
    other("tar", &["-C", &at("layout"), "-cf", &at("umoci.tar"), "."]);
    let loaded = daemon.ok(&["load", "-i", &at("umoci.tar")]);
    let image = loaded.strip_prefix("Loaded image ID: ").expect("a layout's tag alone is no name");
    assert_eq!(daemon.ok(&["run", "--rm", image]), "insertedrepacked");
    assert_eq!(files_of(daemon, image), files_by_umoci(&edited, directory.path()));
    daemon.ok(&["rmi", image]);
}

#[test]
fn others_meet_naru_at_a_registry() {
    let (daemon, registry) = (shared(), Registry::start(false));
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| format!("{}/team/{name}", registry.address);
    let reference = at("app:1");
    make(daemon, &reference);
    let (id, expected) = (ask(daemon, "{{.Id}}", &reference), files_of(daemon, &reference));
    let pushed = daemon.ok(&["push", &reference]);
    let digest = pushed.split("digest: ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a push tells the digest");
    let remote = format!("docker://{reference}");
    let seen: Value = serde_json::from_str(&other("skopeo", &["inspect", "--tls-verify=false", &remote])).expect("JSON");
    assert_eq!((&seen["Digest"], &seen["Env"][0]), (&digest.into(), &"WHO=naru".into()), "{seen}");
    let layout = format!("{}:app", directory.path().join("layout").display());
    copy(&[&remote, &format!("oci:{layout}")]);
    assert_eq!(files_by_umoci(&layout, directory.path()), expected);
    daemon.ok(&["rmi", &reference]);

    // What skopeo brings there, in every form it knows.
    for (form, flags) in [
        ("oci", &["--format", "oci"][..]),
        ("v2s2", &["--format", "v2s2"]),
        ("zstd", &["--format", "oci", "--dest-compress-format", "zstd"]),
        ("all", &["--all"]),
    ] {
        let reference = at(&format!("{form}:1"));
        copy(&[flags, &[&format!("oci:{layout}"), &format!("docker://{reference}")]].concat());
        daemon.ok(&["pull", "-q", &reference]);
        // Another format of the manifest may mean another config, but not another content.
        assert_eq!(files_of(daemon, &reference), expected, "{form}");
        assert_eq!(ask(daemon, "{{.Id}}", &reference), id, "{form}");
        let seen: Value =
            serde_json::from_str(&other("skopeo", &["inspect", "--tls-verify=false", &format!("docker://{reference}")])).expect("JSON");
        assert!(ask(daemon, "{{.RepoDigests}}", &reference).contains(seen["Digest"].as_str().expect("a digest")), "{form}");
        daemon.ok(&["rmi", &reference]);
    }
}

/// Debian's podman pulls in many packages, so it is asked only where it is installed.
#[test]
fn podman_agrees_where_it_is_installed() {
    if Command::new("podman").arg("--version").output().is_err() {
        eprintln!("podman is not installed: nothing was compared");
        return;
    }
    let (daemon, registry) = (shared(), Registry::start(false));
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (root, state) = (at("root"), at("state"));
    let podman = |args: &[&str]| {
        other(
            "podman",
            &[&["--root", &root, "--runroot", &state, "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"], args].concat(),
        )
    };
    let reference = format!("{}/pod:1", registry.address);
    make(daemon, &reference);
    let (id, expected) = (ask(daemon, "{{.Id}}", &reference), files_of(daemon, &reference));
    let bare = id.trim_start_matches("sha256:");
    daemon.ok(&["save", "-o", &at("naru.tar"), &reference]);
    daemon.ok(&["push", &reference]);
    podman(&["load", "-q", "-i", &at("naru.tar")]);
    assert_eq!(podman(&["image", "inspect", "-f", "{{.Id}}", &reference]), bare);
    podman(&["rmi", &reference]);
    podman(&["pull", "-q", "--tls-verify=false", &reference]);
    assert_eq!(podman(&["image", "inspect", "-f", "{{.Id}}", &reference]), bare);
    podman(&["save", "-q", "-o", &at("docker.tar"), &reference]);
    podman(&["save", "-q", "--format", "oci-archive", "-o", &at("oci.tar"), &reference]);
    podman(&["tag", &reference, &format!("{}/pod:2", registry.address)]);
    podman(&["push", "-q", "--tls-verify=false", &format!("{}/pod:2", registry.address)]);
    daemon.ok(&["rmi", &reference]);
    for archive in ["docker.tar", "oci.tar"] {
        assert_eq!(daemon.ok(&["load", "-i", &at(archive)]), format!("Loaded image: {reference}"), "{archive}");
        assert_eq!((ask(daemon, "{{.Id}}", &reference), files_of(daemon, &reference)), (id.clone(), expected.clone()), "{archive}");
        daemon.ok(&["rmi", &reference]);
    }
    let second = format!("{}/pod:2", registry.address);
    daemon.ok(&["pull", "-q", &second]);
    assert_eq!((ask(daemon, "{{.Id}}", &second), files_of(daemon, &second)), (id, expected));
    daemon.ok(&["rmi", &second]);
}
