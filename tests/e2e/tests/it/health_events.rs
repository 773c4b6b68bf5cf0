//! Health states, events and their filters, restart policies and `--rm` across a daemon's death.

use naru_e2e::{BOX, Daemon, name, shared};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

pub fn now() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    format!("{}.{:09}", since.as_secs(), since.subsec_nanos())
}

/// Events as JSON, between two moments.
pub fn events(daemon: &Daemon, since: &str, filters: &[&str]) -> Vec<Value> {
    let until = now();
    let mut args = vec!["events", "--since", since, "--until", &until, "--format", "{{json .}}"];
    for filter in filters {
        args.extend(["--filter", filter]);
    }
    daemon.ok(&args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn actions(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| event["Action"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn health_goes_from_starting_to_healthy_to_unhealthy() {
    let daemon = shared();
    let (name, since) = (name("health"), now());
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        &name,
        "--health-cmd",
        "test -e /fine || { echo not fine; exit 1; }",
        "--health-interval",
        "300ms",
        "--health-retries",
        "2",
        "--health-start-period",
        "1h",
        "--health-start-interval",
        "100ms",
        BOX,
        "sleep",
        "1000",
    ]);
    let health = || daemon.inspect(&name)["State"]["Health"].clone();
    daemon.until("some checks have failed", || health()["Log"].as_array().is_some_and(|log| log.len() >= 3));
    let first = health();
    // In the start period failures do not count.
    assert_eq!((&first["Status"], &first["FailingStreak"]), (&"starting".into(), &0.into()));
    assert!(first["Log"][0]["Output"] == "not fine\n" && first["Log"][0]["ExitCode"] == 1, "{first}");
    assert!(daemon.ok(&["ps", "--filter", &format!("name={name}")]).contains("(health: starting)"));
    daemon.ok(&["exec", &name, "touch", "/fine"]);
    daemon.until("it is healthy", || health()["Status"] == "healthy");
    assert!(daemon.ok(&["ps", "--filter", &format!("name={name}"), "--filter", "health=healthy"]).contains("(healthy)"));
    daemon.ok(&["exec", &name, "rm", "/fine"]);
    daemon.until("it is unhealthy", || health()["Status"] == "unhealthy");
    let last = health();
    assert!(last["FailingStreak"].as_i64().unwrap() >= 2, "{last}");
    assert!(last["Log"].as_array().unwrap().len() <= 5, "{last}");
    assert!(daemon.ok(&["ps", "--filter", "health=unhealthy"]).contains(&name));
    let told = events(daemon, &since, &[&format!("container={name}"), "event=health_status"]);
    assert_eq!(actions(&told), ["health_status: healthy", "health_status: unhealthy"]);
    daemon.ok(&["stop", "-t", "0", &name]);
    daemon.ok(&["start", &name]);
    assert_eq!(health()["Status"], "starting");
    daemon.ok(&["rm", "-f", &name]);
}

#[test]
fn a_check_that_hangs_is_ended() {
    let daemon = shared();
    let name = name("hangs");
    let flags = ["--health-interval", "100ms", "--health-timeout", "300ms", "--health-retries", "1", "--health-cmd", "sleep 1000.5"];
    let mut args = vec!["run", "-d", "--name", &name];
    args.extend(flags);
    args.extend([BOX, "sleep", "2000"]);
    daemon.ok(&args);
    daemon.until("it is unhealthy", || daemon.inspect(&name)["State"]["Health"]["Status"] == "unhealthy");
    let log = daemon.inspect(&name)["State"]["Health"]["Log"][0].clone();
    assert!(log["ExitCode"] == -1 && log["Output"].as_str().unwrap().contains("Health check exceeded timeout (300ms)"), "{log}");
    // The process of a check does not stay: at most the one that runs now, and one that is just being killed.
    let tops = daemon.ok(&["top", &name]);
    assert!(tops.matches("sleep 1000.5").count() <= 4, "{tops}");
    daemon.ok(&["rm", "-f", &name]);
}

#[test]
fn a_run_tells_its_events_in_order() {
    let daemon = shared();
    let (name, since) = (name("told"), now());
    daemon.run(&["run", "--rm", "--name", &name, "--label", "colour=red", BOX, "sh", "-c", "exit 3"]);
    let all = events(daemon, &since, &[&format!("container={name}"), "type=container"]);
    assert_eq!(actions(&all), ["create", "attach", "start", "die", "destroy"]);
    let attributes = &all[3]["Actor"]["Attributes"];
    assert_eq!((&attributes["exitCode"], &attributes["name"], &attributes["image"]), (&"3".into(), &name.as_str().into(), &BOX.into()));
    assert_eq!(attributes["colour"], "red");
    let times: Vec<i64> = all.iter().map(|event| event["timeNano"].as_i64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let named = |filters: &[&str]| actions(&events(daemon, &since, filters));
    let container = format!("container={name}");
    assert_eq!(named(&[&container, "event=die"]), ["die"]);
    assert_eq!(named(&[&container, "event=die", "event=start"]), ["start", "die"]);
    assert_eq!(named(&[&container, "label=colour=blue"]).len(), 0);
    assert_eq!(named(&[&container, "label=colour=red", "event=create"]), ["create"]);
    assert_eq!(named(&[&container, "type=image"]).len(), 0);
    // From a later moment nothing is told again.
    assert_eq!(events(daemon, &now(), &[&container]).len(), 0);
    assert_ne!(daemon.run(&["events", "--since", "nonsense"]).code, 0);
}

#[test]
fn events_come_while_they_happen() {
    let daemon = shared();
    let name = name("live");
    let mut client = daemon
        .command(&["events", "--filter", &format!("container={name}"), "--filter", "type=container", "--format", "{{.Action}}"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    daemon.ok(&["run", "-d", "--name", &name, BOX, "sleep", "1000"]);
    // Whether the client listens already cannot be seen: something happens until it tells of it.
    let heard = AtomicBool::new(false);
    let told: Vec<String> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !heard.load(Ordering::Relaxed) {
                daemon.ok(&["pause", &name]);
                daemon.ok(&["unpause", &name]);
            }
        });
        let told = lines.by_ref().map(Result::unwrap).skip_while(|action| action != "pause").take(2).collect();
        heard.store(true, Ordering::Relaxed);
        told
    });
    assert_eq!(told, ["pause", "unpause"]);
    daemon.ok(&["rm", "-f", &name]);
    let rest = lines.map(Result::unwrap).skip_while(|action| action.ends_with("pause"));
    assert_eq!(rest.take(3).collect::<Vec<_>>(), ["kill", "die", "destroy"]);
    client.kill().unwrap();
    client.wait().unwrap();
}

#[test]
fn restart_policies_hold_over_a_daemon_s_death() {
    for graceful in [false, true] {
        let mut daemon = Daemon::start();
        for (name, policy) in [
            ("always", "always"),
            ("unless", "unless-stopped"),
            ("failure", "on-failure"),
            ("never", "no"),
            ("stopped-always", "always"),
            ("stopped-unless", "unless-stopped"),
            ("stopped-never", "no"),
        ] {
            daemon.ok(&["run", "-d", "--name", name, "--restart", policy, BOX, "sleep", "1000"]);
        }
        daemon.ok(&["stop", "-t", "0", "stopped-always", "stopped-unless", "stopped-never"]);
        let names = ["always", "unless", "failure", "never"];
        let pids = names.map(|name| daemon.inspect(name)["State"]["Pid"].to_string());
        if graceful {
            daemon.terminate();
        } else {
            daemon.kill();
        }
        // They end while nobody watches.
        assert!(Command::new("kill").arg("-9").args(&pids).status().unwrap().success());
        daemon.until("they have ended", || pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()));
        daemon.launch();
        let state = |name: &str| daemon.inspect(name)["State"]["Status"].as_str().unwrap().to_owned();
        for name in ["always", "unless", "failure", "stopped-always"] {
            daemon.until(&format!("{name} runs again"), || state(name) == "running");
        }
        for name in ["never", "stopped-unless", "stopped-never"] {
            daemon.until(&format!("the end of {name} is seen"), || state(name) == "exited");
            assert_eq!((state(name).as_str(), &daemon.inspect(name)["State"]["ExitCode"]), ("exited", &137.into()), "{name}");
        }
    }
}

