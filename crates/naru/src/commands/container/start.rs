//! `start`

use naru_api::Query;
use naru_api::client::AttachOptions;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::stream::pump::{End, Streams};
use crate::stream::{signals, terminal};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Attach STDOUT and STDERR and forward signals
    #[arg(short = 'a', long)]
    attach: bool,
    /// Restore from this checkpoint
    #[arg(long, value_name = "string")]
    checkpoint: Option<String>,
    /// Folder of the checkpoints
    #[arg(long, value_name = "string")]
    checkpoint_dir: Option<String>,
    /// Keys that detach from the container
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Attach the container's STDIN
    #[arg(short = 'i', long)]
    interactive: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["container start", "start"],
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Start one or more stopped containers",
    Arguments::AtLeast(1),
    "{} start web\n{} start -ai shell"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let mut query = Query::new();
    query.text("checkpoint", options.checkpoint.as_deref().unwrap_or_default());
    query.text("checkpoint-dir", options.checkpoint_dir.as_deref().unwrap_or_default());
    if options.attach || options.interactive {
        let [name] = options.args.as_slice() else {
            return Err(Failure::message("you cannot start and attach multiple containers at once"));
        };
        return attached(cx, name, &options, &query).await;
    }
    let client = cx.client()?;
    let mut failed = Vec::new();
    for name in &options.args {
        match client.container_start(name, &query).await {
            Ok(()) => crate::output::line(name)?,
            Err(error) => {
                crate::output::error_line(&error.to_string());
                failed.push(name.clone());
            }
        }
    }
    if failed.is_empty() { Ok(0) } else { Err(Failure::message(format!("Error: failed to start containers: {}", failed.join(", ")))) }
}

async fn attached(cx: Cx, name: &str, options: &Options, query: &Query) -> Result<i32> {
    let client = cx.client()?;
    let container = client.container_inspect(name).await?;
    let tty = container.config.tty;
    let id = container.id;
    let keys = super::run::detach_keys(cx, options.detach_keys.as_deref());
    if !tty {
        signals::forward(cx, id.clone());
    }
    let stdin = options.interactive && container.config.open_stdin;
    let attach = AttachOptions { stream: true, logs: false, stdin, stdout: true, stderr: true, detach_keys: keys.clone() };
    let hijacked = client.container_attach(&id, &attach).await?;
    let condition = if container.host_config.auto_remove { "removed" } else { "next-exit" };
    let wait = client.container_wait(&id, condition).await?;
    let raw = if tty && stdin { terminal::Raw::enter() } else { None };
    let streams = Streams { tty, stdin, stdout: true, stderr: true, detach_keys: keys };
    let mut pump = Box::pin(crate::stream::pump::run(hijacked, streams));
    if let Err(error) = client.container_start(&id, query).await {
        drop((pump, raw));
        return Err(error.into());
    }
    if tty && terminal::stdout_is_terminal() {
        super::resize::follow(cx, super::resize::Target::Container(id.clone()));
    }
    let end = pump.as_mut().await;
    drop(raw);
    match end? {
        End::Detached => Ok(0),
        End::Closed => super::run::status(wait).await,
    }
}
