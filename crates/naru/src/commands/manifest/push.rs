//! `manifest push`

use naru_registry::manifest::{Document, Manifest, parse};
use naru_types::ImageRef;

use super::store::{Entry, Lists, index, no_such};
use super::{Registry, failure};
use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The registry may have no TLS or an unknown certificate
    #[arg(long)]
    insecure: bool,
    /// Remove the local list afterwards
    #[arg(short = 'p', long)]
    purge: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["manifest push"],
    "[OPTIONS] MANIFEST_LIST",
    "Push a list to a registry, with its images where they are in other repositories",
    Arguments::Exactly(1),
    "{} manifest push --purge reg.example/web:2"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let list = super::reference(&options.args[0]).map_err(Failure::message)?;
    let lists = Lists::new(cx);
    let entries = lists.all(&list)?.ok_or_else(|| Failure::message(no_such(&list)))?;
    if entries.is_empty() {
        return Err(Failure::message(format!("{} not found", list.canonical())));
    }
    let mut elsewhere = Vec::new();
    for entry in &entries {
        let from = checked(entry, &list)?;
        if from.path != list.path {
            elsewhere.push((entry, from));
        }
    }
    let registry = Registry::of(cx, &list, options.insecure)?;
    let at_digest = |entry: &Entry| ImageRef { tag: None, digest: Some(entry.descriptor.digest.clone()), ..list.clone() };
    for (entry, from) in &elsewhere {
        let image = image_of(entry)?;
        registry.client.take_over(from, &at_digest(entry), &image, &registry.credentials).await.map_err(failure)?;
    }
    for (entry, _) in &elsewhere {
        let (to, media_type) = (at_digest(entry), &entry.descriptor.media_type);
        let digest = registry.client.put_manifest(&to, media_type, entry.manifest()?, &registry.credentials).await.map_err(failure)?;
        crate::output::line(&format!("Pushed ref {} with digest: {digest}", to.canonical()))?;
    }
    let (text, media_type) = index(&entries);
    let digest = registry.client.put_manifest(&list, media_type, text.into_bytes(), &registry.credentials).await.map_err(failure)?;
    crate::output::line(&digest.to_string())?;
    if options.purge {
        lists.remove(&list)?;
    }
    Ok(0)
}

/// The name of an entry, when it can be part of the list.
fn checked(entry: &Entry, list: &ImageRef) -> Result<ImageRef> {
    if entry.descriptor.platform.as_ref().is_none_or(|platform| platform.os.is_empty() || platform.architecture.is_empty()) {
        let reason = "must have an OS and Architecture to be pushed to a registry";
        return Err(Failure::message(format!("manifest {} {reason}", entry.reference)));
    }
    let from = super::reference(&entry.reference).map_err(Failure::message)?;
    if from.domain != list.domain {
        let reason = "cannot use source images from a different registry than the target image";
        return Err(Failure::message(format!("{reason}: {} != {}", from.domain, list.domain)));
    }
    Ok(from)
}

fn image_of(entry: &Entry) -> Result<Manifest> {
    match parse(&format!("manifest {}", entry.reference), &entry.manifest()?, &entry.descriptor.media_type).map_err(failure)? {
        (Document::Manifest(manifest), _) => Ok(manifest),
        (Document::Index(_), _) => Err(Failure::message(format!("{} is a manifest list", entry.reference))),
    }
}
