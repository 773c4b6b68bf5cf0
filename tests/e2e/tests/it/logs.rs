//! What containers print: followed, cut, filtered, rotated, and as it lies on disk.

use naru_e2e::{BOX, Daemon, name, shared};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};

/// Runs a script to its end, detached; the container's name.
fn ended(daemon: &Daemon, flags: &[&str], script: &str) -> String {
    let name = name("logs");
    let mut args = vec!["run", "-d", "--name", &name];
    args.extend(flags);
    args.extend([BOX, "sh", "-c", script]);
    daemon.ok(&args);
    daemon.ok(&["wait", &name]);
    name
}

#[test]
fn following_ends_with_the_container() {
    let daemon = shared();
    let name = name("follow");
    let script = "for i in $(seq 300); do echo line $i; [ $((i % 50)) = 0 ] && sleep 0.1; done; echo last >&2; exit 3";
    daemon.ok(&["run", "-d", "--name", &name, BOX, "sh", "-c", script]);
    let followed = daemon.run(&["logs", "-f", &name]);
    let expected: String = (1..=300).map(|number| format!("line {number}\n")).collect();
    assert_eq!((followed.code, followed.out, followed.err.as_str()), (0, expected, "last\n"));
    // Of one that has ended it ends at once, also when nothing is to be shown.
    assert_eq!(daemon.ok(&["logs", "-f", "--tail", "0", &name]), "");
    daemon.ok(&["rm", &name]);
}

#[test]
fn following_begins_before_the_first_line() {
    let daemon = shared();
    let name = name("follow");
    daemon.ok(&["run", "-d", "--name", &name, BOX, "sh", "-c", "until [ -e /go ]; do sleep 0.05; done; echo now; sleep 1000"]);
    let mut client = daemon.command(&["logs", "-f", &name]).stdout(Stdio::piped()).spawn().unwrap();
    daemon.ok(&["exec", &name, "touch", "/go"]);
    let mut line = String::new();
    BufReader::new(client.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "now\n");
    daemon.ok(&["rm", "-f", &name]);
    assert!(client.wait().unwrap().success(), "a removed container ends the following");
}

