//! `store check`

use naru_api::Query;

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::verb::{Arguments, Verb, verb};
use crate::commands::registry_auth;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Repair what can be repaired; layers that are lost are fetched again from where they came
    #[arg(long)]
    repair: bool,
    /// Only look whether everything is there, do not read it
    #[arg(long)]
    shallow: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["store check"],
    "[OPTIONS]",
    "Find damage in the image store: changed, missing and needless files",
    Arguments::None,
    "{} store check\n{} store check --repair"
);

/// The code is 0 when nothing is damaged any more, else 1.
async fn run(cx: Cx, options: Options) -> Result<i32> {
    let mut query = Query::new();
    query.push("deep", if options.shallow { "0" } else { "1" }).push("repair", if options.repair { "1" } else { "0" });
    let report = cx.client()?.store_check(&query, &registry_auth::all(cx)).await?;
    let mut left = 0;
    for damage in &report.damages {
        if damage.repaired {
            crate::output::line(&format!("repaired: {}", damage.damage))?;
        } else if options.repair {
            left += 1;
            crate::output::line(&format!("damaged: {} (cannot be repaired: {})", damage.damage, damage.reason))?;
        } else {
            left += 1;
            crate::output::line(&format!("damaged: {}", damage.damage))?;
        }
    }
    match (left, options.repair) {
        (0, _) => crate::output::line("The store is sound.")?,
        (_, false) => crate::output::error_line("Run it with --repair to have it repaired."),
        (_, true) => crate::output::error_line("Remove the images concerned and pull or build them again."),
    }
    Ok(i32::from(left > 0))
}
