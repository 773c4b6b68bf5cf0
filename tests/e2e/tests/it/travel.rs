//! What images cost on the wire, and who is asked for them with which words.

use naru_e2e::registry::Registry;
use naru_e2e::wire::{Server, Wire};
use naru_e2e::{BOX, Daemon, name, shared};
use std::collections::HashSet;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

/// Makes an image on top of another: one layer with a file of so many random bytes.
fn image(daemon: &Daemon, base: &str, reference: &str, bytes: usize) {
    let container = name("travel");
    daemon.ok(&["run", "--name", &container, base, "sh", "-c", &format!("head -c {bytes} /dev/urandom > /file-{bytes}")]);
    daemon.ok(&["commit", &container, reference]);
    daemon.ok(&["rm", &container]);
}

#[test]
fn a_second_pull_costs_what_has_changed() {
    let (daemon, registry) = (shared(), Registry::start(false));
    let wire = Wire::start(&registry.address);
    let (there, here) = (format!("{}/app", registry.address), format!("{}/app", wire.address));
    image(daemon, BOX, &format!("{there}:base"), 700_000);
    image(daemon, &format!("{there}:base"), &format!("{there}:1"), 200_000);
    image(daemon, &format!("{there}:base"), &format!("{there}:2"), 150_000);
    for tag in ["1", "2"] {
        daemon.ok(&["push", "-q", &format!("{there}:{tag}")]);
    }
    daemon.ok(&["rmi", &format!("{there}:1"), &format!("{there}:2"), &format!("{there}:base")]);
    let cost = |tag: &str| {
        let before = wire.came();
        daemon.ok(&["pull", "-q", &format!("{here}:{tag}")]);
        wire.came() - before
    };
    assert!(cost("1") > 900_000);
    let second = cost("2");
    assert!((150_000..160_000).contains(&second), "the new layer, its manifest and config: {second}");
    let again = cost("2");
    assert!(again < 2000, "one question: {again}");
    daemon.ok(&["rmi", &format!("{here}:1"), &format!("{here}:2")]);
}

#[test]
fn a_killed_daemon_has_not_pulled_in_vain() {
    const SIZE: u64 = 6_000_000;
    let (mut daemon, registry) = (Daemon::start(), Registry::start(false));
    let wire = Wire::start(&registry.address);
    let (there, here) = (format!("{}/app:1", registry.address), format!("{}/app:1", wire.address));
    image(&daemon, BOX, &there, usize::try_from(SIZE).expect("it is small"));
    daemon.ok(&["push", "-q", &there]);
    daemon.ok(&["rmi", &there]);
    wire.slow_down(Duration::from_millis(40));
    for part in 1..=2 {
        let mut pull = daemon.command(&["pull", &here]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the client starts");
        daemon.until("a part is there", || wire.came() > part * SIZE / 3);
        daemon.kill();
        pull.wait().expect("the client ends");
        daemon.launch();
        assert_ne!(daemon.run(&["image", "inspect", &here]).code, 0);
    }
    wire.slow_down(Duration::ZERO);
    daemon.ok(&["pull", "-q", &here]);
    // A start from nothing each time would be twice the size. What was under way at a kill is lost: buffers of a megabyte.
    assert!(wire.came() < SIZE + SIZE / 3, "{} for {SIZE}", wire.came());
    assert_eq!(daemon.ok(&["run", "--rm", &here, "sh", "-c", "cat /file-* | wc -c"]), SIZE.to_string());
    daemon.until_clean();
}

/// The first mirror asks for more patience than anybody has, so the next is asked; that one wants a moment, and gets it.
#[test]
fn mirrors_are_asked_in_turn_and_given_the_time_they_ask_for() {
    let registry = Registry::start(false);
    let limited = |wait: u32| {
        let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"pull rate limit"}]}"#;
        (429, format!("Retry-After: {wait}\r\nContent-Type: application/json\r\n"), body.to_owned())
    };
    let tired = Server::start(move |_, _| limited(3600));
    let (upstream, refused) = (registry.address.clone(), Mutex::new(HashSet::new()));
    let busy = Server::start(move |asked, _| {
        // Once for each thing that is asked for.
        if asked.path != "/v2/" && refused.lock().expect("nothing panics with it").insert(asked.path.clone()) {
            return limited(1);
        }
        (307, format!("Location: http://{upstream}{}\r\n", asked.path), String::new())
    });
    let flags = [format!("--registry-mirror=http://{}", tired.address), format!("--registry-mirror=http://{}", busy.address)];
    let daemon = Daemon::with_flags(&flags.each_ref().map(String::as_str));
    let there = format!("{}/library/mirrored:1", registry.address);
    image(&daemon, BOX, &there, 300_000);
    daemon.ok(&["push", "-q", &there]);
    daemon.ok(&["rmi", &there]);
    daemon.ok(&["pull", "-q", "mirrored:1"]);
    assert_eq!(daemon.ok(&["run", "--rm", "mirrored:1", "sh", "-c", "wc -c < /file-300000"]), "300000");
    let digests = daemon.ok(&["image", "inspect", "-f", "{{.RepoDigests}}", "mirrored:1"]);
    assert!(digests.starts_with("[mirrored@sha256:"), "it is the hub's image: {digests}");
    let times = |server: &Server, part: &str| server.asked().iter().filter(|asked| asked.path.contains(part)).count();
    assert!(times(&tired, "/manifests/") >= 1 && times(&tired, "/blobs/") == 0, "{:#?}", tired.asked());
    // Config and new layer; that of the base is here.
    assert!(times(&busy, "/manifests/1") >= 2 && times(&busy, "/blobs/") >= 4, "{:#?}", busy.asked());
    // One that asks for an hour, alone, is told of.
    let daemon = Daemon::with_flags(&[&flags[0]]);
    let error = daemon.fails(1, &["pull", &format!("{}/x:1", tired.address)]);
    assert!(error.contains("toomanyrequests: pull rate limit") && error.contains("3600 s"), "{error}");
}

