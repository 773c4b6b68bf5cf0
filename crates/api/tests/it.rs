//! Answers of a real engine (28.5, API 1.51) pass through the models unchanged: no key lost, added or misspelt.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use naru_api::models::*;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

fn round_trip<T: DeserializeOwned + Serialize>(name: &str, text: &str) {
    let expected: Value = serde_json::from_str(text).unwrap();
    let strict: T = serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(serde_json::to_value(&strict).unwrap(), expected, "{name}, read by serde_json");
    let lenient: T = naru_api::json::from_slice(text.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(serde_json::to_value(&lenient).unwrap(), expected, "{name}, read as Go does");
}

#[test]
fn answers_of_a_real_engine_round_trip() {
    round_trip::<ContainerInspect>("container-inspect", include_str!("fixtures/container-inspect.json"));
    round_trip::<Vec<ContainerSummary>>("container-list", include_str!("fixtures/container-list.json"));
    round_trip::<ContainerStats>("stats", include_str!("fixtures/stats.json"));
    round_trip::<ContainerTop>("top", include_str!("fixtures/top.json"));
    round_trip::<Vec<FilesystemChange>>("changes", include_str!("fixtures/changes.json"));
    round_trip::<Vec<ImageSummary>>("image-list", include_str!("fixtures/image-list.json"));
    round_trip::<Vec<HistoryItem>>("image-history", include_str!("fixtures/image-history.json"));
    round_trip::<Vec<Network>>("networks", include_str!("fixtures/networks.json"));
    round_trip::<Network>("network", include_str!("fixtures/network.json"));
    round_trip::<VolumeListResponse>("volumes", include_str!("fixtures/volumes.json"));
    round_trip::<SystemVersion>("version", include_str!("fixtures/version.json"));
    round_trip::<SystemInfo>("info", include_str!("fixtures/info.json"));
    round_trip::<DiskUsage>("disk-usage", include_str!("fixtures/disk-usage.json"));
    round_trip::<EventMessage>("event", include_str!("fixtures/event.json"));
    round_trip::<ImageInspect>("image-inspect", include_str!("fixtures/image-inspect.json"));
}

/// A server of canned answers: one thread, one connection after the other; it notes what it was asked.
fn serve(answers: Vec<&'static [u8]>) -> (std::path::PathBuf, std::thread::JoinHandle<(usize, Vec<String>)>, tempfile::TempDir) {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("engine.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let mut answers = answers.into_iter();
        let (mut connections, mut asked) = (0, Vec::new());
        while answers.len() > 0 {
            let (mut stream, _) = listener.accept().unwrap();
            connections += 1;
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            loop {
                let (mut first, mut length) = (String::new(), 0);
                if reader.read_line(&mut first).unwrap() == 0 {
                    break;
                }
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if line == "\r\n" {
                        break;
                    }
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                asked.push(
                    format!("{} {}", first.trim_end().trim_end_matches(" HTTP/1.1"), String::from_utf8(body).unwrap())
                        .trim_end()
                        .to_owned(),
                );
                let Some(answer) = answers.next() else { break };
                stream.write_all(answer).unwrap();
                if answers.len() == 0 {
                    stream.shutdown(std::net::Shutdown::Write).unwrap();
                    break;
                }
            }
        }
        (connections, asked)
    });
    (path, server, folder)
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn the_lower_version_is_agreed_on_and_one_connection_serves_all_calls() {
    use naru_api::{ApiVersion, Client, Query, client::Endpoint};
    let (path, server, _folder) = serve(vec![
        b"HTTP/1.1 200 OK\r\nApi-Version: 1.44\r\nOstype: linux\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 36\r\n\r\n{\"message\":\"No such container: a/b\"}",
    ]);
    block_on(async {
        let client = Client::new(Endpoint::Unix(path));
        assert_eq!(client.container_list(&Query::parse("all=1")).await.unwrap(), Vec::new());
        assert_eq!(client.version().await.unwrap(), ApiVersion::new(1, 44));
        assert!(client.require("annotations", ApiVersion::new(1, 45)).await.is_err());
        let error = client.container_inspect("a/b").await.unwrap_err();
        assert_eq!(error.kind(), naru_types::ErrorKind::NotFound);
        assert_eq!(error.to_string(), "Error response from daemon: No such container: a/b");
    });
    let (connections, asked) = server.join().unwrap();
    assert_eq!(asked, ["HEAD /_ping", "GET /v1.44/containers/json?all=1", "GET /v1.44/containers/a%2Fb/json"]);
    assert_eq!(connections, 1);
}

