//! The wire: versions, headers, bad bodies, bad names; what clients rely on beyond the verbs.

use naru_e2e::{BOX, Daemon, name, shared};

#[test]
fn ping_tells_versions_with_and_without_prefix() {
    let daemon = shared();
    for path in ["/_ping", "/v1.43/_ping"] {
        let answer = daemon.http(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nOK"), "{answer}");
        for header in ["Api-Version: 1.51", "Ostype: linux", "Docker-Experimental: false", "Swarm: inactive", "Pragma: no-cache"] {
            assert!(answer.contains(header), "{header}: {answer}");
        }
    }
    let head = daemon.http("HEAD /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(head.to_lowercase().contains("content-length: 0"), "{head}");
}

#[test]
fn versions_out_of_range_are_refused_with_the_known_words() {
    let daemon = shared();
    let (status, text) = daemon.api("GET", "/v1.23/info", None);
    assert!(status == 400 && text.starts_with("client version 1.23 is too old. Minimum supported API version is"), "{status} {text}");
    let (status, text) = daemon.api("GET", "/v1.99/info", None);
    assert!(status == 400 && text.contains("client version 1.99 is too new. Maximum supported API version is 1.51"), "{status} {text}");
}

#[test]
fn unknown_paths_methods_and_ids() {
    let daemon = shared();
    for (method, path, status, text) in [
        ("GET", "/nosuch", 404, "page not found"),
        ("PUT", "/containers/json", 404, "page not found"),
        ("GET", "/containers/nosuch/json", 404, "No such container: nosuch"),
        ("GET", "/images/nosuch/json", 404, "No such image: nosuch:latest"),
        ("GET", "/images/nosuch/get", 404, r#""No such image: nosuch""#),
        ("GET", "/images/get?names=docker.io/library/nosuch", 404, r#""No such image: docker.io/library/nosuch""#),
        ("GET", "/volumes/nosuch", 404, "get nosuch: no such volume"),
        ("GET", "/networks/nosuch", 404, "network nosuch not found"),
        ("GET", "/exec/nosuch/json", 404, "No such exec instance: nosuch"),
        ("DELETE", "/networks/bridge", 403, "pre-defined network"),
        ("GET", "/containers/..%2f..%2fetc/json", 404, "No such container"),
        ("GET", "/containers/%00/json", 404, "No such container"),
        ("GET", "/containers/%zz/json", 400, "percent"),
        ("GET", "/containers/json?filters=%7B%22nosuch%22%3A%5B%22x%22%5D%7D", 400, "invalid filter 'nosuch'"),
        ("GET", "/containers/json?filters=nonsense", 400, "invalid filter"),
        ("GET", "/containers/json?limit=abc", 400, "limit"),
        ("GET", "/events?since=zz", 400, "since"),
        ("POST", "/containers/nosuch/wait?condition=sometimes", 404, "No such container"),
        ("POST", "/swarm/leave", 503, "swarm"),
    ] {
        let (got, body) = daemon.api(method, path, None);
        assert!(got == status && body.contains(text), "{method} {path}: {got} {body}");
    }
}

#[test]
fn bodies_are_read_as_go_reads_them() {
    let daemon = shared();
    let create = |body: &str| daemon.api("POST", "/containers/create", Some(body));
    let (status, text) = create(&format!(r#"{{"iMaGe":"{BOX}","CMD":["true"],"unknown":1,"Labels":null,"HostConfig":null}}"#));
    assert_eq!(status, 201, "{text}");
    let id = text.split('"').nth(3).unwrap();
    assert_eq!(daemon.api("DELETE", &format!("/containers/{id}"), None).0, 204);
    for (body, words) in [("{", "EOF"), ("[]", ""), ("{} trailing", "after"), (r#"{"Image":5}"#, ""), ("{}", "no image")] {
        let (status, text) = create(body);
        assert!(status == 400 && text.contains(words), "{body}: {status} {text}");
    }
    let answer = daemon.http("POST /containers/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}");
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("Content-Type"), "{answer}");
}

#[test]
fn junk_in_create_requests_is_a_400() {
    let daemon = shared();
    let long = "x".repeat(300);
    for config in [
        r#""Hostname":"a\nb""#,
        r#""Env":["A=\u0000"]"#,
        r#""WorkingDir":"relative""#,
        r#""StopSignal":"SIGNOSUCH""#,
        r#""ExposedPorts":{"99999/tcp":{}}"#,
        r#""MacAddress":"zz""#,
        r#""Healthcheck":{"Test":["CMD","true"],"Interval":5}"#,
        r#""HostConfig":{"Ulimits":[{"Name":"nosuch","Soft":1,"Hard":1}]}"#,
        r#""HostConfig":{"Ulimits":[{"Name":"nofile","Soft":9,"Hard":1}]}"#,
        r#""HostConfig":{"Sysctls":{"kernel.core_pattern":"x"}}"#,
        r#""HostConfig":{"Sysctls":{"net/../kernel/core_pattern":"x"}}"#,
        r#""HostConfig":{"CgroupParent":"/../../x"}"#,
        r#""HostConfig":{"Binds":["a:b:c:d:e"]}"#,
        r#""HostConfig":{"Binds":["/tmp:/proc"]}"#,
        r#""HostConfig":{"SecurityOpt":["nosuch"]}"#,
        r#""HostConfig":{"CapAdd":["NOSUCH"]}"#,
        r#""HostConfig":{"LogConfig":{"Type":"../x"}}"#,
        r#""HostConfig":{"LogConfig":{"Type":"json-file","Config":{"nosuch":"1"}}}"#,
        r#""HostConfig":{"RestartPolicy":{"Name":"sometimes"}}"#,
        r#""HostConfig":{"Memory":1024}"#,
        r#""HostConfig":{"CpusetCpus":"0-9999"}"#,
        r#""HostConfig":{"Devices":[{"PathOnHost":"/dev/null","CgroupPermissions":"zz"}]}"#,
        r#""HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"zz"}]}}"#,
        r#""HostConfig":{"IpcMode":"nosuch"}"#,
        r#""HostConfig":{"Dns":["nosuch"]}"#,
        r#""HostConfig":{"OomScoreAdj":5000}"#,
        r#""HostConfig":{"Runtime":"nosuch"}"#,
    ] {
        let body = format!(r#"{{"Image":"{BOX}","Cmd":["true"],{config}}}"#);
        let (status, text) = daemon.api("POST", "/containers/create", Some(&body));
        assert_eq!(status, 400, "{config}: {text}");
        assert!(text.contains("message"), "{config}: {text}");
    }
    let (status, _) = daemon.api("POST", &format!("/containers/create?name={long}"), Some(&format!(r#"{{"Image":"{BOX}"}}"#)));
    assert_eq!(status, 400);
}

#[test]
fn hostile_bytes_get_an_answer_or_a_closed_connection() {
    let daemon = shared();
    for request in [
        "GET / HTTP/1.1\r\n\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /_ping HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello",
        "POST /containers/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n",
    ] {
        daemon.http(request);
    }
    let huge = format!("GET /_ping HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    daemon.http(&huge);
    let body = format!(r#"{{"Image":"{}"}}"#, " ".repeat(40 << 20));
    let (status, _) = daemon.api("POST", "/containers/create", Some(&body));
    assert!(matches!(status, 0 | 413), "{status}");
    assert_eq!(daemon.api("GET", "/_ping", None).0, 200);
}

#[test]
fn wait_answers_its_headers_before_the_end() {
    use std::io::{Read, Write};
    let daemon = shared();
    let name = name("wait");
    daemon.ok(&["create", "--name", &name, BOX, "sh", "-c", "exit 4"]);
    let mut stream = std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(naru_e2e::PATIENCE)).unwrap();
    let request =
        format!("POST /containers/{name}/wait?condition=next-exit HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    // Clients start the container when they have the headers, so these must not wait for it.
    let mut headers = Vec::new();
    while !headers.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        headers.push(byte[0]);
    }
    assert!(headers.starts_with(b"HTTP/1.1 200"));
    assert_eq!(daemon.inspect(&name)["State"]["Status"], "created");
    daemon.ok(&["start", &name]);
    let mut body = String::new();
    stream.read_to_string(&mut body).unwrap();
    assert!(body.contains("\"StatusCode\":4"), "{body}");
    daemon.ok(&["rm", &name]);
}

#[test]
fn a_daemon_that_leaves_answers_what_it_works_on() {
    let daemon = Daemon::start();
    // Deaf to SIGTERM: the stop takes its two seconds.
    daemon.ok(&["run", "-d", "--name", "deaf", BOX, "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]);
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| daemon.run(&["stop", "-t", "2", "deaf"]));
        daemon.until("the stop is on its way", || {
            daemon.ok(&["events", "--since", "1", "--until", "0s", "--filter", "event=kill", "--format", "x"]).contains('x')
        });
        let pid = rustix::process::Pid::from_raw(daemon.pid()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(stop.join().unwrap().code, 0);
    });
}

#[test]
fn a_query_may_hold_quotes_as_people_type_them() {
    let daemon = shared();
    let name = name("quotes");
    daemon.ok(&["create", "--name", &name, BOX, "true"]);
    let path = format!("/containers/json?all=1&filters={{\"name\":[\"{name}\"]}}");
    // Two on one connection, the first with a body that looks like a request.
    let body = r#"GET /x?" HTTP/1.1"#;
    let first = format!("POST /containers/{name}/nosuch?\" HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let answer = daemon.http(&format!("{first}GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("HTTP/1.1 200") && answer.contains(&format!("/{name}\"")), "{answer}");
    daemon.ok(&["rm", &name]);
}

#[test]
fn inspect_tells_where_the_files_are() {
    let daemon = shared();
    let name = name("where");
    daemon.ok(&["run", "-d", "--name", &name, BOX, "sh", "-c", "echo mine > /mine; exec sleep 1000"]);
    let driver = &daemon.inspect(&name)["GraphDriver"];
    if driver["Name"] != "overlay2" {
        daemon.ok(&["rm", "-f", &name]);
        return;
    }
    let folder = |key: &str| std::path::PathBuf::from(driver["Data"][key].as_str().unwrap());
    daemon.until("it has written", || folder("UpperDir").join("mine").exists());
    assert!(folder("WorkDir").is_dir() && folder("MergedDir").join("bin/busybox").exists() && folder("MergedDir").join("mine").exists());
    let layers = driver["Data"]["LowerDir"].as_str().unwrap().to_owned();
    assert!(layers.split(':').all(|layer| std::path::Path::new(layer).is_dir()), "{layers}");
    let image = &daemon.inspect(BOX)["GraphDriver"]["Data"];
    let top = image["UpperDir"].as_str().unwrap();
    assert!(layers.ends_with(top) && std::path::Path::new(top).join("bin/busybox").exists(), "{image} {layers}");
    daemon.ok(&["rm", "-f", &name]);
}
