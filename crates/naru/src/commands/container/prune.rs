//! `container prune`, and what all prunes share.

use naru_api::{Filters, Query};

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::verb::{Arguments, Verb, verb};
use crate::output::units::human_size;
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

pub const VERB: Verb = verb!(
    Options,
    run,
    ["container prune"],
    "[OPTIONS]",
    "Remove all stopped containers",
    Arguments::None,
    "{} container prune -f --filter until=24h"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let query = query(cx, &options.filter)?;
    if !options.force && !confirm("WARNING! This will remove all stopped containers.\nAre you sure you want to continue?")? {
        return Ok(0);
    }
    let report = prune(cx, &query).await?;
    crate::output::write(report.0.as_bytes())?;
    crate::output::line(&format!("Total reclaimed space: {}", human_size(report.1)))?;
    Ok(0)
}

/// Prunes; the answer is what to say and the space won.
pub async fn prune(cx: Cx, query: &Query) -> Result<(String, f64)> {
    let report = cx.client()?.container_prune(query).await?;
    #[expect(clippy::cast_precision_loss, reason = "sizes are shown with four digits")]
    Ok((section("Deleted Containers", report.containers_deleted.as_deref()), report.space_reclaimed as f64))
}

/// A titled list, or nothing.
pub fn section(title: &str, items: Option<&[String]>) -> String {
    match items {
        Some(items) if !items.is_empty() => format!("{title}:\n{}\n\n", items.join("\n")),
        _ => String::new(),
    }
}

/// The filters of a prune: those given, and those of the configuration (a filter and its negation exclude each other).
pub fn query(cx: Cx, given: &[String]) -> Result<Query> {
    let filters = filters_with_config(cx, given)?;
    let mut query = Query::new();
    if !filters.is_empty() {
        query.push("filters", filters.to_json());
    }
    Ok(query)
}

/// See [`query`].
pub fn filters_with_config(cx: Cx, given: &[String]) -> Result<Filters> {
    let mut filters = crate::commands::filters(given)?;
    for configured in &cx.config().prune_filters {
        let (key, value) = configured.split_once('=').unwrap_or((configured, ""));
        let opposite = match key {
            "label" => "label!",
            "label!" => "label",
            _ => "",
        };
        if !filters.values(opposite).any(|have| have == value) {
            filters.add(key, value);
        }
    }
    Ok(filters)
}
