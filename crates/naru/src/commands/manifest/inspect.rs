//! `manifest inspect`

use naru_registry::manifest::Document;
use naru_types::ImageRef;

use super::store::{Descriptor, Entry, Lists, index, no_such};
use super::{Registry, failure};
use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::template::value::indent_json;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The registry may have no TLS or an unknown certificate
    #[arg(long)]
    insecure: bool,
    /// Tell descriptors and platforms, also of the manifests of an index
    #[arg(short = 'v', long)]
    verbose: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["manifest inspect"],
    "[OPTIONS] [MANIFEST_LIST] MANIFEST",
    "Show a manifest or index of a registry, or of a list that is being put together",
    Arguments::Between(1, 2),
    "{} manifest inspect debian:12\n{} manifest inspect -v registry.example/web:2"
);

#[derive(serde::Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let named = |text: &String| super::reference(text).map_err(Failure::message);
    let lists = Lists::new(cx);
    let text = match options.args.as_slice() {
        [list, manifest] => {
            let entry = lists.get(&named(list)?, &named(manifest)?)?;
            let entry = entry.ok_or_else(|| Failure::message(no_such_in(list, manifest)))?;
            if options.verbose { indented(&entry)? } else { indent_json(&String::from_utf8_lossy(&entry.manifest()?), "", "\t") }
        }
        args => {
            let reference = named(&args[0])?;
            match lists.all(&reference)? {
                Some(entries) if options.verbose => indented(&entries)?,
                Some(entries) => index(&entries).0,
                None => remote(cx, &reference, &options).await?,
            }
        }
    };
    crate::output::line(&text)?;
    Ok(0)
}

fn no_such_in(list: &str, manifest: &str) -> String {
    match super::reference(manifest) {
        Ok(reference) => format!("{} in {list}", no_such(&reference)),
        Err(error) => error,
    }
}

fn indented(value: &impl serde::Serialize) -> Result<String> {
    let text = serde_json::to_string(value).map_err(|error| Failure::message(format!("show the manifest: {error}")))?;
    Ok(indent_json(&text, "", "\t"))
}

async fn remote(cx: Cx, reference: &ImageRef, options: &Options) -> Result<String> {
    let registry = Registry::of(cx, reference, options.insecure)?;
    let found = registry.manifest(reference).await?;
    match &found.document {
        Document::Manifest(_) if options.verbose => indented(&Entry::of(reference, &found)?),
        Document::Index(_) if options.verbose => {
            let index: Index = serde_json::from_slice(&found.raw)
                .map_err(|error| Failure::message(format!("parse the index of {}: {error}", reference.familiar())))?;
            let mut list = Vec::new();
            for listed in index.manifests {
                let exact = ImageRef { digest: Some(listed.digest), ..reference.clone() };
                let info = registry.client.manifest(&exact, &registry.credentials).await.map_err(failure)?;
                let mut entry = Entry::of(&exact, &info)?;
                // What the list says an image is for counts more than what the image says.
                entry.descriptor.platform = listed.platform.or(entry.descriptor.platform);
                list.push(entry);
            }
            indented(&list)
        }
        Document::Manifest(_) => Ok(indent_json(&String::from_utf8_lossy(&found.raw), "", "\t")),
        Document::Index(_) => Ok(indent_json(&String::from_utf8_lossy(&found.raw), "", "   ")),
    }
}
