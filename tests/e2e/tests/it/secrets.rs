//! What is told to the daemon in confidence is in no log of it, also with `--debug`, which all daemons of the tests have.

use naru_e2e::wire::{Asked, Server};
use naru_e2e::{BOX, Daemon};
use std::process::Command;

const PASSWORD: &str = "pass-word-5e1f";
const BEARER: &str = "bearer-token-77ac";
const IDENTITY: &str = "identity-token-d00d";
const SIGNATURE: &str = "signature-of-a-link-0b5e";
const VALUE: &str = "value-of-a-variable-c0de";

/// A registry that wants tokens, gives them, and sends who comes for a blob elsewhere.
fn registry(asked: &Asked, address: &str) -> (u16, String, String) {
    if asked.path.starts_with("/token") {
        return (200, "Content-Type: application/json\r\n".into(), format!(r#"{{"token":"{BEARER}","refresh_token":"{IDENTITY}"}}"#));
    }
    if !asked.authorization.contains(BEARER) {
        let realm = format!("WWW-Authenticate: Bearer realm=\"http://{address}/token\",service=\"x\"\r\n");
        return (401, realm, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#.into());
    }
    if asked.path.contains("/manifests/") {
        let hex = "0".repeat(64);
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{hex}","size":2}},"layers":[]}}"#
        );
        return (200, "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n".into(), manifest);
    }
    if asked.path.contains("/blobs/") && asked.method == "GET" {
        return (307, format!("Location: http://{address}/elsewhere?X-Signature={SIGNATURE}\r\n"), String::new());
    }
    (if asked.path == "/v2/" { 200 } else { 404 }, String::new(), String::new())
}

/// As clients write it: base64 of JSON, by busybox to depend on nothing else.
fn base64(text: &str) -> String {
    let output = Command::new("/bin/busybox").args(["sh", "-c", "printf %s \"$1\" | busybox base64 -w 0", "sh", text]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().replace('+', "-").replace('/', "_")
}

#[test]
fn no_secret_is_in_the_daemon_s_log() {
    let daemon = Daemon::start();
    let server = Server::start(registry);
    let address = &server.address;
    let image = format!("{address}/some/box:1");
    daemon.ok(&["tag", BOX, &image]);
    let body = format!(r#"{{"username":"bob","password":"{PASSWORD}","serveraddress":"{address}"}}"#);
    let (status, answer) = daemon.api("POST", "/auth", Some(&body));
    assert_eq!(status, 200, "{answer}");
    let credentials = base64(&format!(r#"{{"username":"bob","password":"{PASSWORD}","serveraddress":"{address}"}}"#));
    let tokens = base64(&format!(r#"{{"identitytoken":"{IDENTITY}","serveraddress":"{address}"}}"#));
    for auth in [&credentials, &tokens] {
        let post = |path: &str| {
            daemon.http(&format!(
                "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Registry-Auth: {auth}\r\nContent-Length: 0\r\n\r\n"
            ))
        };
        let pulled = post(&format!("/images/create?fromImage={address}/other/box&tag=1"));
        assert!(pulled.contains("errorDetail") || pulled.contains("message"), "{pulled}");
        post(&format!("/images/{address}/some/box/push?tag=1"));
        post(&format!("/images/search?term={address}/x"));
    }
    daemon.run(&["login", "-u", "bob", "-p", PASSWORD, address]);
    let variable = format!("TOKEN={VALUE}");
    daemon.ok(&["run", "-d", "--name", "keeps", "-e", &variable, BOX, "sleep", "1000"]);
    daemon.ok(&["exec", "-e", &format!("MORE={VALUE}"), "keeps", "true"]);
    daemon.run(&["run", "--rm", "-e", &variable, BOX, "/nosuch"]);
    daemon.run(&["run", "--rm", "-e", &variable, "--device", "/dev/nosuch", BOX, "true"]);
    let answer = daemon.api("POST", "/containers/create", Some(&format!(r#"{{"Image":"{BOX}","Env":["T={VALUE}"],"Cmd":5}}"#)));
    assert!(answer.0 == 400 && !answer.1.contains(VALUE), "{answer:?}");

    let asked = server.asked();
    assert!(asked.iter().any(|asked| asked.path.contains(SIGNATURE)), "the registry's part was not played: {asked:?}");
    assert!(asked.iter().any(|asked| asked.authorization.contains(BEARER)), "{asked:?}");
    let log = daemon.log();
    assert!(log.contains("DEBUG") || log.contains("INFO"), "the log is one: {log}");
    let basic = base64(&format!("bob:{PASSWORD}"));
    for secret in [PASSWORD, BEARER, IDENTITY, SIGNATURE, VALUE, &credentials, &tokens, &basic] {
        let told: Vec<&str> = log.lines().filter(|line| line.contains(secret)).collect();
        assert!(told.is_empty(), "{secret}: {told:#?}");
    }
    daemon.ok(&["rm", "-f", "keeps"]);
}
