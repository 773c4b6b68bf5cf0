//! Changes of an image config written like Dockerfile lines: `commit --change`, `import --change`.
//!
//! Quoting and expansion are Docker's: single quotes are literal, in double quotes and bare words a backslash escapes
//! and `$name`, `${name}`, `${name:-default}`, `${name:+other}` are replaced from the config's own environment.

use crate::config::{Healthcheck, MAX_METADATA, RunConfig};
use crate::error::{Error, Result};
use naru_types::Signal;
use std::cell::Cell;

/// Parsed changes, applied in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConfigPatch {
    changes: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq)]
enum Change {
    Cmd(Command),
    Entrypoint(Command),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Expose(Vec<String>),
    OnBuild(String),
    User(String),
    Volume(Vec<String>),
    WorkDir(String),
    StopSignal(String),
    Healthcheck(Healthcheck, Option<Command>),
}

/// The two forms of a command.
#[derive(Debug, Clone, PartialEq)]
enum Command {
    Exec(Vec<String>),
    Shell(String),
}

impl Command {
    fn parse(text: &str) -> Command {
        json_words(text).map_or_else(|| Command::Shell(text.to_owned()), Command::Exec)
    }

    fn words(&self, shell: Option<&[String]>) -> Vec<String> {
        match self {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => {
                let default = ["/bin/sh".to_owned(), "-c".to_owned()];
                let text = Some(text.clone()).filter(|text| !text.is_empty());
                shell.unwrap_or(&default).iter().cloned().chain(text).collect()
            }
        }
    }
}

/// The words of a JSON array of strings; anything else is shell form.
fn json_words(text: &str) -> Option<Vec<String>> {
    if text.starts_with('[') { serde_json::from_str(text).ok() } else { None }
}

impl ConfigPatch {
    /// Parses changes, one instruction each, several when separated by newlines.
    pub fn parse<S: AsRef<str>>(changes: &[S]) -> Result<Self> {
        let mut parsed = Vec::new();
        for line in changes.iter().flat_map(|c| c.as_ref().lines()) {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                parsed.push(parse_line(line)?);
            }
        }
        Ok(ConfigPatch { changes: parsed })
    }

    /// True when there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Applies the changes.
    pub fn apply(&self, config: &mut RunConfig) -> Result<()> {
        let mut cmd_was_set = false;
        // Variables that name each other double with every line; a larger config could not be read again.
        let budget = Cell::new(MAX_METADATA as usize);
        for change in &self.changes {
            let expand = |text: &str| expand(text, &config.env, &budget);
            match change {
                Change::Cmd(command) => {
                    config.cmd = Some(command.words(config.shell.as_deref()));
                    cmd_was_set = true;
                }
                Change::Entrypoint(command) => {
                    config.entrypoint = Some(command.words(config.shell.as_deref()));
                    // A command of the old entrypoint means nothing to the new one.
                    if !cmd_was_set {
                        config.cmd = None;
                    }
                }
                Change::Env(pairs) => {
                    let expanded: Vec<_> = pairs.iter().map(|(key, value)| Ok((expand(key)?, expand(value)?))).collect::<Result<_>>()?;
                    for (key, value) in expanded {
                        let entry = format!("{key}={value}");
                        match config.env.iter_mut().find(|e| e.split('=').next() == Some(&key)) {
                            Some(old) => *old = entry,
                            None => config.env.push(entry),
                        }
                    }
                }
                Change::Label(pairs) => {
                    for (key, value) in pairs {
                        config.labels.insert(expand(key)?, expand(value)?);
                    }
                }
                Change::Expose(ports) => {
                    for port in ports {
                        config.exposed_ports.extend(expose(&expand(port)?)?);
                    }
                }
                Change::OnBuild(trigger) => config.on_build.push(trigger.clone()),
                Change::User(user) => config.user = expand(user)?,
                Change::Volume(paths) => {
                    for path in paths {
                        let path = expand(path)?;
                        if path.trim().is_empty() {
                            return Err(refuse("VOLUME", "a volume cannot be an empty path"));
                        }
                        config.volumes.insert(path);
                    }
                }
                Change::WorkDir(path) => {
                    let path = expand(path)?;
                    let base = if config.working_dir.is_empty() { "/" } else { config.working_dir.as_str() };
                    config.working_dir = join_clean(base, &path);
                }
                Change::StopSignal(signal) => {
                    let signal = expand(signal)?;
                    signal.parse::<Signal>()?;
                    config.stop_signal = signal;
                }
                Change::Healthcheck(check, command) => {
                    let mut check = check.clone();
                    match command {
                        Some(Command::Exec(words)) => check.test = std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect(),
                        Some(Command::Shell(text)) => check.test = vec!["CMD-SHELL".into(), text.clone()],
                        None => {}
                    }
                    config.healthcheck = Some(check);
                }
            }
        }
        Ok(())
    }
}

