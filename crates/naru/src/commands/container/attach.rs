//! `attach`

use naru_api::client::AttachOptions;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::stream::pump::{End, Streams};
use crate::stream::{signals, terminal};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Keys that detach from the container
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Do not attach STDIN
    #[arg(long)]
    no_stdin: bool,
    /// Forward received signals to the process (default true)
    #[arg(long, value_name = "bool")]
    sig_proxy: Option<bool>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["container attach", "attach"],
    "[OPTIONS] CONTAINER",
    "Attach local standard input, output, and error streams to a running container",
    Arguments::Exactly(1),
    "{} attach --no-stdin web"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let client = cx.client()?;
    let container = client.container_inspect(&options.args[0]).await?;
    let state = &container.state;
    if !state.running {
        return Err(Failure::message("You cannot attach to a stopped container, start it first"));
    }
    if state.paused {
        return Err(Failure::message("You cannot attach to a paused container, unpause it first"));
    }
    if state.restarting {
        return Err(Failure::message("You cannot attach to a restarting container, wait until it is running"));
    }
    let tty = container.config.tty;
    let stdin = !options.no_stdin && container.config.open_stdin;
    if stdin && tty && !terminal::stdin_is_terminal() {
        return Err(Failure::message("the input device is not a TTY"));
    }
    let id = container.id;
    let keys = super::run::detach_keys(cx, options.detach_keys.as_deref());
    if options.sig_proxy.unwrap_or(true) && !tty {
        signals::forward(cx, id.clone());
    }
    let wait = client.container_wait(&id, "").await?;
    let attach = AttachOptions { stream: true, logs: false, stdin, stdout: true, stderr: true, detach_keys: keys.clone() };
    let hijacked = client.container_attach(&id, &attach).await?;
    // It may have ended between the look and the attach; then nothing would ever arrive.
    let state = client.container_inspect(&id).await?.state;
    if !state.running && !state.restarting {
        return i32::try_from(state.exit_code).map_err(|_| Failure::message("the exit status is out of range"));
    }
    if tty && terminal::stdout_is_terminal() {
        // A change of size makes programs draw their screen again; the right size follows.
        let (rows, columns) = terminal::size();
        let _unimportant = client.container_resize(&id, rows.saturating_add(1), columns.saturating_add(1)).await;
        super::resize::follow(cx, super::resize::Target::Container(id.clone()));
    }
    let raw = if tty && stdin { terminal::Raw::enter() } else { None };
    let end = crate::stream::pump::run(hijacked, Streams { tty, stdin, stdout: true, stderr: true, detach_keys: keys }).await;
    drop(raw);
    match end? {
        End::Detached => Err(Failure::message("read escape sequence")),
        End::Closed => super::run::status(wait).await,
    }
}
