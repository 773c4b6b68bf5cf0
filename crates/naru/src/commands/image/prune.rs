//! `image prune`

use naru_api::Query;

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::verb::{Arguments, Verb, verb};
use crate::commands::container::prune::filters_with_config;
use crate::output::units::human_size;
use crate::stream::terminal::confirm;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Remove all images without a container, not just dangling ones
    #[arg(short = 'a', long)]
    all: bool,
    /// Filter (until=<moment>, label=<key>[=<value>])
    #[arg(long, value_name = "filter", value_parser = crate::commands::filter)]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short = 'f', long)]
    force: bool,
    args: Vec<String>,
}

pub const VERB: Verb =
    verb!(Options, run, ["image prune"], "[OPTIONS]", "Remove unused images", Arguments::None, "{} image prune -af --filter until=240h");

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let query = query(cx, &options.filter, options.all)?;
    let question = if options.all {
        "WARNING! This will remove all images without at least one container associated to them.\nAre you sure you want to continue?"
    } else {
        "WARNING! This will remove all dangling images.\nAre you sure you want to continue?"
    };
    if !options.force && !confirm(question)? {
        return Ok(0);
    }
    let (text, space) = prune(cx, &query).await?;
    crate::output::write(text.as_bytes())?;
    crate::output::line(&format!("Total reclaimed space: {}", human_size(space)))?;
    Ok(0)
}

/// The query of a prune; `all` means those with a tag too.
pub fn query(cx: Cx, given: &[String], all: bool) -> Result<Query> {
    let mut filters = filters_with_config(cx, given)?;
    filters.add("dangling", if all { "false" } else { "true" });
    let mut query = Query::new();
    query.push("filters", filters.to_json());
    Ok(query)
}

/// Prunes; the answer is what to say and the space won.
pub async fn prune(cx: Cx, query: &Query) -> Result<(String, f64)> {
    let report = cx.client()?.image_prune(query).await?;
    let mut text = String::new();
    for item in report.images_deleted.iter().flatten() {
        if text.is_empty() {
            text.push_str("Deleted Images:\n");
        }
        if item.untagged.is_empty() {
            text.push_str(&format!("deleted: {}\n", item.deleted));
        } else {
            text.push_str(&format!("untagged: {}\n", item.untagged));
        }
    }
    if !text.is_empty() {
        text.push('\n');
    }
    #[expect(clippy::cast_precision_loss, reason = "sizes are shown with four digits")]
    Ok((text, report.space_reclaimed as f64))
}
