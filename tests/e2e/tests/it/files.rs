//! Files from outside: cp, diff, export, commit, volumes, binds, tmpfs.

use naru_e2e::{BOX, name, shared};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn cp_goes_both_ways_and_keeps_modes() {
    let daemon = shared();
    let name = name("cp");
    let folder = tempfile::tempdir().unwrap();
    let path = |file: &str| folder.path().join(file).display().to_string();
    std::fs::create_dir_all(folder.path().join("tree/sub")).unwrap();
    std::fs::write(folder.path().join("tree/sub/file"), "content").unwrap();
    std::os::unix::fs::symlink("sub/file", folder.path().join("tree/link")).unwrap();
    for running in [false, true] {
        if running {
            daemon.ok(&["run", "-d", "--name", &name, BOX, "sleep", "1000"]);
        } else {
            daemon.ok(&["create", "--name", &name, BOX]);
        }
        daemon.ok(&["cp", &path("tree"), &format!("{name}:/tmp/copy")]);
        let back = path(&format!("back-{running}"));
        daemon.ok(&["cp", &format!("{name}:/tmp/copy"), &back]);
        assert_eq!(std::fs::read_to_string(format!("{back}/sub/file")).unwrap(), "content");
        assert_eq!(std::fs::read_link(format!("{back}/link")).unwrap().to_str(), Some("sub/file"));
        let changes = daemon.ok(&["diff", &name]);
        assert!(changes.lines().any(|line| line == "A /tmp/copy/sub/file") && changes.lines().any(|line| line == "C /tmp"), "{changes}");
        assert!(daemon.run(&["cp", &format!("{name}:/no/such"), &path("x")]).err.contains("no/such"));
        daemon.ok(&["rm", "-f", &name]);
    }
}

#[test]
fn links_in_a_container_never_lead_out() {
    let daemon = shared();
    let name = name("trap");
    let canary = tempfile::tempdir().unwrap();
    std::fs::write(canary.path().join("secret"), "host").unwrap();
    let target = canary.path().display();
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        &name,
        BOX,
        "sh",
        "-c",
        &format!("ln -s {target} /tmp/out; ln -s ../../../../.. /tmp/up; sleep 1000"),
    ]);
    daemon.until("the links are there", || daemon.run(&["exec", &name, "ls", "-d", "/tmp/up"]).code == 0);
    let copied = canary.path().join("copied").display().to_string();
    assert_ne!(daemon.run(&["cp", &format!("{name}:/tmp/out/secret"), &copied]).code, 0);
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("planted"), "x").unwrap();
    daemon.run(&["cp", &outside.path().join("planted").display().to_string(), &format!("{name}:/tmp/out/")]);
    assert_eq!(std::fs::read_dir(canary.path()).unwrap().count(), 1, "only the secret lies there");
    daemon.ok(&["rm", "-f", &name]);
}

#[test]
fn commit_makes_an_image_of_the_changes() {
    let daemon = shared();
    let (name, image) = (name("commit"), format!("{}:1", name("committed")));
    daemon.ok(&["run", "--name", &name, BOX, "sh", "-c", "echo new > /etc/new; rm /etc/group"]);
    daemon.ok(&["commit", "-m", "message", "-a", "author", "-c", "CMD [\"cat\", \"/etc/new\"]", "-c", "ENV K=V", &name, &image]);
    assert_eq!(daemon.ok(&["run", "--rm", &image]), "new");
    assert_eq!(daemon.ok(&["run", "--rm", &image, "sh", "-c", "ls /etc/group 2>/dev/null; echo $K"]), "V");
    daemon.ok(&["rm", &name]);
    assert!(daemon.ok(&["history", &image]).contains("message"));
    let archive = daemon.command(&["save", &image]).output().unwrap().stdout;
    daemon.ok(&["rmi", &image]);
    assert!(daemon.feed(&["load"], &archive).out.contains(&image));
    assert_eq!(daemon.ok(&["run", "--rm", &image]), "new");
    daemon.ok(&["rmi", &image]);
}

