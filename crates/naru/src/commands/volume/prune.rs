//! `volume prune`

use naru_api::Query;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::commands::container::prune::{filters_with_config, section};
use crate::output::units::human_size;
use crate::stream::terminal::confirm;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Remove all unused volumes, not just anonymous ones
    #[arg(short = 'a', long)]
    all: bool,
    /// Filter (label=<key>[=<value>])
    #[arg(long, value_name = "filter", value_parser = crate::commands::filter)]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short = 'f', long)]
    force: bool,
    args: Vec<String>,
}

pub const VERB: Verb =
    verb!(Options, run, ["volume prune"], "[OPTIONS]", "Remove unused local volumes", Arguments::None, "{} volume prune -af");

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let mut filters = filters_with_config(cx, &options.filter)?;
    if options.all {
        if filters.contains("all") {
            return Err(Failure::message("conflicting options: cannot specify both --all and --filter all=1"));
        }
        filters.add("all", "true");
    }
    let question = if options.all {
        "WARNING! This will remove all local volumes not used by at least one container.\nAre you sure you want to continue?"
    } else {
        "WARNING! This will remove anonymous local volumes not used by at least one container.\nAre you sure you want to continue?"
    };
    if !options.force && !confirm(question)? {
        return Ok(0);
    }
    let mut query = Query::new();
    if !filters.is_empty() {
        query.push("filters", filters.to_json());
    }
    let (text, space) = prune(cx, &query).await?;
    crate::output::write(text.as_bytes())?;
    crate::output::line(&format!("Total reclaimed space: {}", human_size(space)))?;
    Ok(0)
}

/// Prunes; the answer is what to say and the space won.
pub async fn prune(cx: Cx, query: &Query) -> Result<(String, f64)> {
    let report = cx.client()?.volume_prune(query).await?;
    #[expect(clippy::cast_precision_loss, reason = "sizes are shown with four digits")]
    Ok((section("Deleted Volumes", report.volumes_deleted.as_deref()), report.space_reclaimed as f64))
}
