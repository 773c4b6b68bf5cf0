//! Links of old as names of containers, and what `inspect` shows of a container's networks and ports, field by field.

use crate::networks::{Box, Net};
use naru_e2e::{BOX, Daemon, name, shared};
use serde_json::{Value, json};

fn names(daemon: &Daemon, name: &str) -> Vec<String> {
    let (_, text) = daemon.api("GET", "/containers/json?all=1", None);
    let rows: Value = serde_json::from_str(&text).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["Names"][0] == format!("/{name}")).unwrap().clone();
    serde_json::from_value(row["Names"].clone()).unwrap()
}

#[test]
fn a_link_is_a_name_and_can_be_taken_off() {
    let daemon = shared();
    let db = Box::new(daemon, &["--expose", "5432"]);
    let (long, short) = (format!("{}:database", db.1), format!("{}:d", db.1));
    let web = Box::new(daemon, &["--link", &long, "--link", &short]);
    let named = |alias: &str| format!("{}/{alias}", web.1);
    assert_eq!(names(daemon, &db.1), [format!("/{}", db.1), format!("/{}", named("d")), format!("/{}", named("database"))]);
    let id = daemon.inspect(&db.1)["Id"].clone();
    for reference in [named("database"), format!("/{}", named("d"))] {
        assert_eq!(daemon.inspect(&reference)["Id"], id);
    }
    assert!(daemon.fails(1, &["inspect", &named("nosuch")]).contains("No such"));
    // In the list of a terminal a container has its own name only.
    let shown = |flag: &[&str]| daemon.ok(&[&["ps", "--format", "{{.Names}}"], flag].concat());
    assert!(shown(&[]).lines().any(|line| line == db.1));
    assert!(shown(&["--no-trunc"]).lines().any(|line| line == format!("{},{},{}", db.1, named("d"), named("database"))));

    let delete = |reference: &str| daemon.api("DELETE", &format!("/containers/{reference}?link=1"), None);
    for (reference, status, words) in [
        (named("nosuch"), 404, format!("No such container: {}", named("nosuch"))),
        ("no-such".into(), 404, "No such container: no-such".into()),
        (format!("{}/database/x", web.1), 404, "No such container".into()),
        (web.1.clone(), 409, "Conflict, cannot remove the default link name of the container".into()),
        (named("database"), 204, String::new()),
        (named("database"), 404, "No such container".into()),
    ] {
        let (got, text) = delete(&reference);
        assert!(got == status && text.contains(&words), "{reference}: {got} {text}");
    }
    assert_eq!(daemon.inspect(&web.1)["HostConfig"]["Links"], json!([format!("/{}:/{}", db.1, named("d"))]));
    assert_eq!(names(daemon, &db.1), [format!("/{}", db.1), format!("/{}", named("d"))]);
    assert!(!web.sh("cat /etc/hosts; env").to_lowercase().contains("database"));
    assert!(web.sh("env").contains("D_PORT_5432_TCP_PORT=5432"));
    daemon.ok(&["restart", "-t", "0", &web.1]);
    assert!(!web.sh("cat /etc/hosts; env").to_lowercase().contains("database"));
    // By the client, and while the target does not run.
    daemon.ok(&["stop", "-t", "0", &db.1]);
    assert_eq!(daemon.ok(&["rm", "--link", &named("d")]), named("d"));
    assert_eq!(daemon.inspect(&web.1)["HostConfig"]["Links"], Value::Null);
    daemon.ok(&["restart", "-t", "0", &web.1]);
}

/// What an endpoint shows of its wishes.
fn wishes(daemon: &Daemon, container: &str, network: &str) -> Value {
    let mut endpoint = daemon.inspect(container)["NetworkSettings"]["Networks"][network].clone();
    let id = daemon.inspect(container)["Id"].as_str().unwrap()[..12].to_owned();
    let names = endpoint["DNSNames"].as_array().map(|names| {
        let known = |name: &Value| match name.as_str().unwrap() {
            text if text == container => json!("self"),
            text if text == id => json!("id"),
            _ => name.clone(),
        };
        names.iter().map(known).collect::<Vec<_>>()
    });
    let has = |key: &str| endpoint[key].as_str().is_some_and(|text| !text.is_empty());
    let (network_id, address) = (has("NetworkID"), has("IPAddress"));
    let mut take = |key: &str| endpoint[key].take();
    json!([take("IPAMConfig"), take("Links"), take("Aliases"), take("DriverOpts"), names, network_id, address])
}