/// A server with offline tokens: the password is asked for once, the token it gives is what is kept and used.
#[test]
fn an_identity_token_takes_the_password_s_place() {
    let (daemon, registry) = (Daemon::start(), Registry::start(false));
    let there = format!("{}/app:1", registry.address);
    daemon.ok(&["tag", BOX, &there]);
    daemon.ok(&["push", "-q", &there]);
    let upstream = registry.address.clone();
    let front = Server::start(move |asked, own| {
        if asked.path.starts_with("/token") {
            // naru:secret
            let by_password = asked.authorization == "Basic bmFydTpzZWNyZXQ=" && asked.path.contains("offline_token=true");
            let by_token = asked.method == "POST"
                && asked.body.contains("grant_type=refresh_token")
                && asked.body.contains("refresh_token=the-offline-token");
            return match (by_password, by_token) {
                (true, _) => (200, String::new(), r#"{"token":"good","refresh_token":"the-offline-token"}"#.into()),
                (_, true) => (200, String::new(), r#"{"access_token":"good","token_type":"Bearer","expires_in":60}"#.into()),
                _ => (401, String::new(), r#"{"details":"who are you?"}"#.into()),
            };
        }
        match asked.authorization.as_str() {
            "Bearer good" if asked.path == "/v2/" => (200, String::new(), "{}".into()),
            "Bearer good" => (307, format!("Location: http://{upstream}{}\r\n", asked.path), String::new()),
            _ => (401, format!("WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"front\"\r\n"), "{}".into()),
        }
    });
    let reference = format!("{}/app:1", front.address);
    assert_ne!(daemon.run(&["pull", "-q", &reference]).code, 0);
    let login = daemon.feed(&["login", "-u", "naru", "--password-stdin", &front.address], b"secret");
    assert!(login.code == 0 && login.out.contains("Login Succeeded"), "{login:?}");
    let kept = std::fs::read_to_string(daemon.root.join("config/config.json")).expect("a login is kept");
    assert!(kept.contains("the-offline-token") && !kept.contains("bmFydTpzZWNyZXQ"), "{kept}");
    let before = front.asked().len();
    daemon.ok(&["pull", "-q", &reference]);
    let asked = front.asked().split_off(before);
    assert!(asked.iter().any(|asked| asked.method == "POST" && asked.path.starts_with("/token")), "{asked:#?}");
    assert!(asked.iter().all(|asked| !asked.authorization.starts_with("Basic")), "{asked:#?}");
    daemon.ok(&["logout", &front.address]);
    daemon.ok(&["rmi", &reference]);
    assert_ne!(daemon.run(&["pull", "-q", &reference]).code, 0);
}

/// What Docker's client 28.2 prints of these results, to the byte.
#[test]
fn search_prints_what_docker_prints() {
    let results = r#"{"num_results":4,"query":"x","results":[
        {"name":"team/app","description":"","star_count":3,"is_official":false,"is_automated":true},
        {"name":"app","description":"one\nline, in the end, of very many characters indeed","star_count":7,"is_official":true},
        {"name":"wide","description":"日本語 <b> & \"more\"","star_count":300,"is_official":false},
        {"name":"same","description":null,"star_count":3,"is_official":false}]}"#;
    let server = Server::start(move |asked, _| match asked.path.as_str() {
        path if path.starts_with("/v1/search") => (200, "Content-Type: application/json\r\n".into(), results.into()),
        _ => (200, String::new(), "{}".into()),
    });
    let daemon = shared();
    let term = format!("{}/x", server.address);
    let search = |flags: &[&str]| daemon.ok(&[&["search"], flags, &[&term]].concat());
    assert_eq!(
        search(&[]),
        "NAME       DESCRIPTION                                     STARS     OFFICIAL
team/app                                                   3         \n\
app        one line, in the end, of very many character…   7         [OK]
wide       日本語 <b> & \"more\"                             300       \n\
same                                                       3         "
    );
    let whole = "one line, in the end, of very many characters indeed";
    assert_eq!(
        search(&["--no-trunc", "--filter", "is-official=true"]),
        format!("NAME      {:<55}STARS     OFFICIAL\napp       {whole:<55}7         [OK]", "DESCRIPTION")
    );
    let json = search(&["--format", "json", "--filter", "stars=7"]);
    assert_eq!(
        json,
        "{\"Description\":\"one line, in the end, of very many character…\",\"IsOfficial\":\"true\",\"Name\":\"app\",\"StarCount\":\"7\"}
{\"Description\":\"日本語 \\u003cb\\u003e \\u0026 \\\"more\\\"\",\"IsOfficial\":\"false\",\"Name\":\"wide\",\"StarCount\":\"300\"}"
    );
    assert_eq!(search(&["--format", "{{json .}}", "--filter", "stars=7"]), json);
    assert_eq!(search(&["--limit", "2", "--format", "{{.Name}}|{{.IsOfficial}}|{{.StarCount}}"]), "team/app||3\napp|[OK]|7");
    for (flags, reason) in [
        (["--limit", "101"], "limit 101 is outside the range of [1, 100]"),
        (["--filter", "nope=1"], "invalid filter 'nope'"),
        (["--format", "{{.IsAutomated}}"], "can't evaluate field IsAutomated in type *registry.searchContext"),
    ] {
        let error = daemon.fails(1, &["search", flags[0], flags[1], &term]);
        assert!(error.contains(reason), "{error}");
    }
}