fn refuse(text: &str, reason: impl Into<String>) -> Error {
    Error::Change { text: text.chars().take(200).collect(), reason: reason.into() }
}

fn parse_line(line: &str) -> Result<Change> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    if rest.is_empty() && !matches!(word.to_ascii_uppercase().as_str(), "CMD" | "ENTRYPOINT") {
        return Err(refuse(line, "needs at least one argument"));
    }
    Ok(match word.to_ascii_uppercase().as_str() {
        "CMD" => Change::Cmd(Command::parse(rest)),
        "ENTRYPOINT" => Change::Entrypoint(Command::parse(rest)),
        "ENV" => Change::Env(pairs(line, rest)?),
        "LABEL" => Change::Label(pairs(line, rest)?),
        "EXPOSE" => Change::Expose(split(rest)),
        "ONBUILD" => {
            let trigger = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            if matches!(trigger.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
                return Err(refuse(line, format!("{trigger} isn't allowed as an ONBUILD trigger")));
            }
            Change::OnBuild(rest.to_owned())
        }
        "USER" => Change::User(rest.to_owned()),
        "VOLUME" => Change::Volume(json_words(rest).unwrap_or_else(|| split(rest))),
        "WORKDIR" => Change::WorkDir(rest.to_owned()),
        "STOPSIGNAL" => Change::StopSignal(rest.to_owned()),
        "HEALTHCHECK" => healthcheck(line, rest)?,
        other => return Err(refuse(line, format!("{other} is not a valid change command"))),
    })
}

/// `a=b c="d e"` or the old form `name the rest`.
fn pairs(line: &str, rest: &str) -> Result<Vec<(String, String)>> {
    let words = split(rest);
    if !words.first().is_some_and(|word| word.contains('=')) {
        let (name, value) = rest.split_once(char::is_whitespace).ok_or_else(|| refuse(line, "must have two arguments"))?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    words
        .iter()
        .map(|word| {
            let (name, value) = word.split_once('=').ok_or_else(|| refuse(line, format!("{word:?} has no =")))?;
            if name.is_empty() { Err(refuse(line, "names can not be blank")) } else { Ok((name.to_owned(), value.to_owned())) }
        })
        .collect()
}

/// Words at unquoted white space; quotes and escapes stay in the words.
fn split(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            (None | Some('"'), '\\') => {
                word.push('\\');
                word.extend(chars.next());
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Removes quotes and escapes, replaces variables; takes the length of the result from the budget.
fn expand(text: &str, env: &[String], budget: &Cell<usize>) -> Result<String> {
    let lookup = |name: &str| env.iter().rev().find_map(|e| e.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value));
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    let mut double = false;
    while let Some(c) = chars.next() {
        match c {
            '\'' if !double => out.extend(chars.by_ref().take_while(|c| *c != '\'')),
            '"' => double = !double,
            '\\' => match chars.next() {
                Some(next) if double && !matches!(next, '"' | '$' | '\\') => out.extend(['\\', next]),
                Some(next) => out.push(next),
                None => out.push('\\'),
            },
            '$' if chars.peek() == Some(&'{') => {
                chars.next();
                let inner: String = chars.by_ref().take_while(|c| *c != '}').collect();
                let (name, operation) = match inner.find(':') {
                    Some(at) => (&inner[..at], Some(&inner[at + 1..])),
                    None => (inner.as_str(), None),
                };
                let value = lookup(name).unwrap_or_default();
                match operation {
                    None => out.push_str(value),
                    Some(op) if op.starts_with('-') => out.push_str(if value.is_empty() { &op[1..] } else { value }),
                    Some(op) if op.starts_with('+') => out.push_str(if value.is_empty() { "" } else { &op[1..] }),
                    Some(_) => return Err(refuse(text, "unsupported modifier in substitution")),
                }
            }
            '$' => {
                let mut name = String::new();
                while let Some(next) = chars.peek().filter(|c| c.is_ascii_alphanumeric() || **c == '_') {
                    name.push(*next);
                    chars.next();
                }
                out.push_str(if name.is_empty() { "$" } else { lookup(&name).unwrap_or_default() });
            }
            c => out.push(c),
        }
        if out.len() > budget.get() {
            return Err(Error::TooLarge { what: "image config".into(), limit: "4 MiB".into() });
        }
    }
    budget.set(budget.get() - out.len());
    Ok(out)
}

/// `80`, `80/udp`, `8000-8002/tcp` as `port/proto` keys.
fn expose(text: &str) -> Result<Vec<String>> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(refuse(text, format!("invalid protocol {protocol:?}")));
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect()),
        _ => Err(refuse(text, "invalid port or range")),
    }
}