#[test]
fn an_endpoint_shows_what_was_asked_for_and_no_more() {
    let daemon = shared();
    let (one, two) = (Net::new(daemon, &[]), Net::new(daemon, &[]));
    let container = name("shown");
    let shown = |network: &str| wishes(daemon, &container, network);
    let empty = json!({});
    daemon.ok(&["create", "--name", &container, BOX, "sleep", "1000"]);
    let connect = |network: &str| daemon.ok(&["network", "connect", network, &container]);
    connect(&one.1);
    assert_eq!(shown("bridge"), json!([null, null, null, null, null, false, false]));
    assert_eq!(shown(&one.1), json!([empty, null, [], empty, ["self", "id"], false, false]));
    daemon.ok(&["start", &container]);
    assert_eq!(shown("bridge"), json!([null, null, null, null, null, true, true]));
    assert_eq!(shown(&one.1), json!([empty, null, [], empty, ["self", "id"], true, true]));
    daemon.ok(&["network", "connect", "--alias", "k", "--link", &format!("{container}:me"), &two.1, &container]);
    assert_eq!(shown(&two.1), json!([empty, [format!("{container}:me")], ["k"], empty, ["self", "k", "id"], true, true]));
    daemon.ok(&["stop", "-t", "0", &container]);
    assert_eq!(shown(&one.1), json!([empty, null, [], empty, ["self", "id"], true, false]));
    // Off and on again while it does not run, also the default bridge.
    for network in [two.1.as_str(), "bridge"] {
        daemon.ok(&["network", "disconnect", network, &container]);
        connect(network);
    }
    assert_eq!(shown("bridge"), json!([empty, null, [], empty, null, false, false]));
    assert_eq!(shown(&two.1), json!([empty, null, [], empty, ["self", "id"], false, false]));
    daemon.ok(&["start", &container]);
    assert_eq!(shown("bridge"), json!([empty, null, [], empty, null, true, true]));
    assert_eq!(shown(&two.1), json!([empty, null, [], empty, ["self", "id"], true, true]));
    daemon.ok(&["rm", "-f", &container]);

    // As a raw client says it, and at the creation.
    let raw = json!({"Aliases": [], "Links": [], "DriverOpts": {}, "IPAMConfig": {}});
    let create = |endpoints: Value| {
        let body = json!({"Image": BOX, "HostConfig": {"NetworkMode": one.1}, "NetworkingConfig": {"EndpointsConfig": endpoints}});
        daemon.api("POST", &format!("/containers/create?name={container}"), Some(&body.to_string()))
    };
    let (status, text) = create(json!({&one.1: null}));
    assert!(status == 400 && text.contains(&format!("invalid config for network {}: EndpointsConfig is nil", one.1)), "{text}");
    assert_eq!(create(json!({&one.1: raw})).0, 201);
    assert_eq!(shown(&one.1), json!([empty, [], [], empty, null, false, false]));
    for (config, expected) in [(json!({}), json!([null, null, null, null])), (raw, json!([empty, [], [], empty]))] {
        let body = json!({"Container": container, "EndpointConfig": config}).to_string();
        assert_eq!(daemon.api("POST", &format!("/networks/{}/connect", two.1), Some(&body)).0, 200);
        assert_eq!(shown(&two.1).as_array().unwrap()[..4], expected.as_array().unwrap()[..]);
        daemon.ok(&["network", "disconnect", &two.1, &container]);
    }
    daemon.ok(&["rm", &container]);
}

#[test]
fn ports_are_shown_where_the_host_leads_to_them() {
    let daemon = shared();
    let inside = Net::new(daemon, &["--internal"]);
    let flags = ["-p", "127.0.0.1::80", "--expose", "90"];
    let shown = |container: &str| {
        let ports = daemon.inspect(container)["NetworkSettings"]["Ports"].clone();
        let listed = daemon.ok(&["ps", "-f", &format!("name={container}"), "--format", "{{.Ports}}"]);
        assert_eq!(ports.as_object().unwrap().is_empty(), listed.is_empty(), "{ports} {listed}");
        assert_eq!(ports.get("80/tcp").is_some(), !daemon.ok(&["port", container]).is_empty());
        ports
    };
    for mode in ["none", "host", inside.1.as_str()] {
        let container = Box::new(daemon, &[&["--network", mode], &flags[..]].concat());
        assert_eq!(shown(&container.1), json!({}), "{mode}");
        if mode == inside.1 {
            daemon.ok(&["network", "connect", "bridge", &container.1]);
            let ports = shown(&container.1);
            assert!(ports["80/tcp"][0]["HostPort"].is_string() && ports["90/tcp"].is_null() && ports.get("90/tcp").is_some(), "{ports}");
            daemon.ok(&["network", "disconnect", "bridge", &container.1]);
            assert_eq!(shown(&container.1), json!({}));
        }
    }
}
