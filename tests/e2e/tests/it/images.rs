//! What the engine says of its images: how much they take.

use naru_e2e::{BOX, Daemon, busybox_archive, client, name, shared};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// A size as clients print it, in bytes.
fn bytes(text: &str) -> f64 {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let factor = match &text[digits.len()..] {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        unit => panic!("{unit} of {text}"),
    };
    digits.parse::<f64>().expect("a number") * factor
}

/// `du` of the data root, in bytes.
fn du(daemon: &Daemon) -> f64 {
    let output = Command::new("du").args(["-s", "-B1"]).arg(daemon.data()).output().expect("du is there");
    let text = String::from_utf8(output.stdout).expect("du prints text");
    text.split_whitespace().next().and_then(|size| size.parse().ok()).expect("du prints a number first")
}

/// The sizes that `system df` sums up.
fn told(daemon: &Daemon) -> f64 {
    daemon.ok(&["system", "df", "--format", "{{.Size}}"]).lines().map(bytes).sum()
}

#[test]
fn a_change_that_cannot_be_is_told_before_the_answer_begins() {
    let daemon = shared();
    for change in ["EXPOSE%20x", "STOPSIGNAL%20NONE", "VOLUME%20%22%22"] {
        let (status, text) = daemon.api("POST", &format!("/v1.51/images/create?fromSrc=-&changes={change}"), None);
        assert_eq!(status, 400, "{change}: {text}");
    }
}

#[test]
fn the_disk_usage_is_what_du_says() {
    let daemon = Daemon::start();
    let agree = |step: &str| {
        let (du, told) = (du(&daemon), told(&daemon));
        assert!((du - told).abs() <= du / 100.0, "{step}: du says {du}, df {told}\n{}", daemon.ok(&["system", "df", "-v"]));
        du
    };
    agree("at the start");
    let small = "rm -rf /small; mkdir /small; i=0; while [ $i -lt 300 ]; do echo $i > /small/$i; i=$((i+1)); done";
    for (from, to, size) in [(BOX, "base:1", 40), ("base:1", "left:1", 30), ("base:1", "right:1", 20)] {
        let container = name("df");
        let script = format!("head -c {size}m /dev/zero > /big-{size}; {small}");
        daemon.ok(&["run", "--name", &container, from, "sh", "-ec", &script]);
        daemon.ok(&["commit", &container, to]);
        daemon.ok(&["rm", &container]);
    }
    // Files of containers and volumes, small ones and such with holes; a log; what a pull that was cut off has left.
    let fill =
        format!("{small}; head -c 25m /dev/zero > /own; truncate -s 1073741824 /holes; seq 200000; cp -r /small /data; ln /own /second");
    daemon.ok(&["run", "--name", "stopped", "-v", "data:/data", "left:1", "sh", "-ec", &fill]);
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "running",
        "-v",
        "more:/more",
        "right:1",
        "sh",
        "-ec",
        "head -c 30m /dev/zero > /more/file; sleep 1000",
    ]);
    daemon.until("the volume is filled", || daemon.ok(&["exec", "running", "sh", "-c", "wc -c < /more/file"]) == "31457280");
    let partial = daemon.data().join("partial").join(naru_types::Digest::of(b"cut off").hex());
    std::fs::write(&partial, vec![1; 15 << 20]).expect("root may");
    let before = agree("with all kinds of things");
    let rows = daemon.ok(&["system", "df", "-v", "--format", "{{range .Containers}}{{.Names}} {{.Size}}\n{{end}}"]);
    let size = |name: &str| rows.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).map(bytes).expect("it is listed");
    assert!((25e6..45e6).contains(&size("stopped")) && size("running") < 1e6, "holes take nothing: {rows}");
    let volumes = daemon.ok(&["system", "df", "-v", "--format", "{{range .Volumes}}{{.Name}} {{.Links}} {{.Size}}\n{{end}}"]);
    assert!(volumes.contains("more 1 31.4") || volumes.contains("more 1 31.5"), "{volumes}");

    // What goes is what was told.
    daemon.ok(&["rm", "stopped"]);
    let pruned = daemon.ok(&["image", "prune", "-af"]);
    assert!(pruned.contains("Total reclaimed space: "), "{pruned}");
    assert!(!partial.exists(), "what arrived in part goes, too");
    daemon.until("the files are gone", || std::fs::read_dir(daemon.data().join("trash")).expect("it is there").count() == 0);
    let after = agree("when most of it is gone");
    assert!(before - after > 70e6, "{before} {after}");
}

