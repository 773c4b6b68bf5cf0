//! The command line: global flags, the choice of the command, its flags, its end.

pub mod autostart;
pub mod completion;
pub mod context;
pub mod error;
pub mod flags;
pub mod help;
pub mod registry;
pub mod verb;

use std::ffi::OsString;

use clap::Command;

use context::{Context, Cx, Globals};
use error::{Failure, Result, USAGE};
use registry::{GROUPS, Group};
use verb::{Arguments, Verb};

/// What the global flags left to do.
enum Start {
    Version,
    Help,
    Command(Vec<String>),
}

/// Runs the command line and gives the exit status.
pub fn main(program: &str, args: Vec<OsString>) -> i32 {
    let args: Vec<String> = args.into_iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let (globals, start) = match globals(&args) {
        Ok(parsed) => parsed,
        Err(text) => {
            output_usage_error(program, &text, &format!("{program} [OPTIONS] COMMAND [ARG...]"), "");
            return USAGE;
        }
    };
    let cx = Context::leak(program.to_owned(), globals);
    let outcome = match start {
        Start::Version => crate::output::line(&format!("{} version {}", title(program), env!("CARGO_PKG_VERSION"))).map(|()| 0),
        Start::Help => top_help(cx).map(|()| 0),
        Start::Command(words) => dispatch(cx, words),
    };
    match outcome {
        Ok(status) => status,
        Err(failure) => {
            if !failure.text().is_empty() {
                crate::output::error_line(failure.text());
            }
            failure.code()
        }
    }
}

fn title(program: &str) -> &str {
    if program == "docker" { "Docker" } else { "Naru" }
}

fn output_usage_error(program: &str, text: &str, usage: &str, name: &str) {
    let command = format!("{program} {name}");
    crate::output::error_line(&format!("{text}\n\nUsage:  {usage}\n\nRun '{} --help' for more information", command.trim_end()));
}

/// Reads the flags before the command.
fn globals(args: &[String]) -> std::result::Result<(Globals, Start), String> {
    let mut globals = Globals::default();
    let mut at = 0;
    let mut start = None;
    while let Some(arg) = args.get(at) {
        at += 1;
        if arg == "--" {
            break;
        }
        if !arg.starts_with('-') || arg == "-" {
            at -= 1;
            break;
        }
        let (names, attached): (Vec<String>, Option<String>) = match arg.strip_prefix("--") {
            Some(long) => match long.split_once('=') {
                Some((name, value)) => (vec![name.to_owned()], Some(value.to_owned())),
                None => (vec![long.to_owned()], None),
            },
            None => short_names(&arg[1..])?,
        };
        for name in names {
            let boolean = || attached.as_deref().map_or(Ok(true), flags::parse_bool);
            let mut value = || match &attached {
                Some(value) => Ok(value.clone()),
                None => {
                    at += 1;
                    args.get(at - 1).cloned().ok_or_else(|| format!("flag needs an argument: --{name}"))
                }
            };
            match name.as_str() {
                "config" => globals.config = Some(value()?),
                "context" => globals.context = Some(value()?),
                "host" => {
                    if globals.host.is_some() {
                        return Err("specify only one -H".to_owned());
                    }
                    globals.host = Some(value()?);
                }
                "log-level" => {
                    let level = value()?;
                    if !["debug", "info", "warn", "error", "fatal"].contains(&level.as_str()) {
                        return Err(format!("unable to parse logging level: {level}"));
                    }
                    globals.log_level = Some(level);
                }
                "debug" => globals.debug = boolean()?,
                "tls" | "tlsverify" => globals.tls = boolean()?,
                "tlscacert" | "tlscert" | "tlskey" => drop(value()?),
                "version" if boolean()? => start = Some(Start::Version),
                "help" if boolean()? => start = start.or(Some(Start::Help)),
                "version" | "help" => {}
                other => return Err(format!("unknown flag: --{other}")),
            }
        }
    }
    let words = args[at.min(args.len())..].to_vec();
    Ok((globals, start.unwrap_or(if words.is_empty() { Start::Help } else { Start::Command(words) })))
}

/// A cluster of short flags; one that takes a value takes the rest.
fn short_names(cluster: &str) -> std::result::Result<(Vec<String>, Option<String>), String> {
    let mut names = Vec::new();
    for (i, c) in cluster.char_indices() {
        let rest = &cluster[i + c.len_utf8()..];
        let value = rest.strip_prefix('=').unwrap_or(rest);
        let value = (!rest.is_empty()).then(|| value.to_owned());
        match c {
            'D' => names.push("debug".to_owned()),
            'v' => names.push("version".to_owned()),
            'h' => names.push("help".to_owned()),
            'H' => return Ok(([names, vec!["host".to_owned()]].concat(), value)),
            'l' => return Ok(([names, vec!["log-level".to_owned()]].concat(), value)),
            'c' => return Ok(([names, vec!["context".to_owned()]].concat(), value)),
            other => return Err(format!("unknown shorthand flag: '{other}' in -{}", &cluster[i..])),
        }
    }
    Ok((names, None))
}

