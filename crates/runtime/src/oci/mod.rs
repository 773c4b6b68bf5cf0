//! `naru oci`: the runtime as an OCI command line, with the verbs and options of runc, for `podman --runtime` and
//! `dockerd --add-runtime`.
//!
//! ```text
//! <root>/<id>/state.json    what is known of the container
//! <root>/<id>/config.json   its specification, as it was at `create`
//! <root>/<id>/start.sock    between create and start: the waiting process listens there
//! ```

mod arguments;
mod create;
mod exec;
mod inspect;
mod relay;
mod state;

use crate::error::{Error, Result};
use crate::program;
use crate::time;
use arguments::{Arguments, Flag};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

/// Where state is without `--root`.
const DEFAULT_ROOT: &str = "/run/naru-oci";

/// What every verb needs.
struct Context {
    root: PathBuf,
    log: Option<PathBuf>,
    log_json: bool,
}

const GLOBAL: &[Flag] = &[
    Flag::value("root", ""),
    Flag::value("log", ""),
    Flag::value("log-format", ""),
    Flag::value("rootless", ""),
    Flag::value("criu", ""),
    Flag::switch("debug", ""),
    Flag::switch("systemd-cgroup", ""),
    Flag::switch("version", "v"),
    Flag::switch("help", "h"),
];

const USAGE: &str = "usage: naru oci [--root DIR] [--log FILE] [--log-format text|json] [--debug] VERB ...
verbs: create start run state kill delete exec list ps pause resume update events spec features\n";

/// Runs the command line (without the program's name and `oci`); the exit code.
pub fn main(args: Vec<OsString>) -> i32 {
    // Verbs that put a process into a container must not be this file (CVE-2019-5736). A prefix such as `oci` is kept.
    let own: Vec<OsString> = std::env::args_os().collect();
    match run(&args, &own) {
        Ok(code) => code,
        Err((context, error)) => {
            context.report(&error.to_string());
            1
        }
    }
}

type Outcome = std::result::Result<i32, (Context, Error)>;

fn run(args: &[OsString], own: &[OsString]) -> Outcome {
    let default = || Context { root: DEFAULT_ROOT.into(), log: None, log_json: false };
    let global = match Arguments::parse(args, GLOBAL) {
        Ok(global) => global,
        Err(error) => return Err((default(), error)),
    };
    let context = Context {
        root: global.get("root").map_or_else(|| DEFAULT_ROOT.into(), PathBuf::from),
        log: global.get("log").map(PathBuf::from),
        log_json: global.get("log-format") == Some("json"),
    };
    let result = if global.has("version") {
        say(&format!("naru version {}\nspec: 1.2.0\n", env!("CARGO_PKG_VERSION")))
    } else if global.has("systemd-cgroup") {
        Err(Error::Unsupported("--systemd-cgroup is not supported: use the cgroupfs driver".into()))
    } else {
        match global.rest.split_first() {
            None => say(USAGE),
            Some(_) if global.has("help") => say(USAGE),
            Some((verb, rest)) => dispatch(&context, verb, rest, own),
        }
    };
    result.map_err(|error| (context, error))
}

fn dispatch(context: &Context, verb: &OsString, rest: &[OsString], own: &[OsString]) -> Result<i32> {
    let verb = verb.to_string_lossy();
    if matches!(&*verb, "create" | "run" | "exec") {
        program::ensure_protected(own)?;
    }
    match &*verb {
        "create" => create::create(context, rest),
        "run" => create::run(context, rest),
        "start" => create::start(context, rest),
        "exec" => exec::exec(context, rest),
        "state" => inspect::state(context, rest),
        "kill" => inspect::kill(context, rest),
        "delete" => inspect::delete(context, rest),
        "list" => inspect::list(context, rest),
        "ps" => inspect::ps(context, rest),
        "pause" => inspect::pause(context, rest),
        "resume" => inspect::resume(context, rest),
        "update" => inspect::update(context, rest),
        "events" => inspect::events(context, rest),
        "spec" => inspect::spec(rest),
        "features" => inspect::features(),
        "help" => say(USAGE),
        "checkpoint" | "restore" => Err(Error::Unsupported(format!("{verb} is not built into this version: it takes no checkpoints"))),
        other => Err(Error::Invalid(format!("unknown verb {other:?}"))),
    }
}

/// Writes to standard output; a reader that has gone is success.
fn say(text: &str) -> Result<i32> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("write to standard output")(error)),
        _ => Ok(0),
    }
}

impl Context {
    /// An error, to standard error and into the log that engines read.
    fn report(&self, message: &str) {
        drop(writeln!(std::io::stderr(), "naru oci: {message}"));
        let Some(path) = &self.log else { return };
        let line = if self.log_json {
            format!("{}\n", serde_json::json!({ "level": "error", "msg": message, "time": time::now() }))
        } else {
            format!("time={:?} level=error msg={message:?}\n", time::now())
        };
        if let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) {
            drop(file.write_all(line.as_bytes()));
        }
    }
}
