//! Which objects names, identifiers and filters find.

use crate::behaviours::{made, quoted};
use naru_e2e::{BOX, Daemon, busybox_archive, name, shared};
use serde_json::{Value, json};

#[test]
fn filters_select_as_docker_s_do() {
    let daemon = shared();
    let base = name("sel").replace('-', "x");
    let (one, two, more) = (format!("{base}1"), format!("{base}2"), format!("{base}22"));
    for (name, labels) in [(&one, json!({&base: "x", "u": "1"})), (&two, json!({&base: "x"})), (&more, json!({&base: "y"}))] {
        made(daemon, name, json!({"Labels": labels}));
    }
    let listed = |path: &str, filters: &Value| {
        let (status, text) = daemon.api("GET", &format!("{path}filters={}", quoted(&filters.to_string())), None);
        let list: Value = serde_json::from_str(&text).unwrap_or_default();
        let rows = list["Volumes"].as_array().or(list.as_array()).cloned().unwrap_or_default();
        let name = |row: &Value| row["Names"][0].as_str().or(row["Name"].as_str()).unwrap_or_default().trim_start_matches('/').to_owned();
        let mut names: Vec<String> = rows.iter().map(name).filter(|name| name.starts_with(&base)).collect();
        names.sort();
        (status, if status == 200 { names.join(" ").replace(&base, "") } else { text })
    };
    for (filters, expected) in [
        (json!({"label": [format!("{base}=x")]}), "1 2"),
        (json!({"label": {format!("{base}=x"): true, "u=1": true}}), "1"),
        (json!({"name": [two]}), "2 22"),
        (json!({"name": [format!("^/{two}$")]}), "2"),
        (json!({"name": [one, more]}), "1 22"),
        (json!({"name": [format!("{base}[12]$")]}), "1 2"),
        (json!({"name": [two], "label": [format!("{base}=y")]}), "22"),
        (json!({"name": [], "label": [base]}), "1 2 22"),
        (json!({"since": [one]}), "2 22"),
        (json!({"status": ["created", "exited"], "label": [base]}), "1 2 22"),
        (json!({"status": ["exited"], "label": [base]}), ""),
    ] {
        assert_eq!(listed("/containers/json?all=1&", &filters), (200, expected.to_owned()), "{filters}");
    }
    for (path, filters, words) in [
        ("/containers/json?", json!({"nosuch": ["x"]}), "invalid filter 'nosuch'"),
        ("/containers/json?", json!({"label!": ["x"]}), "invalid filter 'label!'"),
        ("/containers/json?", json!({"status": ["x"]}), "invalid value for state (x): must be one of created"),
        ("/volumes?", json!({"nosuch": ["x"]}), "invalid filter 'nosuch'"),
        ("/volumes?", json!({"dangling": ["x"]}), "invalid filter 'dangling=[x]'"),
        ("/networks?", json!({"nosuch": ["x"]}), "invalid filter 'nosuch'"),
        ("/images/json?", json!({"nosuch": ["x"]}), "invalid filter 'nosuch'"),
        ("/containers/json?", json!({"name": "x"}), "invalid filter"),
    ] {
        let (status, text) = listed(path, &filters);
        assert!(status == 400 && text.contains(words), "{path} {filters}: {text}");
    }
    for volume in [&one, &two, &more] {
        daemon.ok(&["volume", "create", volume]);
    }
    assert_eq!(listed("/volumes?", &json!({"name": [format!("^{two}$")]})), (200, "2".into()));
    // Times of filters: back from now, dates, seconds; one of them.
    let prune = |until: Value| {
        let filters = quoted(&json!({"label": ["nosuch"], "until": until}).to_string());
        daemon.api("POST", &format!("/images/prune?filters={filters}"), None)
    };
    for until in ["1000h", "2000-01-01", "2000-01-01T00:00", "2000-01-01T00:00:00Z", "1.5"] {
        daemon.until("no other prune runs", || prune(json!([until])).0 != 409);
        assert!(matches!(prune(json!([until])).0, 200 | 409), "{until}");
    }
    assert_eq!(prune(json!(["x"])).0, 400);
    daemon.ok(&["volume", "rm", &one, &two, &more]);
    daemon.ok(&["rm", &one, &two, &more]);
}

