//! Clients that are nobody's of ours: a typed one (bollard) here, those of Python in `tests/clients`.

use bollard::container::LogOutput;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{
    ContainerConfig, ContainerCreateBody, ExecConfig, HostConfig, NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest,
    VolumeCreateRequest,
};
use bollard::query_parameters as query;
use bollard::{API_DEFAULT_VERSION, Docker};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use naru_e2e::{BOX, Daemon, PATIENCE, name, shared};
use std::collections::HashMap;
use std::future::Future;
use std::process::Command;
use tokio::io::AsyncWriteExt;

/// Runs a conversation with the shared daemon; one that hangs fails.
fn talk<F: Future<Output = ()>>(conversation: impl FnOnce(Docker, &'static Daemon) -> F) {
    let daemon = shared();
    let docker = Docker::connect_with_unix(&daemon.host(), PATIENCE.as_secs(), API_DEFAULT_VERSION).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE * 2, conversation(docker, daemon)).await.expect("it hangs") });
}

fn words(line: &[&str]) -> Option<Vec<String>> {
    Some(line.iter().map(|word| (*word).to_owned()).collect())
}

fn filters(pairs: &[(&str, &str)]) -> Option<HashMap<String, Vec<String>>> {
    Some(pairs.iter().map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()])).collect())
}

/// Creates and starts a container that runs `script`.
async fn start(docker: &Docker, name: &str, script: &str, change: impl FnOnce(&mut ContainerCreateBody)) {
    let mut body = ContainerCreateBody { image: Some(BOX.to_owned()), cmd: words(&["sh", "-c", script]), ..Default::default() };
    change(&mut body);
    let options = query::CreateContainerOptionsBuilder::default().name(name).build();
    let made = docker.create_container(Some(options), body).await.unwrap();
    assert!(made.id.len() == 64 && made.warnings.is_empty(), "{made:?}");
    docker.start_container(name, None).await.unwrap();
}

async fn remove(docker: &Docker, name: &str) {
    let options = query::RemoveContainerOptionsBuilder::default().force(true).build();
    docker.remove_container(name, Some(options)).await.unwrap();
}

/// Standard output and standard error of a stream to its end.
async fn collect<E: std::fmt::Debug>(mut stream: impl Stream<Item = Result<LogOutput, E>> + Unpin) -> (String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    while let Some(output) = stream.next().await {
        match output.unwrap() {
            LogOutput::StdErr { message } => err.push_str(&String::from_utf8_lossy(&message)),
            output => out.push_str(&String::from_utf8_lossy(&output.into_bytes())),
        }
    }
    (out, err)
}

/// What a prune removed. Two of a kind do not run at once, and others prune the same engine.
async fn pruned<T, F: Future<Output = Result<T, bollard::errors::Error>>>(prune: impl Fn() -> F) -> T {
    loop {
        match prune().await {
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 409, .. }) => {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            done => return done.unwrap(),
        }
    }
}

async fn bytes<E: std::fmt::Debug>(stream: impl Stream<Item = Result<Bytes, E>>) -> Vec<u8> {
    stream.map(Result::unwrap).collect::<Vec<_>>().await.concat()
}

async fn exec(docker: &Docker, name: &str, line: &[&str]) -> (String, String, i64) {
    let config = ExecConfig { attach_stdout: Some(true), attach_stderr: Some(true), cmd: words(line), ..Default::default() };
    let id = docker.create_exec(name, config).await.unwrap().id;
    let StartExecResults::Attached { output, .. } = docker.start_exec(&id, None).await.unwrap() else { panic!("it is attached") };
    let (out, err) = collect(output).await;
    (out, err, docker.inspect_exec(&id).await.unwrap().exit_code.unwrap())
}