#[test]
fn what_is_to_be_removed_is_removed_after_the_daemon_s_death() {
    let mut daemon = Daemon::start();
    daemon.ok(&["run", "-d", "--rm", "--name", "short", "-v", "/data", BOX, "sleep", "1000"]);
    daemon.ok(&["run", "-d", "--rm", "--name", "long", BOX, "sleep", "1000"]);
    let pid = daemon.inspect("short")["State"]["Pid"].to_string();
    daemon.kill();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    daemon.until("it has ended", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    daemon.launch();
    daemon.until("it is removed", || daemon.ok(&["ps", "-aq", "--filter", "name=short"]).is_empty());
    assert_eq!(daemon.inspect("long")["State"]["Status"], "running");
    daemon.ok(&["stop", "-t", "0", "long"]);
    daemon.until("that one is removed too", || daemon.ok(&["ps", "-aq"]).is_empty());
    daemon.until_clean();
    daemon.until("the volume is gone", || daemon.ok(&["volume", "ls", "-q"]).is_empty());
}

#[test]
fn events_are_known_after_the_daemon_s_end() {
    let mut daemon = Daemon::start();
    let past = |daemon: &Daemon, what: &str| {
        let filter = format!("type={what}");
        daemon.ok(&[
            "events",
            "--since",
            "1h",
            "--until",
            &now(),
            "--filter",
            &filter,
            "--format",
            "{{.Action}} {{json .Actor.Attributes}}",
        ])
    };
    daemon.ok(&["run", "--name", "told", "--label", "a=b", "-v", "kept:/data:ro", BOX, "true"]);
    let (containers, volumes) = (past(&daemon, "container"), past(&daemon, "volume"));
    assert_eq!(containers.lines().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>(), ["create", "attach", "start", "die"]);
    let mounted = volumes.lines().find(|line| line.starts_with("mount ")).expect("its volume was mounted");
    for part in ["\"destination\":\"/data\"", "\"read/write\":\"false\"", "\"driver\":\"local\"", "\"container\":\""] {
        assert!(mounted.contains(part), "{part}: {volumes}");
    }
    assert_eq!(volumes.lines().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>(), ["create", "mount", "unmount"]);
    for graceful in [false, true] {
        if graceful {
            daemon.terminate();
        } else {
            daemon.kill();
        }
        daemon.launch();
        assert_eq!((past(&daemon, "container"), past(&daemon, "volume")), (containers.clone(), volumes.clone()));
    }
}

#[test]
fn a_commit_tells_of_the_image_it_made() {
    let daemon = shared();
    let (name, image) = (name("committer"), format!("{}:1", name("committed")));
    daemon.ok(&["create", "--name", &name, BOX]);
    let since = now();
    daemon.ok(&["commit", "-m", "why", &name, &image]);
    let id = daemon.ok(&["image", "inspect", "-f", "{{.Id}}", &image]);
    let (container, images) = (format!("container={name}"), format!("image={image}"));
    let told = |filter: &str| daemon.ok(&["events", "--since", &since, "--until", &now(), "--filter", filter, "--format", "{{json .}}"]);
    let commit: Value = serde_json::from_str(&told(&container)).expect("one event");
    let about = &commit["Actor"]["Attributes"];
    assert_eq!(
        (&commit["Action"], &about["imageRef"], &about["imageID"], &about["comment"]),
        (&"commit".into(), &image.as_str().into(), &id.as_str().into(), &"why".into())
    );
    let actions =
        |text: &str| text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["Action"].to_string()).collect::<Vec<_>>();
    assert_eq!(actions(&told(&images)), ["\"create\"", "\"tag\""]);
    let (_, old) =
        daemon.api("GET", &format!("/v1.45/events?since={since}&until={}&filters=%7B%22type%22:%5B%22image%22%5D%7D", now()), None);
    assert!(!old.contains("\"create\""), "{old}");
    daemon.ok(&["rm", &name]);
    daemon.ok(&["rmi", &image]);
}