/// Finds the command and runs it.
fn dispatch(cx: Cx, mut words: Vec<String>) -> Result<i32> {
    if words[0] == "help" {
        words.remove(0);
        if words.is_empty() {
            return top_help(cx).map(|()| 0);
        }
        words.push("--help".to_owned());
    }
    if matches!(words[0].as_str(), "__complete" | "__completeNoDesc") {
        return completion::complete(cx, &words[1..]).map(|()| 0);
    }
    if words[0] == "completion" {
        return completion::script(cx, &words[1..]).map(|()| 0);
    }
    if let Some((name, verb, rest)) = find(&words) {
        return run_verb(cx, &name, verb, rest);
    }
    if let Some(group) = GROUPS.iter().find(|group| group.name == words[0]) {
        return run_group(cx, group, &words[1..]);
    }
    if let Some(status) = crate::plugin::run(cx, &words)? {
        return Ok(status);
    }
    let program = &cx.program;
    let mut text = format!("{program}: unknown command: {program} {}\n\nRun '{program} --help' for more information", words[0]);
    let candidates = registry::verbs().flat_map(|verb| verb.names.iter().copied()).filter(|name| !name.contains(' '));
    if let Some(close) = closest(&words[0], candidates.chain(GROUPS.iter().map(|group| group.name))) {
        text.push_str(&format!("\n\nDid you mean '{program} {close}'?"));
    }
    Err(Failure::message(text))
}

/// The command that the first one or two words name.
fn find(words: &[String]) -> Option<(String, &'static Verb, Vec<String>)> {
    for length in [2, 1] {
        if words.len() < length {
            continue;
        }
        let name = words[..length].join(" ");
        if let Some(verb) = registry::verbs().find(|verb| verb.names.contains(&name.as_str())) {
            return Some((name, verb, words[length..].to_vec()));
        }
    }
    None
}

fn run_group(cx: Cx, group: &Group, rest: &[String]) -> Result<i32> {
    let program = &cx.program;
    match rest.iter().find(|word| !word.starts_with('-')) {
        None => {
            if let Some(flag) = rest.iter().find(|word| !matches!(word.as_str(), "--help" | "-h")) {
                let what = if flag.starts_with("--") {
                    format!("unknown flag: {flag}")
                } else {
                    format!("unknown shorthand flag: '{}' in {flag}", flag.trim_start_matches('-'))
                };
                output_usage_error(program, &what, &format!("{program} {}", group.name), group.name);
                return Ok(USAGE);
            }
            let help = group_help(cx, group);
            // Asked for, it is output; without a command, a reminder.
            if rest.is_empty() {
                crate::output::error_line(help.trim_end_matches('\n'));
                return Ok(0);
            }
            crate::output::write(help.as_bytes()).map(|()| 0)
        }
        Some(word) => {
            let mut text = format!(
                "{program}: unknown command: {program} {0} {word}\n\nUsage:  {program} {0}\n\nRun '{program} {0} --help' for more information",
                group.name
            );
            let prefix = format!("{} ", group.name);
            let names = registry::verbs().flat_map(|verb| verb.names.iter()).filter_map(|name| name.strip_prefix(prefix.as_str()));
            if let Some(close) = closest(word, names) {
                text.push_str(&format!("\n\nDid you mean '{program} {} {close}'?", group.name));
            }
            Err(Failure::message(text))
        }
    }
}

fn group_help(cx: Cx, group: &Group) -> String {
    let prefix = format!("{} ", group.name);
    let mut rows: Vec<(String, String)> = registry::verbs()
        .filter_map(|verb| verb.names[0].strip_prefix(prefix.as_str()).map(|name| (name.to_owned(), verb.title().to_owned())))
        .collect();
    rows.sort();
    format!(
        "Usage:  {program} {name} COMMAND\n\n{about}\n\nCommands:\n{rows}\nRun '{program} {name} COMMAND --help' for more information on a command.\n",
        program = cx.program,
        name = group.name,
        about = group.about,
        rows = help::commands(&rows),
    )
}

fn top_help(cx: Cx) -> Result<()> {
    let program = &cx.program;
    let common = registry::COMMON;
    let row = |verb: &Verb, name: &str| (name.to_owned(), verb.title().to_owned());
    let plain = |verb: &'static Verb| verb.names.iter().copied().find(|name| !name.contains(' '));
    let first: Vec<_> =
        common.iter().filter_map(|name| Some(row(registry::verbs().find(|verb| verb.names.contains(name))?, name))).collect();
    let mut rest: Vec<_> = registry::verbs()
        .filter_map(|verb| plain(verb).map(|name| row(verb, name)))
        .filter(|(name, _)| !common.contains(&name.as_str()))
        .collect();
    rest.sort();
    let mut groups: Vec<_> = GROUPS.iter().map(|group| (group.name.to_owned(), group.about.to_owned())).collect();
    for plugin in crate::plugin::list(cx) {
        groups.push((format!("{}*", plugin.name), plugin.about));
    }
    if program == "naru" {
        groups.push(("daemon".to_owned(), "Run the engine".to_owned()));
        groups.push(("oci".to_owned(), "Run containers as an OCI runtime".to_owned()));
    }
    groups.sort();
    let text = format!(
        "Usage:  {program} [OPTIONS] COMMAND\n\nA fast container engine\n\nCommon Commands:\n{}\nManagement Commands:\n{}\nCommands:\n{}\nGlobal Options:\n{}\nRun '{program} COMMAND --help' for more information on a command.\n",
        help::commands(&first),
        help::commands(&groups),
        help::commands(&rest),
        help::options(&global_command()),
    );
    crate::output::write(text.as_bytes())
}