#[test]
fn it_asks_for_versions_and_waits_for_what_it_ran() {
    talk(|docker, _| async move {
        let version = docker.version().await.unwrap();
        assert_eq!(version.os.as_deref(), Some("linux"));
        let docker = docker.negotiate_version().await.unwrap();
        assert_eq!(docker.ping().await.unwrap(), "OK");
        assert!(docker.info().await.unwrap().containers.is_some());
        let name = name("bollard");
        start(&docker, &name, "echo out; echo err >&2; exit 3", |_| {}).await;
        let answers = docker.wait_container(&name, Some(query::WaitContainerOptionsBuilder::default().build()));
        let error = answers.collect::<Vec<_>>().await.remove(0).unwrap_err();
        assert!(matches!(error, bollard::errors::Error::DockerContainerWaitError { code: 3, .. }), "{error}");
        let options = || query::LogsOptionsBuilder::default().stdout(true).stderr(true);
        assert_eq!(collect(Box::pin(docker.logs(&name, Some(options().build())))).await, ("out\n".into(), "err\n".into()));
        // Of the last two lines, those of the output.
        let tail = options().stderr(false).tail("2").timestamps(true).build();
        assert!(collect(Box::pin(docker.logs(&name, Some(tail)))).await.0.ends_with("Z out\n"));
        let inspect = docker.inspect_container(&name, None).await.unwrap();
        assert_eq!(inspect.state.unwrap().exit_code, Some(3));
        remove(&docker, &name).await;
        let error = docker.inspect_container(&name, None).await.unwrap_err();
        assert!(matches!(error, bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }), "{error}");
    });
}

#[test]
fn it_follows_a_log_that_grows() {
    talk(|docker, _| async move {
        let name = name("bollard");
        start(&docker, &name, "echo first; until [ -e /go ]; do sleep 0.05; done; echo last", |_| {}).await;
        let options = query::LogsOptionsBuilder::default().stdout(true).follow(true).build();
        let mut lines = Box::pin(docker.logs(&name, Some(options)));
        assert_eq!(lines.next().await.unwrap().unwrap().to_string(), "first\n");
        assert_eq!(exec(&docker, &name, &["touch", "/go"]).await.2, 0);
        assert_eq!(collect(lines).await.0, "last\n");
        remove(&docker, &name).await;
    });
}

#[test]
fn it_attaches_and_executes_with_input() {
    talk(|docker, _| async move {
        let name = name("bollard");
        let open = |body: &mut ContainerCreateBody| {
            body.open_stdin = Some(true);
            body.stdin_once = Some(true);
        };
        start(&docker, &name, "cat; echo end", open).await;
        let options = query::AttachContainerOptionsBuilder::default().stream(true).stdin(true).stdout(true).stderr(true).build();
        let mut attached = docker.attach_container(&name, Some(options)).await.unwrap();
        attached.input.write_all(b"hello\n").await.unwrap();
        assert_eq!(attached.output.next().await.unwrap().unwrap().to_string(), "hello\n");

        assert_eq!(exec(&docker, &name, &["sh", "-c", "echo o; echo e >&2; exit 4"]).await, ("o\n".into(), "e\n".into(), 4));
        let config =
            ExecConfig { attach_stdin: Some(true), attach_stdout: Some(true), tty: Some(true), cmd: words(&["sh"]), ..Default::default() };
        let id = docker.create_exec(&name, config).await.unwrap().id;
        let wish = StartExecOptions { tty: true, ..Default::default() };
        let StartExecResults::Attached { output, mut input } = docker.start_exec(&id, Some(wish)).await.unwrap() else {
            panic!("it is attached")
        };
        let size = query::ResizeExecOptionsBuilder::default().h(31).w(71).build();
        docker.resize_exec(&id, size).await.unwrap();
        input.write_all(b"stty size; exit 6\n").await.unwrap();
        assert!(collect(output).await.0.contains("31 71"));
        assert_eq!(docker.inspect_exec(&id).await.unwrap().exit_code, Some(6));

        // The end of the input is the end of `cat`.
        attached.input.shutdown().await.unwrap();
        assert_eq!(collect(attached.output).await.0, "end\n");
        remove(&docker, &name).await;
    });
}

