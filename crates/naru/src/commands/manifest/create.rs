//! `manifest create`

use naru_registry::manifest::Document;

use super::Registry;
use super::store::{Entry, Lists};
use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Add to a list that is there
    #[arg(short = 'a', long)]
    amend: bool,
    /// The registry may have no TLS or an unknown certificate
    #[arg(long)]
    insecure: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["manifest create"],
    "MANIFEST_LIST MANIFEST [MANIFEST...]",
    "Begin a list of images for several platforms, to be annotated and pushed",
    Arguments::AtLeast(2),
    "{} manifest create reg.example/web:2 reg.example/web:2-amd64 reg.example/web:2-arm64"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let named = |text: &str| super::reference(text).map_err(Failure::message);
    let list = super::reference(&options.args[0])
        .map_err(|error| Failure::message(format!("error parsing name for manifest list {}: {error}", options.args[0])))?;
    let lists = Lists::new(cx);
    if !options.amend && lists.all(&list)?.is_some() {
        return Err(Failure::message("refusing to amend an existing manifest list with no --amend flag"));
    }
    for text in &options.args[1..] {
        let reference = named(text)?;
        if lists.get(&list, &reference)?.is_some_and(|entry| entry.is_complete()) {
            continue;
        }
        let found = Registry::of(cx, &reference, options.insecure)?.manifest(&reference).await?;
        if matches!(found.document, Document::Index(_)) {
            return Err(Failure::message(format!("{} is a manifest list", reference.familiar())));
        }
        lists.put(&list, &reference, &Entry::of(&reference, &found)?)?;
    }
    crate::output::line(&format!("Created manifest list {}", list.canonical()))?;
    Ok(0)
}
