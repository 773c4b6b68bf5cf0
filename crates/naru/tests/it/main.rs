//! The program from outside: help, usage errors, contexts, plugins; and with `DOCKER_HOST` set, the life of a container on
//! that engine (an image called busybox must be there).
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod engine;

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

/// Our program with an empty configuration and an engine that does not exist.
fn naru(config: &std::path::Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_naru"));
    command
        .args(args)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("DOCKER_CONFIG", config)
        .env("DOCKER_HOST", "unix:///nonexistent/socket");
    command.stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    let config = tempfile::tempdir().unwrap();
    naru(config.path(), args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_is_stable() {
    for name in ["container run", "ps", "container", "exec", "network create", "context"] {
        let words: Vec<&str> = name.split(' ').chain(["--help"]).collect();
        let output = run(&words);
        assert!(output.status.success(), "{name}");
        insta::assert_snapshot!(name.replace(' ', "-"), text(&output.stdout));
    }
}

#[test]
fn usage_errors_have_dockers_statuses() {
    for (args, status, first) in [
        (&["run", "--foo", "x"][..], 125, "unknown flag: --foo"),
        (&["run"], 1, "naru: 'naru run' requires at least 1 argument"),
        (&["ps", "extra"], 1, "naru: 'naru ps' accepts no arguments"),
        (&["rename", "a"], 1, "naru: 'naru rename' requires 2 arguments"),
        (&["runn"], 1, "naru: unknown command: naru runn"),
        (&["container", "foo"], 1, "naru: unknown command: naru container foo"),
        (&["--foo"], 125, "unknown flag: --foo"),
        (&["kill", "-s"], 125, "flag needs an argument: 's' in -s"),
        (&["inspect", "-f", "{{.Foo", "x"], 64, "template parsing error: template: :1: unclosed action"),
        (&["run", "--gpus", "all", "x"], 125, "naru: \"--gpus\" is not supported; name the devices with --device"),
        (&["run", "--rm", "--restart", "always", "x"], 125, "naru: conflicting options: cannot specify both --restart and --rm"),
        (&["ps"], 1, "Cannot connect to the Docker daemon at unix:///nonexistent/socket. Is the docker daemon running?"),
        (&["-c", "x", "-H", "y", "ps"], 1, "conflicting options: cannot specify both --host and --context"),
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(status), "{args:?}");
        assert_eq!(text(&output.stderr).lines().next(), Some(first), "{args:?}");
    }
    assert!(text(&run(&["runn"]).stderr).ends_with("Did you mean 'naru run'?\n"));
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let config = tempfile::tempdir().unwrap();
    let mut child = naru(config.path(), &["run", "--help"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn contexts_are_kept() {
    let config = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = naru(config.path(), args).env_remove("DOCKER_HOST").output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(run(&["context", "create", "far", "--docker", "host=tcp://192.0.2.1:2375", "--description", "d"]).1, "far\n");
    assert_eq!(run(&["context", "create", "far", "--docker", "host=tcp://x"]).0, Some(1));
    assert_eq!(run(&["context", "use", "far"]).1, "far\n");
    assert_eq!(run(&["context", "show"]).1, "far\n");
    assert_eq!(
        run(&["context", "ls", "--format", "{{.Name}} {{.Current}} {{.DockerEndpoint}}"]).1.lines().nth(1),
        Some("far true tcp://192.0.2.1:2375")
    );
    assert_eq!(run(&["context", "inspect", "-f", "{{.Endpoints.docker.Host}}"]).1, "tcp://192.0.2.1:2375\n");
    assert_eq!(run(&["context", "rm", "far"]).0, Some(1));
    assert_eq!(run(&["context", "rm", "-f", "far"]).1, "far\n");
    assert_eq!(run(&["context", "show"]).1, "default\n");
}

#[test]
fn plugins_get_their_words_and_the_engine() {
    let config = tempfile::tempdir().unwrap();
    let folder = config.path().join("cli-plugins");
    std::fs::create_dir(&folder).unwrap();
    let plugin = folder.join("docker-hello");
    let script = "#!/bin/sh\n[ \"$1\" = docker-cli-plugin-metadata ] && { echo '{\"SchemaVersion\":\"0.1.0\",\"Vendor\":\"V\",\"ShortDescription\":\"Greets\"}'; exit; }\necho \"$@\" \"$DOCKER_HOST\" \"${DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND##*/}\"; exit 7\n";
    std::fs::write(&plugin, script).unwrap();
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = naru(config.path(), &["hello", "--flag", "x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(text(&output.stdout), "hello --flag x unix:///nonexistent/socket naru\n");
    let help = naru(config.path(), &["--help"]).output().unwrap();
    assert!(text(&help.stdout).contains("  hello*      Greets\n"));
}

#[test]
fn credentials_are_stored_and_removed() {
    let config = tempfile::tempdir().unwrap();
    std::fs::write(config.path().join("config.json"), r#"{"auths":{"registry.example":{"auth":"bWU6c2VjcmV0"}},"other":{"kept":true}}"#)
        .unwrap();
    let output = naru(config.path(), &["logout", "registry.example"]).output().unwrap();
    assert_eq!(text(&output.stdout), "Removing login credentials for registry.example\n");
    let left: serde_json::Value = serde_json::from_slice(&std::fs::read(config.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(left, serde_json::json!({ "auths": {}, "other": { "kept": true } }));
}

#[test]
fn completion_offers_commands_and_flags() {
    let complete = |words: &[&str]| text(&run(&[&["__complete"][..], words].concat()).stdout);
    assert!(complete(&["pu"]).starts_with("pull\tDownload an image from a registry\npush\t"));
    assert!(complete(&["container", "unp"]).starts_with("unpause\t"));
    assert!(complete(&["run", "--network-a"]).starts_with("--network-alias\t"));
    for shell in ["bash", "zsh", "fish", "powershell"] {
        assert!(text(&run(&["completion", shell]).stdout).contains("naru"), "{shell}");
    }
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(&run(&["completion", "bash"]).stdout).unwrap();
    assert!(bash.wait().unwrap().success());
}