#[test]
fn it_reads_stats_top_and_changes() {
    talk(|docker, _| async move {
        let name = name("bollard");
        start(&docker, &name, "touch /made; while :; do :; done", |body| {
            body.host_config = Some(HostConfig { nano_cpus: Some(200_000_000), memory: Some(64 << 20), ..Default::default() });
        })
        .await;
        let mut samples = Box::pin(docker.stats(&name, Some(query::StatsOptionsBuilder::default().stream(true).build())));
        let mut used = vec![];
        for _ in 0..2 {
            let sample = samples.next().await.unwrap().unwrap();
            assert_eq!(sample.memory_stats.unwrap().limit, Some(64 << 20));
            used.push(sample.cpu_stats.unwrap().cpu_usage.unwrap().total_usage.unwrap());
        }
        assert!(used[1] > used[0], "{used:?}");
        let top = docker.top_processes(&name, None::<query::TopOptions>).await.unwrap();
        assert!(top.titles.unwrap().contains(&"PID".to_owned()) && !top.processes.unwrap().is_empty());
        let changes = docker.container_changes(&name).await.unwrap().unwrap();
        assert!(changes.iter().any(|change| change.path == "/made"), "{changes:?}");
        docker.pause_container(&name).await.unwrap();
        docker.unpause_container(&name).await.unwrap();
        docker.kill_container(&name, None::<query::KillContainerOptions>).await.unwrap();
        remove(&docker, &name).await;
    });
}

#[test]
fn it_sends_and_fetches_files_and_makes_an_image() {
    talk(|docker, _| async move {
        let name = name("bollard");
        start(&docker, &name, "sleep 1000", |_| {}).await;
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o600);
        header.set_cksum();
        archive.append_data(&mut header, "sent", &b"hello"[..]).unwrap();
        let body = bollard::body_full(archive.into_inner().unwrap().into());
        let options = query::UploadToContainerOptionsBuilder::default().path("/tmp").build();
        docker.upload_to_container(&name, Some(options), body).await.unwrap();
        assert_eq!(exec(&docker, &name, &["cat", "/tmp/sent"]).await.0, "hello");
        let options = query::DownloadFromContainerOptionsBuilder::default().path("/tmp/sent").build();
        let fetched = bytes(docker.download_from_container(&name, Some(options))).await;
        let mut archive = tar::Archive::new(&fetched[..]);
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!((entry.path().unwrap().to_str(), entry.size()), (Some("sent"), 5));

        let (image, tag) = (name.clone(), "v1");
        let options = query::CommitContainerOptionsBuilder::default().container(&name).repo(&image).tag(tag).comment("why").build();
        let config = ContainerConfig { env: words(&["MADE=yes"]), ..Default::default() };
        let id = docker.commit_container(options, config).await.unwrap().id;
        let reference = format!("{image}:{tag}");
        let inspect = docker.inspect_image(&reference).await.unwrap();
        assert_eq!(inspect.id.as_deref(), Some(id.as_str()));
        assert!(inspect.config.unwrap().env.unwrap().contains(&"MADE=yes".to_owned()));
        remove(&docker, &name).await;

        let saved = bytes(docker.export_image(&reference)).await;
        docker.remove_image(&reference, None::<query::RemoveImageOptions>, None).await.unwrap();
        assert!(docker.inspect_image(&reference).await.is_err());
        let told = docker.import_image(query::ImportImageOptionsBuilder::default().build(), bollard::body_full(saved.into()), None);
        let told: Vec<_> = told.map(Result::unwrap).collect().await;
        assert!(told.iter().any(|line| line.stream.as_deref().is_some_and(|text| text.contains("Loaded image"))), "{told:?}");
        assert_eq!(docker.inspect_image(&reference).await.unwrap().id, Some(id));
        docker.remove_image(&reference, None::<query::RemoveImageOptions>, None).await.unwrap();
    });
}

