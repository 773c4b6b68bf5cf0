//! `system prune`

use naru_api::Query;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::commands::{container, image, network, volume};
use crate::output::units::human_size;
use crate::stream::terminal::confirm;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Remove all images without a container, not just dangling ones
    #[arg(short = 'a', long)]
    all: bool,
    /// Filter (label=<key>[=<value>], until=<moment>)
    #[arg(long, value_name = "filter", value_parser = crate::commands::filter)]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short = 'f', long)]
    force: bool,
    /// Remove anonymous volumes too
    #[arg(long)]
    volumes: bool,
    args: Vec<String>,
}

pub const VERB: Verb =
    verb!(Options, run, ["system prune"], "[OPTIONS]", "Remove unused data", Arguments::None, "{} system prune -af --volumes");

async fn run(cx: Cx, options: Options) -> Result<i32> {
    if options.volumes && options.filter.iter().any(|filter| filter.starts_with("until=")) {
        return Err(Failure::message("ERROR: The \"until\" filter is not supported with \"--volumes\""));
    }
    let query = container::prune::query(cx, &options.filter)?;
    if !options.force && !confirm(&question(&options))? {
        return Ok(0);
    }
    let mut space = 0.0;
    let mut add = |text: String, won: f64| {
        space += won;
        crate::output::write(text.as_bytes())
    };
    let (text, won) = container::prune::prune(cx, &query).await?;
    add(text, won)?;
    add(network::prune::prune(cx, &query).await?, 0.0)?;
    if options.volumes {
        let (text, won) = volume::prune::prune(cx, &query).await?;
        add(text, won)?;
    }
    let (text, won) = image::prune::prune(cx, &image::prune::query(cx, &options.filter, options.all)?).await?;
    add(text, won)?;
    let mut build = query;
    build.flag("all", options.all);
    let (text, won) = prune_build_cache(cx, &build).await?;
    add(text, won)?;
    crate::output::line(&format!("Total reclaimed space: {}", human_size(space)))?;
    Ok(0)
}

/// An engine without a builder has no cache to prune.
async fn prune_build_cache(cx: Cx, query: &Query) -> Result<(String, f64)> {
    match cx.client()?.build_prune(query).await {
        Ok(report) => {
            #[expect(clippy::cast_precision_loss, reason = "sizes are shown with four digits")]
            let space = report.space_reclaimed as f64;
            Ok((container::prune::section("Deleted build cache objects", report.caches_deleted.as_deref()), space))
        }
        Err(naru_api::client::ClientError::Api { status: 404 | 501, .. }) => Ok((String::new(), 0.0)),
        Err(error) => Err(error.into()),
    }
}

fn question(options: &Options) -> String {
    let mut items = vec!["all stopped containers", "all networks not used by at least one container"];
    if options.volumes {
        items.push("all anonymous volumes not used by at least one container");
    }
    if options.all {
        items.extend(["all images without at least one container associated to them", "all build cache"]);
    } else {
        items.extend(["all dangling images", "unused build cache"]);
    }
    let mut text = "WARNING! This will remove:\n".to_owned();
    for item in items {
        text.push_str(&format!("  - {item}\n"));
    }
    if !options.filter.is_empty() {
        text.push_str("\n  Items to be pruned will be filtered with:\n");
        for filter in &options.filter {
            text.push_str(&format!("  - {filter}\n"));
        }
    }
    text + "\nAre you sure you want to continue?"
}
