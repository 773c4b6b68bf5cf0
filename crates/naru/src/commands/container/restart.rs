//! `restart`

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::flags::parse_int;
use crate::cli::verb::{Arguments, Verb, verb};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Signal to send to the container
    #[arg(short = 's', long, value_name = "string")]
    signal: Option<String>,
    /// Seconds to wait before the container is killed; -1 waits for ever
    #[arg(short = 't', long, value_name = "int", value_parser = parse_int)]
    timeout: Option<i64>,
    /// Use --timeout
    #[arg(long, value_name = "int", value_parser = parse_int, hide = true)]
    time: Option<i64>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["container restart", "restart"],
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Restart one or more containers",
    Arguments::AtLeast(1),
    "{} restart web"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let query = super::stop::query(options.signal.as_deref(), options.timeout, options.time)?;
    let client = cx.client()?;
    super::for_each(&options.args, |name| {
        let query = &query;
        async move { client.container_restart(&name, query).await.map_err(Into::into) }
    })
    .await
}
