//! `network prune`

use naru_api::Query;

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::verb::{Arguments, Verb, verb};
use crate::commands::container::prune::{query, section};
use crate::stream::terminal::confirm;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Filter (until=<moment>, label=<key>[=<value>])
    #[arg(long, value_name = "filter", value_parser = crate::commands::filter)]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short = 'f', long)]
    force: bool,
    args: Vec<String>,
}

pub const VERB: Verb =
    verb!(Options, run, ["network prune"], "[OPTIONS]", "Remove all unused networks", Arguments::None, "{} network prune -f");

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let query = query(cx, &options.filter)?;
    let question = "WARNING! This will remove all custom networks not used by at least one container.\nAre you sure you want to continue?";
    if !options.force && !confirm(question)? {
        return Ok(0);
    }
    let text = prune(cx, &query).await?;
    crate::output::write(text.as_bytes())?;
    Ok(0)
}

/// Prunes; the answer is what to say.
pub async fn prune(cx: Cx, query: &Query) -> Result<String> {
    let report = cx.client()?.network_prune(query).await?;
    Ok(section("Deleted Networks", report.networks_deleted.as_deref()))
}
