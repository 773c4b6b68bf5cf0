//! Images travel: to a real registry and back, with and without a login, whatever is killed on the way.

use naru_e2e::registry::Registry;
use naru_e2e::{BOX, Daemon, busybox_archive, client, name, shared};
use std::process::{Command, Stdio};

/// Makes an image of `layers` layers on top of the box.
fn image(daemon: &Daemon, reference: &str, layers: usize) {
    let mut base = BOX.to_owned();
    for layer in 0..layers {
        let container = name("make");
        let script = format!("head -c 300000 /dev/urandom > /layer-{layer}; ln -s /layer-{layer} /link-{layer}");
        daemon.ok(&["run", "--name", &container, &base, "sh", "-c", &script]);
        daemon.ok(&["commit", &container, reference]);
        daemon.ok(&["rm", &container]);
        base = reference.to_owned();
    }
}

fn id(daemon: &Daemon, reference: &str) -> String {
    daemon.ok(&["image", "inspect", "-f", "{{.Id}}", reference])
}

#[test]
fn an_image_goes_and_comes_back() {
    let (daemon, registry) = (shared(), Registry::start(false));
    let reference = format!("{}/team/app:1", registry.address);
    image(daemon, &reference, 3);
    let (original, layers) = (id(daemon, &reference), daemon.ok(&["image", "inspect", "-f", "{{json .RootFS.Layers}}", &reference]));
    let first = daemon.ok(&["push", &reference]);
    assert_eq!(first.matches(": Pushed").count(), 4, "{first}");
    let digest = first.split("digest: ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a push tells the digest").to_owned();
    let stored = registry.size();
    let again = daemon.ok(&["push", &reference]);
    assert!(again.contains(": Layer already exists") && again.contains(&digest), "{again}");
    assert_eq!(registry.size(), stored, "nothing was sent twice");
    // Another repository of the registry takes the layers from the first.
    let other = format!("{}/team/other:1", registry.address);
    daemon.ok(&["tag", &reference, &other]);
    let mounted = daemon.ok(&["push", &other]);
    assert!(mounted.contains("Mounted from team/app"), "{mounted}");
    daemon.ok(&["rmi", &other]);

    let running = name("run");
    daemon.ok(&["rmi", &reference]);
    assert!(daemon.fails(1, &["image", "inspect", &reference]).contains("No such image"));
    let pulled = daemon.ok(&["pull", &reference]);
    assert!(pulled.contains(&format!("Digest: {digest}")) && pulled.contains("Status: Downloaded newer image for"), "{pulled}");
    assert!(daemon.ok(&["pull", &reference]).contains("Status: Image is up to date for"));
    assert_eq!(id(daemon, &reference), original);
    assert_eq!(daemon.ok(&["image", "inspect", "-f", "{{json .RootFS.Layers}}", &reference]), layers);
    assert_eq!(
        daemon.ok(&["run", "--rm", "--name", &running, &reference, "sh", "-c", "cat /layer-2 | wc -c; readlink /link-0"]),
        "300000\n/layer-0"
    );
    assert!(daemon.ok(&["images", "--digests", "--format", "{{.Digest}}", &reference]).contains(&digest));
    // By digest, without a tag.
    let by_digest = format!("{}/team/app@{digest}", registry.address);
    daemon.ok(&["rmi", &reference]);
    daemon.ok(&["pull", "-q", &by_digest]);
    assert_eq!(id(daemon, &by_digest), original);
    // An image that a run needs comes by itself.
    daemon.ok(&["rmi", &by_digest]);
    assert_eq!(daemon.ok(&["run", "--rm", &reference, "echo", "here"]), "here");
    daemon.ok(&["rmi", &reference]);
}

