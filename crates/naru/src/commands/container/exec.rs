//! `exec`

use naru_api::models::{ExecCreateRequest, ExecStartRequest};

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::parse::environment;
use crate::stream::pump::{End, Streams};
use crate::stream::{signals, terminal};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Run the command in the background
    #[arg(short = 'd', long)]
    detach: bool,
    /// Keys that detach from the command
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Set environment variables
    #[arg(short = 'e', long, value_name = "list")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "list")]
    env_file: Vec<String>,
    /// Keep STDIN open even if not attached
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    privileged: bool,
    /// Allocate a pseudo-terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// User, perhaps with a group (<name|uid>[:<group|gid>])
    #[arg(short = 'u', long, value_name = "string")]
    user: Option<String>,
    /// Working directory inside the container
    #[arg(short = 'w', long, value_name = "string")]
    workdir: Option<String>,
    #[arg(trailing_var_arg = true)]
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["container exec", "exec"],
    "[OPTIONS] CONTAINER COMMAND [ARG...]",
    "Execute a command in a running container",
    Arguments::AtLeast(2),
    "{} exec -it web sh\n{} exec -u root -w /srv web ls -l"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let (container, command) = options.args.split_first().ok_or_else(|| Failure::message("a container is required"))?;
    let keys = super::run::detach_keys(cx, options.detach_keys.as_deref());
    let env = environment::variables(&options.env_file, &options.env).map_err(Failure::message)?;
    let attach = !options.detach;
    if attach && options.interactive && options.tty && !terminal::stdin_is_terminal() {
        // The engine is asked first, so that an unknown container is the first thing said.
        cx.client()?.container_inspect(container).await?;
        return Err(Failure::message("the input device is not a TTY"));
    }
    let size = match terminal::size() {
        (0, 0) => None,
        (rows, columns) => options.tty.then_some([u32::from(rows), u32::from(columns)]),
    };
    let request = ExecCreateRequest {
        user: options.user.clone().unwrap_or_default(),
        privileged: options.privileged,
        tty: options.tty,
        console_size: size,
        attach_stdin: attach && options.interactive,
        attach_stdout: attach,
        attach_stderr: attach,
        detach_keys: keys.clone(),
        env: (!env.is_empty()).then_some(env),
        working_dir: options.workdir.clone().unwrap_or_default(),
        cmd: Some(command.to_vec()),
        detach: false,
    };
    let client = cx.client()?;
    let id = client.exec_create(container, &request).await?.id;
    if id.is_empty() {
        return Err(Failure::message("exec ID empty"));
    }
    let start = ExecStartRequest { detach: options.detach, tty: options.tty, console_size: size };
    if options.detach {
        client.exec_start(&id, &start).await?;
        return Ok(0);
    }
    let hijacked = client.exec_attach(&id, &start).await?;
    let raw = if options.tty && options.interactive { terminal::Raw::enter() } else { None };
    if options.tty && terminal::stdout_is_terminal() {
        super::resize::follow(cx, super::resize::Target::Exec(id.clone()));
    }
    if raw.is_some() {
        signals::end_on_signal();
    }
    let streams = Streams { tty: options.tty, stdin: options.interactive, stdout: true, stderr: true, detach_keys: keys };
    let end = crate::stream::pump::run(hijacked, streams).await;
    drop(raw);
    if end? == End::Detached {
        return Err(Failure::message("read escape sequence"));
    }
    let exec = client.exec_inspect(&id).await?;
    Ok(exec.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(0))
}