/// `path` seen from `base`, without `.`, `..` and double slashes.
fn join_clean(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let whole = [if path.starts_with('/') { "" } else { base }, path];
    for part in whole.iter().flat_map(|text| text.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn healthcheck(line: &str, rest: &str) -> Result<Change> {
    let mut check = Healthcheck::default();
    let mut rest = rest;
    loop {
        let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let Some(flag) = word.strip_prefix("--") else { break };
        let (name, value) = flag.split_once('=').ok_or_else(|| refuse(line, format!("flag --{flag} needs a value")))?;
        let time = || duration(value).ok_or_else(|| refuse(line, format!("invalid duration {value:?}")));
        match name {
            "interval" => check.interval = time()?,
            "timeout" => check.timeout = time()?,
            "start-period" => check.start_period = time()?,
            "start-interval" => check.start_interval = time()?,
            "retries" => {
                check.retries = value.parse().ok().filter(|n| *n >= 0).ok_or_else(|| refuse(line, format!("invalid number {value:?}")))?;
            }
            _ => return Err(refuse(line, format!("unknown flag: {name}"))),
        }
        rest = after.trim_start();
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    match kind.to_ascii_uppercase().as_str() {
        "NONE" if command.is_empty() => {
            check.test = vec!["NONE".into()];
            Ok(Change::Healthcheck(check, None))
        }
        "CMD" if !command.is_empty() => Ok(Change::Healthcheck(check, Some(Command::parse(command)))),
        "CMD" => Err(refuse(line, "missing command after HEALTHCHECK CMD")),
        _ => Err(refuse(line, format!("unknown type {kind:?} in HEALTHCHECK (try CMD)"))),
    }
}

/// Go's durations: `1m30s`, `500ms`; nanoseconds.
fn duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += value
            * match &rest[..unit] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    // A health check shorter than a millisecond is refused, as by Docker; 0 means the default.
    (total == 0.0 || (1e6..9e18).contains(&total)).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(changes: &[&str]) -> RunConfig {
        let mut config =
            RunConfig { env: vec!["PATH=/bin".into()], cmd: Some(vec!["old".into()]), working_dir: "/srv".into(), ..Default::default() };
        ConfigPatch::parse(changes).unwrap().apply(&mut config).unwrap();
        config
    }

    #[test]
    fn commands() {
        assert_eq!(applied(&["CMD echo hi"]).cmd.unwrap(), ["/bin/sh", "-c", "echo hi"]);
        assert_eq!(applied(&[r#"cmd ["a", "b c"]"#]).cmd.unwrap(), ["a", "b c"]);
        assert_eq!(applied(&[r#"ENTRYPOINT ["e"]"#]).cmd, None);
        assert_eq!(applied(&["CMD x", r#"ENTRYPOINT ["e"]"#]).cmd.unwrap(), ["/bin/sh", "-c", "x"]);
        assert_eq!(applied(&["CMD"]).cmd.unwrap(), ["/bin/sh", "-c"]);
    }

    #[test]
    fn words_and_expansion() {
        for (line, env) in [
            ("ENV A=b", "A=b"),
            ("ENV A the rest of it", "A=the rest of it"),
            (r#"ENV A="b c""#, "A=b c"),
            (r"ENV A=b\ c", "A=b c"),
            (r#"ENV A='$PATH'"#, "A=$PATH"),
            ("ENV A=$PATH:/x", "A=/bin:/x"),
            ("ENV A=${PATH}x", "A=/binx"),
            ("ENV A=${NO:-d}", "A=d"),
            ("ENV A=${PATH:+y}", "A=y"),
            (r"ENV A=\$PATH", "A=$PATH"),
        ] {
            assert_eq!(applied(&[line]).env.last().unwrap(), env, "{line}");
        }
        assert_eq!(applied(&["ENV PATH=/x"]).env, ["PATH=/x"]);
        assert_eq!(applied(&["LABEL a=1 b=\"2 3\""]).labels.get("b").unwrap(), "2 3");
    }

    #[test]
    fn doubling_ends() {
        let lines = ["ENV A=12345678".to_owned()].into_iter().chain((0..40).map(|_| "ENV A=$A$A".to_owned()));
        let patch = ConfigPatch::parse(&lines.collect::<Vec<_>>()).unwrap();
        assert!(matches!(patch.apply(&mut RunConfig::default()), Err(Error::TooLarge { .. })));
        let many = format!("ENV A={}\nENV {}", "x".repeat(100_000), (0..100).map(|n| format!("B{n}=$A ")).collect::<String>());
        let patch = ConfigPatch::parse(&[many]).unwrap();
        assert!(matches!(patch.apply(&mut RunConfig::default()), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn the_rest() {
        let config = applied(&[
            "EXPOSE 80 443/udp 8000-8001",
            "VOLUME /a /b",
            r#"VOLUME ["/c d"]"#,
            "USER 1000:1000",
            "WORKDIR sub/../x",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN true",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl x",
        ]);
        assert_eq!(config.exposed_ports.iter().map(String::as_str).collect::<Vec<_>>(), ["443/udp", "80/tcp", "8000/tcp", "8001/tcp"]);
        assert_eq!(config.volumes.iter().map(String::as_str).collect::<Vec<_>>(), ["/a", "/b", "/c d"]);
        assert_eq!((config.user.as_str(), config.working_dir.as_str(), config.stop_signal.as_str()), ("1000:1000", "/srv/x", "SIGINT"));
        assert_eq!(config.on_build, ["RUN true"]);
        let check = config.healthcheck.unwrap();
        assert_eq!((check.interval, check.retries, check.test), (90_000_000_000, 3, vec!["CMD-SHELL".to_owned(), "curl x".to_owned()]));
        assert_eq!(applied(&["HEALTHCHECK NONE"]).healthcheck.unwrap().test, ["NONE"]);
    }

    #[test]
    fn refused() {
        for line in [
            "FROM x",
            "RUN x",
            "ENV A",
            "ENV =b",
            "EXPOSE 0",
            "EXPOSE 99999",
            "EXPOSE 1/x",
            "HEALTHCHECK CMD",
            "HEALTHCHECK --x=1 CMD a",
            "ONBUILD FROM a",
            "USER",
            "STOPSIGNAL SIGNONE",
            "HEALTHCHECK --interval=1us CMD a",
        ] {
            let result = ConfigPatch::parse(&[line]).and_then(|p| p.apply(&mut RunConfig::default()));
            assert!(result.is_err(), "{line}");
        }
    }
}
