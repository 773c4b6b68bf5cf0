//! `stop`

use naru_api::Query;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
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
    ["container stop", "stop"],
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Stop one or more running containers",
    Arguments::AtLeast(1),
    "{} stop web\n{} stop -t 1 web db"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let query = query(options.signal.as_deref(), options.timeout, options.time)?;
    let client = cx.client()?;
    super::for_each(&options.args, |name| {
        let query = &query;
        async move { client.container_stop(&name, query).await.map_err(Into::into) }
    })
    .await
}

/// The query that `stop` and `restart` share.
pub fn query(signal: Option<&str>, timeout: Option<i64>, time: Option<i64>) -> Result<Query> {
    if time.is_some() {
        crate::output::error_line("Flag --time has been deprecated, use --timeout instead");
        if timeout.is_some() {
            return Err(Failure::message("conflicting options: cannot specify both --timeout and --time"));
        }
    }
    let mut query = Query::new();
    query.text("signal", signal.unwrap_or_default());
    if let Some(seconds) = timeout.or(time) {
        query.push("t", seconds.to_string());
    }
    Ok(query)
}