/// A client that follows a log already: it has shown the first line, `begin`.
fn follower(daemon: &Daemon, name: &str) -> (Child, BufReader<ChildStdout>) {
    let mut client = daemon.command(&["logs", "-f", name]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(client.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "begin\n");
    (client, output)
}

#[test]
fn following_goes_on_across_rotation() {
    let daemon = shared();
    let name = name("rotated");
    let script = "echo begin; until [ -e /go ]; do sleep 0.05; done; i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i of a log that is turned over; [ $((i % 20)) = 0 ] && sleep 0.01; done; true";
    daemon.ok(&["run", "-d", "--name", &name, "--log-opt", "max-size=20k", "--log-opt", "max-file=3", BOX, "sh", "-c", script]);
    let (mut client, mut output) = follower(daemon, &name);
    daemon.ok(&["exec", &name, "touch", "/go"]);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert!(client.wait().unwrap().success());
    let line = |number: usize| format!("line {number} of a log that is turned over");
    assert_eq!(text.lines().count(), 3000);
    for (index, got) in text.lines().enumerate() {
        assert_eq!(got, line(index + 1));
    }
    let path = PathBuf::from(daemon.inspect(&name)["LogPath"].as_str().unwrap());
    let mut files: Vec<(String, u64)> = std::fs::read_dir(path.parent().unwrap())
        .unwrap()
        .flatten()
        .map(|file| (file.file_name().to_str().unwrap().to_owned(), file.metadata().unwrap().len()))
        .collect();
    files.sort();
    let base = path.file_name().unwrap().to_str().unwrap();
    assert_eq!(files.iter().map(|(file, _)| file.as_str()).collect::<Vec<_>>(), [base, &format!("{base}.1"), &format!("{base}.2")]);
    // 20k is 20 * 1000 or 1024; a line may go over the edge.
    assert!(files.iter().all(|(_, size)| *size <= 21_000), "{files:?}");
    let kept = daemon.ok(&["logs", &name]);
    let first = 3000 - kept.lines().count();
    assert!((2300..2900).contains(&first), "{first}");
    for (index, got) in kept.lines().enumerate() {
        assert_eq!(got, line(first + index + 1));
    }
    assert_eq!(daemon.ok(&["logs", "--tail", "200", &name]).lines().count(), 200, "the tail reaches back over files");
    daemon.ok(&["rm", &name]);
}

#[test]
fn parts_of_a_log_are_chosen_by_time_and_count() {
    let daemon = shared();
    let flags = ["--label", "a=b c", "-e", "E=1", "--log-opt", "labels=a", "--log-opt", "env=E"];
    let name = ended(daemon, &flags, "echo one; sleep 1.2; echo two; sleep 1.2; echo three");
    let stamped = daemon.ok(&["logs", "-t", &name]);
    let lines: Vec<(&str, &str)> = stamped.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!(lines.iter().map(|(_, text)| *text).collect::<Vec<_>>(), ["one", "two", "three"]);
    for (stamp, _) in &lines {
        assert!(stamp.len() == "2026-01-02T03:04:05.123456789Z".len() && stamp.ends_with('Z'), "{stamp}");
    }
    let logs = |flags: &[&str]| {
        let mut args = vec!["logs"];
        args.extend(flags);
        args.push(&name);
        daemon.ok(&args).replace('\n', " ")
    };
    assert_eq!(logs(&["--since", lines[1].0]), "two three");
    assert_eq!(logs(&["--until", lines[1].0]), "one two");
    assert_eq!(logs(&["--since", lines[1].0, "--until", lines[1].0]), "two");
    assert_eq!(logs(&["--since", "1h"]), "one two three");
    assert_eq!(logs(&["--until", "1h"]), "");
    assert_eq!(logs(&["--tail", "2"]), "two three");
    assert_eq!(logs(&["-n", "0"]), "");
    assert_eq!(logs(&["--tail", "all"]), "one two three");
    // The last lines of all are counted, then chosen from.
    assert_eq!(logs(&["--tail", "1", "--until", lines[1].0]), "");
    assert_eq!(logs(&["--tail", "2", "--until", lines[1].0]), "two");
    assert_eq!(logs(&["--details", "--tail", "1"]), "E=1,a=b%20c three".replace("%20", "+"));
    assert_ne!(daemon.run(&["logs", "--since", "nonsense", &name]).code, 0);
    daemon.ok(&["rm", &name]);
}

#[test]
fn attributes_are_chosen_by_patterns() {
    let daemon = shared();
    let flags = ["--label", "l1=v1", "--label", "l2=v2", "--label", "other=x", "-e", "A1=a=b", "-e", "B1=x"];
    let options = ["--log-opt", "labels-regex=^l[0-9]$", "--log-opt", "env-regex=A", "--log-opt", "tag=t"];
    let name = ended(daemon, &[&flags[..], &options].concat(), "echo one");
    assert_eq!(daemon.ok(&["logs", "--details", &name]), "A1=a%3Db,l1=v1,l2=v2,tag=t one");
    daemon.ok(&["rm", &name]);
}

/// What happens when the disk does not keep up is tried with the monitor.
#[test]
fn a_log_that_never_blocks_has_all_that_the_disk_takes() {
    let daemon = shared();
    let options = ["--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=16m", "--log-opt", "max-size=100k"];
    let name = ended(daemon, &options, "seq 3000; echo oops >&2; printf end");
    let printed = daemon.run(&["logs", &name]);
    let expected: String = (1..=3000).map(|number| format!("{number}\n")).chain(["end".to_owned()]).collect();
    assert_eq!((printed.out, printed.err), (expected, "oops\n".to_owned()));
    assert_eq!(daemon.inspect(&name)["HostConfig"]["LogConfig"]["Config"]["max-buffer-size"], "16m");
    daemon.ok(&["start", "-a", &name]);
    let lines = daemon.ok(&["logs", "--tail", "3", &name]);
    assert!(lines.ends_with("end"), "{lines}");
    daemon.ok(&["rm", &name]);
}

#[test]
fn streams_stay_apart_and_long_lines_whole() {
    let daemon = shared();
    let name = ended(daemon, &[], "echo out; echo err >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; printf 'no end'");
    let result = daemon.run(&["logs", &name]);
    assert_eq!(result.err, "err\n");
    assert_eq!(result.out, format!("out\n{}\nno end", "x".repeat(40000)));
    // Without the terminal's frames the API cannot tell them apart; with one stream asked only that comes.
    let (status, body) = daemon.api("GET", &format!("/containers/{name}/logs?stderr=1"), None);
    assert!(status == 200 && body.contains("err") && !body.contains("out"), "{status} {body:?}");
    assert_eq!(daemon.api("GET", &format!("/containers/{name}/logs"), None).0, 400);
    daemon.ok(&["rm", &name]);
}

#[test]
fn two_hundred_thousand_lines_come_back_exactly() {
    let daemon = shared();
    let name = ended(daemon, &[], "seq 200000");
    let text = daemon.ok(&["logs", &name]);
    let expected: Vec<String> = (1..=200_000).map(|number| number.to_string()).collect();
    assert!(text.lines().eq(expected.iter().map(String::as_str)), "{} lines", text.lines().count());
    assert_eq!(daemon.ok(&["logs", "-n", "3", &name]), "199998\n199999\n200000");
    daemon.ok(&["rm", &name]);
}

#[test]
fn the_file_is_json_lines_as_docker_writes_them() {
    let daemon = shared();
    let name = ended(daemon, &[], r#"echo 'a<b>&"c"'; echo err >&2; printf 'bad \377 end\n'; printf 'tab\there\033[0m\n'"#);
    let path = PathBuf::from(daemon.inspect(&name)["LogPath"].as_str().unwrap());
    let id = daemon.inspect(&name)["Id"].as_str().unwrap().to_owned();
    assert!(path.ends_with(format!("{id}/{id}-json.log")), "{}", path.display());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut rows = Vec::new();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        assert!(line.starts_with("{\"log\":\"") && row["time"].as_str().unwrap().ends_with('Z'), "{line}");
        rows.push((row["stream"].as_str().unwrap().to_owned(), row["log"].as_str().unwrap().to_owned()));
    }
    rows.sort();
    let stdout = |text: &str| ("stdout".to_owned(), text.to_owned());
    let expected =
        [("stderr".to_owned(), "err\n".to_owned()), stdout("a<b>&\"c\"\n"), stdout("bad \u{fffd} end\n"), stdout("tab\there\u{1b}[0m\n")];
    assert_eq!(rows, expected);
    assert!(text.contains(r"a\u003cb\u003e\u0026") && text.contains(r"\u001b"), "{text}");
    daemon.ok(&["rm", &name]);
    // After the answer, for a log may be long.
    daemon.until("the log is deleted", || !path.exists());
}

#[test]
fn without_a_log_there_is_nothing_to_read() {
    let daemon = shared();
    let name = ended(daemon, &["--log-driver", "none"], "echo lost");
    assert!(daemon.fails(1, &["logs", &name]).contains("configured logging driver does not support reading"));
    assert_eq!(daemon.inspect(&name)["LogPath"], "");
    daemon.ok(&["rm", &name]);
    assert_eq!(daemon.ok(&["run", "--rm", "--log-driver", "none", BOX, "echo", "shown"]), "shown");
}

#[test]
fn the_last_lines_are_counted_over_both_streams() {
    let daemon = shared();
    let name = ended(daemon, &[], "for i in 1 2 3; do echo o$i; sleep 0.4; echo e$i >&2; sleep 0.4; done; echo e4 >&2");
    for (query, expected) in [
        ("stdout=1&tail=2", ""),
        ("stdout=1&tail=3", "o3"),
        ("stderr=1&tail=3", "e3 e4"),
        ("stdout=1&tail=5", "o2 o3"),
        ("stdout=1&stderr=1&tail=3", "o3 e3 e4"),
        ("stdout=1&tail=-1", "o1 o2 o3"),
        ("stdout=1&tail=2&follow=1", ""),
    ] {
        let (status, text) = daemon.api("GET", &format!("/containers/{name}/logs?{query}"), None);
        let printed = |word: &&str| word.len() == 2 && word.starts_with(['o', 'e']);
        // Behind the heads of frames and chunks.
        let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(printed).collect();
        assert_eq!((status, words.join(" ").as_str()), (200, expected), "{query}: {text:?}");
    }
    daemon.ok(&["rm", &name]);
}

#[test]
fn what_cannot_be_read_is_told_in_the_stream() {
    let daemon = shared();
    let rotated = ["--log-opt", "max-size=1k", "--log-opt", "max-file=3", "--log-opt", "compress=true"];
    let name = ended(daemon, &rotated, "for i in $(seq 60); do echo line $i; done");
    let log = daemon.inspect(&name)["LogPath"].as_str().unwrap().to_owned();
    let oldest = PathBuf::from(format!("{log}.2.gz"));
    daemon.until("the oldest part is compressed", || oldest.exists());
    let whole = std::fs::read(&oldest).unwrap();
    let frame = |query: &str| {
        let request = format!("GET /containers/{name}/logs?stdout=1{query} HTTP/1.0\r\n\r\n");
        let answer = daemon.http(&request);
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    };
    std::fs::write(&oldest, &whole[..whole.len() / 2]).unwrap();
    let text = frame("");
    assert!(text.contains("\u{3}\0\0\0\0\0") && text.contains("Error grabbing logs: "), "{text:?}");
    let shown = daemon.run(&["logs", &name]);
    assert!(shown.code == 1 && shown.err.contains("Error grabbing logs: "), "{shown:?}");
    // A file that is not needed is not looked at.
    let text = frame("&tail=2");
    assert!(text.contains("line 59\n") && text.ends_with("line 60\n"), "{text:?}");
    std::fs::remove_file(&oldest).unwrap();
    std::fs::create_dir(&oldest).unwrap();
    assert!(frame("").contains(&format!("read {}: is a directory", oldest.display())));
    std::fs::remove_dir(&oldest).unwrap();
    std::fs::write(&oldest, &whole).unwrap();
    assert!(frame("").ends_with("line 60\n"));
    // A line that is broken costs itself only.
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, format!("{{\"log\":\"cut\n{text}")).unwrap();
    assert!(frame("").ends_with("line 60\n"));
    daemon.ok(&["rm", &name]);
}

