//! Images from an enemy: nothing of them reaches the host, each is refused with words or runs as it should.

use crate::image::{archive, entry, entry_with, image, pack, pax};
use naru_e2e::{BOX, Daemon, Done, client, name, shared};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A host directory that nothing may read or change.
struct Canary(tempfile::TempDir);

const SECRET: &str = "the host's secret";

impl Canary {
    fn new() -> Canary {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), SECRET).unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Canary(folder)
    }

    fn path(&self) -> String {
        self.0.path().display().to_string()
    }

    /// From within any directory of a root to the canary, past the root.
    fn up(&self) -> String {
        format!("../../../../../../../..{}", self.path())
    }

    #[track_caller]
    fn untouched(&self, case: &str) {
        let names: Vec<_> = std::fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"], "{case}");
        assert_eq!(std::fs::read_to_string(self.0.path().join("secret")).unwrap(), SECRET, "{case}");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(self.0.path()), mode(&self.0.path().join("secret"))), (0o755, 0o644), "{case}");
    }
}

/// A client run that may not hang.
#[track_caller]
fn soon(daemon: &Daemon, args: &[&str]) -> Done {
    let start = Instant::now();
    let output = Command::new("timeout")
        .args(["-k", "1", "40"])
        .arg(client().0)
        .args(args)
        .env("DOCKER_HOST", daemon.host())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(start.elapsed() < Duration::from_secs(40), "{args:?} hangs\n{}", daemon.tail());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Done { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

/// Loads layers on top of busybox; when they are taken, runs a script in the image. Then removes it.
#[track_caller]
fn load_and_run(case: &str, layers: &[Vec<u8>], script: &str) -> Result<Done, String> {
    let daemon = shared();
    let tag = format!("{}:1", name("hostile"));
    let loaded = daemon.feed(&["load"], &image(&tag, layers, ""));
    if loaded.code != 0 {
        assert!(loaded.err.trim().len() > 20, "{case}: no reason: {loaded:?}");
        assert_ne!(daemon.run(&["image", "inspect", &tag]).code, 0, "{case}: refused, yet listed");
        return Err(loaded.err);
    }
    let done = soon(daemon, &["run", "--rm", &tag, "/bin/busybox", "sh", "-c", script]);
    daemon.ok(&["rmi", "-f", &tag]);
    Ok(done)
}

/// Archives, one after the other, that want to write to the canary.
fn escapes(canary: &Canary) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let (path, up) = (canary.path(), canary.up());
    let relative = path.trim_start_matches('/');
    let file = |name: &str| entry(b'0', name, "", b"planted");
    let link = |name: &str, target: &str| entry(b'2', name, target, b"");
    let hard = |name: &str, target: &str| entry(b'1', name, target, b"");
    let folder = |name: &str| entry(b'5', name, "", b"");
    vec![
        ("dot dot", vec![archive(&[file(&format!("{up}/planted"))])]),
        ("dot dot inside", vec![archive(&[file(&format!("etc/{up}/planted"))])]),
        ("absolute name", vec![archive(&[file(&format!("{path}/planted"))])]),
        ("through an absolute link", vec![archive(&[link("out", &path), file("out/planted")])]),
        ("through a relative link", vec![archive(&[link("out", &up), file("out/planted")])]),
        ("through a chain", vec![archive(&[link("a", "/"), link("b", &format!("a/{up}")), file("b/planted")])]),
        ("through a lower layer's link", vec![archive(&[link("out", &path)]), archive(&[file("out/planted")])]),
        ("through a lower layer's relative link", vec![archive(&[link("out", &up)]), archive(&[file("out/planted")])]),
        ("over a linked file", vec![archive(&[link("f", &format!("{path}/secret")), file("f")])]),
        ("over a lower layer's linked file", vec![archive(&[link("f", &format!("{path}/secret"))]), archive(&[file("f")])]),
        ("mode through a link", vec![archive(&[link("out", &path), folder("out/")])]),
        ("mode through a lower layer's link", vec![archive(&[link("out", &path)]), archive(&[folder("out/"), folder("out/.")])]),
        ("hard link out", vec![archive(&[hard("h", &format!("{path}/secret")), file("h")])]),
        ("hard link up", vec![archive(&[hard("h", &format!("{up}/secret")), file("h")])]),
        ("hard link through a link", vec![archive(&[link("out", &path), hard("h", "out/secret"), file("h")])]),
        ("hard link to a link", vec![archive(&[link("s", &format!("{path}/secret")), hard("h", "s"), file("h")])]),
        ("the root as a link", vec![archive(&[link(".", &path), file("planted")])]),
        ("the root as a link, slash", vec![archive(&[link("./", &path), file("planted")])]),
        ("an empty name", vec![archive(&[link("", &path), file("planted")])]),
        ("whiteout through a link", vec![archive(&[link("out", &path), file("out/.wh.secret")])]),
        ("whiteout through a lower layer's link", vec![archive(&[link("out", &path)]), archive(&[file("out/.wh.secret")])]),
        ("opaque through a link", vec![archive(&[link("out", &path)]), archive(&[file("out/.wh..wh..opq")])]),
        ("whiteout of dot dot", vec![archive(&[file(".wh...")])]),
        ("whiteout of dot", vec![archive(&[file(".wh..")])]),
        ("whiteout of nothing", vec![archive(&[file(".wh.")])]),
        ("whiteout of a path", vec![archive(&[file(&format!("etc/.wh../{relative}/secret"))])]),
        ("path in a record", vec![archive(&[[pax(&[("path", &format!("{up}/planted"))]), file("x")].concat()])]),
        ("link in a record", vec![archive(&[[pax(&[("linkpath", &format!("{path}/secret"))]), hard("h", "x")].concat(), file("h")])]),
    ]
}

#[test]
fn layers_write_nothing_outside_their_root() {
    let canary = Canary::new();
    for (case, layers) in escapes(&canary) {
        let outcome = load_and_run(case, &layers, "cat /planted /out/* /h /f /s 2>/dev/null; echo ran");
        canary.untouched(case);
        if let Ok(done) = outcome {
            assert!(done.out.ends_with("ran\n") && !done.out.contains(SECRET), "{case}: {done:?}");
        }
    }
}

#[test]
fn copies_write_nothing_outside_their_container() {
    let daemon = shared();
    let canary = Canary::new();
    for (state, script) in [("created", &["create"][..]), ("running", &["run", "-d"])] {
        for (case, archives) in escapes(&canary) {
            let container = name("copied");
            daemon.ok(&[script, &["--name", &container, BOX, "sleep", "1000"]].concat());
            for archive in archives {
                let done = daemon.feed(&["cp", "-", &format!("{container}:/")], &archive);
                assert!(done.code == 0 || done.err.trim().len() > 20, "{case}, {state}: no reason: {done:?}");
            }
            canary.untouched(&format!("{case}, {state}"));
            // What the container has of it can be taken out, and has nothing of the host.
            let out = tempfile::tempdir().unwrap();
            daemon.run(&["cp", &format!("{container}:/h"), &out.path().display().to_string()]);
            assert_ne!(std::fs::read_to_string(out.path().join("h")).ok().as_deref(), Some(SECRET), "{case}, {state}");
            daemon.ok(&["rm", "-f", &container]);
        }
    }
}

#[test]
fn import_writes_nothing_outside_its_root() {
    let daemon = shared();
    let canary = Canary::new();
    let (path, up) = (canary.path(), canary.up());
    for (case, bytes) in [
        ("through a link", archive(&[entry(b'2', "out", &path, b""), entry(b'0', "out/planted", "", b"x")])),
        ("up", archive(&[entry(b'0', &format!("{up}/planted"), "", b"x")])),
        ("hard link", archive(&[entry(b'1', "h", &format!("{path}/secret"), b""), entry(b'0', "h", "", b"x")])),
    ] {
        let tag = format!("{}:1", name("imported"));
        if daemon.feed(&["import", "-", &tag], &bytes).code == 0 {
            daemon.ok(&["rmi", &tag]);
        }
        canary.untouched(case);
    }
}

#[test]
fn devices_of_an_image_cannot_be_opened() {
    let device = |name: &str, kind: u8, major: u32, minor: u32| {
        entry_with(kind, name, "", b"", move |header| {
            header[329..336].copy_from_slice(format!("{major:07o}").as_bytes());
            header[337..344].copy_from_slice(format!("{minor:07o}").as_bytes());
        })
    };
    let layer = archive(&[device("disk", b'4', 8, 0), device("vda", b'4', 254, 0), device("mem", b'3', 1, 1), device("kmsg", b'3', 1, 11)]);
    let done = load_and_run("devices", &[layer], "for f in disk vda mem kmsg; do test -e /$f && head -c1 /$f; done");
    let done = done.expect("docker takes such images too");
    assert!(done.out.is_empty() && done.err.matches("Operation not permitted").count() == 4, "{done:?}");
}

#[test]
fn attributes_of_overlay_are_not_an_image_s_to_set() {
    let trap = |name: &str, key: &str, value: &str| [pax(&[(&format!("SCHILY.xattr.{key}"), value)]), entry(b'5', name, "", b"")].concat();
    for prefix in ["trusted.overlay", "user.overlay"] {
        let layer = archive(&[
            trap("etc2/", &format!("{prefix}.redirect"), "/etc"),
            trap("etc/", &format!("{prefix}.opaque"), "y"),
            trap("meta/", &format!("{prefix}.metacopy"), ""),
        ]);
        let done = load_and_run(prefix, &[layer], "ls /etc2 | wc -l; cat /etc/passwd").expect("such attributes are dropped");
        assert!(done.out.starts_with("0\n") && done.out.contains("bob"), "{prefix}: {done:?}");
    }
}

#[test]
fn owners_beyond_the_range_do_not_become_root() {
    let big = entry_with(b'0', "owned", "", b"x", |header| {
        header[108..116].copy_from_slice(&[0x80, 0, 0, 2, 0, 0, 0, 0]);
    });
    let negative = entry_with(b'0', "owned", "", b"x", |header| header[108..116].fill(0xff));
    let record = |uid: &str| [pax(&[("uid", uid)]), entry(b'0', "owned", "", b"x")].concat();
    for (case, owned) in [
        ("base 256", big),
        ("negative", negative),
        ("record of 2^32", record("4294967296")),
        ("record of 2^32-1", record("4294967295")),
        ("negative record", record("-1")),
        ("no number", record("bob")),
    ] {
        if let Ok(done) = load_and_run(case, &[archive(&[owned])], "stat -c %u /owned") {
            assert!(done.code == 0 && done.out != "0\n", "{case}: {done:?}");
        }
    }
}

#[test]
fn a_sparse_file_of_a_tebibyte_costs_nothing() {
    let map = b"1\n0\n512\n";
    let mut data = map.to_vec();
    data.resize(512, 0);
    data.extend([b'x'; 512]);
    let sparse = [
        pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "big"), ("GNU.sparse.realsize", "1099511627776")]),
        entry(b'0', "GNUSparseFile.0/big", "", &data),
    ];
    let error = load_and_run("sparse", &[archive(&[sparse.concat()])], "true").expect_err("it is larger than a layer may be");
    assert!(error.contains("limit") || error.contains("large"), "{error}");
}