#[test]
fn a_hijacked_connection_carries_raw_bytes() {
    use naru_api::{ApiVersion, Client, client::Endpoint};
    use tokio::io::AsyncReadExt as _;
    let (path, server, _folder) = serve(vec![
        b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n\x01\0\0\0\0\0\0\x02hi",
    ]);
    block_on(async {
        let client = Client::new(Endpoint::Unix(path)).with_version(ApiVersion::MAX);
        let start = ExecStartRequest::default();
        let mut hijacked = client.exec_attach("x", &start).await.unwrap();
        assert_eq!(hijacked.multiplexed, Some(true));
        let mut bytes = Vec::new();
        hijacked.io.read_to_end(&mut bytes).await.unwrap();
        let mut decoder = naru_api::frames::Decoder::new();
        decoder.feed(&bytes);
        assert_eq!(decoder.next_frame().unwrap(), Some((naru_api::frames::StreamKind::Stdout, bytes::Bytes::from_static(b"hi"))));
    });
    assert_eq!(server.join().unwrap().1, ["POST /v1.51/exec/x/start {\"Detach\":false,\"Tty\":false}"]);
}

#[test]
fn lines_are_read_however_they_are_cut() {
    use naru_api::{ApiVersion, Client, Query, client::Endpoint};
    let (path, server, _folder) = serve(vec![
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{\"Type\":\"\r\n1a\r\na\",\"Action\":\"b\"}\r\n{\"Type\":\r\n6\r\n\"c\"}\r\n\r\n0\r\n\r\n",
    ]);
    block_on(async {
        let client = Client::new(Endpoint::Unix(path)).with_version(ApiVersion::MAX);
        let mut events = client.events(&Query::new()).await.unwrap();
        let mut seen = Vec::new();
        while let Some(event) = events.next().await.unwrap() {
            seen.push(event.r#type);
        }
        assert_eq!(seen, ["a", "c"]);
    });
    server.join().unwrap();
}

#[test]
fn nobody_there_is_said_plainly() {
    let client = naru_api::Client::new("unix:///nonexistent/engine.sock".parse().unwrap());
    let error = block_on(client.ping()).unwrap_err();
    assert_eq!(error.to_string(), "Cannot connect to the Docker daemon at unix:///nonexistent/engine.sock. Is the docker daemon running?");
}

#[test]
fn only_an_upgrade_is_taken_for_one() {
    use naru_api::{ApiVersion, Client, client::Endpoint};
    let (path, server, _folder) =
        serve(vec![b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\nContent-Length: 2\r\n\r\nhi"]);
    block_on(async {
        let client = Client::new(Endpoint::Unix(path)).with_version(ApiVersion::MAX);
        assert!(client.exec_attach("x", &ExecStartRequest::default()).await.is_err());
    });
    assert_eq!(server.join().unwrap().1.len(), 1);
}

#[test]
fn a_server_that_tells_no_version_is_taken_for_an_old_one() {
    use naru_api::{ApiVersion, Client, Query, client::Endpoint};
    let (path, server, _folder) =
        serve(vec![b"HTTP/1.1 200 OK\r\nOstype: linux\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull"]);
    block_on(async {
        let client = Client::new(Endpoint::Unix(path));
        assert_eq!(client.container_list(&Query::parse("")).await.unwrap(), Vec::new());
        assert_eq!(client.version().await.unwrap(), ApiVersion::new(1, 24));
    });
    assert!(server.join().unwrap().1[1].starts_with("GET /v1.24/containers/json"));
}