#[test]
fn filters_choose_images() {
    let daemon = Daemon::start();
    // Made within a second: the order is not that of seconds.
    let container = name("filter");
    daemon.ok(&["run", "--name", &container, BOX, "true"]);
    for (reference, label) in [("f/one:1", "n=1"), ("f/two:1", "n=2"), ("f/three:1", "n=3")] {
        daemon.ok(&["commit", "-c", &format!("LABEL {label}"), &container, reference]);
    }
    daemon.ok(&["tag", "f/two:1", "f/two:2"]);
    let listed = |filters: &[&str]| -> Vec<String> {
        let flags = filters.iter().flat_map(|filter| ["--filter", filter]);
        let args: Vec<&str> =
            ["images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "reference=f/*"].into_iter().chain(flags).collect();
        let mut names: Vec<String> = daemon.ok(&args).lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    for (filters, names) in [
        (&[][..], &["f/one:1", "f/three:1", "f/two:1", "f/two:2"][..]),
        (&["before=f/two:1"], &["f/one:1"]),
        (&["since=f/two:2"], &["f/three:1"]),
        (&["since=f/one:1", "before=f/three:1"], &["f/two:1", "f/two:2"]),
        (&["label=n=3"], &["f/three:1"]),
        (&["label=n"], &["f/one:1", "f/three:1", "f/two:1", "f/two:2"]),
        (&["label=n=1", "label=n=2"], &[]),
        (&["until=1h"], &[]),
        (&["until=0s"], &["f/one:1", "f/three:1", "f/two:1", "f/two:2"]),
        (&["dangling=false"], &["f/one:1", "f/three:1", "f/two:1", "f/two:2"]),
        (&["dangling=true"], &[]),
    ] {
        assert_eq!(listed(filters), names, "{filters:?}");
    }
    let by_pattern =
        |pattern: &str| daemon.ok(&["images", "--format", "{{.Tag}}", "--filter", &format!("reference={pattern}")]).lines().count();
    for (pattern, count) in [
        ("f/t*", 3),
        ("f/t*:1", 2),
        ("f/t??:?", 2),
        ("f/[a-o]*", 1),
        ("f/[^a-o]*", 3),
        ("*one*", 0),
        ("f/two:2", 1),
        ("f\\/one", 1),
        ("f/*", 4),
    ] {
        assert_eq!(by_pattern(pattern), count, "{pattern}");
    }
    for (filter, reason) in [
        ("reference=f/[", "syntax error in pattern"),
        ("dangling=maybe", "invalid filter"),
        ("until=x", "failed to parse value"),
        ("nope=1", "invalid filter"),
        ("before=f/none:1", "No such image"),
    ] {
        let error = daemon.fails(1, &["images", "--filter", filter]);
        assert!(error.contains(reason), "{filter}: {error}");
    }
    // An image that lost its name is listed and pruned; one that others were made of is a step to them.
    let second = name("filter");
    daemon.ok(&["run", "--name", &second, "f/one:1", "true"]);
    daemon.ok(&["commit", &second, "f/one:1"]);
    daemon.ok(&["commit", &second, "f/three:1"]);
    let count = |flags: &[&str]| daemon.ok(&[&["images", "-q", "--filter", "label=n"], flags].concat()).lines().count();
    assert_eq!((count(&[]), count(&["-a"]), count(&["--filter", "dangling=true"])), (5, 6, 1));
    daemon.ok(&["rm", &container, &second]);
    daemon.ok(&["image", "prune", "-f", "--filter", "label!=n"]);
    daemon.ok(&["image", "prune", "-f", "--filter", "until=1h"]);
    assert_eq!(count(&["--filter", "dangling=true"]), 1);
    let pruned = daemon.ok(&["image", "prune", "-f", "--filter", "label=n=3"]);
    assert_eq!(pruned.to_lowercase().matches("deleted: sha256:").count(), 1, "{pruned}");
    assert_eq!((count(&["--filter", "dangling=true"]), count(&[])), (0, 4));
    // The step goes with what was made of it.
    daemon.ok(&["rmi", "f/one:1", "f/three:1"]);
    assert_eq!(count(&["-a"]), 2);
}

#[test]
fn an_image_that_others_were_made_of_stays_as_a_step_to_them() {
    let daemon = Daemon::start();
    let make = |base: &str, file: &str| {
        let container = name("step");
        daemon.ok(&["run", "--name", &container, base, "sh", "-c", &format!("echo {file} > /{file}")]);
        daemon.ok(&["commit", &container, &format!("steps/{file}:1")]);
        daemon.ok(&["rm", &container]);
        daemon.ok(&["images", "-q", &format!("steps/{file}:1")])
    };
    let (lower, upper) = (make(BOX, "lower"), make("steps/lower:1", "upper"));
    let dependent = format!("conflict: unable to delete {lower} (cannot be forced) - image has dependent child images");
    for args in [&["rmi", &lower][..], &["rmi", "-f", &lower]] {
        assert!(daemon.fails(1, args).contains(&dependent), "{args:?}");
    }
    assert_eq!(daemon.ok(&["rmi", "steps/lower:1"]), "Untagged: steps/lower:1");
    assert!(daemon.fails(1, &["rmi", "-f", &lower]).contains(&dependent));
    let steps = daemon.ok(&["history", "--format", "{{.ID}}", "steps/upper:1"]);
    assert_eq!(steps.lines().take(2).collect::<Vec<_>>(), [&upper, &lower]);
    assert!(daemon.ok(&["image", "prune", "-f"]).contains("reclaimed space: 0B"));
    assert!(!daemon.ok(&["images", "-q"]).contains(&lower) && daemon.ok(&["images", "-aq"]).contains(&lower));
    assert_eq!(daemon.ok(&["run", "--rm", "steps/upper:1", "cat", "/lower", "/upper"]), "lower\nupper");
    // With the last image that needs it goes the step: two images, two layers.
    let removed = daemon.ok(&["rmi", "steps/upper:1"]);
    assert_eq!((removed.matches("Untagged: ").count(), removed.matches("Deleted: sha256:").count()), (1, 4), "{removed}");
    assert!(daemon.fails(1, &["image", "inspect", &lower]).contains("No such image"));
    daemon.until_clean();
}

#[test]
fn platforms_that_are_not_there_are_named() {
    let daemon = shared();
    let saved = daemon.root.join("platform.tar").display().to_string();
    let error = daemon.fails(1, &["save", "--platform", "linux/s390x", "-o", &saved, BOX]);
    assert!(error.contains("no suitable export target found for platform linux/s390x"), "{error}");
    assert!(!std::path::Path::new(&saved).exists(), "nothing is written");
    daemon.ok(&["save", "-o", &saved, BOX]);
    let error = daemon.fails(1, &["load", "--platform", "linux/s390x", "-i", &saved]);
    assert!(error.contains("image archive has no image for linux/s390x"), "{error}");
    let error = daemon.fails(1, &["load", "--platform", "nonsense", "-i", &saved]);
    assert!(error.contains("unknown operating system or architecture"), "{error}");
    assert!(daemon.ok(&["load", "--platform", "linux/amd64", "-i", &saved]).contains(&format!("Loaded image: {BOX}")));
}

#[test]
fn a_tree_shows_what_is_on_disk() {
    let daemon = Daemon::start();
    daemon.ok(&["tag", BOX, "tree/second:1"]);
    let tree = daemon.ok(&["images", "--tree", "--filter", "reference=box", "--filter", "reference=tree/*"]);
    let lines: Vec<Vec<&str>> =
        tree.lines().map(|line| line.split_whitespace().collect()).filter(|cells: &Vec<_>| !cells.is_empty()).collect();
    let at = |start: &str| lines.iter().find(|cells| cells[0] == start).unwrap_or_else(|| panic!("{start}: {tree}"));
    // The names stand above each other, what is told of the image beside the last one.
    let (mut names, platform) = ([at(BOX), at("tree/second:1")], at("└─"));
    names.sort_by_key(|cells| cells.len());
    let [name, image] = names;
    assert_eq!(name.len(), 1, "{tree}");
    assert_eq!(platform[1], "linux/amd64");
    // Name, id, what it takes, what travels: the layer travels plain and is kept once.
    assert_eq!(image[2], platform[3], "{tree}");
    assert!(bytes(image[2]) < bytes(image[3]) * 1.1, "{tree}");
    for flag in ["--quiet", "--no-trunc"] {
        assert!(daemon.fails(1, &["images", "--tree", flag]).contains("is not yet supported with --tree"), "{flag}");
    }
}

#[test]
fn names_that_cannot_be_are_told_so() {
    let daemon = shared();
    for reference in ["sha256", "sha256:x"] {
        assert!(daemon.fails(1, &["tag", BOX, reference]).contains("ambiguous tag using digest algorithm as name"), "{reference}");
    }
    for verb in ["rmi", "history", "pull", "push", "save"] {
        let error = daemon.fails(1, &[verb, "reg.example/Team/app"]);
        assert!(error.contains("invalid reference format") && error.contains("must be lowercase"), "{verb}: {error}");
        let error = daemon.fails(1, &[verb, "a:b:c"]);
        assert!(error.contains("invalid reference format"), "{verb}: {error}");
    }
    // Other objects may have such names.
    let volume = name("Volume");
    daemon.ok(&["volume", "create", &volume]);
    assert_eq!(daemon.inspect(&volume)["Name"], *volume);
    daemon.ok(&["volume", "rm", &volume]);
}

#[test]
fn archives_of_the_web_are_imported() {
    let daemon = shared();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = format!("http://{}", listener.local_addr().expect("it is bound"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut line = String::new();
            let mut lines = BufReader::new(stream.try_clone().expect("a descriptor"));
            lines.read_line(&mut line).expect("a request");
            let mut rest = String::new();
            while lines.read_line(&mut rest).is_ok_and(|count| count > 2) {
                rest.clear();
            }
            let archive = busybox_archive();
            let (status, more, body) = match line.split(' ').nth(1).unwrap_or_default() {
                "/moved" => ("302 Found", "Location: /box.tar\r\n", &b""[..]),
                "/box.tar" => ("200 OK", "", archive),
                "/cut.tar" => ("200 OK", "", &archive[..archive.len() / 2]),
                _ => ("404 Not Found", "", &b""[..]),
            };
            let length = if line.contains("cut") { archive.len() } else { body.len() };
            let head = format!("HTTP/1.1 {status}\r\n{more}Connection: close\r\nContent-Length: {length}\r\n\r\n");
            // Who has heard enough goes.
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).ok();
        }
    });
    let reference = format!("{}:1", name("web"));
    let said = daemon.ok(&["import", "-c", "CMD [\"echo\", \"from the web\"]", &format!("{address}/moved"), &reference]);
    assert!(said.contains("sha256:"), "{said}");
    assert_eq!(daemon.ok(&["run", "--rm", &reference]), "from the web");
    daemon.ok(&["rmi", &reference]);
    for (path, reason) in [("cut.tar", "end of file"), ("none.tar", "404")] {
        let error = daemon.fails(1, &["import", &format!("{address}/{path}"), &reference]);
        assert!(error.contains(reason), "{path}: {error}");
    }
    let error = daemon.fails(1, &["import", "http://127.0.0.1:1/x.tar", &reference]);
    assert!(error.contains("connection refused"), "{error}");
    assert!(daemon.fails(1, &["image", "inspect", &reference]).contains("No such image"));
}

#[test]
fn names_with_slashes_are_looked_for_like_others() {
    let daemon = shared();
    for missing in ["team/app:9", "127.0.0.1:5000/team/app", "a/b/c/d"] {
        for (args, reason) in [
            (&["inspect"][..], format!("No such object: {missing}")),
            (&["inspect", "--type", "container"], format!("No such container: {missing}")),
            (&["inspect", "--type", "volume"], format!("get {missing}: no such volume")),
            (&["inspect", "--type", "network"], format!("network {missing} not found")),
            (&["rm"], format!("No such container: {missing}")),
            (&["logs"], format!("No such container: {missing}")),
            (&["exec", "-d"], format!("No such container: {missing}")),
            (&["volume", "rm"], format!("get {missing}: no such volume")),
            (&["network", "rm"], format!("network {missing} not found")),
        ] {
            let tail: &[&str] = if args[0] == "exec" { &["true"] } else { &[] };
            let error = daemon.fails(1, &[args, &[missing], tail].concat());
            assert!(error.contains(&reason), "{args:?} {missing}: {error}");
        }
    }
}

#[test]
fn an_address_is_answered_with_the_name_in_it() {
    let (daemon, own) = (shared(), client().1);
    for (address, right) in [
        ("https://docker.io/library/debian", "docker.io/library/debian"),
        ("https://hub.docker.com/_/debian", "debian"),
        ("Debian", "debian"),
    ] {
        // Docker's client looks at the name itself for some of them.
        for (args, asks) in [
            (&["rmi"][..], true),
            (&["history"], true),
            (&["image", "inspect"], true),
            (&["save"], true),
            (&["pull"], false),
            (&["push"], false),
            (&["tag", BOX], false),
            (&["create"], false),
        ] {
            let error = daemon.fails(1, &[args, &[address]].concat());
            assert!(error.contains("invalid reference format"), "{args:?}: {error}");
            assert!(!(own || asks) || error.contains(&format!("use {right:?}")), "{args:?}: {error}");
        }
    }
    assert!(daemon.fails(1, &["rmi", "a//b"]).contains(if own { "invalid reference format" } else { "No such image: a/b:latest" }));
}

#[test]
fn an_archive_tells_whose_name_it_takes() {
    let daemon = Daemon::start();
    let (container, saved) = (name("load"), daemon.root.join("saved.tar").display().to_string());
    let first = daemon.ok(&["image", "inspect", "-f", "{{.Id}}", BOX]);
    daemon.ok(&["save", "-o", &saved, BOX]);
    daemon.ok(&["run", "--name", &container, BOX, "true"]);
    daemon.ok(&["commit", &container, BOX]);
    let second = daemon.ok(&["image", "inspect", "-f", "{{.Id}}", BOX]);
    let told = daemon.ok(&["load", "-i", &saved]);
    assert_eq!(told, format!("The image {BOX} already exists, renaming the old one with ID {second} to empty string\nLoaded image: {BOX}"));
    assert_eq!(daemon.ok(&["load", "-i", &saved]), format!("Loaded image: {BOX}"), "it is the same now");
    assert_eq!(daemon.ok(&["image", "inspect", "-f", "{{.Id}}", BOX]), first);
}

#[test]
fn what_is_saved_is_its_owner_s_alone() {
    let daemon = shared();
    let folder = tempfile::tempdir().expect("a directory");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let container = name("saved");
    daemon.ok(&["create", "--name", &container, BOX]);
    std::fs::write(at("before.tar"), "old").expect("it is written");
    for args in [["save", "-o", &at("image.tar"), BOX], ["save", "-o", &at("before.tar"), BOX], ["export", "-o", &at("c.tar"), &container]]
    {
        daemon.ok(&args);
        let meta = std::fs::metadata(args[2]).expect("it is there");
        assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{args:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("it is there").count(), 3, "nothing else is left");
    daemon.ok(&["rm", &container]);
}

#[test]
fn what_cannot_run_here_is_not_imported() {
    let daemon = shared();
    let reference = format!("{}:1", name("foreign"));
    let refused = daemon.feed(&["import", "--platform", "windows/amd64", "-", &reference], busybox_archive());
    assert!(refused.code == 1 && refused.err.contains("operating system is not supported"), "{refused:?}");
    assert!(daemon.fails(1, &["image", "inspect", &reference]).contains("No such image"));
    let taken = daemon.feed(&["import", "--platform", "linux/arm64", "-", &reference], busybox_archive());
    assert_eq!(taken.code, 0, "{taken:?}");
    assert_eq!(daemon.ok(&["image", "inspect", "-f", "{{.Os}}/{{.Architecture}}", &reference]), "linux/arm64");
    daemon.ok(&["rmi", &reference]);
}

#[test]
fn a_container_s_own_variables_come_before_its_image_s() {
    let daemon = shared();
    let (container, reference) = (name("env"), format!("{}:1", name("env")));
    daemon.ok(&["run", "--name", &container, BOX, "true"]);
    daemon.ok(&["commit", "-c", "ENV A=1 B=2 C=3", &container, &reference]);
    daemon.ok(&["rm", &container]);
    daemon.ok(&["create", "--name", &container, "-e", "Z=9", "-e", "B=8", "-e", "C", &reference]);
    // Docker's client gives them in any order.
    let env = daemon.ok(&["inspect", "-f", "{{.Config.Env}}", &container]);
    assert!(env == "[Z=9 B=8 A=1]" || (env == "[B=8 Z=9 A=1]" && !client().1), "{env}");
    daemon.ok(&["rm", &container]);
    daemon.ok(&["rmi", &reference]);
}

#[test]
fn clients_of_former_versions_find_what_they_look_for() {
    let daemon = Daemon::start();
    let container = name("old");
    daemon.ok(&["run", "--name", &container, BOX, "true"]);
    daemon.ok(&["commit", &container]);
    let get = |path: &str| -> Value {
        let (status, body) = daemon.api("GET", path, None);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).expect("JSON")
    };
    let nameless = |version: &str| {
        let rows = get(&format!("/v{version}/images/json?filters={{%22dangling%22:[%22true%22]}}&shared-size=1"));
        assert_eq!(rows.as_array().expect("rows").len(), 1, "{rows}");
        rows[0].clone()
    };
    for (version, tags, digests) in [("1.24", "<none>:<none>", "<none>@<none>"), ("1.42", "<none>:<none>", "<none>@<none>")] {
        let row = nameless(version);
        assert_eq!((&row["RepoTags"][0], &row["RepoDigests"][0]), (&tags.into(), &digests.into()), "{version}: {row}");
    }
    assert_eq!(nameless("1.43")["RepoTags"], serde_json::json!([]));
    assert_eq!((nameless("1.41")["SharedSize"].as_i64(), nameless("1.42")["SharedSize"].as_i64() > Some(0)), (Some(-1), true));
    assert_eq!(nameless("1.43")["VirtualSize"], nameless("1.43")["Size"]);
    assert_eq!(nameless("1.44").get("VirtualSize"), None);
    let about = |version: &str| get(&format!("/v{version}/images/{BOX}/json"));
    assert_eq!(about("1.43")["VirtualSize"], about("1.43")["Size"]);
    assert_eq!(about("1.44").get("VirtualSize"), None);
    let config = &about("1.49")["Config"];
    assert!(config["AttachStdin"] == false && config["Hostname"] == "" && config["Cmd"][0] == "sh", "{config}");
    assert_eq!(about("1.50")["Config"].get("AttachStdin"), None);
}