#[test]
fn damaged_archives_are_refused_and_leave_nothing() {
    let daemon = Daemon::start();
    let tag = "damaged:1";
    let folder = archive(&[entry(b'0', "file", "", &[b'z'; 5000])]);
    let small = pack(
        tag,
        &format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            naru_types::Digest::of(&folder)
        ),
        std::slice::from_ref(&folder),
    );
    let blobs = || std::fs::read_dir(daemon.root.join("d/blobs/sha256")).unwrap().count();
    let layers = || std::fs::read_dir(daemon.root.join("d/layers")).unwrap().count();
    let before = (blobs(), layers());
    assert_eq!(daemon.feed(&["load"], &small).code, 0, "undamaged it is taken");
    assert_ne!((blobs(), layers()), before);
    daemon.ok(&["rmi", tag]);
    assert_eq!((blobs(), layers()), before);
    // The layer's bytes are the last 2.5 KiB before the end blocks and its own; a flip in them breaks its digest.
    let content = small.windows(8).position(|window| window == b"zzzzzzzz").unwrap();
    for at in (0..small.len() - 1024).step_by(small.len() / 24) {
        let cut = daemon.feed(&["load"], &small[..at]);
        assert!(cut.code != 0 || cut.out.is_empty(), "cut at {at}: {cut:?}");
        let mut flipped = small.clone();
        flipped[at] ^= 4;
        let result = daemon.feed(&["load"], &flipped);
        if result.code == 0 {
            daemon.run(&["rmi", "-f", tag]);
        }
        assert!(result.code != 0 || !(content..content + 5000).contains(&at), "flip at {at} of the layer is taken: {result:?}");
    }
    for id in daemon.ok(&["images", "-q", "-f", "dangling=true"]).lines() {
        daemon.ok(&["rmi", "-f", id]);
    }
    assert_eq!((blobs(), layers()), before, "blobs and layers of refused archives stay");
    daemon.until_clean();
}