#[test]
fn names_and_identifiers_find_their_objects() {
    let daemon = shared();
    for bad in ["a", "-a", "a%20b", ".a", "_a", "a/b", "//xx", ".."] {
        let (status, text) = daemon.api("POST", &format!("/containers/create?name={bad}"), Some(&json!({"Image": BOX}).to_string()));
        assert!(status == 400 && text.contains("only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"), "{bad}: {status} {text}");
        let (status, _) = daemon.api("POST", "/volumes/create", Some(&json!({"Name": bad.replace("%20", " ")}).to_string()));
        assert_eq!(status, 400, "{bad}");
    }
    let name = name("named");
    let id = made(daemon, &format!("/{name}"), json!({}));
    assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) && id[..12].bytes().any(|byte| byte.is_ascii_alphabetic()));
    assert_eq!(daemon.inspect(&name)["Name"], format!("/{name}"));
    let (status, text) = daemon.api("POST", &format!("/containers/create?name={name}"), Some(&json!({"Image": BOX}).to_string()));
    assert!(
        status == 409 && text.contains(&format!("The container name \\\"/{name}\\\" is already in use by container \\\"{id}\\\"")),
        "{text}"
    );
    for (known, status) in [(id.as_str(), 200), (&id[..12], 200), (&name, 200), (&id.to_uppercase(), 404), (&format!("{id}0"), 404)] {
        assert_eq!(daemon.api("GET", &format!("/containers/{known}/json"), None).0, status, "{known}");
    }
    // A name comes before the beginning of an identifier.
    let other = made(daemon, &id[..12], json!({}));
    assert_eq!(daemon.inspect(&id[..12])["Id"], other.as_str());
    daemon.ok(&["rm", &other, &name]);
    let (_, text) = daemon.api("POST", "/containers/create", Some(&json!({"Image": BOX}).to_string()));
    let id = text.split('"').nth(3).unwrap().to_owned();
    let given = daemon.inspect(&id)["Name"].as_str().unwrap().to_owned();
    assert!(given[1..].split('_').count() == 2 && given[1..].bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{given}");
    daemon.ok(&["rm", &id]);

    let image = daemon.inspect(BOX)["Id"].as_str().unwrap().to_owned();
    let hex = &image[7..];
    for (known, status) in [
        (image.as_str(), 200),
        (hex, 200),
        (&hex[..12], 200),
        (&format!("sha256:{}", &hex[..12]), 200),
        ("docker.io/library/box:1", 200),
        ("index.docker.io/library/box:1", 200),
        ("box", 404),
        ("Box:1", 400),
        (&format!("box@sha256:{}", "0".repeat(64)), 404),
    ] {
        assert_eq!(daemon.api("GET", &format!("/images/{known}/json"), None).0, status, "{known}");
    }
    let net = naru_e2e::name("net");
    let id = daemon.ok(&["network", "create", &net]);
    for (known, status) in [(id.as_str(), 200), (&id[..12], 200), (&net, 200), (&net[..net.len() - 1], 404)] {
        assert_eq!(daemon.api("GET", &format!("/networks/{known}"), None).0, status, "{known}");
    }
    daemon.ok(&["network", "rm", &net]);
    for predefined in ["bridge", "host", "none"] {
        let (status, text) = daemon.api("DELETE", &format!("/networks/{predefined}"), None);
        assert!(status == 403 && text.contains(&format!("{predefined} is a pre-defined network and cannot be removed")), "{text}");
    }
    for (path, words) in
        [("/containers/create", "No such image: nosuch:latest"), ("/containers/create?name=xx", "No such image: nosuch:latest")]
    {
        let (status, text) = daemon.api("POST", path, Some(r#"{"Image":"nosuch"}"#));
        assert!(status == 404 && text.contains(words), "{text}");
    }
}

#[test]
fn beginnings_of_identifiers_are_of_any_length_and_of_one_object() {
    let daemon = Daemon::start();
    // Its identifier may begin with the same digit.
    daemon.ok(&["rmi", "naru/hello"]);
    let image = daemon.inspect(BOX)["Id"].as_str().unwrap()[7..].to_owned();
    let status = |path: &str| daemon.api("GET", path, None);
    for length in 1..5 {
        assert_eq!(status(&format!("/images/{}/json", &image[..length])).0, 200, "{length}");
        assert_eq!(status(&format!("/images/sha256:{}/json", &image[..length])).0, 200, "{length}");
    }
    // Of seventeen two begin with the same digit.
    let shared_digit = |ids: &[String]| {
        let first = |digit: char| ids.iter().filter(|id| id.starts_with(digit)).count();
        "0123456789abcdef".chars().find(|digit| first(*digit) > 1).unwrap()
    };
    let images: Vec<String> = (0..17)
        .map(|number| daemon.feed(&["import", "-c", &format!("ENV N={number}"), "-"], busybox_archive()).out[7..].to_owned())
        .collect();
    let digit = shared_digit(&images);
    let (code, text) = status(&format!("/images/{digit}/json"));
    assert!(code == 404 && text.contains("ambiguous"), "{text}");
    // To a client it is a name then, that may be in a registry.
    let (code, _) = daemon.api("POST", "/containers/create", Some(&json!({"Image": digit}).to_string()));
    assert_eq!(code, 404);
    let networks: Vec<String> = (0..17).map(|number| daemon.ok(&["network", "create", "--internal", &format!("net{number}")])).collect();
    let (code, text) = status(&format!("/networks/{}", shared_digit(&networks)));
    assert!(code == 400 && text.contains("is ambiguous"), "{text}");
    let found = daemon.run(&["inspect", "no-such-object"]);
    assert_eq!((found.code, found.out.trim()), (1, "[]"), "{found:?}");
}