/// What is being read goes only when it has been read.
#[test]
fn files_being_read_outlive_their_container() {
    let daemon = shared();
    let script = "mkdir /many; for i in $(seq 300); do dd if=/dev/zero of=/many/$i bs=100k count=1 2>/dev/null; done; echo end > /many/zzz";
    for (verb, runs) in [("export", false), ("cp", false), ("export", true)] {
        let name = name("read");
        if runs {
            daemon.ok(&["run", "-d", "--name", &name, BOX, "sh", "-c", &format!("{script}; exec sleep 1000")]);
            daemon.until("it has written", || daemon.run(&["exec", &name, "cat", "/many/zzz"]).out == "end\n");
        } else {
            daemon.ok(&["run", "--name", &name, BOX, "sh", "-c", script]);
        }
        let from = format!("{name}:/many");
        let args = if verb == "cp" { vec!["cp", &from, "-"] } else { vec!["export", &name] };
        let mut client = daemon.command(&args).stdout(Stdio::piped()).spawn().unwrap();
        let mut stream = client.stdout.take().unwrap();
        let mut bytes = vec![0; 512];
        stream.read_exact(&mut bytes).unwrap();
        daemon.ok(&["rm", "-f", &name]);
        assert!(daemon.run(&["inspect", &name]).code != 0);
        // Long enough for what is deleted in the background.
        std::thread::sleep(Duration::from_millis(500));
        stream.read_to_end(&mut bytes).unwrap();
        assert!(client.wait().unwrap().success(), "{verb} of one that runs: {runs}");
        let mut listed = Command::new("tar").args(["-t"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = listed.stdin.take().unwrap();
        let writer = std::thread::spawn(move || input.write_all(&bytes));
        let listed = String::from_utf8(listed.wait_with_output().unwrap().stdout).unwrap();
        writer.join().unwrap().unwrap();
        assert_eq!(listed.lines().filter(|line| line.contains("many/") && !line.ends_with('/')).count(), 301, "{verb}, {runs}");
    }
}

/// An image has all files of a container that is removed meanwhile, or there is none.
#[test]
fn a_commit_is_whole_or_not_at_all() {
    let daemon = shared();
    let (base, image) = (name("full"), format!("{}:1", name("whole")));
    let script = "mkdir /many; for i in $(seq 400); do dd if=/dev/zero of=/many/$i bs=100k count=1 2>/dev/null; done";
    daemon.ok(&["run", "--name", &base, BOX, "sh", "-c", script]);
    let full = format!("{base}:1");
    daemon.ok(&["commit", &base, &full]);
    let mut made = 0;
    for round in 0..12 {
        let name = name("going");
        // What it has of its own: the files once more.
        if round % 2 == 0 {
            daemon.ok(&["run", "--name", &name, &full, "cp", "-r", "/many", "/more"]);
        } else {
            daemon.ok(&["run", "-d", "--name", &name, &full, "sh", "-c", "cp -r /many /more; touch /done; exec sleep 1000"]);
            daemon.until("it has written", || daemon.run(&["exec", &name, "test", "-e", "/done"]).code == 0);
        }
        let mut client = daemon.command(&["commit", &name, &image]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(15 * round));
        daemon.ok(&["rm", "-f", &name]);
        if client.wait().unwrap().success() {
            made += 1;
            assert_eq!(daemon.ok(&["run", "--rm", &image, "sh", "-c", "ls /more | wc -l"]), "400", "{round}");
            daemon.ok(&["rmi", &image]);
        } else {
            assert_ne!(daemon.run(&["inspect", &image]).code, 0, "{round}: an image that nobody was told of");
        }
    }
    assert!(made > 0);
    daemon.ok(&["rm", &base]);
    daemon.ok(&["rmi", &full]);
}

#[test]
fn export_is_an_archive_of_the_root() {
    let daemon = shared();
    let name = name("export");
    daemon.ok(&["create", "--name", &name, "-v", "/data", BOX]);
    let bytes = daemon.command(&["export", &name]).output().unwrap().stdout;
    let mut archive = tar::Archive::new(bytes.as_slice());
    let paths: Vec<String> = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
    assert!(paths.iter().any(|path| path.trim_start_matches("./") == "bin/busybox"), "{} entries", paths.len());
    daemon.ok(&["rm", "-v", &name]);
}

#[test]
fn volumes_keep_data_and_are_filled_from_the_image() {
    let daemon = shared();
    let volume = name("volume");
    let mount = format!("{volume}:/etc");
    assert!(daemon.ok(&["run", "--rm", "-v", &mount, BOX, "cat", "/etc/passwd"]).contains("bob"));
    daemon.ok(&["run", "--rm", "-v", &mount, BOX, "sh", "-c", "echo kept > /etc/kept"]);
    assert_eq!(daemon.ok(&["run", "--rm", "-v", &format!("{volume}:/x:ro"), BOX, "cat", "/x/kept"]), "kept");
    assert_ne!(daemon.run(&["run", "--rm", "-v", &format!("{volume}:/x:ro"), BOX, "touch", "/x/y"]).code, 0);
    let holder = name("holder");
    daemon.ok(&["create", "--name", &holder, "-v", &mount, BOX]);
    assert!(daemon.fails(1, &["volume", "rm", &volume]).contains("volume is in use"));
    daemon.ok(&["rm", &holder]);
    daemon.ok(&["volume", "rm", &volume]);
    assert!(daemon.fails(1, &["volume", "rm", &volume]).contains("no such volume"));
}

#[test]
fn anonymous_volumes_go_with_their_container() {
    let daemon = shared();
    let label = name("anonymous");
    daemon.ok(&["run", "--rm", "--label", &label, "-v", "/data", BOX, "touch", "/data/x"]);
    let keeper = name("keeper");
    daemon.ok(&["create", "--name", &keeper, "-v", "/data", BOX]);
    let volume = daemon.inspect(&keeper)["Mounts"][0]["Name"].as_str().unwrap().to_owned();
    daemon.ok(&["volume", "inspect", &volume]);
    daemon.ok(&["rm", "-v", &keeper]);
    assert_ne!(daemon.run(&["volume", "inspect", &volume]).code, 0);
    let unnamed = daemon.ok(&["volume", "create"]);
    let labels = daemon.ok(&["volume", "inspect", "-f", "{{json .Labels}} {{.CreatedAt}}", &unnamed]);
    let created = labels.strip_prefix(r#"{"com.docker.volume.anonymous":""} "#).unwrap_or_else(|| panic!("{labels}"));
    assert!(created.len() == "2006-01-02T15:04:05Z".len(), "{created}");
    daemon.ok(&["volume", "rm", &unnamed]);
}

#[test]
fn binds_and_tmpfs() {
    let daemon = shared();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "from the host").unwrap();
    let source = folder.path().display().to_string();
    assert_eq!(daemon.ok(&["run", "--rm", "-v", &format!("{source}:/x"), BOX, "cat", "/x/file"]), "from the host");
    daemon.ok(&["run", "--rm", "-v", &format!("{source}:/x"), BOX, "touch", "/x/written"]);
    assert!(folder.path().join("written").exists());
    assert_ne!(daemon.run(&["run", "--rm", "--mount", &format!("type=bind,src={source},dst=/x,readonly"), BOX, "touch", "/x/no"]).code, 0);
    assert!(
        daemon
            .fails(125, &["run", "--rm", "--mount", "type=bind,src=/no/such,dst=/x", BOX, "true"])
            .contains("bind source path does not exist: /no/such")
    );
    let mounts = daemon.ok(&[
        "run",
        "--rm",
        "--read-only",
        "--tmpfs",
        "/scratch:size=1m",
        BOX,
        "sh",
        "-c",
        "touch /scratch/x && mount; touch /y || echo read-only",
    ]);
    assert!(mounts.contains("tmpfs on /scratch type tmpfs") && mounts.contains("size=1024k") && mounts.ends_with("read-only"), "{mounts}");
}

#[test]
fn mounts_travel_only_from_a_shared_mount() {
    let daemon = shared();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().display().to_string();
    let host = |line: &str| assert!(Command::new("sh").args(["-ec", line]).status().unwrap().success(), "{line}");
    host(&format!("mount -t tmpfs none {source} && mount --make-private {source}"));
    let run = |propagation: &str| daemon.run(&["run", "--rm", "-v", &format!("{source}:/x:{propagation}"), BOX, "true"]);
    let refused = [run("rshared"), run("slave")];
    host(&format!("mount --make-shared {source}"));
    let taken = [run("rshared"), run("slave"), run("rprivate")];
    host(&format!("umount {source}"));
    assert!(
        refused.iter().all(|done| done.code != 0 && done.err.contains(&format!("is mounted on {source} but it is not a shared"))),
        "{refused:?}"
    );
    assert!(taken.iter().all(|done| done.code == 0), "{taken:?}");
}

#[test]
fn cp_reaches_volumes_and_binds_of_a_stopped_container() {
    let daemon = shared();
    let (name, volume) = (name("view"), name("viewed"));
    let host = tempfile::tempdir().unwrap();
    let path = |file: &str| host.path().join(file).display().to_string();
    std::fs::create_dir(host.path().join("bind")).unwrap();
    std::fs::write(host.path().join("note"), "from outside").unwrap();
    let (volume_at, bind_at, closed_at) =
        (format!("{volume}:/data"), format!("{}:/bind", path("bind")), format!("{}:/closed:ro", path("bind")));
    daemon.ok(&["create", "--name", &name, "-v", &volume_at, "-v", &bind_at, "-v", &closed_at, BOX, "sh", "-c", "ln -s /data /way"]);
    daemon.ok(&["cp", &path("note"), &format!("{name}:/data/created")]);
    daemon.ok(&["start", "-a", &name]);
    daemon.ok(&["cp", &path("note"), &format!("{name}:/data/note")]);
    daemon.ok(&["cp", &path("note"), &format!("{name}:/way/by-link")]);
    daemon.ok(&["cp", &path("note"), &format!("{name}:/bind/note")]);
    assert_eq!(std::fs::read_to_string(host.path().join("bind/note")).unwrap(), "from outside");
    let refused = daemon.fails(1, &["cp", &path("note"), &format!("{name}:/closed/x")]);
    assert!(refused.contains("mounted volume is marked read-only"), "{refused}");
    daemon.ok(&["cp", &format!("{name}:/data"), &path("back")]);
    for file in ["created", "note", "by-link"] {
        assert_eq!(std::fs::read_to_string(host.path().join("back").join(file)).unwrap(), "from outside", "{file}");
        assert_eq!(daemon.ok(&["run", "--rm", "-v", &format!("{volume}:/v"), BOX, "cat", &format!("/v/{file}")]), "from outside");
    }
    // Nothing went below the mounts, into the container's own layer.
    let changes = daemon.ok(&["diff", &name]);
    assert!(!changes.contains("note") && !changes.contains("created"), "{changes}");
    daemon.ok(&["rm", &name]);
    daemon.ok(&["volume", "rm", &volume]);
}

#[test]
fn an_upload_refused_early_says_why() {
    let daemon = shared();
    let name = name("upload");
    let host = tempfile::tempdir().unwrap();
    let large = host.path().join("large").display().to_string();
    std::fs::write(&large, vec![7; 8 << 20]).unwrap();
    daemon.ok(&["run", "-d", "--name", &name, "--read-only", "-v", "/data", BOX, "sleep", "1000"]);
    let refused = daemon.fails(1, &["cp", &large, &format!("{name}:/tmp/")]);
    assert!(refused.contains("container rootfs is marked read-only"), "{refused}");
    daemon.ok(&["cp", &large, &format!("{name}:/data/")]);
    daemon.ok(&["rm", "-fv", &name]);
    let refused = daemon.feed(&["import", "-c", "NONSENSE x", "-"], &vec![0; 8 << 20]);
    assert!(refused.err.contains("NONSENSE is not a valid change command"), "{refused:?}");
}

#[test]
fn a_read_only_root_keeps_the_engine_s_files_too() {
    let daemon = shared();
    let write = "for f in hosts hostname resolv.conf; do echo x >> /etc/$f && echo $f; done 2>/dev/null; true";
    assert_eq!(daemon.ok(&["run", "--rm", "--read-only", BOX, "sh", "-c", write]), "");
    assert_eq!(daemon.ok(&["run", "--rm", BOX, "sh", "-c", write]), "hosts\nhostname\nresolv.conf");
}

#[test]
fn a_tmpfs_where_nothing_was_is_for_all() {
    let daemon = shared();
    let name = name("tmpfs");
    let look = "touch /new/file && stat -c %a /new";
    daemon.ok(&[
        "create",
        "--name",
        &name,
        "-u",
        "33",
        "--tmpfs",
        "/new",
        "--tmpfs",
        "/etc",
        BOX,
        "sh",
        "-c",
        &format!("{look}; stat -c %a /etc"),
    ]);
    // Also at the second start, which finds the directory of the first.
    for _ in 0..2 {
        assert_eq!(daemon.ok(&["start", "-a", &name]), "1777\n755");
    }
    daemon.ok(&["rm", &name]);
    // What is made on the host's side of a bind is not opened to all.
    let folder = tempfile::tempdir().unwrap();
    daemon.ok(&["run", "--rm", "-v", &format!("{}:/bind", folder.path().display()), "--tmpfs", "/bind/new", BOX, "true"]);
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(folder.path().join("new")).unwrap());
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn a_file_of_a_volume_can_be_mounted_alone() {
    let daemon = shared();
    let volume = name("part");
    daemon.ok(&[
        "run",
        "--rm",
        "-v",
        &format!("{volume}:/v"),
        BOX,
        "sh",
        "-c",
        "echo inside > /v/file; mkfifo /v/fifo; ln -s /etc/passwd /v/out",
    ]);
    let mount = |path: &str| format!("type=volume,src={volume},dst=/alone,volume-subpath={path}");
    assert_eq!(daemon.ok(&["run", "--rm", "--mount", &mount("file"), BOX, "cat", "/alone"]), "inside");
    for other in ["fifo", "out", "none"] {
        assert!(daemon.fails(125, &["run", "--rm", "--mount", &mount(other), BOX, "true"]).contains("cannot access path"), "{other}");
    }
    daemon.ok(&["volume", "rm", &volume]);
}

#[test]
fn cp_with_owners_keeps_them_where_the_container_names_nobody() {
    let daemon = shared();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    std::os::unix::fs::chown(&file, Some(1000), Some(1001)).unwrap();
    for (user, owner) in [("", "1000:1001"), ("33:44", "33:44")] {
        let name = name("cp-a");
        daemon.ok(&["run", "-d", "--name", &name, "-u", user, BOX, "sleep", "1000"]);
        daemon.ok(&["cp", "-a", &file.display().to_string(), &format!("{name}:/tmp/file")]);
        assert_eq!(daemon.ok(&["exec", &name, "stat", "-c", "%u:%g", "/tmp/file"]), owner);
        daemon.ok(&["rm", "-f", &name]);
    }
}