#[test]
fn digests_and_paths_of_an_archive_are_checked() {
    let daemon = shared();
    let canary = Canary::new();
    let tag = format!("{}:1", name("lies"));
    let layer = archive(&[entry(b'0', "file", "", b"x")]);
    let config =
        |id: &str| format!(r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{id}"]}}}}"#);
    let good = config(&naru_types::Digest::of(&layer).to_string());
    let other = config(&naru_types::Digest::of(b"other").to_string());
    let with = |manifest: String, extra: Vec<u8>| {
        archive(&[
            entry(b'0', "manifest.json", "", manifest.as_bytes()),
            entry(b'0', "config.json", "", good.as_bytes()),
            entry(b'0', "0.tar", "", &layer),
            extra,
        ])
    };
    let secret = format!("{}/secret", canary.path());
    let manifest = |config: &str, layer: &str| format!(r#"[{{"Config":"{config}","RepoTags":["{tag}"],"Layers":["{layer}"]}}]"#);
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":3}}]}}"#,
        naru_types::Digest::of(b"one")
    );
    let blob = format!("blobs/sha256/{}", naru_types::Digest::of(b"one").hex());
    for (case, bytes, words) in [
        ("diff id", pack(&tag, &other, std::slice::from_ref(&layer)), "sha256:"),
        ("count of layers", pack(&tag, &good, &[layer.clone(), layer.clone()]), "layer"),
        ("path of digest", pack(&tag, &config("sha256:../../etc"), std::slice::from_ref(&layer)), ""),
        ("config up", with(manifest(&format!("../../../../../..{secret}"), "0.tar"), vec![]), ""),
        ("layer up", with(manifest("config.json", &format!("../../../../../..{secret}")), vec![]), ""),
        ("layer absolute", with(manifest("config.json", &secret), vec![]), ""),
        ("layer link", with(manifest("config.json", "l.tar"), entry(b'2', "l.tar", &secret, b"")), ""),
        ("config link", with(manifest("l.json", "0.tar"), entry(b'2', "l.json", &canary.up(), b"")), ""),
        (
            "blob's digest",
            archive(&[
                entry(b'0', "oci-layout", "", br#"{"imageLayoutVersion":"1.0.0"}"#),
                entry(b'0', "index.json", "", index.as_bytes()),
                entry(b'0', &blob, "", b"two"),
            ]),
            "",
        ),
        ("no archive", vec![7; 4096], ""),
        ("nothing", vec![], ""),
        ("no manifest", archive(&[entry(b'0', "x", "", b"y")]), ""),
    ] {
        let result = daemon.feed(&["load"], &bytes);
        assert!(result.code != 0 && result.err.contains(words) && result.err.trim().len() > 20, "{case}: {result:?}");
        assert!(!result.err.contains(SECRET) && !result.out.contains(SECRET), "{case}: {result:?}");
        canary.untouched(case);
    }
    assert_ne!(daemon.run(&["image", "inspect", &tag]).code, 0);
}

#[test]
fn a_fifo_in_place_of_a_file_hangs_nothing() {
    let daemon = shared();
    for (case, path) in [("passwd", "etc/passwd"), ("group", "etc/group")] {
        let (tag, name) = (format!("{}:1", name("fifo")), name("fifo"));
        let layer = archive(&[entry(b'0', &path.replace("etc/", "etc/.wh."), "", b""), entry(b'6', path, "", b"")]);
        let layer = if case == "passwd" { archive(&[entry(b'6', path, "", b"")]) } else { layer };
        assert_eq!(daemon.feed(&["load"], &image(&tag, &[layer], "")).code, 0, "{case}");
        let start = Instant::now();
        let result = soon(daemon, &["run", "--name", &name, "-u", "bob:bob", &tag, "true"]);
        assert!(result.code != 0 && result.err.contains("bob"), "{case}: {result:?}");
        assert!(start.elapsed() < Duration::from_secs(15), "{case}");
        assert_eq!(soon(daemon, &["inspect", &name]).code, 0);
        assert_eq!(soon(daemon, &["rm", "-f", &name]).code, 0);
        daemon.ok(&["rmi", &tag]);
    }
}

#[test]
fn folders_as_links_to_the_host_are_traps_without_effect() {
    let daemon = shared();
    let canary = Canary::new();
    for target in [canary.path(), canary.up()] {
        for folder in ["etc", "dev", "proc", "sys", "dev/pts", "dev/shm", "etc/hosts", "etc/resolv.conf", "etc/hostname", ".dockerenv"] {
            let tag = format!("{}:1", name("trap"));
            let layer = archive(&[entry(b'2', folder, &target, b"")]);
            let loaded = daemon.feed(&["load"], &image(&tag, &[layer], ""));
            assert_eq!(loaded.code, 0, "{folder}: {loaded:?}");
            let result = soon(daemon, &["run", "--rm", &tag, "/bin/busybox", "sh", "-c", &format!("cat {target}/secret; echo ran")]);
            assert!(!result.out.contains(SECRET), "{folder}: {result:?}");
            assert!(result.out.ends_with("ran\n") || result.err.trim().len() > 20, "{folder}: {result:?}");
            canary.untouched(folder);
            daemon.ok(&["rmi", "-f", &tag]);
        }
    }
}

#[test]
fn entrypoints_that_cannot_run_are_named() {
    let daemon = shared();
    let tag = format!("{}:1", name("entry"));
    let mut foreign = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 183, 0, 1, 0, 0, 0];
    foreign.resize(256, 0);
    let layer = archive(&[
        entry(b'6', "fifo", "", b""),
        entry(b'5', "folder/", "", b""),
        entry(b'0', "script", "", b"#!/no/interpreter\necho\n"),
        entry(b'0', "loop", "", b"#!/loop\n"),
        entry(b'0', "foreign", "", &foreign),
        entry(b'0', "empty", "", b""),
        entry(b'2', "dangling", "/no/where", b""),
        entry(b'2', "circle", "/circle", b""),
    ]);
    assert_eq!(daemon.feed(&["load"], &image(&tag, &[layer], "")).code, 0);
    for (path, code, words) in [
        ("/fifo", 126, "permission denied"),
        ("/folder", 126, "is a directory"),
        ("/script", 127, "/no/interpreter"),
        ("/foreign", 125, "exec format error"),
        ("/dangling", 127, "no such file"),
        ("/loop", 125, "/loop"),
        ("/empty", 125, "exec format error"),
        ("/circle", 125, "/circle"),
        ("/etc/passwd/x", 125, "not a directory"),
    ] {
        let result = soon(daemon, &["run", "--rm", &tag, path]);
        assert!(result.code == code && result.err.contains(words), "{path}: {result:?}");
    }
    daemon.ok(&["rmi", &tag]);
    assert_eq!(daemon.ok(&["run", "--rm", BOX, "echo", "fine"]), "fine");
}

/// What an image says of its containers is checked as if a user had said it.
#[test]
fn configurations_of_images_are_not_believed() {
    let daemon = shared();
    let canary = Canary::new();
    let (path, up) = (canary.path(), canary.up());
    for (case, config, refused) in [
        ("user of 2^31", r#""User":"2147483648""#.to_owned(), true),
        ("user of 2^32", r#""User":"4294967296""#.into(), true),
        ("negative user", r#""User":"-1""#.into(), true),
        ("user in hexadecimal", r#""User":"0x0""#.into(), true),
        ("user of two lines", r#""User":"root\nbob""#.into(), true),
        ("user of many digits", r#""User":"1000000000000000000000""#.into(), true),
        ("group of 2^32", r#""User":"1000:4294967296""#.into(), true),
        ("relative directory", format!(r#""WorkingDir":"{up}""#), true),
        ("directory beyond the root", format!(r#""WorkingDir":"/{up}""#), false),
        ("relative volume", format!(r#""Volumes":{{"{up}":{{}}}}"#), true),
        ("volume beyond the root", format!(r#""Volumes":{{"/{up}":{{}}}}"#), false),
        ("volume of the root", r#""Volumes":{"/":{}}"#.into(), true),
        ("volume of /proc", r#""Volumes":{"/proc":{}}"#.into(), true),
        ("volume of /proc, hidden", r#""Volumes":{"/etc/../proc":{}}"#.into(), true),
        ("volume of /sys", r#""Volumes":{"/sys":{}}"#.into(), true),
        ("volume of /dev", r#""Volumes":{"/dev":{}}"#.into(), true),
        ("NUL in the environment", r#""Env":["A=\u0000b"]"#.into(), true),
        ("a variable without a name", r#""Env":["=x"]"#.into(), true),
        ("a signal that is none", r#""StopSignal":"999""#.into(), true),
        ("a port that is none", r#""ExposedPorts":{"99999/tcp":{}}"#.into(), true),
        ("a check in negative time", r#""Healthcheck":{"Test":["CMD","true"],"Interval":-5}"#.into(), true),
        ("privileges", r#""Privileged":true,"SecurityOpt":["seccomp=unconfined"],"CapAdd":["ALL"],"Devices":["/dev/mem"]"#.into(), false),
        (
            "labels of others",
            r#""Labels":{"io.containers.autoupdate":"x","containerd.io/restart.loguri":"binary:///bin/sh"}"#.into(),
            false,
        ),
    ] {
        let tag = format!("{}:1", name("config"));
        let loaded = daemon.feed(&["load"], &image(&tag, &[], &config));
        let result = if loaded.code == 0 {
            let script = format!("cat {path}/secret; grep -E '^CapEff:.*a80425fb$' /proc/self/status && echo ran");
            let done = soon(daemon, &["run", "--rm", &tag, "/bin/busybox", "sh", "-c", &script]);
            daemon.ok(&["rmi", "-f", &tag]);
            done
        } else {
            loaded
        };
        assert_eq!(result.code != 0, refused, "{case}: {result:?}");
        assert!(!refused || result.err.trim().len() > 20, "{case}: no reason: {result:?}");
        assert!(refused || result.out.ends_with("ran\n"), "{case}: {result:?}");
        assert!(!result.out.contains(SECRET), "{case}: {result:?}");
        canary.untouched(case);
    }
}

#[test]
fn a_layer_that_grows_beyond_all_bounds_is_refused() {
    use std::io::Write;
    let daemon = Daemon::with_flags(&["--max-layer-size", "16m"]);
    // 64 MiB of nothing in 64 KiB: a file as long as it says, and one whose header claims a terabyte.
    let mut bomb = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(64 << 20);
    header.set_mode(0o644);
    header.set_cksum();
    bomb.append_data(&mut header, "zeros", std::io::repeat(0).take(64 << 20)).expect("memory takes it");
    let plain = bomb.into_inner().expect("memory takes it");
    let mut gzip = Command::new("gzip").arg("-9").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("gzip starts");
    let mut input = gzip.stdin.take().expect("it was asked for");
    let writer = std::thread::spawn(move || input.write_all(&plain));
    let packed = gzip.wait_with_output().expect("gzip ends").stdout;
    writer.join().expect("the writer does not panic").expect("gzip reads all");
    assert!(packed.len() < 1 << 20);
    let refused = daemon.feed(&["import", "-", "bomb:1"], &packed);
    assert!(refused.code == 1 && format!("{}{}", refused.out, refused.err).contains("16777216 bytes"), "{refused:?}");
    assert!(daemon.fails(1, &["image", "inspect", "bomb:1"]).contains("No such image"));
    daemon.until_clean();
}
