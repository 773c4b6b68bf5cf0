//! `run`: create, attach, wait, start, in this order, so that no byte of output and no exit is missed.

use naru_api::Query;
use naru_api::client::{AttachOptions, Wait};

use super::create::{create, prepare};
use super::options::ContainerFlags;
use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result, USAGE};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::stream::pump::{End, Streams};
use crate::stream::{signals, terminal};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Run in the background and print the container's ID
    #[arg(short = 'd', long)]
    detach: bool,
    /// Keys that detach from the container
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Forward received signals to the process (default true)
    #[arg(long, value_name = "bool")]
    sig_proxy: Option<bool>,
    #[command(flatten)]
    flags: ContainerFlags,
    #[arg(trailing_var_arg = true)]
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["container run", "run"],
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Create and run a new container from an image",
    Arguments::AtLeast(1),
    "{} run --rm -it debian bash\n{} run -d --name web -p 8080:80 nginx\n{} run --rm -v \"$PWD\":/src -w /src rust cargo test"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    options.flags.refuse_foreign().map_err(Failure::message)?;
    match run_container(cx, &options).await {
        Ok(Outcome::Refused(text)) => Err(Failure::message(text)),
        Err(failure) => Err(failure.with_help(&cx.program, "run", USAGE)),
        Ok(Outcome::Status(status)) => Ok(status),
        Ok(Outcome::Failed(failure)) => {
            let code = failure_code(failure.text());
            Err(failure.with_help(&cx.program, "run", code))
        }
    }
}

enum Outcome {
    Status(i32),
    /// Options that contradict each other or our terminal: said plainly.
    Refused(&'static str),
    /// The creation or the start.
    Failed(Failure),
}

/// The exit status that a shell would give for a command that could not be started. Docker gives it by the words, so that the
/// file of `--cidfile` or a device may be meant, too.
fn failure_code(text: &str) -> i32 {
    if text.contains("executable file not found") || text.contains("no such file or directory") {
        127
    } else if text.contains("permission denied") || text.contains("is a directory") {
        126
    } else {
        USAGE
    }
}

async fn run_container(cx: Cx, options: &Options) -> Result<Outcome> {
    let flags = &options.flags;
    let mut assembled = prepare(cx, flags, &options.args)?;
    let config = &mut assembled.config;
    if options.detach {
        if !flags.attach.is_empty() {
            return Ok(Outcome::Refused("conflicting options: cannot specify both --attach and --detach"));
        }
        (config.attach_stdin, config.attach_stdout, config.attach_stderr, config.stdin_once) = (false, false, false, false);
    } else if config.attach_stdin && config.tty && !terminal::stdin_is_terminal() {
        return Ok(Outcome::Refused("the input device is not a TTY"));
    }
    let (rows, columns) = terminal::size();
    assembled.host.console_size = [u32::from(rows), u32::from(columns)];
    let detach_keys = detach_keys(cx, options.detach_keys.as_deref());
    let streams = Streams {
        tty: config.tty,
        stdin: config.attach_stdin,
        stdout: config.attach_stdout,
        stderr: config.attach_stderr,
        detach_keys: detach_keys.clone(),
    };
    let sig_proxy = options.sig_proxy.unwrap_or(true) && !options.detach;
    let auto_remove = flags.rm;
    let created = match create(cx, flags, assembled).await {
        Ok(created) => created,
        Err(failure) => return Ok(Outcome::Failed(failure)),
    };
    let client = cx.client()?;
    let id = created.id.as_str();
    if sig_proxy {
        signals::forward(cx, id.to_owned());
    }
    let attached = streams.stdin || streams.stdout || streams.stderr;
    if options.detach || !attached {
        if let Err(error) = client.container_start(id, &Query::new()).await {
            // The container is there, started or not.
            if options.detach {
                crate::output::line(id)?;
            }
            return Ok(Outcome::Failed(error.into()));
        }
        return crate::output::line(id).map(|()| Outcome::Status(0));
    }
    let attach =
        AttachOptions { stream: true, logs: false, stdin: streams.stdin, stdout: streams.stdout, stderr: streams.stderr, detach_keys };
    let hijacked = client.container_attach(id, &attach).await?;
    // A container that removes itself is gone only after its exit.
    let wait = client.container_wait(id, if auto_remove { "removed" } else { "next-exit" }).await?;
    let (tty, resize) = (streams.tty, streams.tty && terminal::stdout_is_terminal());
    let raw = if streams.tty && streams.stdin { terminal::Raw::enter() } else { None };
    let mut pump = Box::pin(crate::stream::pump::run(hijacked, streams));
    let started = client.container_start(id, &Query::new()).await;
    if let Err(error) = started {
        drop((pump, raw));
        if auto_remove {
            drop(wait.finish().await);
        }
        return Ok(Outcome::Failed(error.into()));
    }
    if resize {
        super::resize::follow(cx, super::resize::Target::Container(id.to_owned()));
    }
    let end = pump.as_mut().await;
    drop(raw);
    match end? {
        End::Detached if tty => Ok(Outcome::Status(0)),
        _ => status(wait).await.map(Outcome::Status),
    }
}

/// The exit status that a wait tells.
pub async fn status(wait: Wait) -> Result<i32> {
    let answer = wait.finish().await?;
    if let Some(error) = answer.error.filter(|error| !error.message.is_empty()) {
        return Err(Failure::status(USAGE, format!("Error waiting for container: {}", error.message)));
    }
    Ok(i32::try_from(answer.status_code).unwrap_or(USAGE))
}

/// The keys that detach: the flag, else the configuration, else the engine's default.
pub fn detach_keys(cx: Cx, flag: Option<&str>) -> String {
    flag.map_or_else(|| cx.config().detach_keys.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::failure_code;

    #[test]
    fn statuses_as_a_shell_gives_them() {
        for (text, code) in [
            ("exec: \"x\": executable file not found in $PATH", 127),
            ("exec: \"/x\": stat /x: no such file or directory", 127),
            ("exec: \"/etc\": is a directory", 126),
            ("exec: \"/etc/passwd\": permission denied", 126),
            ("failed to create the container ID file: open /no/such: no such file or directory", 127),
            ("port is already allocated", 125),
        ] {
            assert_eq!(failure_code(text), code, "{text}");
        }
    }
}