#[test]
fn a_tag_comes_with_the_details() {
    let daemon = shared();
    let name = ended(daemon, &["--log-opt", "tag=web"], "echo one");
    assert_eq!(daemon.ok(&["logs", "--details", &name]), "tag=web one");
    daemon.ok(&["rm", &name]);
}

#[test]
fn a_tag_tells_of_the_container() {
    let daemon = shared();
    let name = name("tag");
    daemon.ok(&["run", "--name", &name, "--log-opt", "tag={{.Name}}/{{ .ID }}/{{.ImageName}}", BOX, "echo", "x"]);
    let id = daemon.inspect(&name)["Id"].as_str().unwrap()[..12].to_owned();
    let file = daemon.inspect(&name)["LogPath"].as_str().unwrap().to_owned();
    let line = std::fs::read_to_string(file).unwrap();
    assert!(line.contains(&format!("\"tag\":\"{name}/{id}/{BOX}\"")), "{line}");
    daemon.ok(&["rm", &name]);
}

#[test]
fn following_a_log_of_one_file() {
    let daemon = shared();
    let name = name("single");
    let script = "echo begin; until [ -e /go ]; do sleep 0.05; done; i=0; while [ $i -lt 600 ]; do i=$((i+1)); echo line $i of a single log; [ $((i % 10)) = 0 ] && sleep 0.02; done; true";
    daemon.ok(&["run", "-d", "--name", &name, "--log-opt", "max-size=20k", "--log-opt", "max-file=1", BOX, "sh", "-c", script]);
    let (mut client, mut output) = follower(daemon, &name);
    daemon.ok(&["exec", &name, "touch", "/go"]);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert!(client.wait().unwrap().success());
    let numbers: Vec<u32> = text.lines().map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect();
    // A file that is gone cannot be read by who comes late; what is read is whole, in order and up to the end.
    assert!(numbers.is_sorted() && numbers.last() == Some(&600) && numbers.len() > 300, "{}", numbers.len());
    assert!(text.lines().all(|line| line.ends_with(" of a single log")), "{text}");
    daemon.ok(&["rm", &name]);
}