#[test]
fn only_what_changed_travels() {
    let (daemon, registry) = (shared(), Registry::start(false));
    let reference = format!("{}/app:1", registry.address);
    image(daemon, &reference, 2);
    daemon.ok(&["push", &reference]);
    let container = name("change");
    daemon.ok(&["run", "--name", &container, &reference, "sh", "-c", "echo changed > /top"]);
    let next = format!("{}/app:2", registry.address);
    daemon.ok(&["commit", &container, &next]);
    daemon.ok(&["rm", &container]);
    let before = registry.size();
    let pushed = daemon.ok(&["push", &next]);
    assert_eq!((pushed.matches(": Pushed").count(), pushed.matches("Layer already exists").count()), (1, 3), "{pushed}");
    assert!(registry.size() - before < 20_000, "a small layer, a config and a manifest");
    daemon.ok(&["rmi", &next]);
    let pulled = daemon.ok(&["pull", &next]);
    assert_eq!((pulled.matches(": Pull complete").count(), pulled.matches("Already exists").count()), (1, 3), "{pulled}");
    // The tags live and die by themselves.
    daemon.ok(&["rmi", &reference]);
    assert_eq!(daemon.ok(&["run", "--rm", &next, "cat", "/top"]), "changed");
    daemon.ok(&["rmi", &next]);
    let all = daemon.ok(&["pull", "-a", &format!("{}/app", registry.address)]);
    assert!(all.contains(":1") || all.contains("1: Pulling"), "{all}");
    assert!(!id(daemon, &reference).is_empty() && !id(daemon, &next).is_empty());
    daemon.ok(&["rmi", &reference, &next]);
}

