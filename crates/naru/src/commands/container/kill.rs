//! `kill`

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::verb::{Arguments, Verb, verb};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Signal to send to the container
    #[arg(short = 's', long, value_name = "string")]
    signal: Option<String>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["container kill", "kill"],
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Kill one or more running containers",
    Arguments::AtLeast(1),
    "{} kill web\n{} kill -s HUP web"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let client = cx.client()?;
    let signal = options.signal.as_deref().unwrap_or_default();
    super::for_each(&options.args, |name| async move { client.container_kill(&name, signal).await.map_err(Into::into) }).await
}