#[test]
fn it_makes_networks_and_volumes_and_prunes_them() {
    talk(|docker, _| async move {
        let (one, two, net, volume) = (name("bollard"), name("bollard"), name("net"), name("volume"));
        let labels = HashMap::from([("of".to_owned(), net.clone())]);
        let request = NetworkCreateRequest { name: net.clone(), labels: Some(labels.clone()), ..Default::default() };
        let id = docker.create_network(request).await.unwrap().id;
        let request = VolumeCreateRequest { name: Some(volume.clone()), labels: Some(labels.clone()), ..Default::default() };
        assert_eq!(docker.create_volume(request).await.unwrap().driver, "local");
        for name in [&one, &two] {
            start(&docker, name, "sleep 1000", |body| {
                body.labels = Some(labels.clone());
                body.host_config = Some(HostConfig { binds: Some(vec![format!("{volume}:/v")]), ..Default::default() });
            })
            .await;
            let request = NetworkConnectRequest { container: name.clone(), ..Default::default() };
            docker.connect_network(&net, request).await.unwrap();
        }
        exec(&docker, &one, &["sh", "-c", "echo shared > /v/file"]).await;
        assert_eq!(exec(&docker, &two, &["cat", "/v/file"]).await.0, "shared\n");
        let (out, _, code) = exec(&docker, &one, &["ping", "-c", "1", &two]).await;
        assert_eq!(code, 0, "{out}");
        let inspect = docker.inspect_network(&net, None).await.unwrap();
        assert_eq!((inspect.id, inspect.containers.unwrap().len()), (Some(id), 2));
        let request = NetworkDisconnectRequest { container: two.clone(), force: None };
        docker.disconnect_network(&net, request).await.unwrap();
        let found = docker.list_volumes(Some(query::ListVolumesOptions { filters: filters(&[("label", &format!("of={net}"))]) })).await;
        assert_eq!(found.unwrap().volumes.unwrap()[0].name, volume);

        let stop = query::StopContainerOptionsBuilder::default().t(0).build();
        for name in [&one, &two] {
            docker.stop_container(name, Some(stop.clone())).await.unwrap();
        }
        let label = format!("of={net}");
        let wanted = || filters(&[("label", &label)]);
        let gone = pruned(|| docker.prune_containers(Some(query::PruneContainersOptions { filters: wanted() }))).await;
        assert_eq!(gone.containers_deleted.unwrap().len(), 2);
        let gone = pruned(|| docker.prune_networks(Some(query::PruneNetworksOptions { filters: wanted() }))).await;
        assert_eq!(gone.networks_deleted.unwrap(), std::slice::from_ref(&net));
        let wanted = || filters(&[("label", &label), ("all", "true")]);
        let gone = pruned(|| docker.prune_volumes(Some(query::PruneVolumesOptions { filters: wanted() }))).await;
        assert_eq!(gone.volumes_deleted.unwrap(), std::slice::from_ref(&volume));
    });
}

#[test]
fn it_hears_of_events() {
    talk(|docker, _| async move {
        let name = name("bollard");
        let wanted = filters(&[("container", &name)]);
        let since = Some(crate::health_events::now());
        let mut events = Box::pin(docker.events(Some(query::EventsOptions { filters: wanted, since, ..Default::default() })));
        // The first look at the stream sends the request: a second is enough for it, and where it is not nothing is missed.
        let begun = async {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            start(&docker, &name, "exit 2", |_| {}).await;
        };
        let heard = async {
            let mut heard = vec![];
            while let Some(event) = events.next().await {
                let event = event.unwrap();
                let last = event.action.as_deref() == Some("die");
                heard.push((event.action.unwrap(), event.actor.unwrap().attributes.unwrap().get("exitCode").cloned()));
                if last {
                    break;
                }
            }
            heard
        };
        let ((), heard) = tokio::join!(begun, heard);
        let all: Vec<&str> = heard.iter().map(|(action, _)| action.as_str()).collect();
        assert_eq!(all, ["create", "start", "die"]);
        assert_eq!(heard[2].1.as_deref(), Some("2"));
        remove(&docker, &name).await;
    });
}