/// The global flags, for the help text only.
fn global_command() -> Command {
    use clap::{Arg, ArgAction};
    let text = |name: &'static str, kind: &'static str, about: &'static str| Arg::new(name).long(name).value_name(kind).help(about);
    let flag = |name: &'static str, about: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(about);
    Command::new("global")
        .disable_help_flag(true)
        .arg(text("config", "string", "Folder of the client's configuration (default \"~/.docker\")"))
        .arg(text("context", "string", "Context whose engine is used (over DOCKER_HOST and the default context)").short('c'))
        .arg(flag("debug", "Print more about what happens").short('D'))
        .arg(text("host", "string", "Socket of the engine").short('H'))
        .arg(text("log-level", "string", "Level of messages: debug, info, warn, error, fatal (default \"info\")").short('l'))
        .arg(flag("tls", "Use TLS; implied by --tlsverify"))
        .arg(text("tlscacert", "string", "Trust certificates signed by this authority only (default \"~/.docker/ca.pem\")"))
        .arg(text("tlscert", "string", "Certificate of the client (default \"~/.docker/cert.pem\")"))
        .arg(text("tlskey", "string", "Key of the client (default \"~/.docker/key.pem\")"))
        .arg(flag("tlsverify", "Use TLS and check the engine's certificate"))
        .arg(flag("version", "Print the version and leave").short('v'))
}

/// The command line of a verb, with pflag's manners.
pub fn command_of(verb: &Verb) -> Command {
    flags::with_manners((verb.command)(Command::new("naru").no_binary_name(true)))
}

fn run_verb(cx: Cx, name: &str, verb: &'static Verb, args: Vec<String>) -> Result<i32> {
    let program = &cx.program;
    let mut command = command_of(verb);
    let matches = match command.try_get_matches_from_mut(&args) {
        Ok(matches) => matches,
        Err(error) => {
            let text = flags::describe(&command, &error, args.last().map_or("", String::as_str));
            output_usage_error(program, &text, help::usage(program, name, verb).trim_start_matches("Usage:  "), name);
            return Ok(USAGE);
        }
    };
    if matches.get_flag("help") {
        return crate::output::write(help::verb(program, name, verb, &command).as_bytes()).map(|()| 0);
    }
    let given: usize = command.get_positionals().map(|arg| matches.get_raw(arg.get_id().as_str()).map_or(0, Iterator::count)).sum();
    if let Err(text) = verb.arguments.check(&format!("{program} {name}"), given) {
        let usage = help::usage(program, name, verb);
        // As in Docker's own client, the word depends on the kind of check.
        let word = if matches!(verb.arguments, Arguments::AtLeast(_)) { "See" } else { "Run" };
        let text = format!("{program}: {text}\n\n{usage}\n\n{word} '{program} {name} --help' for more information");
        return Err(Failure::message(text));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let outcome = local.block_on(&runtime, (verb.run)(cx, matches));
    // Tasks that still hold the terminal are not waited for.
    crate::stream::terminal::restore();
    // Threads that block on stdin must not hold up the end.
    runtime.shutdown_background();
    outcome
}

/// The known word nearest to an unknown one, if it is near enough.
fn closest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.len() / 3).max(1);
    known.map(|name| (distance(word, name), name)).filter(|(far, _)| *far <= limit).min().map(|(_, name)| name)
}

/// Edit distance, with swaps of neighbours as one step.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(40).collect(), b.chars().take(40).collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_well_formed() {
        let mut seen = std::collections::BTreeSet::new();
        for verb in registry::verbs() {
            command_of(verb).debug_assert();
            for name in verb.names {
                assert!(seen.insert(*name), "{name} is declared twice");
            }
        }
    }

    #[test]
    fn global_flags_stand_before_the_command() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (parsed, start) = globals(&words("-DH unix:///x --config=/c ps -a -H y")).expect("parses");
        assert!(parsed.debug);
        assert_eq!((parsed.host.as_deref(), parsed.config.as_deref()), (Some("unix:///x"), Some("/c")));
        assert!(matches!(start, Start::Command(words) if words == ["ps", "-a", "-H", "y"]));
        assert_eq!(globals(&words("--foo")).err().as_deref(), Some("unknown flag: --foo"));
        assert_eq!(globals(&words("-Dz")).err().as_deref(), Some("unknown shorthand flag: 'z' in -z"));
    }

    #[test]
    fn near_words_are_suggested() {
        assert_eq!(closest("pss", ["ps", "pull"].into_iter()), Some("ps"));
        assert_eq!(closest("iamges", ["images", "info"].into_iter()), Some("images"));
        assert_eq!(closest("zzzz", ["images", "info"].into_iter()), None);
    }
}