#[test]
fn checks_of_every_type_are_taken_as_they_are_meant() {
    let daemon = shared();
    let create = |test: Value| {
        let name = name("check");
        let check = serde_json::json!({"Test": test, "Interval": 100_000_000, "Retries": 1});
        let body = serde_json::json!({"Image": BOX, "Cmd": ["sleep", "1000"], "StopSignal": "SIGKILL", "Healthcheck": check}).to_string();
        let (status, text) = daemon.api("POST", &format!("/containers/create?name={name}"), Some(&body));
        (name, status, text)
    };
    // Without a program Docker's engine falls over it.
    let (_, status, text) = create(serde_json::json!(["CMD"]));
    assert!(status == 400 && text.contains("a health check of the type CMD needs a command"), "{text}");
    for (test, health, warned) in [
        (serde_json::json!(["NONE", "x"]), Value::Null, false),
        (serde_json::json!(["WHAT", "true"]), Value::Null, true),
        (serde_json::json!(["CMD-SHELL", "[ $0 = b ]", "b"]), "healthy".into(), false),
        (serde_json::json!(["CMD-SHELL"]), "unhealthy".into(), false),
        (serde_json::json!(["CMD", ""]), "unhealthy".into(), false),
    ] {
        let (name, status, text) = create(test.clone());
        assert!(status == 201 && text.contains("Unknown healthcheck type 'WHAT'") == warned, "{test}: {text}");
        daemon.ok(&["start", &name]);
        daemon.until("the check has run", || daemon.inspect(&name)["State"]["Health"]["Status"] == health);
        assert_eq!(daemon.inspect(&name)["Config"]["Healthcheck"]["Test"], test);
        daemon.ok(&["rm", "-f", &name]);
    }
}