/// docker-py and testcontainers, from a virtual environment that `NARU_E2E_PYTHON` names (`.ci/run` makes one).
#[test]
fn those_of_python() {
    let Some(python) = std::env::var_os("NARU_E2E_PYTHON").filter(|path| !path.is_empty()) else {
        assert!(std::env::var_os("CI").is_none(), "NARU_E2E_PYTHON is not set: .ci/run makes an environment with its packages");
        use std::io::Write;
        // Not through the harness, which would hold it back: who left it out is to see that.
        writeln!(std::io::stderr(), "SKIPPED those_of_python: NARU_E2E_PYTHON names no Python with `docker` and `testcontainers`").unwrap();
        return;
    };
    let daemon = shared();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../clients/clients.py");
    let output = Command::new(python)
        .arg(script)
        .env("DOCKER_HOST", daemon.host())
        .env("DOCKER_CONFIG", daemon.root.join("config"))
        .env("BOX", BOX)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}\n{}", daemon.tail());
}

/// Two services, of which one waits until the other is healthy.
const COMPOSE: &str = r#"
services:
  db:
    image: box:1
    command: sh -c 'until [ -e /data/go ]; do sleep 0.05; done; touch /ready; exec httpd -f -p 5432 -h /etc'
    healthcheck: {test: [CMD, test, -e, /ready], interval: 100ms, timeout: 5s, retries: 500}
    volumes: [data:/data]
    networks: [back]
    stop_signal: SIGKILL
  filler:
    image: box:1
    command: touch /data/go
    volumes: [data:/data]
    network_mode: none
  web:
    image: box:1
    command: sh -c 'wget -qO- http://db:5432/passwd && exec httpd -f -p 80 -h /etc'
    depends_on: {db: {condition: service_healthy}, filler: {condition: service_completed_successfully}}
    ports: ["80"]
    environment: {SAYS: hello}
    networks: [back]
    stop_signal: SIGKILL
volumes: {data: {}}
networks: {back: {}}
"#;

/// Docker's plugin, where a host has it: Debian 12 has none that speaks today's API.
#[test]
fn compose_brings_services_up_in_order_and_takes_them_down() {
    let daemon = shared();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("compose.yaml"), COMPOSE).unwrap();
    let project = name("project");
    let compose = |args: &[&str]| {
        let mut command = Command::new("docker");
        // Plugins are looked for in the configuration's folder: that of who runs the test.
        command.args(["compose", "--project-name", &project]).args(args).current_dir(folder.path()).env("DOCKER_HOST", daemon.host());
        command.output().map(|output| (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned(), output))
    };
    if !naru_e2e::host_has("compose", compose(&["version"]).is_ok_and(|(good, ..)| good)) {
        return;
    }
    let ok = |args: &[&str]| {
        let (good, out, output) = compose(args).unwrap();
        assert!(good, "{args:?}: {output:?}\n{}", daemon.tail());
        out
    };
    ok(&["up", "-d"]);
    let state = ok(&["ps", "-a", "--format", "{{.Service}} {{.State}} {{.Health}}"]);
    let mut states: Vec<&str> = state.lines().map(str::trim).collect();
    states.sort_unstable();
    assert_eq!(states, ["db running healthy", "filler exited", "web running"]);
    daemon.until("web has asked db", || ok(&["logs", "web"]).contains("root:x:0:0"));
    assert!(ok(&["exec", "-T", "web", "env"]).contains("SAYS=hello"));
    assert!(ok(&["port", "web", "80"]).contains(':'));
    ok(&["up", "-d", "--scale", "web=3", "--no-recreate"]);
    assert_eq!(ok(&["ps", "-q", "web"]).lines().count(), 3);
    ok(&["down", "-v"]);
    let label = format!("label=com.docker.compose.project={project}");
    for list in [&["ps", "-aq"][..], &["volume", "ls", "-q"], &["network", "ls", "-q"]] {
        assert_eq!(daemon.ok(&[list, &["--filter", &label]].concat()), "", "{list:?}");
    }
}