#[test]
fn a_registry_wants_to_know_who_one_is() {
    // The client's configuration is the daemon's of the test, so that logins do not meet.
    let (daemon, registry) = (Daemon::start(), Registry::start(true));
    let reference = format!("{}/app:1", registry.address);
    daemon.ok(&["tag", BOX, &reference]);
    let refused = daemon.fails(1, &["push", &reference]);
    assert!(refused.contains("no basic auth credentials") || refused.contains("unauthorized"), "{refused}");
    let refused = daemon.fails(1, &["pull", &format!("{}/nosuch:1", registry.address)]);
    assert!(refused.contains("no basic auth credentials") || refused.contains("unauthorized"), "{refused}");
    let login = |password: &str| daemon.feed(&["login", "-u", "naru", "--password-stdin", &registry.address], password.as_bytes());
    let wrong = login("wrong");
    assert!(wrong.code == 1 && wrong.err.contains("401"), "{wrong:?}");
    let right = login("secret");
    assert!(right.code == 0 && right.out.contains("Login Succeeded"), "{right:?}");
    // As curl sends it, of a type that is not JSON's.
    let account = format!(r#"{{"username":"naru","password":"secret","serveraddress":"{}"}}"#, registry.address);
    let answer = daemon.http(&format!(
        "POST /v1.51/auth HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{account}",
        account.len()
    ));
    assert!(answer.contains("Login Succeeded"), "{answer}");
    daemon.ok(&["push", &reference]);
    daemon.ok(&["rmi", &reference]);
    daemon.ok(&["pull", &reference]);
    // The tag and its digest are one name of what a container needs.
    let container = name("needs");
    daemon.ok(&["create", "--name", &container, &reference]);
    daemon.ok(&["rmi", BOX]);
    let digest = daemon.ok(&["image", "inspect", "-f", "{{index .RepoDigests 0}}", &reference]);
    for needed in [&reference, &digest] {
        let kept = daemon.fails(1, &["rmi", needed]);
        assert!(kept.contains(&format!("unable to remove repository reference \"{needed}\" (must force)")), "{kept}");
    }
    daemon.ok(&["rm", &container]);
    daemon.ok(&["logout", &registry.address]);
    daemon.ok(&["rmi", &reference]);
    daemon.fails(1, &["pull", &reference]);
}

#[test]
fn what_is_not_there_is_named() {
    let (daemon, registry) = (shared(), Registry::start(false));
    let at = |name: &str| format!("{}/{name}", registry.address);
    let missing = daemon.fails(1, &["pull", &at("nosuch")]);
    assert!(missing.contains("not found") && missing.contains("nosuch"), "{missing}");
    assert!(daemon.fails(125, &["run", "--rm", &at("nosuch:7"), "true"]).contains("nosuch:7"));
    assert!(daemon.fails(1, &["push", &at("never-built")]).contains("does not exist"));
    assert!(daemon.fails(1, &["pull", "127.0.0.1:1/app"]).contains("connection refused"));
    let case = daemon.fails(1, &["pull", &at("App")]);
    assert!(case.contains("lowercase"), "{case}");
    // A platform that the image is not for.
    daemon.ok(&["tag", BOX, &at("app")]);
    daemon.ok(&["push", &at("app")]);
    daemon.ok(&["rmi", &at("app")]);
    let other = daemon.run(&["pull", "--platform", "linux/s390x", &at("app")]);
    assert!(other.code != 0 || other.out.contains("platform") || other.err.contains("platform"), "{other:?}");
    let found = daemon.ok(&["search", "--format", "{{.Name}}", &at("app")]);
    assert!(found.contains("app"), "{found}");
    let (status, body) = daemon.api("GET", &format!("/v1.47/distribution/{}/json", at("app")), None);
    assert!(status == 200 && body.contains("Descriptor") && body.contains("linux"), "{status} {body}");
}

#[test]
fn a_pull_survives_killed_daemons() {
    let (mut daemon, registry) = (Daemon::start(), Registry::start(false));
    let reference = format!("{}/app:1", registry.address);
    image(&daemon, &reference, 4);
    let original = id(&daemon, &reference);
    daemon.ok(&["push", &reference]);
    for round in 0..12_u64 {
        daemon.run(&["rmi", "-f", &reference]);
        let mut pull =
            daemon.command(&["pull", &reference]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the client starts");
        std::thread::sleep(std::time::Duration::from_millis(round * 7));
        daemon.kill();
        pull.wait().expect("the client ends");
        daemon.launch();
        if daemon.run(&["image", "inspect", &reference]).code == 0 {
            assert_eq!(daemon.ok(&["run", "--rm", &reference, "sh", "-c", "cat /layer-* | wc -c"]), "1200000");
        }
    }
    daemon.ok(&["pull", &reference]);
    assert_eq!(id(&daemon, &reference), original);
    assert_eq!(daemon.ok(&["run", "--rm", &reference, "sh", "-c", "cat /layer-* | wc -c"]), "1200000");
    daemon.until_clean();
}

#[test]
fn a_damaged_store_is_told_and_repaired() {
    let (daemon, registry) = (Daemon::start(), Registry::start(false));
    let reference = format!("{}/app:1", registry.address);
    image(&daemon, &reference, 2);
    daemon.ok(&["push", &reference]);
    daemon.ok(&["rmi", &reference]);
    daemon.ok(&["pull", &reference]);
    let check = |flags: &[&str]| {
        let output = Command::new(naru_e2e::program())
            .args(["store", "check"])
            .args(flags)
            .env("DOCKER_HOST", daemon.host())
            .output()
            .expect("it starts");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(check(&[]), (Some(0), "The store is sound.\n".to_owned()));
    // One file changed behind the engine's back, one layer lost whole, blob and all.
    let layers: Vec<String> =
        serde_json::from_str(&daemon.ok(&["image", "inspect", "-f", "{{json .RootFS.Layers}}", &reference])).expect("JSON");
    let path = |layer: &str| daemon.data().join("layers").join(layer.trim_start_matches("sha256:"));
    std::fs::write(path(&layers[1]).join("layer-0"), "changed").expect("root may");
    std::fs::remove_dir_all(path(&layers[2])).expect("root may");
    for blob in std::fs::read_dir(daemon.data().join("blobs/sha256")).expect("blobs are there").flatten() {
        if blob.metadata().expect("it is there").len() > 100_000 {
            std::fs::remove_file(blob.path()).expect("root may");
        }
    }
    let (code, text) = check(&[]);
    assert!(code == Some(1) && text.matches("damaged: ").count() >= 2, "{text}");
    let (code, text) = check(&["--repair"]);
    assert!(code == Some(0) && text.contains("repaired: "), "{text}");
    assert_eq!(check(&[]).0, Some(0));
    assert_eq!(daemon.ok(&["run", "--rm", &reference, "sh", "-c", "cat /layer-* | wc -c"]), "600000");
    daemon.until_clean();
}

#[test]
fn a_list_for_several_platforms_is_put_together() {
    let (daemon, registry) = (Daemon::start(), Registry::start(false));
    let at = |name: &str| format!("{}/team/{name}", registry.address);
    for which in ["list:amd64", "list:arm64", "other:riscv"] {
        let container = name("platform");
        daemon.ok(&["run", "--name", &container, BOX, "sh", "-c", &format!("echo {which} > /which")]);
        daemon.ok(&["commit", &container, &at(which)]);
        daemon.ok(&["push", "-q", &at(which)]);
    }
    let (list, arm, riscv) = (at("list:all"), at("list:arm64"), at("other:riscv"));
    let missing = daemon.fails(1, &["manifest", "push", &list]);
    assert!(missing.contains(&format!("No such manifest: {list}")), "{missing}");
    let created = daemon.ok(&["manifest", "create", "--insecure", &list, &at("list:amd64"), &arm]);
    assert_eq!(created, format!("Created manifest list {list}"));
    let again = daemon.fails(1, &["manifest", "create", "--insecure", &list, &riscv]);
    assert!(again.contains("refusing to amend an existing manifest list with no --amend flag"), "{again}");
    daemon.ok(&["manifest", "create", "--insecure", "--amend", &list, &riscv]);
    let wrong = daemon.fails(1, &["manifest", "annotate", "--arch", "z80", &list, &arm]);
    assert!(wrong.contains("unsupported os/arch combination"), "{wrong}");
    let nobody = daemon.fails(1, &["manifest", "annotate", "--arch", "arm64", &list, &at("nobody:1")]);
    assert!(nobody.contains("does not exist in"), "{nobody}");
    daemon.ok(&["manifest", "annotate", "--arch", "arm64", "--variant", "v8", "--os-features", "a,b", &list, &arm]);
    daemon.ok(&["manifest", "annotate", "--arch", "riscv64", &list, &riscv]);
    let local = daemon.ok(&["manifest", "inspect", &list]);
    let pushed = daemon.ok(&["manifest", "push", "--insecure", "--purge", &list]);
    let digest = pushed.lines().last().expect("a push tells the digest").to_owned();
    assert_eq!(naru_types::Digest::of(local.as_bytes()).to_string(), digest, "what is shown is what is pushed");
    assert_eq!(pushed.matches("Pushed ref ").count(), 1, "the image of the other repository: {pushed}");
    assert!(daemon.fails(1, &["manifest", "rm", &list]).contains("No such manifest"));
    let remote = daemon.ok(&["manifest", "inspect", "--insecure", &list]);
    assert_eq!(remote, local);
    let verbose: serde_json::Value = serde_json::from_str(&daemon.ok(&["manifest", "inspect", "--insecure", "-v", &list])).expect("JSON");
    assert_eq!(verbose[1]["Descriptor"]["platform"]["variant"], "v8", "the list's word: {verbose}");
    // Each platform's image is its own.
    for (platform, which) in [("linux/amd64", "list:amd64"), ("linux/arm64", "list:arm64"), ("linux/riscv64", "other:riscv")] {
        daemon.ok(&["pull", "-q", "--platform", platform, &list]);
        let container = name("which");
        daemon.ok(&["create", "--name", &container, &list]);
        let found = daemon.root.join("which");
        daemon.ok(&["cp", &format!("{container}:/which"), &found.display().to_string()]);
        assert_eq!(std::fs::read_to_string(found).expect("it was copied"), format!("{which}\n"));
        daemon.ok(&["rm", &container]);
    }
    let foreign = daemon.ok(&["manifest", "create", "--insecure", "other.example/x:1", &arm]);
    assert!(foreign.contains("other.example/x:1"), "{foreign}");
    let refused = daemon.fails(1, &["manifest", "push", "other.example/x:1"]);
    assert!(refused.contains("cannot use source images from a different registry than the target image"), "{refused}");
    daemon.ok(&["manifest", "rm", "other.example/x:1"]);
}

#[test]
fn a_helper_keeps_the_password() {
    let (daemon, registry) = (Daemon::start(), Registry::start(true));
    let reference = format!("{}/app:1", registry.address);
    daemon.ok(&["tag", BOX, &reference]);
    let (config, bin) = (daemon.root.join("config"), daemon.root.join("bin"));
    let kept = daemon.root.join("kept");
    let script = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat > {0} ;;\nget) cat {0} 2>/dev/null || {{ echo credentials not found in native keychain; exit 1; }} ;;\n\
         erase) rm -f {0} ;;\nesac\n",
        kept.display()
    );
    for (name, text) in [("kept", script.as_str()), ("locked", "#!/bin/sh\necho the keyring is locked\nexit 1\n")] {
        std::fs::create_dir_all(&bin).expect("a directory");
        let path = bin.join(format!("docker-credential-{name}"));
        std::fs::write(&path, text).expect("it is written");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
    }
    std::fs::create_dir_all(&config).expect("a directory");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let set = |text: String| std::fs::write(config.join("config.json"), text).expect("it is written");
    let run = |args: &[&str]| daemon.command(args).env("PATH", &path).stdin(Stdio::null()).output().expect("the client starts");
    let login = ["login", "-u", "naru", "-p", "secret", &registry.address];
    set(r#"{"credsStore":"kept"}"#.into());
    assert!(run(&login).status.success());
    assert!(std::fs::read_to_string(&kept).expect("the helper has it").contains("secret"));
    let document = std::fs::read_to_string(config.join("config.json")).expect("it is there");
    assert!(document.contains(&registry.address) && !document.contains("bmFydTpzZWNyZXQ"), "{document}");
    assert!(run(&["push", "-q", &reference]).status.success() && run(&["pull", "-q", &reference]).status.success());
    assert!(run(&["logout", &registry.address]).status.success() && !kept.exists());
    assert!(!run(&["pull", "-q", &reference]).status.success());
    let document = std::fs::read_to_string(config.join("config.json")).expect("it is there");
    assert!(!document.contains(&registry.address), "{document}");
    // One for this registry only, which fails: nobody else is asked.
    set(format!(r#"{{"credHelpers":{{"{}":"locked"}}}}"#, registry.address));
    let refused = run(&login);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("the keyring is locked"), "{refused:?}");
    assert!(!run(&["pull", "-q", &reference]).status.success());
}

#[test]
fn the_environment_may_bring_credentials() {
    let (client, is_naru) = naru_e2e::client();
    // Docker's client knows it since 28.3.
    let version = Command::new(client).arg("--version").output().expect("the client starts").stdout;
    if !is_naru
        && ["version 27.", "version 28.0", "version 28.1", "version 28.2"].iter().any(|old| String::from_utf8_lossy(&version).contains(old))
    {
        eprintln!("this client is too old for DOCKER_AUTH_CONFIG: nothing was tested");
        return;
    }
    let (daemon, registry) = (shared(), Registry::start(true));
    let reference = format!("{}/app:1", registry.address);
    daemon.ok(&["tag", BOX, &reference]);
    let push = |auth: &str| {
        let config = format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, registry.address);
        daemon.command(&["push", "-q", &reference]).env("DOCKER_AUTH_CONFIG", config).output().expect("the client starts").status.success()
    };
    // naru:wrong, naru:secret
    assert!(!push("bmFydTp3cm9uZw==") && push("bmFydTpzZWNyZXQ="));
    daemon.ok(&["rmi", &reference]);
}

#[test]
fn lines_of_a_transfer_come_as_docker_s_do() {
    let (daemon, registry) = (shared(), Registry::start(false));
    let reference = format!("{}/app:1", registry.address);
    image(daemon, &reference, 2);
    let layers: Vec<String> =
        serde_json::from_str(&daemon.ok(&["image", "inspect", "-f", "{{json .RootFS.Layers}}", &reference])).expect("JSON");
    let pushed = daemon.ok(&["push", &reference]);
    let prepared: Vec<&str> = pushed.lines().filter_map(|line| line.strip_suffix(": Preparing")).collect();
    let uppermost_first: Vec<&str> = layers.iter().rev().map(|layer| &layer["sha256:".len()..][..12]).collect();
    assert_eq!(prepared, uppermost_first, "{pushed}");
    // Another name for what is here has no layers to tell of.
    let second = format!("{}/app:2", registry.address);
    daemon.ok(&["tag", &reference, &second]);
    daemon.ok(&["push", "-q", &second]);
    daemon.ok(&["rmi", &second]);
    let pulled = daemon.ok(&["pull", &second]);
    let lines: Vec<&str> = pulled.lines().collect();
    let [first, digest, status, name] = lines[..] else { panic!("{pulled}") };
    assert_eq!((first, name), ("2: Pulling from app", second.as_str()));
    assert!(digest.starts_with("Digest: sha256:") && status == format!("Status: Downloaded newer image for {second}"), "{pulled}");
    daemon.ok(&["rmi", &reference, &second]);
}

/// Docker's client has no such row, and none is sent to it.
#[test]
fn a_terminal_is_told_the_total() {
    let (daemon, registry) = (shared(), Registry::start(false));
    let (lower, upper) = (format!("{}/app:lower", registry.address), format!("{}/app:upper", registry.address));
    image(daemon, &lower, 1);
    let container = name("upper");
    daemon.ok(&["run", "--name", &container, &lower, "sh", "-c", "head -c 300000 /dev/urandom > /upper"]);
    daemon.ok(&["commit", &container, &upper]);
    daemon.ok(&["rm", &container]);
    daemon.ok(&["push", "-q", &lower]);
    daemon.ok(&["push", "-q", &upper]);
    daemon.ok(&["rmi", &upper]);
    let line = format!("stty rows 33 cols 77; exec {} pull {upper}", client().0.display());
    let output = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("DOCKER_HOST", daemon.host())
        .env("SHELL", "/bin/sh")
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .expect("script starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.split("Total: ").last().filter(|_| text.contains("Total: "));
    match last {
        // Of the upper layer 300 kB come; the lower one and the box need not.
        Some(last) => {
            let last = last.lines().next().expect("a row");
            let (come, all) = last.split(") ").nth(1).and_then(|rest| rest.trim().split_once('/')).unwrap_or_else(|| panic!("{text}"));
            let all: String = all.chars().take_while(|c| !c.is_control()).collect();
            assert!(client().1 && last.contains(" saved)") && come == all && come.starts_with("300."), "{text}");
        }
        None => assert!(!client().1, "{text}"),
    }
    // In a file there are Docker's lines alone.
    daemon.ok(&["rmi", &upper]);
    assert!(!daemon.ok(&["pull", &upper]).contains("Total: "));
    daemon.ok(&["rmi", &lower, &upper]);
}

#[test]
fn events_of_images_have_their_labels() {
    let (daemon, registry) = (Daemon::start(), Registry::start(false));
    let (container, reference) = (name("events"), format!("{}/app:1", registry.address));
    daemon.ok(&["run", "--name", &container, BOX, "true"]);
    daemon.ok(&["commit", "-c", "LABEL tier=web name=other", &container, &reference]);
    daemon.ok(&["rm", &container]);
    daemon.ok(&["push", "-q", &reference]);
    daemon.ok(&["rmi", &reference]);
    daemon.ok(&["pull", "-q", &reference]);
    daemon.ok(&["create", "--name", &container, &reference]);
    daemon.ok(&["rm", &container]);
    let events = |filters: &[&str]| {
        // Docker's client makes whole seconds of `0s`.
        let until = crate::health_events::now();
        let mut args = vec!["events", "--since", "0", "--until", &until, "--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}"];
        args.extend(filters.iter().flat_map(|filter| ["--filter", filter]));
        daemon.ok(&args)
    };
    let repository = format!("{}/app", registry.address);
    let told = events(&["type=image", "label=tier=web"]);
    for line in [format!("image push {repository}"), format!("image pull {repository}"), format!("image untag {reference}")] {
        assert!(told.lines().any(|other| other == line), "{line} is not in\n{told}");
    }
    assert!(!told.contains("import"), "the box has no label: {told}");
    // The colon of the port is none of a tag.
    assert!(events(&["type=container", &format!("image={repository}")]).contains("container create"));
    assert_eq!(events(&["type=container", "image=127.0.0.1"]), "");
}

#[test]
fn each_platform_of_an_image_can_be_sent_by_itself() {
    let (daemon, registry) = (Daemon::start(), Registry::start(false));
    let at = |name: &str| format!("{}/team/{name}", registry.address);
    for architecture in ["amd64", "arm64"] {
        let imported = daemon.feed(
            &["import", "--platform", &format!("linux/{architecture}"), "-c", &format!("ENV A={architecture}"), "-", &at(architecture)],
            busybox_archive(),
        );
        assert_eq!(imported.code, 0, "{imported:?}");
        daemon.ok(&["push", "-q", &at(architecture)]);
    }
    let (list, single) = (at("list:1"), at("list:single"));
    daemon.ok(&["manifest", "create", "--insecure", &list, &at("amd64"), &at("arm64")]);
    daemon.ok(&["manifest", "push", "--insecure", &list]);
    daemon.ok(&["rmi", &at("amd64"), &at("arm64")]);
    for platform in ["linux/amd64", "linux/arm64"] {
        daemon.ok(&["pull", "-q", "--platform", platform, &list]);
    }
    daemon.ok(&["tag", &list, &single]);
    for architecture in ["amd64", "arm64", "amd64"] {
        daemon.ok(&["push", "-q", "--platform", &format!("linux/{architecture}"), &single]);
        let sent: serde_json::Value =
            serde_json::from_str(&daemon.ok(&["manifest", "inspect", "--insecure", "-v", &single])).expect("JSON");
        assert_eq!(sent["Descriptor"]["platform"]["architecture"], architecture, "{sent}");
    }
    let nobody = daemon.fails(1, &["push", "-q", "--platform", "linux/s390x", &single]);
    assert!(nobody.contains("does not provide the specified platform (linux/s390x)"), "{nobody}");
}

#[test]
fn a_push_ends_with_what_was_pushed() {
    let (daemon, registry) = (shared(), Registry::start(false));
    let reference = format!("{}/team/aux", registry.address);
    daemon.ok(&["tag", BOX, &format!("{reference}:1")]);
    let push = |query: &str| {
        daemon.http(&format!(
            "POST /images/{reference}/push?{query} HTTP/1.0\r\nHost: x\r\nX-Registry-Auth: e30=\r\nContent-Length: 0\r\n\r\n"
        ))
    };
    let answer = push("tag=1");
    let lines: Vec<serde_json::Value> = answer.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let results: Vec<&serde_json::Value> = lines.iter().filter(|line| line.get("aux").is_some()).collect();
    assert_eq!(results.len(), 1, "{answer}");
    let result = &results[0]["aux"];
    let digest = result["Digest"].as_str().unwrap();
    assert_eq!((&result["Tag"], lines.last()), (&"1".into(), Some(results[0])));
    // The manifest's own digest and size, as the registry has it.
    let size = result["Size"].as_u64().unwrap();
    assert!(answer.contains(&format!("\"status\":\"1: digest: {digest} size: {size}\"")), "{answer}");
    let request = format!(
        "GET /v2/team/aux/manifests/{digest} HTTP/1.0\r\nAccept: application/vnd.oci.image.manifest.v1+json\r\nAccept: application/vnd.docker.distribution.manifest.v2+json\r\nHost: x\r\n\r\n"
    );
    let mut stream = std::net::TcpStream::connect(&registry.address).unwrap();
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let mut stored = String::new();
    std::io::Read::read_to_string(&mut stream, &mut stored).unwrap();
    let (head, body) = stored.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 ") && head.contains(digest), "{head}");
    assert_eq!(body.len() as u64, size);
    // All tags of a repository: one result for each.
    daemon.ok(&["tag", BOX, &format!("{reference}:2")]);
    assert_eq!(push("").matches("\"aux\":{").count(), 2);
    daemon.ok(&["rmi", &format!("{reference}:1"), &format!("{reference}:2")]);
}
