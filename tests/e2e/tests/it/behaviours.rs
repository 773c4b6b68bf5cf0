//! What clients rely on beyond the words of the API: the wire as a raw client sees it. `docs/behaviours.md` is the list.

use naru_e2e::{BOX, Daemon, PATIENCE, name, shared};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

/// A query's value, percent-encoded.
pub(crate) fn quoted(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Head, in lower case, and body of an answer.
fn asked(daemon: &Daemon, request: &str) -> (String, String) {
    let answer = daemon.http(request);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_lowercase(), body.to_owned())
}

pub(crate) fn made(daemon: &Daemon, name: &str, config: Value) -> String {
    let mut body = json!({"Image": BOX, "StopSignal": "SIGKILL"});
    body.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    let (status, text) = daemon.api("POST", &format!("/containers/create?name={name}"), Some(&body.to_string()));
    assert_eq!(status, 201, "{text}");
    serde_json::from_str::<Value>(&text).unwrap()["Id"].as_str().unwrap().to_owned()
}

fn started(daemon: &Daemon, name: &str, config: Value) -> String {
    let id = made(daemon, name, config);
    let (status, text) = daemon.api("POST", &format!("/containers/{name}/start"), None);
    assert_eq!(status, 204, "{text}");
    id
}

/// Sends a request and reads the head of its answer; the rest is the stream.
fn opened(daemon: &Daemon, request: &str) -> (String, UnixStream) {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let (mut head, mut byte) = (vec![], [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    (String::from_utf8(head).unwrap(), stream)
}

fn rest(mut stream: UnixStream) -> Vec<u8> {
    let mut all = vec![];
    stream.read_to_end(&mut all).unwrap();
    all
}

/// A POST that asks for a raw stream.
fn upgrade(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn heads_of_answers_and_paths() {
    let daemon = shared();
    let routed = ["api-version: 1.51", "ostype: linux", "docker-experimental: false", "server: naru/"];
    for (method, path, status, more) in [
        ("GET", "/version", 200, &routed[..]),
        ("GET", "/v1.24/version", 200, &routed),
        ("GET", "/containers/nosuch/json", 404, &routed),
        ("HEAD", "/containers/nosuch/archive?path=/", 404, &["content-type: application/json"]),
        ("OPTIONS", "/nosuch/at/all", 200, &routed),
        ("GET", "//containers//json?all=1", 301, &["location: /containers/json?all=1"]),
        ("GET", "/v1.43/containers/./x/../json", 301, &["location: /v1.43/containers/json"]),
        ("GET", "/v2/info", 400, &routed[..2]),
        ("GET", "/v1/info", 400, &["content-type: text/plain; charset=utf-8"]),
        ("GET", "/v1.44.1/_ping", 200, &routed),
        ("GET", "/containers/json/", 404, &["content-type: application/json"]),
        ("PUT", "/containers/json", 404, &["content-type: application/json"]),
    ] {
        let (head, body) = asked(daemon, &format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{method} {path}: {head}");
        for header in more {
            assert!(head.contains(header), "{method} {path}: {header}: {head}");
        }
        assert!(method != "HEAD" || body.is_empty(), "{body}");
        if body.contains("page not found") {
            assert!(!head.contains("api-version") && body == "{\"message\":\"page not found\"}\n", "{head} {body}");
        }
    }
    assert!(daemon.api("GET", "/v2/info", None).1.contains("client version 2 is too new. Maximum supported API version is 1.51"));
    let (_, old) = daemon.api("GET", "/v1/info", None);
    let words = "client version 1 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version\n";
    assert_eq!(old, words);
}

#[test]
fn bodies_must_be_json_by_their_header() {
    let daemon = shared();
    for (kind, words) in [
        ("application/json", "no command"),
        ("APPLICATION/JSON; charset=utf-8", "no command"),
        ("application/json; charset", "malformed Content-Type header (application/json; charset): mime: invalid media parameter"),
        ("application/json;a=b;a=c", "mime: duplicate parameter name"),
        ("text/plain", "unsupported Content-Type header (text/plain): must be 'application/json'"),
        ("application/jsonx", "unsupported Content-Type header"),
        (";", "mime: no media type"),
    ] {
        let body = r#"{"Cmd":[]}"#;
        let request = format!(
            "POST /containers/nosuch/exec HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (head, answer) = asked(daemon, &request);
        let answer = answer.replace("No exec command specified", "no command");
        assert!(head.starts_with("http/1.1 400") && answer.contains(words), "{kind}: {head} {answer}");
    }
    for (path, body, status, words) in [
        ("/containers/create", "", 400, "config cannot be empty in order to create a container"),
        ("/containers/create", "null", 400, "config cannot be empty in order to create a container"),
        ("/containers/create", " ", 400, "got EOF while reading request body"),
        ("/containers/create", "{\"Image\":\"nosuch\"}{}", 400, "unexpected content after JSON"),
        ("/networks/create", "", 400, "name is empty"),
        ("/containers/nosuch/start", "12345678", 400, "starting container with non-empty request body"),
        ("/containers/nosuch/start", "{}", 404, "No such container: nosuch"),
    ] {
        let (got, text) = daemon.api("POST", path, Some(body));
        assert!(got == status && text.contains(words), "{path} {body}: {got} {text}");
    }
    // Nothing is escaped for HTML, and a line ends the answer.
    let volume = name("volume");
    let (_, text) = daemon.api("POST", "/volumes/create", Some(&json!({"Name": volume, "Labels": {"a": "<&>"}}).to_string()));
    assert!(text.contains("<&>") && text.ends_with("}\n"), "{text}");
    daemon.ok(&["volume", "rm", &volume]);
}

#[test]
fn platforms_of_images_are_json() {
    let daemon = shared();
    let both = r#"{"os":"linux","architecture":"amd64"}"#;
    for (method, path, platform, status, words) in [
        ("GET", "/images/box:1/json?platform=", "linux/amd64", 400, "failed to parse platform"),
        ("GET", "/images/box:1/history?platform=", "linux", 400, "failed to parse platform"),
        ("GET", "/images/box:1/get?platform=", r#"{"os":"linux"}"#, 400, "both OS and Architecture must be provided"),
        ("GET", "/images/box:1/json?platform=", r#"{"architecture":"amd64"}"#, 400, "both OS and Architecture must be provided"),
        ("POST", "/images/load?platform=", "{}", 400, "both OS and Architecture must be provided"),
        ("POST", "/images/box:1/push?platform=", "{}", 400, "both OS and Architecture must be provided"),
        ("DELETE", "/images/box:1?platforms=", "{}", 400, "both OS and Architecture must be provided"),
        ("DELETE", "/images/box:1?platforms=", r#"{"os":"windows","architecture":"amd64"}"#, 404, "does not match the specified platform"),
        ("GET", "/images/box:1/json?platform=", r#"{"os":"windows","architecture":"amd64"}"#, 404, "does not match the specified platform"),
        ("GET", "/images/box:1/json?platform=", both, 200, "sha256:"),
        ("GET", "/v1.48/images/box:1/json?platform=", "{}", 200, "sha256:"),
        ("POST", "/containers/create?platform=", both, 400, ""),
        ("POST", "/images/create?fromImage=127.0.0.1:9/x&tag=1&platform=", both, 400, ""),
    ] {
        let body = path.contains("create?platform").then(|| json!({"Image": BOX}).to_string());
        let (got, text) = daemon.api(method, &format!("{path}{}", quoted(platform)), body.as_deref());
        assert!(got == status && text.contains(words), "{method} {path}{platform}: {got} {text}");
    }
}

#[test]
fn an_attached_stream_is_what_was_asked_for() {
    let daemon = shared();
    let (raw, framed) = ("application/vnd.docker.raw-stream", "application/vnd.docker.multiplexed-stream");
    for tty in [false, true] {
        let name = name("stream");
        started(daemon, &name, json!({"Cmd": ["cat"], "OpenStdin": true, "Tty": tty}));
        for (version, kind) in [("", framed), ("/v1.41", raw), ("/v1.42", framed)] {
            let path = format!("{version}/containers/{name}/attach?stream=1&stdin=1&stdout=1&stderr=1");
            let (head, mut stream) = opened(daemon, &upgrade(&path, ""));
            let kind = if tty { raw } else { kind };
            assert!(head.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{head}");
            for header in [&format!("content-type: {kind}\r\n"), "connection: upgrade\r\n", "upgrade: tcp\r\n"] {
                assert!(head.to_lowercase().contains(header), "{header}: {head}");
            }
            stream.write_all(b"hello\n").unwrap();
            let expected: &[u8] = if tty { b"hello\r\nhello\r\n" } else { b"\x01\0\0\0\0\0\0\x06hello\n" };
            let mut got = vec![0; expected.len()];
            stream.read_exact(&mut got).unwrap();
            assert_eq!(got, expected, "{version} {tty}");
        }
        let (head, _) = opened(daemon, &format!("POST /containers/{name}/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.to_lowercase().contains(raw), "{head}");
        daemon.ok(&["rm", "-f", &name]);
    }
}

#[test]
fn an_attach_that_cannot_be_says_so_in_text() {
    let daemon = shared();
    let (paused, restarting) = (name("paused"), name("restarting"));
    started(daemon, &paused, json!({"Cmd": ["sleep", "1000"]}));
    daemon.ok(&["pause", &paused]);
    started(daemon, &restarting, json!({"Cmd": ["false"], "HostConfig": {"RestartPolicy": {"Name": "always"}}}));
    // The waits double: one that is long enough to be asked in.
    daemon.until("it waits for long", || {
        let inspect = daemon.inspect(&restarting);
        inspect["RestartCount"].as_i64() >= Some(5) && inspect["State"]["Status"] == "restarting"
    });
    for (container, more, status, words) in [
        ("nosuch", "", 404, "No such container: nosuch\r\n".to_owned()),
        (paused.as_str(), "", 409, format!("container {paused} is paused, unpause the container before attach\r\n")),
        (&restarting, "", 409, format!("container {restarting} is restarting, wait until the container is running\r\n")),
        (&paused, "&detachKeys=nope", 400, "Invalid detach keys (nope) provided\r\n".to_owned()),
    ] {
        let (head, body) = asked(daemon, &upgrade(&format!("/containers/{container}/attach?stream=1&stdout=1{more}"), ""));
        assert!(head.starts_with(&format!("http/1.1 {status} ")) && head.contains("application/vnd.docker.raw-stream"), "{head}");
        assert_eq!(body, words);
    }
    daemon.ok(&["rm", "-f", &paused, &restarting]);
}

#[test]
fn the_end_of_input_is_the_process_s_or_the_stream_s() {
    let daemon = shared();
    let name = name("input");
    let config = |once: bool| json!({"Cmd": ["sh", "-c", "cat; echo end"], "OpenStdin": true, "StdinOnce": once});
    let attach = upgrade(&format!("/containers/{name}/attach?stream=1&stdin=1&stdout=1&stderr=1"), "");
    started(daemon, &name, config(true));
    let (_, mut stream) = opened(daemon, &attach);
    stream.write_all(b"last\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let out = String::from_utf8(rest(stream)).unwrap();
    assert!(out.contains("last\n") && out.ends_with("end\n"), "{out:?}");
    daemon.ok(&["rm", "-f", &name]);

    // Without it the container keeps its input, also when the first client is gone; the stream ends.
    started(daemon, &name, config(false));
    let (_, mut stream) = opened(daemon, &attach);
    stream.write_all(b"first\n").unwrap();
    let mut got = [0; 14];
    stream.read_exact(&mut got).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(stream), b"");
    let (_, mut stream) = opened(daemon, &attach.replace("stream=1", "stream=1&logs=1"));
    stream.write_all(b"second\n").unwrap();
    let mut got = [0; 29];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"\x01\0\0\0\0\0\0\x06first\n\x01\0\0\0\0\0\0\x07second\n", "the log comes before the stream");
    daemon.ok(&["rm", "-f", &name]);
}

#[test]
fn an_exec_s_stream_is_as_its_start_asks() {
    let daemon = shared();
    let name = name("exec");
    started(daemon, &name, json!({"Cmd": ["sleep", "1000"]}));
    let exec = |more: Value| {
        let mut body = json!({"AttachStdout": true, "AttachStderr": true});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, text) = daemon.api("POST", &format!("/containers/{name}/exec"), Some(&body.to_string()));
        assert_eq!(status, 201, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()["Id"].as_str().unwrap().to_owned()
    };
    let run = |version: &str, more: Value, start: Value| {
        let (head, stream) = opened(daemon, &upgrade(&format!("{version}/exec/{}/start", exec(more)), &start.to_string()));
        assert!(head.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{head}");
        (head.contains("multiplexed"), rest(stream))
    };
    let echo = json!(["sh", "-c", "echo out"]);
    for (tty, start, version, framed, out) in [
        (false, false, "", true, &b"\x01\0\0\0\0\0\0\x04out\n"[..]),
        (false, false, "/v1.41", false, b"\x01\0\0\0\0\0\0\x04out\n"),
        (true, true, "", false, b"out\r\n"),
        (true, false, "", true, b"\x01\0\0\0\0\0\0\x05out\r\n"),
        (false, true, "", false, b"out\n"),
    ] {
        let got = run(version, json!({"Cmd": echo, "Tty": tty}), json!({"Tty": start}));
        assert_eq!(got, (framed, out.to_vec()), "{tty} {start} {version}");
    }
    // The size comes a moment after the start; without one the terminal has none, which busybox does not print.
    let size = json!({"Cmd": ["sh", "-c", "sleep 0.5; stty size"], "Tty": true, "AttachStdin": true});
    for (version, sized) in [("", true), ("/v1.42", true), ("/v1.41", false)] {
        let (_, out) = run(version, size.clone(), json!({"Tty": true, "ConsoleSize": [31, 71]}));
        assert_eq!(out == b"31 71\r\n", sized, "{version} {}", String::from_utf8_lossy(&out));
    }
    let words =
        "OCI runtime exec failed: exec failed: unable to start container process: exec: \"nosuch\": executable file not found in $PATH";
    let (_, out) = run("", json!({"Cmd": ["nosuch"]}), json!({}));
    assert!(out.ends_with(format!("{words}\r\n").as_bytes()));
    let (status, text) = daemon.api("POST", &format!("/exec/{}/start", exec(json!({"Cmd": ["nosuch"]}))), Some(r#"{"Detach":true}"#));
    assert!(status == 400 && text.contains(&words.replace('"', "\\\"")), "{status} {text}");
    let id = exec(json!({"Cmd": ["true"]}));
    let start = || daemon.api("POST", &format!("/exec/{id}/start"), Some(r#"{"Detach":true}"#));
    assert_eq!(start(), (200, String::new()));
    daemon.until("it has ended", || daemon.api("GET", &format!("/exec/{id}/json"), None).1.contains("\"Running\":false"));
    assert_eq!(start(), (409, format!("{{\"message\":\"exec command {id} has already run\"}}\n")));
    daemon.ok(&["pause", &name]);
    let (status, text) = daemon.api("POST", &format!("/containers/{name}/exec"), Some(r#"{"Cmd":["true"]}"#));
    assert!(status == 409 && text.contains(&format!("Container {name} is paused, unpause the container before exec")), "{text}");
    daemon.ok(&["rm", "-f", &name]);
}

#[test]
fn logs_as_a_raw_client_asks() {
    let daemon = shared();
    let name = name("log");
    let config = json!({"Cmd": ["sh", "-c", "echo one"], "Labels": {"b": "2 &", "a": "x=y"}, "Env": ["E=a/b"],
        "HostConfig": {"LogConfig": {"Type": "json-file", "Config": {"labels": "a,b", "env": "E"}}}});
    started(daemon, &name, config);
    daemon.ok(&["wait", &name]);
    let logs = |query: &str| daemon.api("GET", &format!("/containers/{name}/logs?{query}"), None);
    for (query, status, shown) in [
        ("", 400, false),
        ("stdout=0", 400, false),
        ("stdout=1&until=0", 200, true),
        ("stdout=1&since=", 200, true),
        ("stdout=1&since=1.5", 200, true),
        ("stdout=1&since=1.12345678912", 200, true),
        ("stdout=1&since=99999999999", 200, false),
        ("stdout=1&until=1.5", 200, false),
        ("stdout=1&tail=x", 200, true),
        ("stdout=1&tail=0", 200, false),
        ("stderr=1", 200, false),
        ("stdout=1&since=1h", 400, false),
        ("stdout=1&until=2020-01-01T00:00:00Z", 400, false),
    ] {
        let (got, text) = logs(query);
        assert!(got == status && text.contains("one\n") == shown, "{query}: {got} {text}");
    }
    let (_, text) = logs("stdout=1&timestamps=1&details=1");
    let line = text.split_once('\n').map(|(_, rest)| rest).unwrap_or_default();
    let words: Vec<&str> = line.lines().next().unwrap_or_default().split(' ').collect();
    let stamp = words[0].rsplit(|c: char| !c.is_ascii_graphic()).next().unwrap();
    let stamp = &stamp[stamp.len().saturating_sub("2026-01-02T03:04:05.123456789Z".len())..];
    assert!(stamp.ends_with('Z') && stamp.as_bytes()[19] == b'.', "{text:?}");
    assert_eq!(&words[1..], ["E=a%2Fb,a=x%3Dy,b=2+%26", "one"], "{text:?}");
    for (version, kind) in [("/v1.41", "raw"), ("/v1.42", "multiplexed")] {
        let request = format!("GET {version}/containers/{name}/logs?stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert!(asked(daemon, &request).0.contains(&format!("application/vnd.docker.{kind}-stream")), "{version}");
    }
    daemon.ok(&["rm", &name]);
}

#[test]
fn stats_stream_or_are_one() {
    let daemon = shared();
    let name = name("stats");
    started(daemon, &name, json!({"Cmd": ["sleep", "1000"]}));
    let stats = |query: &str| daemon.api("GET", &format!("/containers/{name}/stats?{query}"), None);
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let never = "0001-01-01T00:00:00Z";
    let once = read(&stats("stream=0&one-shot=1").1);
    assert!(once["read"] != never && once["preread"] == never && once["precpu_stats"]["cpu_usage"]["total_usage"] == 0, "{once}");
    let two = read(&stats("stream=0").1);
    assert!(two["read"] != never && two["preread"] != never, "{two}");
    for query in ["one-shot=1", "stream=1&one-shot=1"] {
        assert_eq!(stats(query), (400, "{\"message\":\"cannot have stream=true and one-shot=true\"}\n".to_owned()));
    }
    let (_, mut stream) = opened(daemon, &format!("GET /containers/{name}/stats HTTP/1.0\r\n\r\n"));
    let mut text = String::new();
    while text.matches("\"read\"").count() < 2 {
        let mut block = [0; 4096];
        let count = stream.read(&mut block).unwrap();
        assert_ne!(count, 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&block[..count]));
    }
    daemon.ok(&["rm", "-f", &name]);
}

#[test]
fn waits_end_as_their_conditions_say() {
    let daemon = shared();
    let name = name("wait");
    started(daemon, &name, json!({"Cmd": ["sleep", "1000"]}));
    for (path, status) in [("?condition=sometimes", 400), ("/x", 404)] {
        assert_eq!(daemon.api("POST", &format!("/containers/{name}/wait{path}"), None).0, status, "{path}");
    }
    let wait = |condition: &str| {
        opened(daemon, &format!("POST /containers/{name}/wait?condition={condition} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    };
    let waits = ["", "not-running", "next-exit", "removed"].map(wait);
    daemon.ok(&["rm", "-f", &name]);
    for (head, stream) in waits {
        assert!(head.starts_with("HTTP/1.1 200") && head.to_lowercase().contains("content-type: application/json"), "{head}");
        let body = String::from_utf8(rest(stream)).unwrap();
        assert!(body.contains("{\"StatusCode\":137}\n"), "{body}");
    }
    // Before conditions were known they were not looked at.
    made(daemon, &name, json!({"Cmd": ["true"]}));
    for condition in ["removed", "sometimes"] {
        let (status, text) = daemon.api("POST", &format!("/v1.29/containers/{name}/wait?condition={condition}"), None);
        assert!(status == 200 && text.contains("{\"StatusCode\":0}"), "{condition}: {status} {text}");
    }
    daemon.ok(&["rm", &name]);
}

#[test]
fn events_as_a_raw_client_asks() {
    let daemon = shared();
    let name = name("event");
    let id = made(daemon, &name, json!({"Cmd": ["true"]}));
    let filters = quoted(&json!({"container": [name], "event": ["create"]}).to_string());
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
    for accept in ["", "Accept: application/x-ndjson\r\n"] {
        let request =
            format!("GET /events?since=0&until={until}&filters={filters} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{accept}\r\n");
        let (head, body) = asked(daemon, &request);
        assert!(head.contains("content-type: application/json"), "{head}");
        let event: Value = serde_json::from_str(body.lines().find(|line| line.starts_with('{')).unwrap()).unwrap();
        assert_eq!((&event["status"], &event["id"], &event["from"]), (&"create".into(), &id.as_str().into(), &BOX.into()));
        assert_eq!((&event["Type"], &event["Action"], &event["scope"]), (&"container".into(), &"create".into(), &"local".into()));
    }
    assert_eq!(daemon.api("GET", "/events?until=1", None).0, 200);
    let (status, text) = daemon.api("GET", "/events?since=10&until=1", None);
    assert_eq!((status, text.as_str()), (400, "{\"message\":\"`since` time (10) cannot be after `until` time (1)\"}\n"));
    assert_eq!(daemon.api("GET", "/events?since=1h", None).0, 400);
    daemon.ok(&["rm", &name]);
}

#[test]
fn a_start_that_fails_has_its_code() {
    let daemon = shared();
    for (config, status, code) in [
        (json!({"Cmd": ["nosuch"]}), 400, 127),
        (json!({"Cmd": ["/no/such"]}), 400, 127),
        (json!({"Cmd": ["/etc/passwd/x"]}), 400, 127),
        (json!({"Cmd": ["/etc"]}), 400, 126),
        (json!({"Cmd": ["/etc/passwd"]}), 400, 126),
        (json!({"Cmd": ["true"], "User": "nosuch"}), 500, 128),
    ] {
        let name = name("fails");
        made(daemon, &name, config.clone());
        let (got, text) = daemon.api("POST", &format!("/containers/{name}/start"), None);
        let state = daemon.inspect(&name)["State"].clone();
        assert_eq!((got, &state["ExitCode"], &state["Status"]), (status, &code.into(), &"created".into()), "{config}: {text}");
        assert!(!state["Error"].as_str().unwrap().is_empty(), "{state}");
        daemon.ok(&["rm", &name]);
    }
}

#[test]
fn what_is_already_so_is_not_done_again() {
    let daemon = shared();
    let name = name("again");
    started(
        daemon,
        &name,
        json!({"Cmd": ["sh", "-c", "trap 'exit 3' USR1; trap '' TERM; echo ready; while :; do sleep 0.05; done"], "StopSignal": "SIGTERM"}),
    );
    let call = |method: &str, path: &str| daemon.api(method, &format!("/containers/{name}{path}"), None);
    let status = || {
        let filters = quoted(&json!({"name": [name]}).to_string());
        let rows: Value = serde_json::from_str(&daemon.api("GET", &format!("/containers/json?all=1&filters={filters}"), None).1).unwrap();
        rows[0]["Status"].as_str().unwrap().to_owned()
    };
    assert_eq!(call("POST", "/start"), (304, String::new()));
    assert!(status().starts_with("Up "), "{}", status());
    let (code, text) = call("DELETE", "");
    assert!(code == 409 && text.contains(&format!("cannot remove container \\\"{name}\\\": container is running")), "{text}");
    assert_eq!(call("POST", "/pause").0, 204);
    assert!(status().ends_with("(Paused)"), "{}", status());
    assert!(call("DELETE", "").1.contains("container is paused and must be unpaused first"));
    assert_eq!(call("POST", "/unpause").0, 204);
    let top: Value = serde_json::from_str(&call("GET", "/top").1).unwrap();
    assert_eq!(top["Titles"], json!(["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]));
    assert!(call("GET", "/top?ps_args=-o%20args").1.contains("Couldn't find PID field in ps output"));
    // Deaf to the stop signal it would wait for ever; by another one it ends.
    daemon.until("it is ready", || daemon.ok(&["logs", &name]).contains("ready"));
    assert_eq!(call("POST", "/stop?t=-1&signal=SIGUSR1").0, 204);
    assert!(status().starts_with("Exited (3) "), "{}", status());
    assert_eq!(call("POST", "/stop"), (304, String::new()));
    assert_eq!(call("POST", "/kill").0, 409);
    assert_eq!(call("POST", "/start").0, 204);
    assert_eq!(call("POST", "/stop?t=0").0, 204);
    assert!(status().starts_with("Exited (137) "), "{}", status());
    daemon.ok(&["rm", &name]);
    made(daemon, &name, json!({}));
    assert_eq!(status(), "Created");
    daemon.ok(&["rm", &name]);
    started(daemon, &name, json!({"Cmd": ["sh", "-c", "exit 4"], "HostConfig": {"RestartPolicy": {"Name": "always"}}}));
    daemon.until("it waits", || status().starts_with("Restarting (4) "));
    daemon.ok(&["rm", "-f", &name]);
}

#[test]
fn two_prunes_of_a_kind_do_not_run_at_once() {
    // Its own: others prune the shared one.
    let daemon = Daemon::start();
    daemon.until("two meet", || {
        let filters = quoted(r#"{"label":["nosuch"]}"#);
        let prune = || daemon.api("POST", &format!("/containers/prune?filters={filters}"), None);
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..16).map(|_| scope.spawn(prune)).collect();
            all.into_iter().any(|one| {
                let (status, text) = one.join().unwrap();
                assert!(status == 200 || text.contains("a prune operation is already running"), "{status} {text}");
                status == 409
            })
        })
    });
}

#[test]
fn archives_are_packed_as_the_client_likes() {
    let daemon = shared();
    let name = name("packed");
    made(daemon, &name, json!({}));
    let path = format!("/containers/{name}/archive?path=/bin/sh");
    let (head, _) = asked(daemon, &format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    assert!(head.contains("x-docker-container-path-stat: "), "{head}");
    let answer = daemon.http(&format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    let stat =
        answer.lines().find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case("x-docker-container-path-stat")));
    // {"name":"sh", in base64, is the beginning.
    assert!(stat.unwrap().1.starts_with("eyJuYW1lIjoic2gi"), "{answer}");
    for (accept, coding) in [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate, gzip", "gzip"),
        ("gzip;q=0.5, deflate", "deflate"),
        ("*", "gzip"),
        ("identity", ""),
        ("br", ""),
        ("gzip;q=0", ""),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept-Encoding: {accept}\r\n\r\n");
        let (head, _) = asked(daemon, &request);
        assert!(head.contains("content-type: application/x-tar"), "{head}");
        let got = head.lines().find_map(|line| line.strip_prefix("content-encoding: ")).unwrap_or_default();
        assert_eq!(got, coding, "{accept}: {head}");
    }
    daemon.ok(&["rm", &name]);
}

#[test]
fn long_output_is_cut_where_it_is_kept() {
    let daemon = shared();
    let name = name("long");
    // Of a health check 4096 bytes are kept; of a line of the log parts of 16 KiB, of which the last alone ends it.
    let check = json!({"Test": ["CMD-SHELL", "head -c 5000 /dev/zero | tr '\\0' y"], "Interval": 100_000_000});
    let config = json!({"Cmd": ["sh", "-c", "head -c 40000 /dev/zero | tr '\\0' x; echo; exec sleep 1000"], "Healthcheck": check,
        "HostConfig": {"LogConfig": {"Type": "json-file", "Config": {"compress": "true", "max-size": "1m", "max-file": "3"}}}});
    started(daemon, &name, config);
    daemon.until("it was checked", || daemon.inspect(&name)["State"]["Health"]["Log"][0]["Output"].is_string());
    let output = daemon.inspect(&name)["State"]["Health"]["Log"][0]["Output"].as_str().unwrap().to_owned();
    assert_eq!(output.len(), 4096);
    let path = daemon.inspect(&name)["LogPath"].as_str().unwrap().to_owned();
    let parts = || -> Vec<String> {
        let text = std::fs::read_to_string(&path).unwrap();
        let rows = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        rows.map(|row| row["log"].as_str().unwrap().to_owned()).collect()
    };
    daemon.until("the line is whole", || parts().last().is_some_and(|part| part.ends_with('\n')));
    assert_eq!(parts().iter().map(String::len).collect::<Vec<_>>(), [16384, 16384, 40001 - 2 * 16384]);
    assert!(!parts()[0].ends_with('\n') && !parts()[1].ends_with('\n'));
    daemon.ok(&["rm", "-f", &name]);

    let turned = naru_e2e::name("turned");
    let flags = ["--log-opt", "max-size=2k", "--log-opt", "max-file=3", "--log-opt", "compress=true"];
    daemon.ok(&[&["run", "-d", "--name", &turned][..], &flags, &[BOX, "seq", "1000"]].concat());
    daemon.ok(&["wait", &turned]);
    let path = std::path::PathBuf::from(daemon.inspect(&turned)["LogPath"].as_str().unwrap());
    let packed = |number: u32| std::path::PathBuf::from(format!("{}.{number}.gz", path.display()));
    daemon.until("what was turned over is packed", || packed(1).exists() && packed(2).exists());
    assert!(path.exists() && !packed(3).exists());
    assert_eq!(daemon.ok(&["logs", "-n", "1", &turned]), "1000");
    daemon.ok(&["rm", &turned]);
}

#[test]
fn the_client_obeys_its_environment_and_configuration() {
    let daemon = shared();
    let folder = tempfile::tempdir().unwrap();
    let run = |config: &str, environment: &[(&str, &str)], args: &[&str]| {
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let mut command = daemon.command(args);
        let output = command.env("DOCKER_CONFIG", folder.path()).envs(environment.iter().copied()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    };
    let version = run("{}", &[("DOCKER_API_VERSION", "1.41")], &["version", "--format", "{{.Client.APIVersion}}"]);
    assert_eq!(version, (Some(0), "1.41".to_owned()));
    let name = name("configured");
    let refused = run("{}", &[("DOCKER_DEFAULT_PLATFORM", "windows/amd64")], &["create", "--pull", "never", BOX]);
    assert_ne!(refused.0, Some(0));
    let proxies = r#"{"proxies":{"default":{"httpProxy":"http://proxy.invalid:1"}},"psFormat":"of {{.Names}}"}"#;
    assert_eq!(run(proxies, &[], &["create", "--name", &name, BOX]).0, Some(0));
    let environment = daemon.inspect(&name)["Config"]["Env"].to_string();
    assert!(environment.contains("HTTP_PROXY=http://proxy.invalid:1") && environment.contains("http_proxy="), "{environment}");
    let listed = run(proxies, &[], &["ps", "-a", "--filter", &format!("name={name}")]);
    assert_eq!(listed.1, format!("of {name}"));
    daemon.ok(&["rm", &name]);
    let mut dial = daemon.command(&["system", "dial-stdio"]);
    let mut dial = dial.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    // Its input stays open until the answer is there.
    let mut input = dial.stdin.take().unwrap();
    input.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut dialled = String::new();
    dial.stdout.take().unwrap().read_to_string(&mut dialled).unwrap();
    assert!(dialled.starts_with("HTTP/1.1 200 OK") && dialled.ends_with("OK"), "{dialled:?}");
    drop(input);
    dial.wait().unwrap();
    // What is asked first, and the headers that go with it.
    let server = naru_e2e::wire::Server::start(|_, _| (200, "Api-Version: 1.43\r\nOstype: linux\r\n".into(), "[]".into()));
    let host = format!("tcp://{}", server.address);
    run(r#"{"HttpHeaders":{"Authorization":"Bearer of-the-file"}}"#, &[("DOCKER_HOST", &host)], &["ps"]);
    let asked = server.asked();
    assert_eq!((asked[0].method.as_str(), asked[0].path.as_str()), ("HEAD", "/_ping"));
    assert!(asked[1].path.starts_with("/v1.43/containers/json"), "{asked:?}");
    assert!(asked.iter().all(|request| request.authorization == "Bearer of-the-file"), "{asked:?}");
}

#[test]
fn registries_answer_as_streams_and_words() {
    let daemon = shared();
    let request = "POST /images/nosuch/push HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Registry-Auth: e30=\r\nContent-Length: 0\r\n\r\n";
    let (head, body) = asked(daemon, request);
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    let text = "An image does not exist locally with the tag: nosuch";
    let refused = format!("{{\"errorDetail\":{{\"message\":\"{text}\"}},\"error\":\"{text}\"}}\r\n");
    assert!(
        body.contains("{\"status\":\"The push refers to repository [docker.io/library/nosuch]\"}\r\n") && body.contains(&refused),
        "{body}"
    );
    let server = naru_e2e::wire::Server::start(|_, _| (200, String::new(), "{}".into()));
    let login = json!({"username": "a", "password": "b", "serveraddress": server.address}).to_string();
    let answer = (200, "{\"Status\":\"Login Succeeded\",\"IdentityToken\":\"\"}\n".to_owned());
    assert_eq!(daemon.api("POST", "/auth", Some(&login)), answer);
}

/// `socat` and `docker system dial-stdio` close their sending direction at the end of their input.
#[test]
fn a_client_that_sends_no_more_is_answered() {
    let daemon = shared();
    for turn in 0..20 {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let close = if turn % 2 == 0 { "Connection: close\r\n" } else { "" };
        stream.write_all(format!("GET /info HTTP/1.1\r\nHost: x\r\n{close}\r\n").as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let answer = String::from_utf8(rest(stream)).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("ServerVersion"), "{turn}: {answer}");
    }
}

#[test]
fn processes_are_listed_as_ps_lists_them() {
    let daemon = shared();
    let name = name("top");
    daemon.ok(&["run", "-d", "--name", &name, BOX, "sh", "-c", "sleep 1000 & renice -n 5 -p $! >&2; exec sleep 1000"]);
    daemon.until("both are there", || {
        let list = daemon.ok(&["top", &name, "-eo", "pid,stat,args"]);
        list.contains(" Ss ") && list.contains(" SN ") && list.lines().filter(|line| line.ends_with("sleep 1000")).count() == 2
    });
    let table = |args: &str| -> (String, Vec<Vec<String>>) {
        let (status, text) = daemon.api("GET", &format!("/containers/{name}/top?ps_args={}", quoted(args)), None);
        assert_eq!(status, 200, "{text}");
        let table: Value = serde_json::from_str(&text).unwrap();
        let titles: Vec<String> = serde_json::from_value(table["Titles"].clone()).unwrap();
        (titles.join(" "), serde_json::from_value(table["Processes"].clone()).unwrap())
    };
    let (titles, rows) = table("aux");
    assert_eq!(titles, "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND");
    let shown: Vec<String> = rows.iter().map(|row| [&row[0], &row[6], &row[7], &row[9], &row[10]].map(String::as_str).join(" ")).collect();
    assert_eq!(shown, ["root ? Ss 0:00 sleep 1000", "root ? SN 0:00 sleep 1000"]);
    let (titles, rows) = table("-eo pid,stat,s,time,ni,comm");
    assert_eq!(titles, "PID STAT S TIME NI COMMAND");
    assert_eq!(rows[1][1..], ["SN", "S", "00:00:00", "5", "sleep"]);
    for (args, titles) in [
        ("ax", "PID TTY STAT TIME COMMAND"),
        ("-e", "PID TTY TIME CMD"),
        ("auxww", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
    ] {
        assert_eq!(table(args).0, titles, "{args}");
    }
    assert!(daemon.fails(1, &["top", &name, "-ef", "--sort=-pid"]).contains("not supported"));
    daemon.ok(&["rm", "-f", &name]);
}
